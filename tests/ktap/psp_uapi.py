#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The contract of Linux's `psp` generic netlink family, as a program that speaks it from Python.

Standard library only; own copy of the numbers. It asks the most important half of what psp_uapi.c
asks, by a second hand, and what a scripting language shows better: sockets that are polled, peeked
at, shared between threads and processes, handed on, closed in any order. It runs on a kernel with
PSP and a NIC, and unchanged on softpsp by `pspctl run -- psp_uapi.py ...`. Output: KTAP version 1.

usage: psp_uapi.py --dev eth0 --peer 10.77.0.2:7000 [--peer-assoc] [--compat KERNEL]
                   [--without NEED,...] [--only TEXT] [--list]
The peer is `psp_uapi --serve ADDR:PORT`; without --peer-assoc any TCP service that accepts.
"""
import argparse
import array
import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import threading

# --- numbers of the contract ----------------------------------------------------------------------
NETLINK_GENERIC, SOL_NETLINK = 16, 270
NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 1, 2
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP = 1, 2, 4, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
GENL_ID_CTRL, CTRL_GETFAMILY, CTRL_GETPOLICY = 16, 3, 10
(DEV_GET, DEV_ADD_NTF, DEV_DEL_NTF, DEV_SET, DEV_CHANGE_NTF, KEY_ROTATE, KEY_ROTATE_NTF, RX_ASSOC,
 TX_ASSOC, GET_STATS, DEV_ASSOC, DEV_DISASSOC) = range(1, 13)
ID, IFINDEX, CAP, ENA = 1, 2, 3, 4
VERSION, RX_KEY, TX_KEY, SOCK_FD = 2, 3, 4, 5
KEY, SPI = 1, 2
KEY_ROTATIONS = 2
NO_SUCH_ID = 64999
PATIENCE, SILENCE = 5.0, 0.3
TOO_LONG = 300  # to print
EXAMPLE_KEY = bytes(range(16))
ESTABLISHED = "Socket must be in established state"


def u32(kind, value):
    return attr(kind, struct.pack("=I", value))


def attr(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def tx_key(spi=0x123, key=EXAMPLE_KEY):
    return attr(TX_KEY | NLA_F_NESTED, u32(SPI, spi) + attr(KEY, key))


def attributes(octets):
    """The attributes as a list of (type, payload), in their order."""
    found = []
    while len(octets) >= 4:
        size, kind = struct.unpack_from("=HH", octets)
        if size < 4 or size > len(octets):
            break
        found.append((kind & 0x3FFF, octets[4:size]))
        octets = octets[(size + 3) & ~3:]
    return found


def number(payload):
    return int.from_bytes(payload, sys.byteorder)


class Failed(Exception):
    """A case does not hold."""


def equal(got, want, what):
    if got != want:
        raise Failed(f"{what} is {repr(got)[:TOO_LONG]}, not {repr(want)[:TOO_LONG]}")


def true(condition, what):
    if not condition:
        raise Failed(what)


class Answer:
    """What came for one request: error, extack and the genl messages before it."""

    def __init__(self):
        self.error, self.flags, self.ext, self.messages = None, 0, {}, []

    @property
    def text(self):
        return self.ext.get(1, b"\0")[:-1].decode()

    @property
    def bad(self):
        return number(self.ext.get(2, b""))

    @property
    def missing(self):
        return number(self.ext.get(5, b""))

    @property
    def missing_in(self):
        return number(self.ext.get(6, b""))

    def one(self):
        """The only message's attributes as a dictionary."""
        equal(errno.errorcode.get(self.error, self.error), 0, f"error ({self.text})")
        equal(len(self.messages), 1, "replies")
        return dict(attributes(self.messages[0][1]))

    def take_error(self, flags, octets):
        self.error = -struct.unpack_from("=i", octets)[0]
        self.flags = flags
        quoted = 16 if flags & NLM_F_CAPPED else (struct.unpack_from("=I", octets, 4)[0] + 3) & ~3
        if flags & NLM_F_ACK_TLVS:
            self.ext = dict(attributes(octets[4 + quoted:]))


