# SPDX-License-Identifier: Apache-2.0
"""What a proxy outlives and what it does not: rotation, pspd that dies, its own end by SIGTERM.

Connections that stand on a key or a pspd that is gone end; new ones come to be.
"""
import os
import signal
import socket
import threading
import time

from lab import eventually

from .base import SECRET, Case, read_all


class Keys(Case):
    """Device keys and pspd come and go."""

    def test_rotation(self):
        server = self.listen()
        self.server_side("--retire-idle", "0")
        client = self.client_side("--retire-idle", "0.5")
        busy, end = self.both_ends(server)
        idle, _ = self.both_ends(server)
        self.lab.rotate("a")
        self.assertTrue(client.says("on the one before it"), client.log)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:  # data that moves keeps a connection
            busy.sendall(b"x")
            self.assertEqual(end.recv(1), b"x")
            time.sleep(0.05)
        self.assertEqual(idle.recv(1), b"", "an idle one ends in order")
        self.assertEqual(client.stats()["ended"]["retired"], 1)
        fresh, fresh_end = self.both_ends(server)
        self.lab.rotate("a")
        self.assertTrue(client.says("has rotated twice"), client.log)
        self.expect_reset(busy)
        self.expect_reset(end)
        fresh.sendall(SECRET)
        self.assertEqual(fresh_end.recv(100), SECRET, "what stands on the key after lives on")
        self.assertEqual(client.stats()["ended"]["stale"], 1)

    def test_pspd_dies_and_comes_back(self):
        server = self.listen()
        client, _ = self.pair()
        program, _ = self.both_ends(server)
        self.lab.stop_pspd("a", signal.SIGKILL)
        try:
            self.assertTrue(client.says("pspd of this host has ended: 1 connection with it"), client.log)
            self.expect_reset(program)
            self.expect_refused(client, "no-psp", "pspd")
        finally:
            self.lab.start_pspd("a")
        self.both_ends(server)

    def test_without_pspd_the_policies_differ(self):
        server = self.listen()
        self.server_side("--policy", "preferred")
        self.lab.stop_pspd("a")
        try:
            required = self.client_side()
            self.expect_refused(required, "no-psp", "this host")
            required.stop()
            preferred = self.client_side("--policy", "preferred")
            with self.lab.capture() as wire:
                program, end = self.both_ends(server)
                block = SECRET + os.urandom(3_000_000)
                sender = threading.Thread(target=lambda: (program.sendall(block), program.shutdown(socket.SHUT_WR)))
                sender.start()
                self.assertEqual(read_all(end), block)
                sender.join()
                end.sendall(block[:100_000])
                end.close()
                self.assertEqual(read_all(program), block[:100_000])
            self.assertTrue(preferred.says("stays on TLS: "), preferred.log)
            self.assertEqual(preferred.stats()["tls"], 1)
            self.assertTrue(eventually(lambda: preferred.stats()["ended"]["complete"] == 1), preferred.log)
            self.assertFalse(wire.holds(SECRET))
            self.assertGreater(wire.report()["clear_data_before"], 1_000_000, "as TLS")
        finally:
            self.lab.start_pspd("a")


class Stop(Case):
    """SIGTERM."""

    def test_connections_may_end_first(self):
        server = self.listen()
        client, _ = self.pair()
        program, end = self.both_ends(server)
        client.send(signal.SIGTERM)
        self.assertTrue(client.says("stopping: no new connections; 1 go on"), client.log)
        with self.assertRaises(ConnectionError):
            self.connect().recv(1)
        program.sendall(SECRET)
        self.assertEqual(end.recv(100), SECRET)
        self.assertIsNone(client.process.poll())
        program.close()
        end.close()
        self.assertEqual(client.process.wait(10), 0)

    def test_a_second_signal_does_not_wait(self):
        server = self.listen()
        client, _ = self.pair()
        program, end = self.both_ends(server)
        client.send(signal.SIGTERM)
        self.assertTrue(client.says("stopping"), client.log)
        client.send(signal.SIGTERM)
        self.assertEqual(client.process.wait(10), 0)
        self.expect_reset(program)
        self.expect_reset(end)
        self.assertIn("closed (stopped)", client.log)
