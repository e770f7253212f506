# SPDX-License-Identifier: Apache-2.0
"""TCP segments as text and as octets, PSP around them, and ICMP that quotes them.

A Segment has sequence numbers counted from the SYN of whoever sent them (SYN is 0, the first octet
1), as a script writes them; None means "not said": anything matches. Turn is what it takes to make
octets of it: addresses, ports, both initial sequence numbers.
"""
import dataclasses
import ipaddress
import re
import secrets
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PSP_PORT = 1000
FLAGS = "FSRP.UEW"  # from bit 0 up, as tcpdump and packetdrill write them
ICV = 16
PSP_HEADER = 16
GMAC_VERSIONS = (2, 3)
KEY_SIZE = {0: 16, 1: 32, 2: 16, 3: 32}
SEQ = 1 << 32


class Malformed(Exception):
    """A packet, or the text of one, that makes no sense."""


def signed(number):
    """A difference of sequence numbers as a person writes it."""
    number %= SEQ
    return number - SEQ if number >= SEQ // 2 else number


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source, destination, protocol, length):
    if source.version == 4:
        return source.packed + destination.packed + struct.pack("!BBH", 0, protocol, length)
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


@dataclasses.dataclass
class Ip:
    """An IP header, without options and extension headers, and what it carries."""

    source: ipaddress._BaseAddress
    destination: ipaddress._BaseAddress
    protocol: int
    payload: bytes
    tos: int = 0
    ttl: int = 64
    flow: int = 0
    fragment: int = 0x4000  # flags and offset; DF

    def octets(self):
        if self.source.version == 6:
            first = 6 << 28 | self.tos << 20 | self.flow
            head = struct.pack("!IHBB", first, len(self.payload), self.protocol, self.ttl)
            return head + self.source.packed + self.destination.packed + self.payload
        head = struct.pack("!BBHHHBBH", 0x45, self.tos, 20 + len(self.payload), 0, self.fragment,
                           self.ttl, self.protocol, 0)
        head += self.source.packed + self.destination.packed
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        return head + self.payload

    @classmethod
    def parse(cls, data):
        if len(data) >= 40 and data[0] >> 4 == 6:
            first, length, protocol, ttl = struct.unpack("!IHBB", data[:8])
            if 40 + length > len(data):
                raise Malformed("IPv6 packet is cut short")
            return cls(ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40]),
                       protocol, data[40:40 + length], first >> 20 & 0xFF, ttl, first & 0xFFFFF)
        if len(data) < 20 or data[0] >> 4 != 4:
            raise Malformed("not an IP packet")
        size = (data[0] & 15) * 4
        length = struct.unpack("!H", data[2:4])[0]
        if length > len(data) or checksum(data[:size]):
            raise Malformed("IPv4 length or header checksum is wrong")
        if size != 20:
            raise Malformed(f"IPv4 header has {size - 20} octets of options")
        return cls(ipaddress.IPv4Address(data[12:16]), ipaddress.IPv4Address(data[16:20]), data[9],
                   data[size:length], data[1], data[8], 0, struct.unpack("!H", data[6:8])[0])


