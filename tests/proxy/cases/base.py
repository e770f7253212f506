# SPDX-License-Identifier: Apache-2.0
"""What the cases stand on: a pair of proxies, their certificates, connections through both.

Each case has ports of its own, and what it began is ended behind it.
"""
import contextlib
import pathlib
import shutil
import signal
import socket
import unittest

from lab import ADDRESS, Proxy, eventually

POSTGRES = next(iter(sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))), pathlib.Path("/nonexistent"))
CLEAR_PORT, PEER_PORT, SERVER_PORT = 5400, 7400, 5500
SECRET = b"a-word-that-nobody-may-read-on-the-wire"


def missing():
    """Says which of the servers and clients is not installed, or nothing."""
    lacking = [program for program in ("nginx", "curl", "setpriv") if not shutil.which(program)]
    if not (POSTGRES / "pgbench").exists():
        lacking.append("postgresql")
    return f"not installed: {', '.join(lacking)}" if lacking else None


def make_certificates(lab):
    lab.authority("ca")
    lab.authority("other-ca")
    for name, authority, host in (("db", "ca", "db.example"), ("app", "ca", "app.example"),
                                  ("mallory", "ca", "mallory.example"), ("fake-db", "other-ca", "db.example"),
                                  ("fake-app", "other-ca", "app.example")):
        lab.certificate(name, authority, host)


def read_all(connection):
    """Everything up to the orderly end."""
    octets = bytearray()
    while piece := connection.recv(1 << 16):
        octets += piece
    return bytes(octets)


class Case(unittest.TestCase):
    """One pair of proxies, ended after the case."""

    lab = None  # set by run

    def setUp(self):
        self.offset = self.lab.next_number() % 100  # no port is used by the next case
        self.clear_port, self.peer_port = CLEAR_PORT + self.offset, PEER_PORT + self.offset
        self.server_port = SERVER_PORT + self.offset

    def identity(self, name, ca="ca"):
        return ["--cert", self.lab.path(f"{name}.pem"), "--key", self.lab.path(f"{name}.key"),
                "--ca", self.lab.path(f"{ca}.pem")]

    def server_side(self, *more, credentials=None, to=None):
        arguments = ["--listen-psp", f":{self.peer_port}", "--to", to or f"127.0.0.1:{self.server_port}",
                     *(self.identity("db") if credentials is None else credentials), *more]
        return self.begin("b", arguments)

    def client_side(self, *more, credentials=None, to=None):
        credentials = ["--peer-name", "db.example", *self.identity("app")] if credentials is None else credentials
        arguments = ["--listen", f"127.0.0.1:{self.clear_port}", "--to", to or f"{ADDRESS['b']}:{self.peer_port}",
                     *credentials, *more]
        return self.begin("a", arguments)

    def begin(self, side, arguments):
        proxy = Proxy(self.lab, side, arguments)
        self.addCleanup(proxy.stop, signal.SIGKILL)
        return proxy

    def pair(self):
        return self.client_side(), self.server_side()

    def listen(self):
        """A server of the test on host b."""
        with self.lab.inside("b"):
            server = socket.create_server(("127.0.0.1", self.server_port), backlog=512)
        server.settimeout(10)
        self.addCleanup(server.close)
        return server

    def connect(self):
        """A program of the test on host a."""
        with self.lab.inside("a"):
            connection = socket.create_connection(("127.0.0.1", self.clear_port), timeout=10)
        self.addCleanup(connection.close)
        return connection

    def both_ends(self, server):
        """A connection through both proxies, with an octet each way already across."""
        program = self.connect()
        end, _ = server.accept()
        end.settimeout(10)
        self.addCleanup(end.close)
        program.sendall(b"?")
        self.assertEqual(end.recv(1), b"?")
        end.sendall(b"!")
        self.assertEqual(program.recv(1), b"!")
        return program, end

    def expect_reset(self, connection):
        """A reset, or at least an end with nothing before it."""
        with self.assertRaises(ConnectionResetError):
            connection.sendall(b"x")
            connection.recv(1)
            raise AssertionError("no reset")

    def expect_refusal(self):
        """A new connection is reset, maybe before connect() has returned."""
        with contextlib.suppress(ConnectionResetError):
            self.expect_reset(self.connect())

    def expect_refused(self, proxy, reason, sentence):
        """A new connection is refused by `proxy`, which counts it and says why."""
        self.expect_refusal()
        self.assertTrue(eventually(lambda: proxy.stats()["refused"][reason] == 1), proxy.log)
        self.assertTrue(proxy.says(sentence), proxy.log)