class Netlink:
    """One NETLINK_GENERIC socket."""

    def __init__(self, sock=None):
        self.sock = sock or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        if sock is None:
            self.sock.bind((0, 0))
            self.sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self.sock.settimeout(PATIENCE)
        self.port = self.sock.getsockname()[0]
        self.seq = 4000

    def message(self, cmd, body=b"", flags=NLM_F_REQUEST | NLM_F_ACK, family=None):
        self.seq += 1
        octets = struct.pack("=BBH", cmd, 1, 0) + body
        head = struct.pack("=IHHII", 16 + len(octets), family or psp.family, flags, self.seq, 0)
        return head + octets

    def ask(self, cmd, body=b"", flags=NLM_F_REQUEST | NLM_F_ACK, family=None):
        self.sock.send(self.message(cmd, body, flags, family))
        return self.answer(self.seq)

    def dump(self, cmd, body=b"", family=None):
        return self.ask(cmd, body, NLM_F_REQUEST | NLM_F_DUMP, family)

    def answer(self, seq):
        answer = Answer()
        while answer.error is None:
            for kind, flags, got_seq, _, octets in messages(self.sock.recv(65536)):
                if got_seq != seq:
                    continue
                if kind == NLMSG_ERROR:
                    answer.take_error(flags, octets)
                elif kind == NLMSG_DONE:
                    answer.error = -struct.unpack_from("=i", octets)[0]
                else:
                    answer.messages.append((octets[0], octets[4:]))
        return answer

    def join(self, group):
        self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        return self

    def heard(self, patience=PATIENCE):
        """The next notification as (command, attributes, seq, pid), or None."""
        if not select.select([self.sock], [], [], patience)[0]:
            return None
        _, _, seq, pid, octets = next(messages(self.sock.recv(65536)))
        return octets[0], dict(attributes(octets[4:])), seq, pid


def messages(datagram):
    while len(datagram) >= 16:
        size, kind, flags, seq, pid = struct.unpack_from("=IHHII", datagram)
        if size < 16:
            return
        yield kind, flags, seq, pid, datagram[16:size]
        datagram = datagram[(size + 3) & ~3:]


class Psp:
    """What is known of the family and the device under test."""

    family = mgmt = use = id = cap = ifindex = 0
    nl = None

    def set_up(self, dev):
        self.nl = Netlink()
        answer = self.nl.ask(CTRL_GETFAMILY, attr(2, b"psp\0"), family=GENL_ID_CTRL)
        if answer.error:
            return "there is no psp family: neither in the kernel nor by softpsp"
        about = dict(attributes(answer.messages[0][1]))
        self.family = number(about[1])
        groups = {dict(attributes(g))[1]: number(dict(attributes(g))[2])
                  for _, g in attributes(about[7])}
        self.mgmt, self.use = groups[b"mgmt\0"], groups[b"use\0"]
        self.ifindex = socket.if_nametoindex(dev)
        for _, octets in self.nl.dump(DEV_GET).messages:
            row = dict(attributes(octets))
            if number(row.get(IFINDEX, b"")) == self.ifindex:
                self.id, self.cap = number(row[ID]), number(row[CAP])
        return None if self.id else "--dev has no PSP device"

    def ena(self):
        return number(self.nl.ask(DEV_GET, u32(ID, self.id)).one()[ENA])

    def set_ena(self, value):
        return self.nl.ask(DEV_SET, u32(ID, self.id) + u32(ENA, value))

    def rotate(self):
        return self.nl.ask(KEY_ROTATE, u32(ID, self.id))


psp = Psp()
options = None

# --- cases ----------------------------------------------------------------------------------------
cases = []


def case(name, *needs):
    def add(function):
        cases.append((name, function, needs))
        return function
    return add


