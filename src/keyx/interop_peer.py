#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The other end of the interoperability modes, independent of the C++ code: standard library only.

    interop_peer.py PROTOCOL ROLE PORT VERSION CERTIFICATE

PROTOCOL is fizz-v0 or kernel-selftest. ROLE client connects to 127.0.0.1:PORT, server listens on a
free port (PORT is 0) and prints it. It sends SPI 0x80C0FFEE and the key 0x40, 0x41, ...; prints the
peer's SPI and key as hex; and then says "ping" on the bare socket and expects "pong", which shows
that neither end has read or sent an octet too many. No PSP: what would be sealed goes in clear.
"""
import socket
import ssl
import struct
import sys

SPI = 0x80C0FFEE


def key_length(version):
    return 32 if version in (1, 3) else 16


def exactly(read, count):
    data = b""
    while len(data) < count:
        piece = read(count - len(data))
        if not piece:
            raise SystemExit(f"end of file after {len(data)} of {count} octets")
        data += piece
    return data


def fizz_v0(sock, role, version, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if role == "server":
        context.num_tickets = 0
        context.load_cert_chain(certificate)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_socket(sock, server_side=role == "server", suppress_ragged_eofs=False)
    key = bytes(0x40 + i for i in range(key_length(version)))
    # Tag 1, SA: SPI in network order, version, three octets reserved, key padded to 32.
    value = struct.pack("!IB3x32s", SPI, version, key)
    tls.sendall(struct.pack("!BB", 1, len(value)) + value)
    tag, length = exactly(tls.recv, 2)
    value = exactly(tls.recv, length)
    if tag == 0:
        print("error", value.hex(), flush=True)
        raise SystemExit(0)
    if (tag, length) != (1, 40) or value[5:8] != bytes(3):
        raise SystemExit(f"not an SA: tag {tag} length {length} {value.hex()}")
    spi, theirs, padded = struct.unpack("!IB3x32s", value)
    if theirs != version or padded[key_length(version):].strip(b"\0"):
        raise SystemExit(f"version {theirs}, padding {padded.hex()}")
    print(f"{spi:08x}", padded[: key_length(version)].hex(), flush=True)
    return socket.socket(fileno=tls.detach())


def kernel_selftest(sock, version):
    key = bytes(0x40 + i for i in range(key_length(version)))
    sock.sendall(struct.pack("=I", SPI) + key)  # the SPI in host order
    info = exactly(sock.recv, 4 + key_length(version))
    (spi,) = struct.unpack("=I", info[:4])
    print(f"{spi:08x}", info[4:].hex(), flush=True)
    return sock


def main():
    protocol, role, port, version, certificate = sys.argv[1:6]
    if role == "server":
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        sock = listener.accept()[0]
    else:
        sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if protocol == "fizz-v0":
        bare = fizz_v0(sock, role, int(version), certificate)
    else:
        bare = kernel_selftest(sock, int(version))
    bare.settimeout(20)
    bare.sendall(b"ping")
    print(exactly(bare.recv, 4).decode(), flush=True)


main()
