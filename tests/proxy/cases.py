# SPDX-License-Identifier: Apache-2.0
"""The cases of tests/proxy/run. Programs are on host a, what they connect to on host b."""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

from lab import ADDRESS, Proxy, eventually

LAB = None  # set by run
POSTGRES = next(iter(sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))), pathlib.Path("/nonexistent"))
CLEAR_PORT, PEER_PORT, SERVER_PORT = 5400, 7400, 5500
SECRET = b"a-word-that-nobody-may-read-on-the-wire"


def missing():
    """Says which of the servers and clients is not installed, or nothing."""
    lacking = [program for program in ("nginx", "curl", "setpriv") if not shutil.which(program)]
    if not (POSTGRES / "pgbench").exists():
        lacking.append("postgresql")
    return f"not installed: {', '.join(lacking)}" if lacking else None


def make_certificates():
    LAB.authority("ca")
    LAB.authority("other-ca")
    for name, authority, host in (("db", "ca", "db.example"), ("app", "ca", "app.example"),
                                  ("mallory", "ca", "mallory.example"), ("fake-db", "other-ca", "db.example"),
                                  ("fake-app", "other-ca", "app.example")):
        LAB.certificate(name, authority, host)


def identity(name, ca="ca"):
    return ["--cert", LAB.path(f"{name}.pem"), "--key", LAB.path(f"{name}.key"), "--ca", LAB.path(f"{ca}.pem")]


def read_all(connection):
    """Everything up to the orderly end."""
    octets = bytearray()
    while piece := connection.recv(1 << 16):
        octets += piece
    return bytes(octets)


class Case(unittest.TestCase):
    """One pair of proxies, ended after the case."""

    def setUp(self):
        self.offset = LAB.next_number() % 100  # no port is used by the next case
        self.clear_port, self.peer_port = CLEAR_PORT + self.offset, PEER_PORT + self.offset
        self.server_port = SERVER_PORT + self.offset

    def server_side(self, *more, credentials=None, to=None):
        arguments = ["--listen-psp", f":{self.peer_port}", "--to", to or f"127.0.0.1:{self.server_port}",
                     *(identity("db") if credentials is None else credentials), *more]
        return self.begin("b", arguments)

    def client_side(self, *more, credentials=None, to=None):
        credentials = ["--peer-name", "db.example", *identity("app")] if credentials is None else credentials
        arguments = ["--listen", f"127.0.0.1:{self.clear_port}", "--to", to or f"{ADDRESS['b']}:{self.peer_port}",
                     *credentials, *more]
        return self.begin("a", arguments)

    def begin(self, side, arguments):
        proxy = Proxy(LAB, side, arguments)
        self.addCleanup(proxy.stop, signal.SIGKILL)
        return proxy

    def pair(self):
        return self.client_side(), self.server_side()

    def listen(self):
        """A server of the test on host b."""
        with LAB.inside("b"):
            server = socket.create_server(("127.0.0.1", self.server_port), backlog=512)
        server.settimeout(10)
        self.addCleanup(server.close)
        return server

    def connect(self):
        """A program of the test on host a."""
        with LAB.inside("a"):
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


