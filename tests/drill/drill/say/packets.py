# SPDX-License-Identifier: Apache-2.0
"""What the peer sends, and what the host must send: `<`, `>`, `>>`, expect, replay and the like.

A segment of the script becomes an IP packet, in clear or sealed with the host's Rx key and bent as
`psp(...)` says; one that came is compared with what the line says of it.
"""
import dataclasses
import re

from .. import packet
from ..connection import pattern
from ..lab import address
from ..language import Failure, ScriptError, option
from ..packet import Ip

FINISH_S = 0.2
EARLY_S = 0.01  # clocks of two layers are compared
RECEIVED = ("rx-packets", "rx-auth-fail", "rx-error", "rx-bad")


class Packets:
    """Statements about packets."""

    def say_inject(self, rest):
        if rest.startswith("icmp "):
            return self.inject_icmp(rest[5:])
        connection, text = self.named(rest)
        segment, label = packet.parse_segment(text)
        if segment.seq is None or segment.flags == "*":
            raise ScriptError("a segment to send needs its flags and sequence numbers")
        if segment.data is None:
            segment.data = pattern(max(segment.seq - 1, 0), segment.length)
        for place, (name, *values) in enumerate(segment.options or []):
            if name == "TS" and values[1] == "last":
                segment.options[place] = (name, values[0], connection.peer_timestamp)
        if "." in segment.flags and segment.ack is None:
            raise ScriptError("a segment with ACK needs `ack N`")
        raw = self.packet_of(connection, segment)
        if label:
            self.saved[label] = raw
        self.send(connection, segment, raw)
        if not segment.psp:
            end = segment.seq + segment.length + ("S" in segment.flags)
            connection.peer_next = max(connection.peer_next, end)
        return None

    def packet_of(self, connection, segment):
        """The IP packet of a segment, in clear or sealed as its `psp(...)` says."""
        turn, how = connection.inbound(), dict(segment.psp or {})
        source = address(self.family, how.pop("from")) if "from" in how else turn.source
        inner = dataclasses.replace(turn, source=source) if how.pop("inner", 0) else turn
        payload, protocol = segment.octets(inner), 6
        if segment.psp is not None:
            sa = self.sa_of(connection, how)
            self.iv = how.pop("iv", self.iv + 1250)
            sealed = packet.seal(payload, sa, self.iv, how)
            payload = packet.udp(source, turn.destination, 40000 + turn.sport % 20000, sealed, how)
            protocol = 17
        return Ip(source, turn.destination, protocol, payload, segment.tos or 0, segment.ttl or 64,
                  segment.flow or 0).octets()

    def sa_of(self, connection, how):
        """The key to seal with: that of the connection unless the script says."""
        other = how.pop("as", None)
        sa = self.connection(other).rx if other else connection.rx
        if not sa:
            raise ScriptError("there is no Rx key: rx-assoc first")
        sa = dataclasses.replace(sa)
        if "version" in how:
            sa.version = how.pop("version")
            sa.key = (sa.key + sa.key)[:packet.KEY_SIZE.get(sa.version, 16)]
        if "key" in how:
            sa.key = bytes(len(sa.key)) if how.pop("key") == "zero" else self.lab.random.randbytes(16)
        spi = how.pop("spi", 0)
        if spi:
            sa.spi = sa.spi ^ 1 << 31 if spi == "phase" else spi % packet.SEQ
        return sa

    def send(self, connection, segment, raw, remark=""):
        self.sealed_sent += segment.psp is not None
        self.note("<", connection, segment, remark=remark)
        if segment.ext is not None:
            raw = packet.lengthened(raw, segment.ext)
        for part in [raw] if segment.frag is None else packet.fragments(raw, segment.frag):
            self.lab.wire.send(part, segment.vlan or ())

    def let_pspd_finish(self):
        """Sealed packets go through pspd: what comes behind them must not overtake them."""
        if self.lab.is_up():
            deadline = self.lab.now() + FINISH_S
            while (taken := self.taken()) < self.taken_before + self.sealed_sent:
                if self.lab.now() > deadline:
                    break  # it was not for pspd
                self.look(0.001)
            self.taken_before = taken
            self.look(0.002)
        self.sealed_sent = 0

    def taken(self):
        now = self.lab.app.call("counters")
        return sum(now[name] for name in RECEIVED)

    def inject_icmp(self, text):
        words = text.split()
        if words.pop(0) != "too-big":
            raise ScriptError("icmp too-big is all there is")
        quoted = self.saved[option(words, "quote")]
        mtu, size = int(option(words, "mtu")), option(words, "size")
        router = address(self.family, int(option(words, "from", 2)))
        self.lab.wire.send(packet.too_big(router, quoted, mtu, int(size) if size else None))
        self.recent.append(f"{self.lab.now() - self.start:9.4f} < icmp {text}")

    def say_expect_next(self, rest):
        self.expect(rest, skip=False)

    def say_expect_later(self, rest):
        self.expect(rest, skip=True)

    def expect(self, rest, skip):
        connection, text = self.named(rest)
        wanted, label = packet.parse_segment(text)
        if wanted.length and wanted.data is None and wanted.seq and wanted.seq > 0:
            wanted.data = connection.out[wanted.seq - 1:wanted.seq - 1 + wanted.length]
        if wanted.options:
            wanted.options = [(name, *(None if value == "last" else value for value in values))
                              for name, *values in wanted.options]
        if wanted.flow == "same":
            wanted.flow = connection.flow
        delay, until = self.statement.delay, self.statement.until
        deadline = self.last + (until if until is not None else (delay or 0) + self.patience)
        skipped = None
        while True:
            seen = self.next_of(connection, deadline)
            if seen is None:
                what = f"nothing but, as the last,\n    {skipped}" if skipped else "nothing"
                raise Failure(self.beside(text, what))
            wrong = wanted.differs(seen.segment)
            if not wrong:
                break
            if not skip:
                raise Failure(self.beside(text, seen.segment, wrong))
            skipped = seen.segment
        early = (delay or 0) - (seen.at - self.last)
        if delay and early > EARLY_S:
            raise Failure(f"{text}\n    came {early:.3f} s too early, {seen.at - self.last:.3f} s "
                          "after the event before")
        if until is not None and seen.at > self.last + until:
            raise Failure(f"{text}\n    came {seen.at - self.last:.3f} s after the event before")
        self.last = max(seen.at, self.last)
        connection.flow = seen.segment.flow
        if label:
            self.saved[label] = seen.raw

    def next_of(self, connection, deadline):
        while not connection.queue:
            left = deadline - self.lab.now()
            if left <= 0:
                return None
            self.look(min(left, 1))
        return connection.queue.popleft()

    @staticmethod
    def beside(text, seen, wrong=()):
        differs = f"\n    differs in: {', '.join(wrong)}" if wrong else ""
        return f"expected > {text}\n    seen     > {seen}{differs}"

    def say_expect(self, rest):
        """expect nothing for T"""
        match = re.match(r"nothing(?:\s+for\s+([\d.]+))?$", rest)
        if not match:
            raise ScriptError("it is `expect nothing` or `expect nothing for SECONDS`")
        self.wait_until(self.lab.now() + float(match[1] or 0.1))
        for one in self.connections.values():
            if one.queue:
                raise Failure(f"expected nothing\n    seen     > {one.queue[0].segment}")

    def say_forget(self, rest):
        """forget [NAME]: what has come and no line has asked for"""
        self.wait_until(self.lab.now() + 0.05)
        for one in [self.connection(rest)] if rest else self.connections.values():
            one.queue.clear()

    def say_replay(self, rest):
        """replay LABEL [from N] [bit N]"""
        words = rest.split()
        source = option(words, "from")
        ip = Ip.parse(self.saved[words[0]])
        if source:
            ip = self.readdressed(ip, address(self.family, int(source)))
        self.sealed_sent += 1
        self.lab.wire.send(ip.octets())
        self.recent.append(f"{self.lab.now() - self.start:9.4f} < {rest} (replayed)")

    @staticmethod
    def readdressed(ip, source):
        """The same with another source, and with the UDP checksum that belongs to it."""
        sport, payload = int.from_bytes(ip.payload[:2], "big"), ip.payload[8:]
        datagram = packet.udp(source, ip.destination, sport, payload, {})
        return dataclasses.replace(ip, source=source, payload=datagram)

    def say_each_bit(self, rest):
        """each-bit LABEL [of psp|outer]: the packet once with each bit the other way round"""
        words = rest.split()
        part = option(words, "of", "psp")
        raw = self.saved[words[0]]
        ip = Ip.parse(raw)
        start = len(raw) - len(ip.payload) + 8
        bits = range(8 * start, 8 * len(raw)) if part == "psp" else range(8 * start)
        for sent, bit in enumerate(bits):
            other = bytearray(raw)
            other[bit // 8] ^= 0x80 >> bit % 8
            if part == "psp":  # an attacker would mend the UDP checksum
                turned = Ip.parse(bytes(other))
                sport = int.from_bytes(turned.payload[:2], "big")
                turned.payload = packet.udp(turned.source, turned.destination, sport,
                                            turned.payload[8:], {})
                other = turned.octets()
            self.lab.wire.send(bytes(other))
            if sent % 50 == 49:
                self.wait_until(self.lab.now() + 0.01)

    def say_on(self, rest):
        self.current = self.connection(rest).name

    def say_wait(self, rest):
        self.wait_until(self.lab.now() + float(rest))