class Undo(contextlib.ExitStack):
    """Sockets of the running case; closed behind it."""

    def keep(self, thing):
        self.callback(thing.close)
        return thing


undo = Undo()


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


@case("python: the family is found by name and by id")
def _():
    by_id = psp.nl.ask(CTRL_GETFAMILY, attr(1, struct.pack("=H", psp.family)),
                       family=GENL_ID_CTRL).one()
    by_name = psp.nl.ask(CTRL_GETFAMILY, attr(2, b"psp\0"), family=GENL_ID_CTRL).one()
    equal(by_id, by_name, "the answer by id")
    equal(number(by_name[3]), 1, "version")


@case("python: operations have the kernel's flags")
def _():
    about = psp.nl.ask(CTRL_GETFAMILY, attr(2, b"psp\0"), family=GENL_ID_CTRL).one()
    got = {}
    for _, octets in attributes(about[6]):
        operation = dict(attributes(octets))
        got[number(operation[1])] = number(operation[2])
    admin = 0 if options.compat == "linux-6.18" else 1
    equal(got, {DEV_GET: 0xE, DEV_SET: 0xA | admin, KEY_ROTATE: 0xA | admin, RX_ASSOC: 0xA,
                TX_ASSOC: 0xA, GET_STATS: 0xE, DEV_ASSOC: 0xB, DEV_DISASSOC: 0xB}, "flags")


@case("python: the policy dump tells attributes of each operation")
def _():
    answer = psp.nl.dump(CTRL_GETPOLICY, attr(2, b"psp\0"), family=GENL_ID_CTRL)
    equal(answer.error, 0, "error")
    index, policies = {}, {}
    for _, octets in answer.messages:
        row = dict(attributes(octets))
        equal(number(row[1]), psp.family, "family")
        for cmd, op in attributes(row.get(9, b"")):
            index[cmd] = number(dict(attributes(op))[1])
        for number_, policy in attributes(row.get(8, b"")):
            for kind, limits in attributes(policy):
                policies.setdefault(number_, {})[kind] = dict(attributes(limits))
    got = {cmd: sorted(policies[i]) for cmd, i in index.items()}
    equal(got, {DEV_GET: [1], DEV_SET: [1, 4], KEY_ROTATE: [1], RX_ASSOC: [1, 2, 5],
                TX_ASSOC: [1, 2, 4, 5], GET_STATS: [1], DEV_ASSOC: [1, 2, 6],
                DEV_DISASSOC: [1, 2, 6]}, "attributes")
    equal(number(policies[index[RX_ASSOC]][VERSION][5]), 3, "greatest version")
    equal(number(policies[index[DEV_SET]][ENA][12]), 0xF, "mask of versions-ena")


@case("python: the dump of families has psp beside the kernel's")
def _():
    answer = psp.nl.dump(CTRL_GETFAMILY, family=GENL_ID_CTRL)
    names = [dict(attributes(octets))[2] for _, octets in answer.messages]
    equal(names.count(b"psp\0"), 1, "families called psp")
    true(b"nlctrl\0" in names and len(names) > 2, f"families are {names}")


@case("python: dev-get and its dump agree")
def _():
    one = psp.nl.ask(DEV_GET, u32(ID, psp.id)).one()
    rows = [dict(attributes(octets)) for _, octets in psp.nl.dump(DEV_GET).messages]
    true(one in rows, f"{one} is not in {rows}")
    equal(number(one[IFINDEX]), psp.ifindex, "ifindex")


@case("python: counters are told in as many octets as they need")
def _():
    stats = psp.nl.ask(GET_STATS, u32(1, psp.id)).one()
    equal(sorted(stats), list(range(1, 12)), "attributes")
    for kind in range(2, 12):
        equal(len(stats[kind]), 8 if number(stats[kind]) >> 32 else 4, f"octets of counter {kind}")


