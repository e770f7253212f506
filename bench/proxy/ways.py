# SPDX-License-Identifier: Apache-2.0
"""The ways from host a to a server on host b: clear, through stunnel, through psp-proxy."""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/proxy"))
from lab import ADDRESS, Lab, eventually  # pylint: disable=wrong-import-position

WAYS = ("clear", "two bare relays", "stunnel", "psp-proxy")
POSTGRES = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
NEAR_PORT, FAR_PORT, POSTGRES_PORT, NGINX_PORT = 7300, 7301, 7302, 7303
CERTIFICATES = {"a": "app", "b": "db"}


def process_tree(pid):
    """A process and all below it: servers have children."""
    found = [pid]
    for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split():
        found += process_tree(int(child))
    return found


def cpu_seconds(pid):
    """CPU of all threads of a process, live and ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench(Lab):
    """The lab with both servers on host b."""

    def __init__(self, binaries):
        super().__init__(binaries)
        try:
            self.authority("ca")
            for name in CERTIFICATES.values():
                self.certificate(name, "ca", f"{name}.example")
        except BaseException:
            self.close()  # nobody else has it to close
            raise

    def identity(self, side):
        name = CERTIFICATES[side]
        return self.path(f"{name}.pem"), self.path(f"{name}.key"), self.path("ca.pem")

    def wait_listening(self, side, port):
        def answers():
            with self.inside(side), socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        if not eventually(answers):
            raise RuntimeError(f"nobody listens on port {port} of host {side}")

    def wait_through(self, port):
        def answers():
            with self.inside("a"), socket.socket() as probe:
                probe.settimeout(2)
                try:
                    probe.connect(("127.0.0.1", port))
                    probe.sendall(b"\n\n\n\n\n\n\n\n")  # no request of PostgreSQL's, and none of HTTP
                    probe.shutdown(socket.SHUT_WR)
                    return probe.recv(1) is not None
                except OSError:
                    return False

        if not eventually(answers):
            raise RuntimeError(f"no way to the server through port {port}")

    @contextlib.contextmanager
    def running(self, side, name, *command, **options):
        program = self.start(side, name, *command, **options)
        try:
            yield program
        finally:
            program.stop()

    @contextlib.contextmanager
    def postgres(self):
        directory = self.path("postgres")
        directory.mkdir()
        shutil.chown(directory, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        subprocess.run([*as_postgres, POSTGRES[0] / "initdb", "-D", directory / "data", "-A", "trust", "--no-sync"],
                       check=True, stdout=subprocess.DEVNULL, cwd="/")
        (directory / "data/pg_hba.conf").write_text("host all all 0.0.0.0/0 trust\nlocal all all trust\n",
                                                    encoding="ascii")
        with self.running("b", "postgres", *as_postgres, POSTGRES[0] / "postgres", "-D", directory / "data", "-k",
                          directory, "-p", POSTGRES_PORT, "-c", "listen_addresses=*", "-F", cwd="/") as server:
            if not server.says("ready to accept connections"):
                raise RuntimeError(server.log)
            self.run("b", POSTGRES[0] / "pgbench", "-h", "127.0.0.1", "-p", POSTGRES_PORT, "-U", "postgres", "-i", "-q",
                     "postgres", capture_output=True)
            yield server
            self.run("b", *as_postgres, POSTGRES[0] / "pg_ctl", "-D", directory / "data", "-m", "immediate", "stop",
                     stdout=subprocess.DEVNULL, cwd="/")

    @contextlib.contextmanager
    def nginx(self, big_octets):
        root = self.path("nginx")
        root.mkdir()
        with open(root / "big", "wb") as big:
            big.truncate(big_octets)
        subprocess.run(["cp", root / "big", "/dev/null"], check=True)  # into the page cache
        (root / "small").write_bytes(bytes(200))
        (root / "conf").write_text(f"""
            daemon off; master_process off; pid {root}/pid; error_log {root}/error;
            events {{}}
            http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {root}/t;
                    proxy_temp_path {root}/t; fastcgi_temp_path {root}/t; uwsgi_temp_path {root}/t;
                    scgi_temp_path {root}/t;
                    server {{ listen {NGINX_PORT}; root {root}; sendfile on; }} }}
            """, encoding="ascii")
        with self.running("b", "nginx", "nginx", "-c", root / "conf", "-e", root / "error") as server:
            self.wait_listening("b", NGINX_PORT)
            yield server

    def stunnel(self, side, accept, connect, client):
        certificate, key, ca = self.identity(side)
        conf = self.path(f"stunnel-{side}.conf")
        conf.write_text(f"""foreground = quiet
pid =
[forward]
client = {client}
accept = {accept}
connect = {connect}
cert = {certificate}
key = {key}
CAfile = {ca}
verifyChain = yes
sslVersion = TLSv1.3
ciphersuites = TLS_AES_256_GCM_SHA384
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
""", encoding="ascii")
        return self.running(side, f"stunnel-{side}", "stunnel4", conf)

    def relay(self, side, accept, connect):
        return self.running(side, f"relay-{side}", self.bin / "psp-bench-relay", *accept.split(":"),
                            *connect.split(":"))

    def psp_proxy(self, side, *arguments):
        certificate, key, ca = self.identity(side)
        return self.running(side, f"psp-proxy-{side}", self.bin / "psp-proxy", "-q", *arguments, "--cert", certificate,
                            "--key", key, "--ca", ca)

    @contextlib.contextmanager
    def daemons(self):
        """pspd on both hosts; nothing of it is there while the other ways are measured. Each host's worker has a
        processor of its own, as an operator would place it."""
        processors = sorted(os.sched_getaffinity(0))
        for side, processor in zip("ab", (processors[:2][-1], processors[0])):
            self.start_pspd(side, *(["--cpus", processor] if len(processors) > 1 else []))
        try:
            yield [self.pspd[side] for side in "ab"]
        finally:
            for side in "ab":
                self.stop_pspd(side)

    @contextlib.contextmanager
    def way(self, name, port):
        """Yields (host, port) to connect to on host a, and the programs between."""
        near, far, server = f"127.0.0.1:{NEAR_PORT}", f"{ADDRESS['b']}:{FAR_PORT}", f"127.0.0.1:{port}"
        with contextlib.ExitStack() as stack:
            if name == "clear":
                yield ADDRESS["b"], port, []
                return
            if name == "two bare relays":
                between = [stack.enter_context(self.relay("b", far, server)),
                           stack.enter_context(self.relay("a", near, far))]
            elif name == "stunnel":
                between = [stack.enter_context(self.stunnel("b", far, server, "no")),
                           stack.enter_context(self.stunnel("a", near, far, "yes"))]
            else:
                between = stack.enter_context(self.daemons())
                between += [
                    stack.enter_context(self.psp_proxy("b", "--listen-psp", far, "--to", server)),
                    stack.enter_context(self.psp_proxy("a", "--listen", near, "--to", far, "--peer-name",
                                                       "db.example"))]
            # Through all of it: a server that closes tells that there is one.
            self.wait_through(NEAR_PORT)
            yield "127.0.0.1", NEAR_PORT, between
