# SPDX-License-Identifier: Apache-2.0
"""The application: a process in the host's namespace that holds the real kernel sockets.

The script's process tells it what to do, one JSON datagram a request; it answers {"ok": value} or
{"errno": name, "text": extack}. Octets travel as latin-1. It is a process of its own so that a
script can kill it, and so that nothing waits for a socket that waits for the script.
"""
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import time

from . import control

PATIENCE_S = 3
MAX_MESSAGE = 1 << 20
TCP_STATES = ("?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
              "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")
LEVELS = {"SOL": socket.SOL_SOCKET, "TCP": socket.IPPROTO_TCP, "IP": socket.IPPROTO_IP,
          "IPV6": socket.IPPROTO_IPV6}
MORE_OPTIONS = {"SO_COOKIE": 57, "TCP_ULP": 31, "IPV6_TCLASS": 67, "TCP_USER_TIMEOUT": 18,
                "TCP_FASTOPEN_CONNECT": 30, "TCP_FASTOPEN_NO_COOKIE": 34}
KINDS = {"tcp": (socket.SOCK_STREAM,), "udp": (socket.SOCK_DGRAM,),
         "mptcp": (socket.SOCK_STREAM, 262)}
CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1
libc = ctypes.CDLL(None, use_errno=True)


def enter(netns_fd):
    if libc.setns(netns_fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def die_with_parent(sig=signal.SIGKILL):
    libc.prctl(PR_SET_PDEATHSIG, sig)


def option_of(name):
    """(level, option) by the name that C has for it."""
    value = getattr(socket, name, None) or MORE_OPTIONS[name]
    return LEVELS[name.split("_")[0].replace("SO", "SOL")], value


class App:
    """Runs inside the child."""

    def __init__(self):
        self.sockets = {}
        self.pspd = None

    def client(self):
        self.pspd = self.pspd or control.Client()
        return self.pspd

    def serve(self, link):
        while True:
            data = link.recv(MAX_MESSAGE)
            if not data:
                return
            request = json.loads(data)
            try:
                answer = {"ok": getattr(self, "do_" + request.pop("op"))(**request)}
            except control.Refused as refused:
                answer = {"errno": name_of(refused.errno), "text": refused.text}
            except OSError as error:
                self.pspd = None  # in case it was the control connection
                answer = {"errno": name_of(error.errno) if error.errno else repr(error),
                          "text": ""}
            link.send(json.dumps(answer).encode())

    # --- sockets

    def new(self, name, family):
        one = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sockets[name] = one
        return one

    def do_listen(self, name, family, address, port, options):
        one = self.new(name, family)
        for option, value in options:
            one.setsockopt(*option_of(option), value)
        one.bind((address, port))
        one.listen(64)
        return one.getsockname()[1]

    def do_connect(self, name, family, address, port, peer, peer_port, options):
        one = self.sockets[name] if name in self.sockets else self.new(name, family)
        for option, value in options:
            one.setsockopt(*option_of(option), value)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.getsockname()[1] == 0:
            one.bind((address, port))
        try:
            one.connect((peer, peer_port))
        except BlockingIOError:
            pass
        return one.getsockname()[1]

    def do_unconnect(self, name):
        """connect(2) to AF_UNSPEC, which Python does not have."""
        if libc.connect(self.sockets[name].fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "connect")

    def do_socket(self, name, family, kind):
        one = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, *KINDS[kind])
        one.setblocking(False)
        self.sockets[name] = one

    def do_accept(self, listener, name):
        def attempt():
            one, _ = self.sockets[listener].accept()
            one.setblocking(False)
            self.sockets[name] = one

        return patiently(attempt)

    def do_send(self, name, data):
        return self.sockets[name].send(data.encode("latin-1"))

    def do_send_urgent(self, name, data):
        return self.sockets[name].send(data.encode("latin-1"), socket.MSG_OOB)

    def do_recv(self, name, size, flags, wait):
        """Up to `size` octets; less at the end of the stream or of patience."""
        got = b""
        deadline = time.monotonic() + (PATIENCE_S if wait else 0)
        while True:
            try:
                part = self.sockets[name].recv(size - len(got), flags)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    if got:
                        break
                    raise
                time.sleep(0.001)
                continue
            got = part if flags & socket.MSG_PEEK else got + part
            if not part or len(got) >= size or not wait:
                break
            if flags & socket.MSG_PEEK and time.monotonic() >= deadline:
                break
        return got.decode("latin-1")

    def do_shutdown(self, name, how):
        self.sockets[name].shutdown({"rd": 0, "wr": 1, "rdwr": 2}[how])

    def do_close(self, name):
        self.sockets.pop(name).close()

    def do_abort(self, name):
        one = self.sockets.pop(name)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()

    def do_abort_all(self):
        for name in list(self.sockets):
            self.do_abort(name)
        self.do_disconnect()

    def do_dup(self, name, other):
        self.sockets[other] = self.sockets[name].dup()

    def do_setsockopt(self, name, option, value):
        if isinstance(value, str):
            value = bytes.fromhex(value[4:]) if value.startswith("hex:") else value.encode()
        self.sockets[name].setsockopt(*option_of(option), value)

    def do_getsockopt(self, name, option):
        return self.sockets[name].getsockopt(*option_of(option))

    def do_tcp(self, name):
        return TCP_STATES[self.sockets[name].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]

    def do_error(self, name):
        """The error that waits on the socket, within patience; "0" if none comes."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            number = self.sockets[name].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                return name_of(number)
            time.sleep(0.005)
        return "0"

    # --- PSP

    def do_rx_assoc(self, name, version, device):
        spi, key = self.client().rx_assoc(self.sockets[name].fileno(), version, device)
        return [spi, key.hex()]

    def do_tx_assoc(self, name, version, spi, key, device):
        fd = self.sockets[name].fileno()
        self.client().tx_assoc(fd, version, spi, bytes.fromhex(key), device)

    def do_state(self, name):
        cookie = self.sockets[name].getsockopt(socket.SOL_SOCKET, MORE_OPTIONS["SO_COOKIE"], 8)
        known = self.client().association(control.integer(cookie))
        return control.STATES[control.integer(known[9])] if known else "none"

    def do_disconnect(self):
        if self.pspd:
            self.pspd.close()
            self.pspd = None

    def do_counters(self):
        return self.client().counters()

    def do_devices(self):
        return self.client().devices()

    def do_rotate(self, device):
        self.client().rotate(device)

    def do_enable(self, device, mask):
        self.client().enable(device, mask)


def name_of(number):
    """The name of an errno, of two the usual one."""
    name = errno.errorcode.get(number, str(number))
    return {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN"}.get(name, name)


def patiently(attempt):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.002)


class Failed(Exception):
    """The application's call failed: errno name and extack."""

    def __init__(self, errno_name, text):
        super().__init__(f"{errno_name} {text}".strip())
        self.errno_name, self.text = errno_name, text


class Application:
    """The parent's end."""

    def __init__(self, netns_fd):
        self.link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.link, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE)
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            run_child(netns_fd, other)
        other.close()

    def call(self, op, **arguments):
        self.begin(op, **arguments)
        return self.end_call(op)

    def begin(self, op, **arguments):
        self.link.send(json.dumps({"op": op, **arguments}).encode())

    def end_call(self, op):
        data = self.link.recv(MAX_MESSAGE)
        if not data:
            raise RuntimeError(f"the application died in {op}")
        answer = json.loads(data)
        if "ok" not in answer:
            raise Failed(answer["errno"], answer["text"])
        return answer["ok"]

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self):
        self.link.close()
        os.waitpid(self.pid, 0)


def run_child(netns_fd, link):
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        enter(netns_fd)
        App().serve(link)
    except BaseException as error:  # pylint: disable=broad-except
        print(f"psp-drill: the application: {error!r}", file=sys.stderr)
    finally:
        os._exit(0)