@case("python: dev-set is seen by dev-get and by listeners", "root")
def _():
    listener, before = netlink().join(psp.mgmt), psp.ena()
    for value in (psp.cap, before):
        equal(psp.set_ena(value).one(), {}, "reply")
        cmd, row, seq, pid = listener.heard()
        equal((cmd, seq, pid), (DEV_CHANGE_NTF, 0, 0), "command, seq and pid")
        equal(row, psp.nl.ask(DEV_GET, u32(ID, psp.id)).one(), "the notification's attributes")


@case("python: key-rotate is heard by use and counted", "root")
def _():
    def rotations():
        return number(psp.nl.ask(GET_STATS, u32(1, psp.id)).one()[KEY_ROTATIONS])
    listener, before = netlink().join(psp.use), rotations()
    equal(psp.rotate().one(), {ID: struct.pack("=I", psp.id)}, "reply")
    equal(listener.heard(), (KEY_ROTATE_NTF, {ID: struct.pack("=I", psp.id)}, 0, 0), "notification")
    equal(rotations(), before + 1, "key-rotations")


@case("python: a listener that comes late hears nothing old", "root")
def _():
    psp.rotate()
    equal(netlink().join(psp.use).heard(SILENCE), None, "notification")


@case("python: a hundred rotations are a hundred notifications in order", "root")
def _():
    listener = netlink().join(psp.use)
    for _ in range(100):
        equal(psp.rotate().error, 0, "error")
    for _ in range(100):
        heard = listener.heard()
        true(heard is not None and heard[0] == KEY_ROTATE_NTF, f"heard {heard}")
    equal(listener.heard(SILENCE), None, "one more")


@case("python: a listener that does not read is told that it lost some", "root")
def _():
    listener = netlink()
    listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
    listener.join(psp.use)
    for _ in range(200):
        psp.rotate()
    heard = 0
    try:
        while listener.heard(SILENCE):
            heard += 1
    except OSError as error:
        equal(error.errno, errno.ENOBUFS, "error of recv")
        return
    raise Failed(f"{heard} of 200 notifications came and nothing was said of the others")


@case("python: a group that there is not cannot be joined")
def _():
    try:
        netlink().join(psp.use + 100000)
    except OSError as error:
        equal(error.errno, errno.EINVAL, "error")
        return
    raise Failed("it can")


@case("python: an unbound socket is bound by its first request, as ynl's is")
def _():
    nl = Netlink(undo.keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)))
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
        nl.sock.setsockopt(SOL_NETLINK, option, 1)
    nl.sock.settimeout(PATIENCE)
    equal(nl.sock.getsockname(), (0, 0), "name before")
    answer = nl.ask(DEV_GET, u32(ID, psp.id))
    equal(answer.error, 0, "error")
    true(nl.sock.getsockname()[0] != 0, "no port after the first request")


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


@case("python: data flows both ways after an exchange of keys", "peer-assoc")
def _():
    for version in range(4):
        if not psp.cap >> version & 1:
            continue
        sock, port = secure(version)
        sock.sendall(b"x" * 100000)
        command(f"SEND {port} 100000")
        octets = receive(sock, 100000)
        equal(octets[:4], bytes(at * 31 + 7 & 255 for at in range(4)), "what came")
        for _ in range(100):
            if command(f"COUNT {port}") == ["100000"]:
                break
            select.select([], [], [], 0.02)
        equal(command(f"COUNT {port}"), ["100000"], "octets at the peer")