class Servers(Case):
    """Servers and clients as Debian has them."""

    def postgres(self):
        directory = LAB.path(f"postgres-{self.offset}")
        directory.mkdir()
        shutil.chown(directory, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        subprocess.run([*as_postgres, POSTGRES / "initdb", "-D", directory / "data", "-A", "trust", "--no-sync"],
                       check=True, stdout=subprocess.DEVNULL, cwd="/")
        server = LAB.start("b", "postgres", *as_postgres, POSTGRES / "postgres", "-D", directory / "data", "-k",
                           directory, "-p", self.server_port, "-c", "listen_addresses=127.0.0.1", "-F", cwd="/")
        self.addCleanup(server.stop, signal.SIGQUIT)
        self.assertTrue(server.says("ready to accept connections"), server.log)

    def client_of_postgres(self, program, *arguments):
        done = LAB.run("a", POSTGRES / program, "-h", "127.0.0.1", "-p", self.clear_port, "-U", "postgres",
                       *arguments, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_postgresql_and_pgbench(self):
        self.postgres()
        client, server = self.pair()
        with LAB.capture() as wire:
            word = SECRET.decode()
            self.client_of_postgres("psql", "-c", f"create table secrets as select '{word}' as word", "postgres")
            self.assertIn(word, self.client_of_postgres("psql", "-c", "select * from secrets", "postgres"))
            self.client_of_postgres("pgbench", "-i", "-q", "postgres")
            self.assertIn("number of failed transactions: 0 (0.000%)",
                          self.client_of_postgres("pgbench", "-c", "8", "-j", "2", "-T", "1", "postgres"))
            # -C: a connection for each transaction.
            self.assertIn("number of transactions actually processed: 80/80",
                          self.client_of_postgres("pgbench", "-C", "-S", "-c", "8", "-t", "10", "postgres"))
        self.assertFalse(wire.holds(SECRET))
        for proxy in (client, server):
            self.assertTrue(eventually(lambda proxy=proxy: proxy.stats()["active"] == 0), proxy.log)
            stats = proxy.stats()
            self.assertGreater(stats["accepted"], 90)
            self.assertEqual(stats["upgraded"], stats["accepted"])
            self.assertEqual(stats["ended"]["complete"], stats["accepted"], proxy.log)
        self.assertEqual(client.stats()["bytes-to-peer"], server.stats()["bytes-from-peer"])

    def nginx(self):
        root = LAB.path(f"nginx-{self.offset}")
        root.mkdir()
        (root / "big").write_bytes(SECRET + os.urandom(20_000_000))
        (root / "small").write_bytes(SECRET)
        (root / "conf").write_text(f"""
            daemon off; master_process off; pid {root}/pid; error_log {root}/error;
            events {{}}
            http {{ access_log off; client_body_temp_path {root}/t; proxy_temp_path {root}/t;
                    fastcgi_temp_path {root}/t; uwsgi_temp_path {root}/t; scgi_temp_path {root}/t;
                    server {{ listen 127.0.0.1:{self.server_port}; root {root}; sendfile on; }} }}
            """, encoding="ascii")
        server = LAB.start("b", "nginx", "nginx", "-c", root / "conf", "-e", root / "error")
        self.addCleanup(server.stop)
        self.assertTrue(eventually((root / "pid").exists), server.log)
        return root

    def curl(self, *arguments):
        return LAB.run("a", "curl", "-sSf", *arguments, capture_output=True).stdout

    def test_nginx_and_curl(self):
        root = self.nginx()
        client, server = self.pair()
        url = f"http://127.0.0.1:{self.clear_port}"
        with LAB.capture() as wire:
            got = self.curl(f"{url}/big")
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256((root / "big").read_bytes()).digest())
        self.assertFalse(wire.holds(SECRET))
        report = wire.report()
        self.assertEqual(report["upgraded"], 2)
        self.assertEqual(report["clear_data_frames_after"], 0)
        self.assertGreater(report["psp_octets"], 20_000_000)
        self.assertLess(report["clear_data_before"], 10_000)  # TLS, and nothing but its handshake
        many = self.curl("-Z", "--parallel-max", "20", "-o", "/dev/null", "-w", "%{http_code} ",
                         f"{url}/small?[1-100]")
        self.assertEqual(many.split(), [b"200"] * 100)
        self.assertGreaterEqual(client.stats()["upgraded"], 21)
        self.assertEqual(sum(server.stats()["refused"].values()), 0)


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
        server = LAB.start("b", "server", "python3", "-c", command, self.server_port)
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


class Peers(Case):
    """Who is let in, and who is not."""

    def test_wrong_name(self):
        self.server_side(credentials=identity("mallory"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "hostname mismatch")

    def test_wrong_authority(self):
        self.server_side(credentials=identity("fake-db"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "its authority is not one that this end believes")

    def test_client_of_another_authority(self):
        server = self.server_side()
        self.client_side(credentials=["--peer-name", "db.example", *identity("fake-app")[:4], "--ca",
                                      LAB.path("ca.pem")])
        self.expect_refused(server, "authentication", "certificate is not accepted")

    def test_client_without_a_certificate(self):
        server = self.server_side()
        client = self.client_side(credentials=["--peer-name", "db.example", "--ca", LAB.path("ca.pem")])
        self.expect_refused(server, "authentication", "showed no certificate")
        self.assertTrue(client.says("demands a certificate; give this end one, with its key"), client.log)

    def test_client_whom_the_list_does_not_name(self):
        server = self.server_side("--peer-name", "other.example", "--peer-name", "app.example")
        end = self.listen()
        self.client_side()
        self.both_ends(end)
        self.clear_port += 100
        self.client_side(credentials=["--peer-name", "db.example", *identity("mallory")])
        self.expect_refused(server, "peer-name", "mallory.example")

    def test_a_version_that_does_not_encrypt_is_warned_of(self):
        end = self.listen()
        proxies = self.server_side("--psp-version", "2"), self.client_side("--psp-version", "2")
        self.both_ends(end)
        for proxy in proxies:
            self.assertIn("hdr0-aes-gmac-128 would NOT encrypt", proxy.log)
            self.assertTrue(proxy.says("psp hdr0-aes-gmac-128 does NOT encrypt: others can read the data"), proxy.log)

    def test_nobody_is_asked_without_credentials(self):
        end = self.listen()
        self.server_side(credentials=[])
        client = self.client_side(credentials=[])
        self.assertIn("NOT authenticated", client.log)
        self.both_ends(end)
        self.assertEqual(client.stats()["upgraded"], 1)


class Reload(Case):
    """Certificates that change under a proxy."""

    def install(self, name):
        """Puts files in place as renewal tools do: each whole, one after the other."""
        for kind in ("key", "pem"):
            shutil.copy(LAB.path(f"{name}.{kind}"), LAB.path(f"new.{kind}"))
            LAB.path(f"new.{kind}").rename(LAB.path(f"live.{kind}"))

    def test_changed_files_and_broken_ones(self):
        end = self.listen()
        self.install("mallory")
        server = self.server_side(credentials=identity("live"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "hostname mismatch")
        self.install("db")
        self.assertTrue(server.says("the certificate files have changed"), server.log)
        old = self.both_ends(end)

        LAB.path("live.pem").write_text("nonsense", encoding="ascii")
        server.send(signal.SIGHUP)
        self.assertTrue(server.says("the certificates in use stay, the new ones are no good: cannot use the "
                                    "certificate"), server.log)
        self.both_ends(end)
        self.install("mallory")
        server.send(signal.SIGHUP)
        self.assertTrue(server.says("asked to reload"), server.log)
        self.expect_refusal()
        # A connection that is there already does not ask again.
        old[0].sendall(SECRET)
        self.assertEqual(old[1].recv(100), SECRET)


class Limits(Case):
    """Where it stops, and what it says then."""

    def test_more_connections_than_allowed(self):
        server = self.listen()
        self.server_side()
        client = self.client_side("--max-connections", "2")
        first, _ = self.both_ends(server), self.both_ends(server)
        self.expect_refused(client, "limit", "there are 2 connections already")
        for end in first:
            end.close()
        self.assertTrue(eventually(lambda: client.stats()["active"] == 1))
        self.both_ends(server)

    def test_silent_strangers_keep_nobody_out(self):
        self.strangers_keep_nobody_out(b"")

    def test_strangers_who_stall_after_a_word_keep_nobody_out(self):
        self.strangers_keep_nobody_out(b"\x16\x03\x01\x02\x00")  # the header of a TLS record

    def strangers_keep_nobody_out(self, word):
        end = self.listen()
        server = self.server_side("--half-open", "20:30:40", "--half-open-source", "10", "--max-connections", "10")
        self.client_side()
        with LAB.inside("a"):
            strangers = [socket.create_connection((ADDRESS["b"], self.peer_port)) for _ in range(200)]
        for stranger in strangers:
            self.addCleanup(stranger.close)
            with contextlib.suppress(OSError):  # dropped already
                stranger.sendall(word)
        self.assertTrue(eventually(lambda: server.stats()["refused"]["half-open"] >= 190), server.log)
        for _ in range(5):  # from the same address, at the first try
            self.both_ends(end)
        self.assertTrue(server.says("too many connections that do not get through the handshake"), server.log)
        self.assertLess(server.log.count("\n"), 20, "not a line for each")

    def test_nobody_answers(self):
        client = self.client_side()
        self.expect_refused(client, "unreachable", f"cannot connect to {ADDRESS['b']}:{self.peer_port}")

    def test_the_program_behind_the_server_is_away(self):
        server = self.server_side()
        self.client_side()
        self.expect_refused(server, "unreachable", "Connection refused")

    def test_a_peer_that_never_speaks(self):
        with LAB.inside("b"), socket.create_server((ADDRESS["b"], self.peer_port)):
            client = self.client_side("--timeout", "0.4")
            self.expect_refused(client, "timeout", "gave up after 0.4 s without the peer's part of the TLS handshake")

    def test_a_peer_that_is_no_proxy(self):
        with LAB.inside("b"), socket.create_server((ADDRESS["b"], self.peer_port)) as other:
            client = self.client_side()
            program = self.connect()
            stranger, _ = other.accept()
            stranger.sendall(b"220 mail.example ESMTP\r\n")
            self.expect_reset(program)
            self.assertTrue(client.says("does not speak TLS"), client.log)

    def test_statistics_every_way(self):
        lines = LAB.path("statistics")
        with open(lines, "wb") as out:
            proxy = LAB.start("a", "proxy", LAB.bin / "psp-proxy", "--listen", f"127.0.0.1:{self.clear_port}", "--to",
                              f"{ADDRESS['b']}:{self.peer_port}", "--stats-interval", "0.1", "-q", stdout=out)
        self.addCleanup(proxy.stop, signal.SIGKILL)
        self.assertTrue(eventually(lambda: lines.read_text(encoding="ascii").count("\n") > 1))
        for line in lines.read_text(encoding="ascii").splitlines():
            self.assertEqual(json.loads(line)["accepted"], 0)
        proxy.send(signal.SIGUSR1)
        self.assertTrue(proxy.says('{"active":0,"accepted":0,'), proxy.log)


class Keys(Case):
    """Device keys and pspd come and go."""

    def test_rotation(self):
        server = self.listen()
        self.server_side("--retire-idle", "0")
        client = self.client_side("--retire-idle", "0.5")
        busy, end = self.both_ends(server)
        idle, _ = self.both_ends(server)
        LAB.rotate("a")
        self.assertTrue(client.says("stand on the one before it"), client.log)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:  # data that moves keeps a connection
            busy.sendall(b"x")
            self.assertEqual(end.recv(1), b"x")
            time.sleep(0.05)
        self.assertEqual(idle.recv(1), b"", "an idle one ends in order")
        self.assertEqual(client.stats()["ended"]["retired"], 1)
        fresh, fresh_end = self.both_ends(server)
        LAB.rotate("a")
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
        LAB.stop_pspd("a", signal.SIGKILL)
        try:
            self.assertTrue(client.says("pspd of this host has ended: 1 connections with it"), client.log)
            self.expect_reset(program)
            self.expect_refused(client, "no-psp", "pspd")
        finally:
            LAB.start_pspd("a")
        self.both_ends(server)

    def test_without_pspd_the_policies_differ(self):
        server = self.listen()
        self.server_side("--policy", "preferred")
        LAB.stop_pspd("a")
        try:
            required = self.client_side()
            self.expect_refused(required, "no-psp", "this host")
            required.stop()
            preferred = self.client_side("--policy", "preferred")
            with LAB.capture() as wire:
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
            LAB.start_pspd("a")


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
