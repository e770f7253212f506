# SPDX-License-Identifier: Apache-2.0
"""Speaks the `psp` and `softpsp` netlink families with pspd, on its unix socket.

Numbers are those of include/psp/netlink/uapi.h; family ids are asked for.
"""
import array
import socket
import struct

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
CTRL_FAMILY, CTRL_GETFAMILY = 0x10, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
EXTACK_MSG = 1

DEV_GET, DEV_SET, KEY_ROTATE, RX_ASSOC, TX_ASSOC, GET_STATS = 1, 4, 6, 8, 9, 10
ASSOC_GET, INFO_GET = 1, 2
STATS = ("key-rotations", "stale-events", "rx-packets", "rx-bytes", "rx-auth-fail", "rx-error",
         "rx-bad", "tx-packets", "tx-bytes", "tx-error")
STATES = ("none", "rx", "tx", "full")


class Refused(Exception):
    """pspd's answer was an error."""

    def __init__(self, errno, text):
        super().__init__(errno, text)
        self.errno, self.text = errno, text


def attribute(number, value):
    """One attribute: bytes, or an integer as u32, or a list of attributes as a nest."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    if isinstance(value, list):
        number, value = number | 0x8000, b"".join(value)
    padding = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), number) + value + padding


def attributes(data):
    """[(number, octets)] of a list of attributes."""
    found, at = [], 0
    while at + 4 <= len(data):
        size, number = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found.append((number & 0x3FFF, data[at + 4:at + size]))
        at += size + 3 & ~3
    return found


def integer(data):
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big")


class Client:
    def __init__(self, address="@softpsp"):
        name = "\0" + address[1:] if address.startswith("@") else address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(name)
        self.sequence = 0
        self.families = {}

    def close(self):
        self.socket.close()

    def ask(self, family, command, body=b"", flags=NLM_F_ACK, fd=None):
        """Sends one request; returns the attributes of each answer."""
        number = family if isinstance(family, int) else self.family(family)
        self.sequence += 1
        header = struct.pack("=IHHII", 20 + len(body), number, NLM_F_REQUEST | flags,
                             self.sequence, 0)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd else []
        self.socket.sendmsg([header + struct.pack("=BBH", command, 1, 0) + body], rights)
        answers = []
        while True:
            for kind, data in self.messages():
                if kind == NLMSG_DONE:
                    return answers
                if kind == NLMSG_ERROR:
                    self.judge(data)
                    return answers
                answers.append(attributes(data[4:]))

    def messages(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionResetError("pspd closed the control connection")
        at = 0
        while at + 16 <= len(data):
            size, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
            if sequence == self.sequence:
                yield kind, data[at + 16:at + size]
            at += size + 3 & ~3

    @staticmethod
    def judge(data):
        (error,) = struct.unpack_from("=i", data)
        if not error:
            return
        (echoed,) = struct.unpack_from("=I", data, 4)
        # The request comes back whole, or only its header; the attributes are behind it.
        for start in (4 + (echoed + 3 & ~3), 20):
            for number, value in attributes(data[start:]) if start <= len(data) else ():
                if number == EXTACK_MSG and value.endswith(b"\0"):
                    raise Refused(-error, value[:-1].decode())
        raise Refused(-error, "")

    def family(self, name):
        if name not in self.families:
            asked = attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
            for answer in self.ask(CTRL_FAMILY, CTRL_GETFAMILY, asked):
                self.families[name] = integer(dict(answer)[CTRL_ATTR_FAMILY_ID])
        return self.families[name]

    def devices(self):
        """Ids of the devices, in the order of pspd."""
        return [integer(dict(one)[1]) for one in self.ask("psp", DEV_GET, flags=NLM_F_DUMP)]

    def enable(self, device, mask):
        self.ask("psp", DEV_SET, attribute(1, device) + attribute(4, mask))

    def rotate(self, device):
        self.ask("psp", KEY_ROTATE, attribute(1, device))

    def rx_assoc(self, fd, version, device=None):
        """(SPI, key)"""
        body = attribute(2, version) + attribute(5, fd)
        if device is not None:
            body += attribute(1, device)
        (answer,) = self.ask("psp", RX_ASSOC, body, fd=fd)
        keys = dict(attributes(dict(answer)[3]))
        return integer(keys[2]), keys[1]

    def tx_assoc(self, fd, version, spi, key, device=None):
        body = attribute(2, version) + attribute(5, fd)
        body += attribute(4, [attribute(1, key), attribute(2, spi)])
        if device is not None:
            body += attribute(1, device)
        self.ask("psp", TX_ASSOC, body, fd=fd)

    def association(self, cookie):
        """What pspd knows of the socket: {number: octets}, empty for none."""
        for answer in self.ask("softpsp", ASSOC_GET, flags=NLM_F_DUMP):
            known = dict(answer)
            if integer(known[1]) == cookie:
                return known
        return {}

    def counters(self):
        """All counters of all devices, summed: statistics by name, drop reasons in capitals."""
        total = dict.fromkeys(STATS, 0)
        for answer in self.ask("psp", GET_STATS, flags=NLM_F_DUMP):
            for number, value in answer:
                if number >= 2:
                    total[STATS[number - 2]] += integer(value)
        for answer in self.ask("softpsp", INFO_GET, flags=NLM_F_DUMP):
            for number, value in answer:
                if number == 10:
                    drop = dict(attributes(value))
                    name = drop[1].rstrip(b"\0").decode()
                    total[name] = total.get(name, 0) + integer(drop[2])
        return total