@case("python: an IPv6 socket that speaks IPv4 is secured as any other")
def _():
    host, port = options.peer
    sock = undo.keep(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    sock.connect((host if ":" in host else "::ffff:" + host, port))
    rx_assoc(sock)
    equal(tx_assoc(sock).one(), {}, "reply of tx-assoc")


@case("python: an error quotes a long request whole, unless CAP_ACK is set")
def _():
    sock, nl = connect(), netlink()
    rx_assoc(sock, nl=nl)
    request = nl.message(TX_ASSOC, u32(VERSION, 0) + tx_key(key=bytes(12000)) +
                         u32(SOCK_FD, sock.fileno()))
    nl.sock.send(request)
    answer = nl.sock.recv(65536)
    equal(answer[20:20 + len(request)], request, "what is quoted")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    nl.sock.send(request)
    equal(nl.sock.recv(65536)[20:36], request[:16], "what is quoted with CAP_ACK")


@case("python: a hundred connections are secured at once", "peer-assoc")
def _():
    socks = [secure() for _ in range(100)]
    for sock, port in socks:
        command(f"SEND {port} 10")
    for sock, _ in socks:
        equal(len(receive(sock, 10)), 10, "octets")


@case("python: poll tells of an answer and a non-blocking socket of none")
def _():
    nl = netlink()
    nl.sock.setblocking(False)
    try:
        nl.sock.recv(4096)
        raise Failed("recv gave something")
    except BlockingIOError:
        pass
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)))
    poll = select.poll()
    poll.register(nl.sock, select.POLLIN)
    equal(poll.poll(PATIENCE * 1000), [(nl.sock.fileno(), select.POLLIN)], "poll")
    equal(nl.answer(nl.seq).error, 0, "error")
    equal(poll.poll(0), [], "poll after everything is read")


@case("python: MSG_PEEK leaves the answer and MSG_TRUNC tells its length")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST))
    peeked = nl.sock.recv(65536, socket.MSG_PEEK)
    equal(nl.sock.recv_into(bytearray(4), 4, socket.MSG_PEEK | socket.MSG_TRUNC), len(peeked),
          "length by MSG_TRUNC")
    equal(nl.sock.recv(65536), peeked, "what is read after peeking")


@case("python: a short buffer cuts a message and says so")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST))
    octets, _, flags, sender = nl.sock.recvmsg(20)
    equal((len(octets), flags & socket.MSG_TRUNC, sender), (20, socket.MSG_TRUNC, (0, 0)),
          "length, flags and sender")
    equal(select.select([nl.sock], [], [], 0)[0], [], "what is left")


@case("python: a request may be gathered from pieces, written or sent on a connected socket")
def _():
    nl = netlink()
    request = nl.message(DEV_GET, u32(ID, psp.id))
    nl.sock.sendmsg([request[:7], request[7:16], b"", request[16:]])
    equal(nl.answer(nl.seq).error, 0, "error after sendmsg")
    os.write(nl.sock.fileno(), nl.message(DEV_GET, u32(ID, psp.id)))
    equal(nl.answer(nl.seq).error, 0, "error after write")
    request = nl.message(DEV_GET, u32(ID, psp.id))
    os.writev(nl.sock.fileno(), [request[:20], request[20:]])
    equal(nl.answer(nl.seq).error, 0, "error after writev")
    nl.sock.connect((0, 0))
    equal(nl.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error after connect and send")
    nl.sock.sendto(nl.message(DEV_GET, u32(ID, psp.id)), (0, 0))
    equal(nl.answer(nl.seq).error, 0, "error after sendto")


@case("python: other families answer on the same socket")
def _():
    nl = netlink()
    other = nl.ask(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL).one()
    equal(number(other[1]), GENL_ID_CTRL, "id of nlctrl")
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)))
    first = nl.seq
    nl.sock.send(nl.message(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL))
    equal(nl.answer(first).error, 0, "error of psp")
    equal(nl.answer(first + 1).error, 0, "error of nlctrl")
    equal(nl.ask(1, family=31999).error, errno.ENOENT, "error of a family that there is not")


@case("python: requests of two families in one datagram are answered in order")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)) +
                 nl.message(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL) +
                 nl.message(DEV_GET, u32(ID, NO_SUCH_ID)))
    errors = [nl.answer(seq).error for seq in range(nl.seq - 2, nl.seq + 1)]
    equal(errors, [0, 0, errno.ENODEV], "errors")