def lengthened(raw, count):
    """The packet with `count` empty headers of destination options, or words of IPv4 options."""
    if raw[0] >> 4 == 4:
        size = 20 + 4 * count
        head = bytes([0x40 | size // 4]) + raw[1:2] + struct.pack("!H", len(raw) + 4 * count)
        head += raw[4:10] + b"\0\0" + raw[12:20] + b"\1" * (4 * count)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + raw[20:]
    return extended(raw, [60] * count, b"\1\4\0\0\0\0")


def extended(raw, kinds, body):
    """The IPv6 packet with extension headers of these kinds, each with the same `body`."""
    length = int.from_bytes(raw[4:6], "big") + 8 * len(kinds)
    following = [*kinds, raw[6]]
    headers = b"".join(bytes([kind, 0]) + body for kind in following[1:])
    return raw[:4] + struct.pack("!HB", length, following[0]) + raw[7:40] + headers + raw[40:]


def fragments(raw, size):
    """The packet in two IP fragments, the first with `size` octets; 0: an IPv6 "atomic" fragment."""
    number = secrets.randbits(16)
    if raw[0] >> 4 == 6:
        if size == 0:
            return [extended(raw, [44], struct.pack("!HI", 0, number))]
        return [extended(raw[:4] + len(part).to_bytes(2, "big") + raw[6:40] + part, [44],
                         struct.pack("!HI", offset | more, number))
                for part, offset, more in ((raw[40:40 + size], 0, 1), (raw[40 + size:], size, 0))]
    parts = []
    for part, offset, more in ((raw[20:20 + size], 0, 0x2000), (raw[20 + size:], size // 8, 0)):
        head = raw[:2] + struct.pack("!HHH", 20 + len(part), number, offset | more)
        head += raw[8:10] + b"\0\0" + raw[12:20]
        parts.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part)
    return parts


# --- TCP options ---------------------------------------------------------------------------------


def parse_options_text(text):
    """`mss 1460,nop,sackOK,wscale 7,TS val 1 ecr 2,sack 1:5 7:9` as [(name, value...)]."""
    options = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        words = part.split()
        name = words[0]
        if name in ("nop", "eol", "sackOK") and len(words) == 1:
            options.append((name,))
        elif name in ("mss", "wscale") and len(words) == 2:
            options.append((name, number_or_any(words[1])))
        elif name == "TS" and len(words) == 5 and (words[1], words[3]) == ("val", "ecr"):
            options.append((name, number_or_any(words[2]), number_or_any(words[4])))
        elif name == "sack" and len(words) > 1:
            blocks = [tuple(int(end) for end in word.split(":")) for word in words[1:]]
            options.append((name, blocks))
        else:
            raise Malformed(f"no such TCP option: {part}")
    return options


def number_or_any(word):
    return None if word == "*" else word if word == "last" else int(word, 0)


def options_text(options):
    def text(value):
        return "*" if value is None else str(value)

    words = []
    for name, *values in options:
        if name == "TS":
            words.append(f"TS val {text(values[0])} ecr {text(values[1])}")
        elif name == "sack":
            words.append("sack " + " ".join(f"{start}:{end}" for start, end in values[0]))
        else:
            words.append(" ".join([name, *map(text, values)]))
    return ",".join(words)


def options_octets(options, acked_isn):
    data = b""
    for name, *values in options:
        if name in ("nop", "eol"):
            data += b"\1" if name == "nop" else b"\0"
        elif name == "mss":
            data += struct.pack("!BBH", 2, 4, values[0])
        elif name == "wscale":
            data += struct.pack("!BBB", 3, 3, values[0])
        elif name == "sackOK":
            data += b"\4\2"
        elif name == "sack":
            data += struct.pack("!BB", 5, 2 + 8 * len(values[0]))
            for block in values[0]:
                data += struct.pack("!II", *((end + acked_isn) % SEQ for end in block))
        elif name == "TS":
            data += struct.pack("!BBII", 8, 10, *(value % SEQ for value in values))
    return data + b"\1" * (-len(data) % 4)


def options_of(data, acked_isn):
    options, at = [], 0
    while at < len(data):
        kind = data[at]
        if kind < 2:
            options.append(("nop" if kind else "eol",))
            at += 1
            continue
        if at + 1 >= len(data) or data[at + 1] < 2:
            raise Malformed("TCP option of no length")
        value = data[at + 2:at + data[at + 1]]
        if kind == 2:
            options.append(("mss", *struct.unpack("!H", value)))
        elif kind == 3:
            options.append(("wscale", value[0]))
        elif kind == 4:
            options.append(("sackOK",))
        elif kind == 5:
            ends = [signed(end - acked_isn) for end in struct.unpack(f"!{len(value) // 4}I", value)]
            options.append(("sack", list(zip(ends[::2], ends[1::2]))))
        elif kind == 8:
            options.append(("TS", *struct.unpack("!II", value)))
        else:
            options.append((f"opt-{kind}", value.hex()))
        at += data[at + 1]
    return options


# --- segments ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Turn:
    """One direction of a connection."""

    source: ipaddress._BaseAddress
    destination: ipaddress._BaseAddress
    sport: int
    dport: int
    isn: int
    acked_isn: int


@dataclasses.dataclass
class Segment:
    flags: str
    seq: int = None
    length: int = 0
    ack: int = None
    win: int = None
    urgent: int = None
    options: list = None
    data: bytes = None
    tos: int = None
    ttl: int = None
    flow: int = None
    ext: int = None  # only of what is sent, as are the next two: see lengthened,
    frag: int = None  # fragments,
    vlan: list = None  # and Wire.send
    psp: dict = None  # of the text: what the script says of PSP; of a packet: what was seen

    def octets(self, turn):
        """The TCP segment, without IP."""
        options = options_octets(self.options or [], turn.acked_isn)
        bits = sum(1 << FLAGS.index(flag) for flag in self.flags)
        head = struct.pack("!HHIIBBHHH", turn.sport, turn.dport, (turn.isn + self.seq) % SEQ,
                           (turn.acked_isn + self.ack) % SEQ if self.ack is not None else 0,
                           (20 + len(options)) << 2, bits,
                           65535 if self.win is None else self.win, 0, self.urgent or 0)
        segment = head + options + self.data
        fake = pseudo_header(turn.source, turn.destination, 6, len(segment))
        return segment[:16] + struct.pack("!H", checksum(fake + segment)) + segment[18:]

    def __str__(self):
        """As a script writes it."""
        words = []
        if self.psp is not None:
            inside = ",".join(key if value is True else f"{key}={value}"
                              for key, value in self.psp.items())
            words.append(f"psp({inside})" if inside else "psp")
        seq = "*" if self.seq is None else f"{self.seq}:{self.seq + self.length}({self.length})"
        words += [self.flags or "-", seq]
        for name, value in (("ack", self.ack), ("win", self.win), ("urg", self.urgent),
                            ("tos", self.tos), ("ttl", self.ttl), ("flow", self.flow)):
            if value is not None:
                words.append(f"{name} {value}")
        if self.options:
            words.append(f"<{options_text(self.options)}>")
        if self.data and len(self.data) <= 60:
            words.append('"' + self.data.decode("latin-1").replace("\n", "\\n") + '"')
        return " ".join(words)

    def differs(self, seen):
        """What of `self`, an expectation, the packet `seen` does not fulfil; empty if nothing."""
        wrong = []
        if self.flags != "*" and sorted(self.flags) != sorted(seen.flags):
            wrong.append("flags")
        for name in ("seq", "ack", "win", "urgent", "tos", "ttl", "flow"):
            if getattr(self, name) not in (None, getattr(seen, name)):
                wrong.append(name)
        if self.seq is not None and self.length != seen.length:
            wrong.append("length")
        if self.options is not None and not same_options(self.options, seen.options):
            wrong.append("options")
        if self.data is not None and self.data != seen.data:
            wrong.append("data")
        if (self.psp is None) != (seen.psp is None):
            wrong.append("sealed" if self.psp is None else "in clear")
        elif self.psp:
            wrong += [key for key, value in self.psp.items() if seen.psp.get(key) != value]
        return wrong


def same_options(wanted, seen):
    def same(one, other):
        return len(one) == len(other) and all(a is None or a == b for a, b in zip(one, other))

    return len(wanted) == len(seen) and all(same(one, other) for one, other in zip(wanted, seen))


SEGMENT = re.compile(
    r"(?:(?P<psp>psp)(?:\((?P<how>[^)]*)\))?\s+)?(?P<flags>[FSRP.UEW]+|-|\*)\s+"
    r"(?P<seq>\*|(?P<start>-?\d+):(?P<end>-?\d+)(?:\((?P<length>\d+)\))?)(?P<rest>.*)$"
)
PART = re.compile(
    r"\s*(?:(?P<name>ack|win|urg|tos|ttl|flow|ext|frag)\s+(?P<number>-?\w+)|<(?P<options>[^>]*)>"
    r"|\"(?P<data>[^\"]*)\"|as\s+(?P<label>\w+)|vlan\s+(?P<vlan>[\d,]+))"
)


def parse_segment(text):
    """A line's segment. Returns (Segment, label or None)."""
    match = SEGMENT.match(text.strip())
    if not match:
        raise Malformed(f"not a segment: {text.strip()}")
    segment, label = Segment(match["flags"].strip("-")), None
    if match["psp"]:
        segment.psp = parse_how(match["how"] or "")
    if match["seq"] != "*":
        segment.seq = int(match["start"])
        segment.length = int(match["end"]) - segment.seq
        if segment.length < 0 or match["length"] not in (None, str(segment.length)):
            raise Malformed(f"{match['seq']}: length and ends do not agree")
    rest = match["rest"]
    while rest.strip():
        part = PART.match(rest)
        if not part:
            raise Malformed(f"what is this: {rest.strip()}")
        if part["name"]:
            name = "urgent" if part["name"] == "urg" else part["name"]
            same = name == "flow" and part["number"] == "same"
            setattr(segment, name, "same" if same else int(part["number"], 0))
        elif part["options"] is not None:
            segment.options = parse_options_text(part["options"])
        elif part["label"]:
            label = part["label"]
        elif part["vlan"]:
            segment.vlan = [int(one) for one in part["vlan"].split(",")]
        else:
            segment.data = part["data"].encode("latin-1")
            if segment.seq is not None and len(segment.data) != segment.length:
                raise Malformed(f"{len(segment.data)} octets of data, not {segment.length}")
        rest = rest[part.end():]
    return segment, label


def parse_how(text):
    how = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, _, value = part.partition("=")
        how[key] = True if not value else int(value, 0) if re.match(r"-?\d", value) else value
    return how


def read_segment(data, ip, isn_of):
    """The Segment in TCP octets. isn_of(sport, dport, flags, seq) gives (isn, acked isn)."""
    if len(data) < 20 or data[12] >> 2 & 0x3C > len(data):
        raise Malformed("TCP header is cut short")
    if checksum(pseudo_header(ip.source, ip.destination, 6, len(data)) + data):
        raise Malformed("TCP checksum is wrong")
    sport, dport, seq, ack, offset, bits, window, _, urgent = struct.unpack("!HHIIBBHHH", data[:20])
    isn, acked_isn = isn_of(sport, dport, bits, seq)
    size = offset >> 2 & 0x3C
    flags = "".join(flag for bit, flag in enumerate(FLAGS) if bits >> bit & 1)
    return Segment(flags, signed(seq - isn), len(data) - size,
                   signed(ack - acked_isn) if "." in flags else None, window,
                   urgent if "U" in flags else None, options_of(data[20:size], acked_isn),
                   data[size:], ip.tos, ip.ttl, ip.flow if ip.source.version == 6 else None)


# --- PSP -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Sa:
    """One direction's key: version, SPI, key."""

    version: int
    spi: int
    key: bytes


def seal(inside, sa, iv, how):
    """The UDP payload: PSP header, `inside` sealed, ICV. `how` has the script's deviations."""
    offset = how.get("co", 0)
    cookie = bytes(8) if how.get("vc") else b""
    head = struct.pack("!BBBBIQ", how.get("next", 6), how.get("ext", 2 if cookie else 1),
                       offset | how.get("reserved", 0) << 6,
                       sa.version << 2 | (3 if cookie else 1) ^ how.get("lowbits", 0),
                       sa.spi, iv % (1 << 64))
    payload = cookie + inside
    split = len(payload) if sa.version in GMAC_VERSIONS else 4 * offset
    sealed = AESGCM(sa.key).encrypt(head[4:], payload[split:], head + payload[:split])
    data = bytearray(head + payload[:split] + sealed)
    if "bit" in how:
        data[how["bit"] // 8] ^= 0x80 >> how["bit"] % 8
    return bytes(data[:len(data) - how["trunc"]] if "trunc" in how else data)


def open_sealed(data, key):
    """(header fields, what is inside) of a UDP payload. Malformed unless as devices send."""
    if len(data) < PSP_HEADER + ICV:
        raise Malformed("PSP packet is cut short")
    following, ext, offset, flags, spi, iv = struct.unpack("!BBBBIQ", data[:PSP_HEADER])
    version = flags >> 2 & 15
    if (following, ext, offset, flags & 0xC3) != (6, 1, 0, 1) or version not in KEY_SIZE:
        raise Malformed(f"PSP header is {data[:4].hex()}")
    split = len(data) - ICV if version in GMAC_VERSIONS else PSP_HEADER
    try:
        inside = AESGCM(key).decrypt(data[4:16], data[split:], data[:split])
    except (InvalidTag, ValueError) as error:
        raise Malformed("ICV is wrong") from error
    return {"spi": spi, "version": version, "iv": iv}, data[PSP_HEADER:split] + inside


def udp(source, destination, sport, payload, how):
    """The UDP datagram to the PSP port, with its checksum right, 0 or wrong."""
    dport = how.get("dport", PSP_PORT)
    head = struct.pack("!HHHH", how.get("sport", sport), dport, 8 + len(payload), 0)
    kind = how.get("csum", "good")
    value = checksum(pseudo_header(source, destination, 17, 8 + len(payload)) + head + payload)
    value = {"good": value or 0xFFFF, 0: 0, "bad": value ^ 0x1234}[kind]
    return head[:6] + struct.pack("!H", value) + payload


def read_udp(ip):
    """(sport, payload) of a PSP packet's UDP. Its checksum must be right or 0."""
    sport, dport, length, value = struct.unpack("!HHHH", ip.payload[:8])
    if dport != PSP_PORT or length != len(ip.payload):
        raise Malformed(f"UDP port {dport}, length {length} of {len(ip.payload)}")
    if value and checksum(pseudo_header(ip.source, ip.destination, 17, length) + ip.payload):
        raise Malformed("UDP checksum is wrong")
    return sport, ip.payload[8:]


def too_big(router, quoted, mtu, quote_size=None):
    """ICMP "fragmentation needed" or "packet too big" that quotes the packet `quoted`."""
    ip = Ip.parse(quoted)
    if ip.source.version == 4:
        body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted[:quote_size or 20 + 36]
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        return Ip(router, ip.source, 1, body).octets()
    body = struct.pack("!BBHI", 2, 0, 0, mtu) + quoted[:quote_size or 1232]
    fake = pseudo_header(router, ip.source, 58, len(body))
    body = body[:2] + struct.pack("!H", checksum(fake + body)) + body[4:]
    return Ip(router, ip.source, 58, body).octets()
