# SPDX-License-Identifier: Apache-2.0
"""Who is let in and who is not, by certificates; and certificates that change under a proxy.

Each refusal is counted, and the log says why.
"""
import shutil
import signal

from .base import SECRET, Case


class Peers(Case):
    """Who is let in, and who is not."""

    def test_wrong_name(self):
        self.server_side(credentials=self.identity("mallory"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "hostname mismatch")

    def test_wrong_authority(self):
        self.server_side(credentials=self.identity("fake-db"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "its authority is not one that this end believes")

    def test_client_of_another_authority(self):
        server = self.server_side()
        self.client_side(credentials=["--peer-name", "db.example", *self.identity("fake-app")[:4], "--ca",
                                      self.lab.path("ca.pem")])
        self.expect_refused(server, "authentication", "certificate is not accepted")

    def test_client_without_a_certificate(self):
        server = self.server_side()
        client = self.client_side(credentials=["--peer-name", "db.example", "--ca", self.lab.path("ca.pem")])
        self.expect_refused(server, "authentication", "showed no certificate")
        self.assertTrue(client.says("demands a certificate; give this end one, with its key"), client.log)

    def test_client_whom_the_list_does_not_name(self):
        server = self.server_side("--peer-name", "other.example", "--peer-name", "app.example")
        end = self.listen()
        self.client_side()
        self.both_ends(end)
        self.clear_port += 100
        self.client_side(credentials=["--peer-name", "db.example", *self.identity("mallory")])
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
            shutil.copy(self.lab.path(f"{name}.{kind}"), self.lab.path(f"new.{kind}"))
            self.lab.path(f"new.{kind}").rename(self.lab.path(f"live.{kind}"))

    def test_changed_files_and_broken_ones(self):
        end = self.listen()
        self.install("mallory")
        server = self.server_side(credentials=self.identity("live"))
        client = self.client_side()
        self.expect_refused(client, "authentication", "hostname mismatch")
        self.install("db")
        self.assertTrue(server.says("the certificate files have changed"), server.log)
        old = self.both_ends(end)

        self.lab.path("live.pem").write_text("nonsense", encoding="ascii")
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