@case("python: CAP_ACK and EXT_ACK shape the error")
def _():
    nl = netlink()
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    answer = nl.ask(DEV_GET, u32(ID, 0))
    equal(answer.flags, NLM_F_CAPPED | NLM_F_ACK_TLVS, "flags with both")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 0)
    equal(nl.ask(DEV_GET, u32(ID, 0)).flags, NLM_F_CAPPED, "flags with CAP_ACK")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 0)
    equal(nl.ask(DEV_GET, u32(ID, 0)).flags, 0, "flags with neither")


@case("python: threads with their own sockets do not disturb each other")
def _():
    wrong = []

    def work():
        nl = Netlink()
        try:
            for _ in range(50):
                if nl.ask(DEV_GET, u32(ID, psp.id)).error or \
                        nl.ask(DEV_GET, u32(ID, NO_SUCH_ID)).error != errno.ENODEV:
                    wrong.append("a wrong answer")
        except OSError as error:
            wrong.append(str(error))
        nl.sock.close()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(wrong, [], "what threads saw")


@case("python: threads may share one socket for sending")
def _():
    nl = netlink()
    request = nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST)
    threads = [threading.Thread(target=lambda: [nl.sock.send(request) for _ in range(10)])
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(40):
        equal(next(messages(nl.sock.recv(65536)))[0], psp.family, "type of an answer")
    equal(select.select([nl.sock], [], [], SILENCE)[0], [], "what is left")


@case("python: after fork both processes use the socket")
def _():
    nl = netlink()
    child = os.fork()
    if child == 0:
        try:
            os._exit(nl.ask(DEV_GET, u32(ID, psp.id)).error)
        except BaseException:  # noqa: B902  a child must not run the rest of the parent's cases
            os._exit(99)
    equal(os.waitpid(child, 0)[1], 0, "status of the child")
    nl.seq += 10
    equal(nl.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error in the parent")


@case("python: a socket outlives exec and a listener of the parent hears the child", "root")
def _():
    listener, nl = netlink().join(psp.use), netlink()
    os.set_inheritable(nl.sock.fileno(), True)
    request = nl.message(KEY_ROTATE, u32(ID, psp.id))
    program = f"import os; os.write({nl.sock.fileno()}, bytes.fromhex('{request.hex()}'))"
    subprocess.run([sys.executable, "-c", program], check=True, close_fds=False)
    equal(nl.answer(nl.seq).error, 0, "error, read by the parent")
    equal(listener.heard()[0], KEY_ROTATE_NTF, "notification")


@case("python: a socket that was handed over by SCM_RIGHTS works")
def _():
    one, two = socket.socketpair(socket.AF_UNIX)
    undo.keep(one), undo.keep(two)
    nl = netlink()
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                          array.array("i", [nl.sock.fileno()]))])
    _, control, _, _ = two.recvmsg(1, 64)
    other = Netlink(undo.keep(socket.socket(fileno=array.array("i", control[0][2])[0])))
    nl.sock.close()
    other.sock.settimeout(PATIENCE)
    equal(other.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error")


@case("python: a duplicate keeps socket and membership alive", "root")
def _():
    first = Netlink().join(psp.use)
    second = Netlink(undo.keep(first.sock.dup()))
    equal(second.port, first.port, "port of the duplicate")
    first.sock.close()
    psp.rotate()
    equal(second.heard()[0], KEY_ROTATE_NTF, "notification")


@case("python: a new socket does not inherit the membership of a closed one", "root")
def _():
    old = Netlink().join(psp.use)
    number_, port = old.sock.fileno(), old.port
    old.sock.close()
    new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    undo.keep(new)
    with contextlib.suppress(OSError):
        new.bind((port, 0))
    equal(new.fileno(), number_, "descriptor")
    psp.rotate()
    equal(select.select([new], [], [], SILENCE)[0], [], "what the new one hears")


@case("python: an association outlives every netlink socket", "peer-assoc")
def _():
    sock, nl = connect(), Netlink()
    spi, key = rx_assoc(sock, nl=nl)
    nl.sock.close()
    port = sock.getsockname()[1]
    their_spi, their_key = command(f"ASSOC {port} 0 {spi} {key.hex()}")
    nl = Netlink()
    equal(tx_assoc(sock, 0, int(their_spi), bytes.fromhex(their_key), nl).error, 0, "tx-assoc")
    nl.sock.close()
    command(f"SEND {port} 1000")
    equal(len(receive(sock, 1000)), 1000, "octets")


@case("python: without CAP_NET_ADMIN only queries and associations are allowed", "root")
def _():
    child = os.fork()
    if child == 0:
        try:
            os._exit(as_nobody())
        except BaseException:  # noqa: B902  as above
            os._exit(99)
    equal(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "number of the step that failed")


def as_nobody():
    """In a child without privilege: 0, or which step failed."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    nl, privileged = Netlink(), 0 if options.compat == "linux-6.18" else errno.EPERM
    sock = connect()
    steps = [
        (nl.ask(DEV_SET, u32(ID, psp.id) + u32(ENA, psp.ena())).error, privileged),
        (nl.ask(KEY_ROTATE, u32(ID, psp.id)).error, privileged),
        (nl.ask(DEV_ASSOC, u32(ID, psp.id)).error, errno.EPERM),
        (nl.ask(DEV_DISASSOC, b"").error, errno.EPERM),
        (nl.ask(DEV_GET, u32(ID, psp.id)).error, 0),
        (nl.ask(GET_STATS, u32(1, psp.id)).error, 0),
        (len(rx_assoc(sock, nl=nl)), 2),
        (tx_assoc(sock, nl=nl).error, 0),
    ]
    for step, (got, want) in enumerate(steps, 1):
        if got != want:
            print(f"# step {step}: {got}, not {want}", flush=True)
            return step
    return 0


# --- main -----------------------------------------------------------------------------------------
def lack(needs):
    if "root" in needs and os.geteuid() != 0:
        return "needs root"
    if "peer-assoc" in needs and not options.peer_assoc:
        return "needs --peer-assoc"
    return None


def chosen(name, needs):
    if options.only and options.only not in name:
        return False
    net_next = options.compat == "net-next"
    if ("net-next" in needs and not net_next) or ("released" in needs and net_next):
        return False
    return not set(needs) & set(options.without.split(","))


def run(function):
    """None, or why the case does not hold."""
    global undo
    undo = Undo()
    try:
        with undo:
            function()
        return None
    except Failed as failed:
        return str(failed)
    except Exception as error:  # noqa: B902  any other is a failure of the case too
        line = error.__traceback__
        while line.tb_next:
            line = line.tb_next
        return f"{type(error).__name__} at line {line.tb_lineno}: {error}"


def parse_peer(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def main():
    global options
    parser = argparse.ArgumentParser()
    parser.add_argument("--dev")
    parser.add_argument("--peer", type=parse_peer, metavar="ADDR:PORT")
    parser.add_argument("--peer-assoc", action="store_true")
    parser.add_argument("--compat", choices=["linux-6.18", "linux-7.2", "linux-7.3", "net-next"])
    parser.add_argument("--without", default="", metavar="NEED,...")
    parser.add_argument("--only", metavar="TEXT")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    if not options.dev or not options.peer:
        parser.error("--dev and --peer are needed")
    wrong = psp.set_up(options.dev)
    print("KTAP version 1")
    if wrong:
        print(f"1..0 # SKIP {wrong}")
        return 4
    plan = [entry for entry in cases if chosen(entry[0], entry[2])]
    print(f"1..{len(plan)}")
    failed = 0
    for at, (name, function, needs) in enumerate(plan, 1):
        skip = lack(needs)
        why = None if skip else run(function)
        if why:
            print("# " + why.replace("\n", " "))
            failed += 1
        print(f"{'not ok' if why else 'ok'} {at} {name}" + (f" # SKIP {skip}" if skip else ""),
              flush=True)
    print(f"# {failed} of {len(plan)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
