#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An echo server in Python: the standard library's ssl, then PSP. One thread for each connection.

    python3 echo_server.py 7000 server.pem server.key
"""
import socket
import ssl
import sys
import threading

import psp  # python/psp.py of softpsp; PYTHONPATH says where


def serve(tcp: socket.socket, context: ssl.SSLContext) -> None:
    tcp.settimeout(10)  # for each step of the TLS handshake
    try:
        with context.wrap_socket(tcp, server_side=True) as tls:
            secured = psp.upgrade(tls)  # or psp.PspError: PSP or nothing
    except OSError as error:  # ssl's errors and psp's are OSErrors too
        print(f"echo_server: {error}", file=sys.stderr)
        return
    with secured.sock as sock:  # a plain socket from here on
        sock.settimeout(None)
        data = secured.early
        while data or (data := sock.recv(65536)):
            sock.sendall(data)
            data = b""


def main() -> None:
    port, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    with socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            tcp, _ = listener.accept()
            threading.Thread(target=serve, args=(tcp, context), daemon=True).start()


if __name__ == "__main__":
    main()
