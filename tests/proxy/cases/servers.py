# SPDX-License-Identifier: Apache-2.0
"""Servers and clients as Debian has them: PostgreSQL with pgbench, nginx with curl.

What they say to each other must not be found on the wire.
"""
import hashlib
import os
import shutil
import signal
import subprocess

from lab import eventually

from .base import POSTGRES, SECRET, Case


class Servers(Case):
    """Servers and clients as Debian has them."""

    def postgres(self):
        directory = self.lab.path(f"postgres-{self.offset}")
        directory.mkdir()
        shutil.chown(directory, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        subprocess.run([*as_postgres, POSTGRES / "initdb", "-D", directory / "data", "-A", "trust", "--no-sync"],
                       check=True, stdout=subprocess.DEVNULL, cwd="/")
        server = self.lab.start("b", "postgres", *as_postgres, POSTGRES / "postgres", "-D", directory / "data", "-k",
                                directory, "-p", self.server_port, "-c", "listen_addresses=127.0.0.1", "-F", cwd="/")
        self.addCleanup(server.stop, signal.SIGQUIT)
        self.assertTrue(server.says("ready to accept connections"), server.log)

    def client_of_postgres(self, program, *arguments):
        done = self.lab.run("a", POSTGRES / program, "-h", "127.0.0.1", "-p", self.clear_port, "-U", "postgres",
                            *arguments, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_postgresql_and_pgbench(self):
        self.postgres()
        client, server = self.pair()
        with self.lab.capture() as wire:
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
        root = self.lab.path(f"nginx-{self.offset}")
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
        server = self.lab.start("b", "nginx", "nginx", "-c", root / "conf", "-e", root / "error")
        self.addCleanup(server.stop)
        self.assertTrue(eventually((root / "pid").exists), server.log)
        return root

    def curl(self, *arguments):
        return self.lab.run("a", "curl", "-sSf", *arguments, capture_output=True).stdout

    def test_nginx_and_curl(self):
        root = self.nginx()
        client, server = self.pair()
        url = f"http://127.0.0.1:{self.clear_port}"
        with self.lab.capture() as wire:
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
