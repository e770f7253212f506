# SPDX-License-Identifier: Apache-2.0
"""What becomes of a stream between the two proxies: half-closes, resets, urgent data, no reader.

What a program wrote arrives octet by octet, and the end of one side is the end of the other.
"""
import contextlib
import os
import pathlib
import signal
import socket
import struct
import threading

from lab import eventually

from .base import SECRET, Case, read_all


class Streams(Case):
    """What becomes of the stream, octet by octet."""

    def test_half_close_each_way(self):
        server = self.listen()
        self.pair()
        program, end = self.both_ends(server)
        program.sendall(SECRET)
        program.shutdown(socket.SHUT_WR)
        self.assertEqual(read_all(end), SECRET)
        reply = os.urandom(300_000)  # long after the other direction has ended
        sender = threading.Thread(target=lambda: (end.sendall(reply), end.close()))
        sender.start()
        self.assertEqual(read_all(program), reply)
        sender.join()

        program, end = self.both_ends(server)
        end.shutdown(socket.SHUT_WR)
        self.assertEqual(program.recv(1), b"")
        program.sendall(reply)
        program.close()
        self.assertEqual(read_all(end), reply)

    def test_resets_go_through(self):
        server = self.listen()
        client, _ = self.pair()
        for who in (0, 1):
            ends = self.both_ends(server)
            ends[who].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ends[who].close()
            self.expect_reset(ends[1 - who])
        self.assertTrue(eventually(lambda: client.stats()["ended"]["reset"] == 2), client.log)

    def test_server_that_is_killed_in_mid_stream(self):
        command = ("import socket,sys; s=socket.create_server(('127.0.0.1',int(sys.argv[1])));"
                   "c=s.accept()[0]\nwhile True: c.sendall(bytes(65536))")
        server = self.lab.start("b", "server", "python3", "-c", command, self.server_port)
        self.addCleanup(server.stop)
        client, _ = self.pair()

        listening = pathlib.Path(f"/proc/{server.process.pid}/net/tcp")
        self.assertTrue(eventually(lambda: f":{self.server_port:04X} 00000000:0000 0A" in listening.read_text()))
        program = self.connect()
        for _ in range(100):
            self.assertNotEqual(program.recv(10_000), b"")
        server.stop(signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):  # which of the two is the kernel's affair
            read_all(program)
        self.assertTrue(eventually(lambda: client.stats()["active"] <= 1), client.log)

    def test_urgent_data_goes_on_as_ordinary(self):
        server = self.listen()
        self.pair()
        program, end = self.both_ends(server)
        program.sendall(b"before")
        program.send(b"!", socket.MSG_OOB)
        program.sendall(b"behind")
        program.shutdown(socket.SHUT_WR)
        self.assertEqual(read_all(end), b"before!behind")

    def test_who_does_not_read_stops_who_writes(self):
        server = self.listen()
        proxies = self.pair()
        before = [proxy.resident_kb() for proxy in proxies]
        pairs = [self.both_ends(server) for _ in range(4)]
        piece, sent = bytes(1 << 16), 0
        for program, _ in pairs:
            program.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    sent += program.send(piece)
        # Six socket buffers and two pipes stand between one and the other.
        self.assertLess(sent / len(pairs), 40_000_000)
        for proxy, kb in zip(proxies, before):
            self.assertLess(proxy.resident_kb() - kb, 10_000, "the proxy itself holds next to nothing")
        for program, _ in pairs:
            program.close()
        self.assertEqual(sum(len(read_all(end)) for _, end in pairs), sent)

    def test_many_connections_at_once(self):
        count, server = 250, self.listen()
        client, far = self.pair()
        programs = [self.connect() for _ in range(count)]
        ends = [server.accept()[0] for _ in range(count)]
        for number, program in enumerate(programs):
            program.sendall(b"%08d" % number)
            program.shutdown(socket.SHUT_WR)
        self.assertEqual(client.stats()["active"], count)
        threads = len(os.listdir(f"/proc/{client.process.pid}/task"))
        self.assertLessEqual(threads, 5, "threads do not grow with connections")
        for end in ends:
            end.settimeout(10)
            end.sendall(read_all(end) * 1000)
            end.close()
        for number, program in enumerate(programs):
            self.assertEqual(read_all(program), b"%08d" % number * 1000)
        for proxy in (client, far):
            self.assertTrue(eventually(lambda proxy=proxy: proxy.stats()["active"] == 0))
            self.assertEqual(proxy.stats()["ended"]["complete"], count, proxy.log)
            self.assertLess(len(os.listdir(f"/proc/{proxy.process.pid}/fd")), 150, "only pipes of the pool are left")
