# SPDX-License-Identifier: Apache-2.0
"""Two hosts with a pspd each, psp-proxy on both, certificates, and what is captured between them."""
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
LAB = TOP / "scripts" / "lab"
WIRE_REPORT = TOP / "scripts" / "wire-report"
NEEDED = ("ip", "nsenter", "openssl", "tcpdump")
ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def missing():
    """Says what of the host is not there, or nothing."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and BPF"
    lacking = [program for program in NEEDED if not shutil.which(program)]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def eventually(condition, patience=10):
    """Polls until condition() is true; returns what it was at last."""
    deadline = time.monotonic() + patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


class Program:
    """A process in a namespace, with what it says on stderr."""

    def __init__(self, lab, name, command, namespace=None, **options):
        self.log_file = lab.directory / f"{name}-{lab.next_number()}.log"
        prefix = ["nsenter", f"--net=/run/netns/{namespace}", "--"] if namespace else []
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen([*prefix, *map(str, command)], stderr=log, **options)

    @property
    def log(self):
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def says(self, text, patience=10):
        """Waits for a piece of the log; False if it does not come."""
        eventually(lambda: text in self.log or self.process.poll() is not None, patience)
        return text in self.log

    def send(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM, patience=10):
        """Ends it; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Proxy(Program):
    """One psp-proxy that is ready, and its statistics."""

    def __init__(self, lab, side, arguments):
        self.socket = lab.directory / f"stats-{lab.next_number()}"
        super().__init__(lab, f"proxy-{side}", [lab.bin / "psp-proxy", *arguments, "--stats-socket", self.socket],
                         lab.namespace(side))
        if not self.says("ready"):
            raise RuntimeError(f"psp-proxy did not start: {self.log}")

    def stats(self):
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(self.socket))
            return json.loads(asker.makefile().read())

    def resident_kb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


class Lab:
    """Hosts a and b; gone again after close()."""

    def __init__(self, binaries):
        self.bin = pathlib.Path(binaries)
        self.name = f"pspproxy-{os.getpid()}"
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="psp-proxy-test-"))
        self.directory.chmod(0o755)  # PostgreSQL and nginx run as other users
        self.number = 0
        self.pspd = {}
        subprocess.run([LAB, "up", self.name], check=True)

    def close(self):
        for side in list(self.pspd):
            self.stop_pspd(side)
        subprocess.run([LAB, "down", self.name], check=True)
        shutil.rmtree(self.directory)

    def next_number(self):
        self.number += 1
        return self.number

    def namespace(self, side):
        return f"{self.name}-{side}"

    @contextlib.contextmanager
    def inside(self, side):
        """This thread is on a host; sockets that it makes stay there."""
        with open("/proc/self/ns/net", "rb") as before, open(f"/run/netns/{self.namespace(side)}", "rb") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(before.fileno(), CLONE_NEWNET)

    def start(self, side, name, *command, **options):
        return Program(self, name, command, self.namespace(side), **options)

    def run(self, side, *command, check=True, timeout=60, **options):
        """Runs a command on a host to its end."""
        inside = ["nsenter", f"--net=/run/netns/{self.namespace(side)}", "--", *map(str, command)]
        return subprocess.run(inside, check=check, timeout=timeout, **options)

    def start_pspd(self, side, *options):
        self.pspd[side] = self.start(side, f"pspd-{side}", self.bin / "pspd", "--dev", "eth0", "--enable", "all",
                                     *options)
        if not self.pspd[side].says("pspd: ready"):
            raise RuntimeError(f"pspd did not start: {self.pspd[side].log}")

    def stop_pspd(self, side, number=signal.SIGTERM):
        self.pspd.pop(side).stop(number)

    def rotate(self, side):
        self.run(side, self.bin / "pspctl", "key", "rotate", "dev", "eth0", stdout=subprocess.DEVNULL)

    # --- certificates ---

    def path(self, name):
        return self.directory / name

    def authority(self, name):
        subprocess.run(["openssl", "req", "-x509", *self.new_key(name), "-out", self.path(f"{name}.pem"), "-days", "2",
                        "-subj", f"/CN={name}"], check=True, stderr=subprocess.DEVNULL)

    def certificate(self, name, authority, host):
        """Makes NAME.pem and NAME.key for a host name."""
        request = self.path(f"{name}.csr")
        extension = self.path("extension")
        extension.write_text(f"subjectAltName=DNS:{host}\n", encoding="ascii")
        quiet = {"check": True, "stderr": subprocess.DEVNULL}
        subprocess.run(["openssl", "req", *self.new_key(name), "-out", request, "-subj", f"/CN={host}"], **quiet)
        subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", self.path(f"{authority}.pem"), "-CAkey",
                        self.path(f"{authority}.key"), "-CAcreateserial", "-out", self.path(f"{name}.pem"), "-days",
                        "2", "-extfile", extension], **quiet)

    def new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path(f"{name}.key")]

    # --- the network between them ---

    @contextlib.contextmanager
    def capture(self):
        """Yields a Capture of all that leaves either host meanwhile."""
        capture = Capture([self.path(f"wire-{self.next_number()}-{side}.pcap") for side in "ab"])
        watchers = [self.start(side, "tcpdump", "tcpdump", "-i", "eth0", "-Q", "out", "-U", "--immediate-mode", "-s", "0", "-B", "65536",
                               "-w", file) for side, file in zip("ab", capture.files)]
        for watcher in watchers:
            if not watcher.says("listening on"):
                raise RuntimeError(f"tcpdump did not start: {watcher.log}")
        try:
            yield capture
        finally:
            time.sleep(0.1)  # for the last packets to reach tcpdump
            for watcher in watchers:
                watcher.stop(signal.SIGINT)


class Capture:
    """What was on the wire. To be asked when it is over."""

    def __init__(self, files):
        self.files = files

    def holds(self, octets):
        return any(octets in file.read_bytes() for file in self.files)

    def report(self):
        """What scripts/wire-report says of it."""
        done = subprocess.run([WIRE_REPORT, *self.files], check=True, capture_output=True)
        return json.loads(done.stdout)
