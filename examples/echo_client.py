#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sends standard input over PSP and writes what comes back to standard output.

    python3 echo_client.py echo.example 7000 ca.pem < question > answer
"""
import shutil
import socket
import ssl
import sys
import threading

import psp  # python/psp.py of softpsp; PYTHONPATH says where


def send_input(sock: socket.socket) -> None:
    with sock.makefile("wb") as out:
        shutil.copyfileobj(sys.stdin.buffer, out)
    sock.shutdown(socket.SHUT_WR)


def main() -> None:
    host, port, authorities = sys.argv[1:]
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    tcp = socket.create_connection((host, int(port)), timeout=10)
    with context.wrap_socket(tcp, server_hostname=host) as tls:
        secured = psp.upgrade(tls)
    info = secured.info
    print(f"echo_client: connected by PSP, {info.version.name}", file=sys.stderr)
    with secured.sock as sock:  # a plain socket from here on
        sock.settimeout(None)
        sender = threading.Thread(target=send_input, args=(sock,), daemon=True)
        sender.start()
        sys.stdout.buffer.write(secured.early)
        with sock.makefile("rb") as answer:
            shutil.copyfileobj(answer, sys.stdout.buffer)
        sender.join()  # a server may have said all that it has to say before it was asked


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # ssl's errors and psp's are OSErrors too
        sys.exit(f"echo_client: {error}")
