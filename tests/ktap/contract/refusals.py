# SPDX-License-Identifier: Apache-2.0
"""Cases: what is refused, with the errno, the text and the place that the kernel gives.

Policies of attributes first, then descriptors and devices, then the states of a socket.
"""
import errno
import socket

from .case import case, equal, undo
from .netlink import (DEV_ASSOC, DEV_DISASSOC, DEV_GET, DEV_SET, ENA, ID, IFINDEX, KEY,
                      NLA_F_NESTED, NO_SUCH_ID, RX_ASSOC, SOCK_FD, SPI, TX_ASSOC, TX_KEY, VERSION,
                      attr, number, psp, u32)
from .peer import connect, refused, rx_assoc, tx_assoc, tx_key

ESTABLISHED = "Socket must be in established state"


@case("python: policy errors are the kernel's")
def _():
    refused(DEV_GET, [], errno.EINVAL, missing=ID)
    refused(DEV_GET, [("bad", u32(ID, 0))], errno.ERANGE, "integer out of range")
    refused(DEV_GET, [("bad", attr(ID, b"12"))], errno.EINVAL, "invalid attribute length")
    refused(DEV_GET, [u32(ID, psp.id), ("bad", u32(77, 1))], errno.EINVAL, "Unknown attribute type")
    refused(RX_ASSOC, [("bad", u32(VERSION, 4))], errno.ERANGE, "integer out of range")
    refused(TX_ASSOC, [("bad", attr(TX_KEY, u32(SPI, 1)))], errno.EINVAL, "NLA_F_NESTED is missing")
    refused(DEV_GET, [u32(ID, NO_SUCH_ID)], errno.ENODEV)


@case("python: privileged policy errors are the kernel's", "root")
def _():
    refused(DEV_SET, [u32(ID, psp.id), ("bad", u32(ENA, 0x10))], errno.EINVAL, "reserved bit set")
    refused(DEV_SET, [u32(ID, psp.id)], errno.EINVAL, "No settings present")
    refused(DEV_ASSOC, [u32(ID, psp.id)], errno.EINVAL, missing=IFINDEX)
    refused(DEV_DISASSOC, [u32(ID, psp.id), ("bad", u32(IFINDEX, 7654321))], errno.ENODEV)


@case("python: what is no TCP socket is refused")
def _():
    with open("/dev/null", "rb") as file:
        refused(RX_ASSOC, [u32(VERSION, 0), u32(SOCK_FD, file.fileno())], errno.ENOTSOCK)
    refused(RX_ASSOC, [u32(VERSION, 0), u32(SOCK_FD, 999)], errno.EBADF)
    udp = undo.keep(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    refused(RX_ASSOC, [u32(VERSION, 0), ("bad", u32(SOCK_FD, udp.fileno()))], errno.EOPNOTSUPP,
            "Unsupported socket family and type")
    refused(RX_ASSOC, [u32(VERSION, 0)], errno.EINVAL, missing=SOCK_FD)


@case("python: the device of the route must be the one that is named")
def _():
    sock = connect()
    refused(RX_ASSOC, [("bad", u32(ID, NO_SUCH_ID)), u32(VERSION, 0), u32(SOCK_FD, sock.fileno())],
            errno.EINVAL, "Device id vs socket mismatch")
    refused(RX_ASSOC, [u32(SOCK_FD, sock.fileno())], errno.EINVAL, missing=VERSION)
    closed = undo.keep(socket.socket())
    refused(RX_ASSOC, [u32(VERSION, 0), u32(SOCK_FD, closed.fileno())], errno.EINVAL, missing=ID)


@case("python: the states of a socket follow each other")
def _():
    sock = connect()
    fd = u32(SOCK_FD, sock.fileno())
    refused(TX_ASSOC, [u32(VERSION, 0), tx_key(), fd], errno.EINVAL, "Socket has no Rx key")
    rx_assoc(sock)
    refused(RX_ASSOC, [u32(VERSION, 0), ("bad", fd)], errno.EBUSY, "Socket already has PSP state")
    refused(TX_ASSOC, [u32(VERSION, 1), tx_key(key=bytes(32)), fd], errno.EINVAL,
            "PSP version mismatch with existing state")
    equal(tx_assoc(sock).one(), {}, "reply of tx-assoc")
    refused(TX_ASSOC, [u32(VERSION, 0), tx_key(), fd], errno.EBUSY, "Tx key already set")


@case("python: errors inside tx-key name what is inside")
def _():
    sock = connect()
    rx_assoc(sock)
    fd, start = u32(SOCK_FD, sock.fileno()), 20 + 8
    refused(TX_ASSOC, [u32(VERSION, 0), ("in", attr(TX_KEY | NLA_F_NESTED, u32(SPI, 1))), fd],
            errno.EINVAL, missing=KEY)
    answer = psp.nl.ask(TX_ASSOC, u32(VERSION, 0) + tx_key(key=b"short") + fd)
    equal((answer.error, answer.text, answer.bad),
          (errno.EINVAL, "incorrect key length", start + 4 + 8), "error, text and offset")
    answer = psp.nl.ask(TX_ASSOC, u32(VERSION, 0) + tx_key(spi=0x80000000) + fd)
    equal((answer.error, answer.text, answer.bad),
          (errno.EINVAL, "invalid SPI: lower 31b must be non-zero", start + 4 + 8),
          "error, text and offset")


@case("python: a socket that is not established is refused", "net-next")
def _():
    closed = undo.keep(socket.socket())
    refused(RX_ASSOC, [u32(ID, psp.id), u32(VERSION, 0), ("bad", u32(SOCK_FD, closed.fileno()))],
            errno.ENOTCONN, ESTABLISHED)
    half = connect()
    rx_assoc(half)
    half.shutdown(socket.SHUT_WR)
    refused(TX_ASSOC, [u32(VERSION, 0), tx_key(), u32(SOCK_FD, half.fileno())], errno.ENOTCONN,
            ESTABLISHED)


@case("python: a closed socket is associated before it connects up to Linux 7.3", "released")
def _():
    closed = undo.keep(socket.socket())
    reply = psp.nl.ask(RX_ASSOC, u32(ID, psp.id) + u32(VERSION, 0) +
                       u32(SOCK_FD, closed.fileno())).one()
    equal(number(reply[1]), psp.id, "dev-id")
