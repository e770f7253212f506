# SPDX-License-Identifier: Apache-2.0
"""Netlink by hand: numbers of the contract, attributes, answers, a socket, the device under test.

Own copies of all numbers, and nothing but the standard library: this is the other side of the
contract, so it must not learn from the headers of whoever keeps it.
"""
import errno
import select
import socket
import struct
import sys

from .case import equal

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


def u32(kind, value):
    return attr(kind, struct.pack("=I", value))


def attr(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


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
