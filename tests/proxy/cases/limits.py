# SPDX-License-Identifier: Apache-2.0
"""Where a proxy stops: too many connections, strangers, peers that are away, silent or no proxies.

It says so each time, and good peers get through.
"""
import contextlib
import json
import resource
import signal
import socket

from lab import ADDRESS, eventually

from .base import Case


class Limits(Case):
    """Where it stops, and what it says then."""

    def test_more_connections_than_allowed(self):
        server = self.listen()
        self.server_side()
        client = self.client_side("--max-connections", "2")
        first, _ = self.both_ends(server), self.both_ends(server)
        self.expect_refused(client, "limit", "2 connections are there already")
        for end in first:
            end.close()
        self.assertTrue(eventually(lambda: client.stats()["active"] == 1))
        self.both_ends(server)

    def test_silent_strangers_keep_nobody_out(self):
        self.strangers_keep_nobody_out(b"")

    def test_strangers_who_stall_after_a_word_keep_nobody_out(self):
        self.strangers_keep_nobody_out(b"\x16\x03\x01\x02\x00")  # the header of a TLS record

    def strangers_keep_nobody_out(self, word):
        """5000, who hold on to what they have, from the address of twenty good peers."""
        strangers, half_open, peers = 5000, 256, 20
        end = self.listen()
        server = self.server_side("--timeout", "60")
        self.client_side()
        descriptors, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (descriptors, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * strangers, most))
        with self.lab.inside("a"), contextlib.ExitStack() as held:
            for _ in range(strangers):
                stranger = held.enter_context(socket.create_connection((ADDRESS["b"], self.peer_port)))
                with contextlib.suppress(OSError):  # dropped already
                    stranger.sendall(word)
            self.assertTrue(eventually(lambda: server.stats()["refused"]["half-open"] >= strangers - half_open),
                            server.stats())
            for _ in range(peers):  # at the first try
                self.both_ends(end)
        self.assertTrue(server.says("too many connections that do not get through the handshake"), server.log)
        self.assertLess(server.log.count("\n"), peers + 10, "not a line for each stranger")

    def test_nobody_answers(self):
        client = self.client_side()
        self.expect_refused(client, "unreachable", f"cannot connect to {ADDRESS['b']}:{self.peer_port}")

    def test_the_program_behind_the_server_is_away(self):
        server = self.server_side()
        self.client_side()
        self.expect_refused(server, "unreachable", "Connection refused")

    def test_a_peer_that_never_speaks(self):
        with self.lab.inside("b"), socket.create_server((ADDRESS["b"], self.peer_port)):
            client = self.client_side("--timeout", "0.4")
            self.expect_refused(client, "timeout", "gave up after 0.4 s without the peer's part of the TLS handshake")

    def test_a_peer_that_is_no_proxy(self):
        with self.lab.inside("b"), socket.create_server((ADDRESS["b"], self.peer_port)) as other:
            client = self.client_side()
            program = self.connect()
            stranger, _ = other.accept()
            stranger.sendall(b"220 mail.example ESMTP\r\n")
            self.expect_reset(program)
            self.assertTrue(client.says("does not speak TLS"), client.log)

    def test_statistics_every_way(self):
        lines = self.lab.path("statistics")
        with open(lines, "wb") as out:
            proxy = self.lab.start("a", "proxy", self.lab.bin / "psp-proxy",
                                   "--listen", f"127.0.0.1:{self.clear_port}",
                                   "--to", f"{ADDRESS['b']}:{self.peer_port}",
                                   "--stats-interval", "0.1", "-q", stdout=out)
        self.addCleanup(proxy.stop, signal.SIGKILL)
        self.assertTrue(eventually(lambda: lines.read_text(encoding="ascii").count("\n") > 1))
        for line in lines.read_text(encoding="ascii").splitlines():
            self.assertEqual(json.loads(line)["accepted"], 0)
        proxy.send(signal.SIGUSR1)
        self.assertTrue(proxy.says('{"active":0,"accepted":0,'), proxy.log)
