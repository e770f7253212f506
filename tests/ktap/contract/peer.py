# SPDX-License-Identifier: Apache-2.0
"""Sockets that are connected to the peer, their associations, and requests that must be refused.

The peer is `psp_uapi --serve`: a connection that begins with the line CONTROL commands the others.
"""
import errno
import socket

from .case import Failed, equal, options, true, undo
from .netlink import (KEY, NLA_F_NESTED, PATIENCE, RX_ASSOC, RX_KEY, SOCK_FD, SPI, TX_ASSOC, TX_KEY,
                      VERSION, Netlink, attr, attributes, number, psp, u32)

EXAMPLE_KEY = bytes(range(16))


def tx_key(spi=0x123, key=EXAMPLE_KEY):
    return attr(TX_KEY | NLA_F_NESTED, u32(SPI, spi) + attr(KEY, key))


def netlink():
    nl = Netlink()
    undo.keep(nl.sock)
    return nl


def connect():
    host, port = options.peer
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = undo.keep(socket.socket(family, socket.SOCK_STREAM))
    sock.settimeout(PATIENCE)
    sock.connect((host, port))
    return sock


def rx_assoc(sock, version=0, nl=None):
    """(SPI, key) of a new Rx association."""
    reply = (nl or psp.nl).ask(RX_ASSOC, u32(VERSION, version) + u32(SOCK_FD, sock.fileno())).one()
    key = dict(attributes(reply[RX_KEY]))
    return number(key[SPI]), key[KEY]


def tx_assoc(sock, version=0, spi=0x123, key=EXAMPLE_KEY, nl=None):
    return (nl or psp.nl).ask(TX_ASSOC, u32(VERSION, version) + tx_key(spi, key) +
                              u32(SOCK_FD, sock.fileno()))


def command(line):
    """One line to the peer service and its answer without the OK."""
    control = connect()
    control.sendall(b"CONTROL\n" + line.encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        part = control.recv(512)
        if not part:
            break
        answer += part
    if not answer.startswith(b"OK"):
        raise Failed(f"peer says {answer!r} to {line!r}")
    return answer.decode().split()[1:]


def secure(version=0):
    sock = connect()
    spi, key = rx_assoc(sock, version)
    port = sock.getsockname()[1]
    their_spi, their_key = command(f"ASSOC {port} {version} {spi} {key.hex()}")
    equal(tx_assoc(sock, version, int(their_spi), bytes.fromhex(their_key)).error, 0, "tx-assoc")
    return sock, port


def receive(sock, count):
    octets = b""
    while len(octets) < count:
        part = sock.recv(65536)
        true(part, f"the peer closed after {len(octets)} octets")
        octets += part
    return octets


def refused(cmd, parts, error, text="", missing=0, nl=None):
    """Asks and compares. The part that must be named as bad is written ("bad", octets); the nest in
    which something is missing ("in", octets)."""
    body, marks = b"", {}
    for part in parts:
        if isinstance(part, tuple):
            marks[part[0]] = 20 + len(body)
            part = part[1]
        body += part
    answer = (nl or psp.nl).ask(cmd, body)
    equal(errno.errorcode.get(answer.error, answer.error), errno.errorcode[error], "error")
    equal(answer.text, text, "text")
    equal(answer.bad, marks.get("bad", 0), "offset of the bad attribute")
    equal(answer.missing, missing, "missing attribute")
    equal(answer.missing_in, marks.get("in", 0), "offset of the nest")
    equal(answer.messages, [], "messages before the error")
