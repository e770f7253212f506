#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of psp.py that need no pspd: policies, errors, what is refused. tests/examples has PSP itself.

usage: LD_LIBRARY_PATH=build/release/lib python3 python/psp_test.py
"""
import gc
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import psp  # noqa: E402

NOBODY = "@psp-py-test-nobody"
PREFERRED = psp.Policy.PREFERRED


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.certificate, cls.key = f"{directory.name}/pem", f"{directory.name}/key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
             "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", cls.key, "-out", cls.certificate],
            check=True, capture_output=True,
        )  # fmt: skip

    def contexts(self):
        client = ssl.create_default_context(cafile=self.certificate)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self.certificate, self.key)
        return client, server

    def link(self, client=None, server=None):
        """A TLS connection: (client's end, server's end)."""
        contexts = self.contexts()
        client, server = client or contexts[0], server or contexts[1]
        ends = {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = socket.create_connection(listener.getsockname())
            there, _ = listener.accept()

        def accept():
            ends["server"] = server.wrap_socket(there, server_side=True)

        thread = threading.Thread(target=accept)
        thread.start()
        ends["client"] = client.wrap_socket(here, server_hostname="localhost")
        thread.join()
        for end in ends.values():
            self.addCleanup(end.close)
        return ends["client"], ends["server"]

    def in_thread(self, function):
        """Runs it beside; the result is what the returned call gives, an exception if it was one."""
        outcome = []

        def run():
            try:
                outcome.append(function())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def result():
            thread.join()
            return outcome[0]

        return result


class Policies(Case):
    def test_both_stay_on_tls_if_both_prefer_it_and_lose_nothing(self):
        client, server = self.link()
        client.settimeout(5)
        client.sendall(b"early")
        other = self.in_thread(lambda: psp.upgrade(server, policy=PREFERRED, pspd=NOBODY))
        mine = psp.upgrade(client, policy=PREFERRED, pspd=NOBODY)
        theirs = other()
        self.assertIs(mine.sock, client)
        self.assertIsNone(mine.info)
        self.assertIn(f"no pspd answers at {NOBODY}", mine.why_tls)
        self.assertEqual((mine.early, theirs.early), (b"", b"early"))
        self.assertEqual((client.gettimeout(), server.gettimeout()), (5, None))
        theirs.sock.sendall(b"on")
        self.assertEqual(mine.sock.recv(10), b"on")

    def test_required_fails_on_both_ends_with_the_librarys_sentence(self):
        client, server = self.link()
        other = self.in_thread(lambda: psp.upgrade(server, policy=PREFERRED, pspd=NOBODY))
        with self.assertRaisesRegex(psp.PspError, "the other end cannot receive PSP") as caught:
            psp.upgrade(client, pspd=NOBODY)
        self.assertIs(caught.exception.code, psp.ErrorCode.NO_PSP)
        self.assertIsInstance(caught.exception, OSError)
        self.assertIs(other().code, psp.ErrorCode.NO_PSP)

    def test_a_peer_that_did_not_announce_is_left_alone(self):
        (client, _), (_, server) = self.contexts(), self.contexts()
        psp.announce(server)
        client, server = self.link(client, server)
        self.assertIs(psp.announced(server), False)
        self.assertIsNone(psp.announced(client))
        self.assertIn("announce", psp.upgrade(server, policy=PREFERRED, pspd=NOBODY).why_tls)
        server.sendall(b"plain TLS")
        self.assertEqual(client.recv(20), b"plain TLS")

    def test_both_announced(self):
        contexts = self.contexts()
        for context in contexts:
            psp.announce(context)
        self.assertEqual([psp.announced(end) for end in self.link(*contexts)], [True, True])


class Waiting(Case):
    def test_step_wants_as_ssl_does(self):
        client, _ = self.link()
        client.setblocking(False)
        with psp.Upgrade(client, pspd=NOBODY, policy=PREFERRED) as up:
            with self.assertRaises(ssl.SSLWantReadError) as caught:
                up.step()
            self.assertIsInstance(caught.exception, psp.WantRead)
        with self.assertRaisesRegex(psp.PspError, "has ended"):
            up.step()

    def test_a_silent_peer_is_a_time_out_that_names_what_is_missing(self):
        client, _ = self.link()
        with self.assertRaisesRegex(psp.PspTimeout, r"gave up after 0\.1 s without the peer's") as caught:
            psp.upgrade(client, timeout=0.1, pspd=NOBODY, policy=PREFERRED)
        self.assertIsInstance(caught.exception, TimeoutError)
        self.assertIs(caught.exception.code, psp.ErrorCode.TIMEOUT)
        self.assertIsNone(client.gettimeout())

    def test_what_has_failed_has_ended(self):
        client, server = self.link()
        late = psp.Upgrade(client, pspd=NOBODY, policy=PREFERRED)
        with self.assertRaises(psp.PspTimeout):
            late.run(0.01)
        alone = psp.Upgrade(server, pspd=NOBODY)
        client.close()
        with self.assertRaises(psp.PspError):
            alone.run(5)
        for up in (late, alone):
            with self.assertRaisesRegex(psp.PspError, "has ended"):
                up.step()

    def test_a_peer_that_closes_is_said_so(self):
        client, server = self.link()
        server.close()
        with self.assertRaises(psp.PspError) as caught:
            psp.upgrade(client, pspd=NOBODY)
        self.assertIs(caught.exception.code, psp.ErrorCode.PEER_CLOSED)

    def test_what_came_early_is_taken_in_pieces(self):
        client, server = self.link()
        server.sendall(b"x" * 5000)
        other = self.in_thread(lambda: psp.upgrade(server, policy=PREFERRED, pspd=NOBODY))
        with psp.Upgrade(client, policy=PREFERRED, pspd=NOBODY, early_max=1000) as up:
            with self.assertRaises(psp.WantDrain):
                up.run(5)
            early = up.read_early()
            self.assertEqual(len(early), 1000)
            while True:
                try:
                    early += up.run(5).early
                    break
                except psp.WantDrain:
                    early += up.read_early()
        self.assertEqual(early, b"x" * 5000)
        self.assertIsNone(other().info)


class Refused(Case):
    def refused(self, sentence, sock, **options):
        with self.assertRaisesRegex(psp.PspError, sentence) as caught:
            psp.upgrade(sock, pspd=NOBODY, **options)
        self.assertIs(caught.exception.code, psp.ErrorCode.USAGE)

    def test_what_is_no_ssl_socket(self):
        with socket.socket() as plain:
            self.refused("an ssl.SSLSocket is needed.*this is socket", plain)
        memory = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        self.refused("this is SSLObject", memory)

    def test_an_ssl_socket_without_tls(self):
        client, _ = self.contexts()
        with client.wrap_socket(socket.socket(), server_hostname="localhost") as unconnected:
            self.refused("TLS has not begun", unconnected)

    def test_tls_1_2(self):
        client, server = self.contexts()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        self.refused("needs TLS 1.3", self.link(client, server)[0])

    def test_tls_that_another_socket_does(self):
        (client, _), (other, _) = self.link(), self.link()
        own, client._sslobj = client._sslobj, other._sslobj
        self.refused("not laid out as psp.py knows them", client)
        client._sslobj = own
        there = os.dup(client.fileno())
        self.addCleanup(os.close, there)
        here = client.detach()
        self.addCleanup(os.close, here)
        self.refused("over something else than its own socket", client)

    def test_another_openssl_than_the_librarys(self):
        with tempfile.TemporaryDirectory() as directory:
            source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in (*psp._SIGNATURES, "SSL_get_fd"))
            subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", f"{directory}/libpsp-tls.so.0"],
                           input=source.encode(), check=True)  # fmt: skip
            code = "import psp\ntry: psp._library()\nexcept psp.PspError as error: print(error)"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                                  cwd=pathlib.Path(psp.__file__).parent, env={"LD_LIBRARY_PATH": directory})  # fmt: skip
        self.assertIn("has its own OpenSSL", done.stdout)

    def test_no_library_at_all(self):
        code = "import psp\ntry: psp.Rotation()\nexcept psp.PspError as error: print(error)"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                              cwd=pathlib.Path(psp.__file__).parent, env={})  # fmt: skip
        self.assertRegex(done.stdout, "cannot load libpsp-tls .*: install it")

    def test_a_watch_without_pspd(self):
        with self.assertRaisesRegex(psp.PspError, NOBODY):
            psp.Rotation(NOBODY)


class Lifetime(Case):
    def test_objects_may_go_in_any_order(self):
        for first in (0, 1):
            client, _ = self.link()
            client.setblocking(False)
            held = [client, psp.Upgrade(client, pspd=NOBODY)]
            with self.assertRaises(psp.WantRead):
                held[1].step()
            del client
            del held[first]
            gc.collect()
            del held
            gc.collect()


if __name__ == "__main__":
    unittest.main()
