# SPDX-License-Identifier: Apache-2.0
"""A lab that is none: one host of the simulator, in virtual time (src/sim/drill).

It has what a run asks of a lab, the wire and the application among it, and no namespace, netdev or
process of pspd. Each script has a model of its own, and all chance comes from a seed: a run is the
same each time. What the model does not have it says, and the script fails by it.
"""
import json
import random
import re
import signal
import subprocess

from . import app
from .lab import Clock


class Lacks(Exception):
    """The model does not have what the script asks for."""

    def __init__(self, what):
        super().__init__(f"the model does not have {what}")


class Model:
    """The program that is the host: a line for a request, a line for its answer."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.now = 0.0

    def ask(self, op, **arguments):
        self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the model died in {op}")
        answer = json.loads(line)
        self.now = answer["now"]
        if "lacks" in answer:
            raise Lacks(answer["lacks"])
        if "errno" in answer:
            raise app.Failed(app.name_of(answer["errno"]), answer["text"])
        return answer["ok"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class ModelWire:
    """The wire of the modelled host: lab.Wire in virtual time."""

    def __init__(self, model):
        self.model = model

    def send(self, packet, vlan=()):
        if vlan:
            raise Lacks("tags of VLANs")
        self.model.ask("send_packet", packet=packet.hex())

    def receive(self, timeout):
        got = self.model.ask("receive", timeout=timeout)
        return got and (got[0], bytes.fromhex(got[1]))


class ModelApplication:
    """The application of the modelled host: app.Application without a process."""

    def __init__(self, model):
        self.model = model

    def call(self, op, **arguments):
        if op == "send":
            arguments["data"] = arguments["data"].encode("latin-1").hex()
        if op == "disconnect":  # from pspd: there is no connection to it
            return None
        got = self.model.ask(op, **arguments)
        if op == "recv":
            return bytes.fromhex(got).decode("latin-1")
        return app.name_of(got) if op == "error" else got

    def begin(self, op, **_):
        raise Lacks(f"a packet that arrives while {op} runs")


class ModelLab(Clock):
    """A modelled host with pspd, for one script."""

    def __init__(self, program, seed, mtu=1500, arguments=(), offload=False):
        super().__init__(random.Random(seed))
        if offload:
            raise Lacks("a netdev with offloads")
        self.log = b""
        self.up = True
        self.model = Model(program)
        self.wire, self.app = ModelWire(self.model), ModelApplication(self.model)
        try:
            self.model.ask("begin", mtu=mtu, pspd=list(arguments), seed=seed)
        except Exception:
            self.model.end()
            raise

    def now(self):
        return self.model.now

    def is_up(self):
        return self.up

    def start_pspd(self):
        self.model.ask("start_pspd")
        self.up = True

    def stop_pspd(self, sig=signal.SIGTERM):
        self.up = False
        return self.model.ask("stop_pspd" if sig == signal.SIGTERM else "kill_pspd")

    def new_application(self):
        self.model.ask("close_all")

    def shell(self, command):
        """There is none, but the model has a second netdev that the route can move to, and sends
        no tail loss probes."""
        if command.startswith("ip link add plain0 ") or command.endswith(".tcp_early_retrans=0"):
            return 0, ""
        moves = re.match(r"ip -[46] route (add|del) \S+ dev plain0$", command)
        if not moves:
            raise Lacks("a shell")
        self.model.ask("route", other=moves[1] == "add")
        return 0, ""

    @property
    def pspd_path(self):
        raise Lacks("pspctl")

    def read_log(self):
        """There is none."""

    def close(self):
        self.model.end()
