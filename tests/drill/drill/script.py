# SPDX-License-Identifier: Apache-2.0
"""The language: parses a script, and does what each line says.

Script is the text; Run is one run of it for one address family. Each statement is a method
`say_NAME`. Whatever the script says, Run watches what the host sends: see Run.watch.
"""
import collections
import dataclasses
import os
import pathlib
import re
import secrets
import shlex
import signal
import socket
import subprocess
import time

from . import packet
from .app import Failed
from .lab import address
from .packet import Ip, Malformed, Sa, Segment, Turn

PATIENCE_S = 3
FINISH_S = 0.2
RACE_STEP_S = 7e-6
EARLY_S = 0.01  # clocks of two layers are compared
LAST_PACKETS = 12
REFUSALS = ("rx-auth-fail", "rx-error", "rx-bad", "tx-error", "POLICY_CLEAR", "POLICY_MISMATCH",
            "POLICY_NO_ASSOC", "POLICY_ROUTE", "POLICY_EPOCH", "POLICY_FORGED")
RECEIVED = ("rx-packets", "rx-auth-fail", "rx-error", "rx-bad")
LINE = re.compile(r"(?:IPv(?P<only>[46]): *)?"
                  r"(?:\+(?P<delay>\d*\.?\d+)(?:~(?P<until>\d*\.?\d+))?\s+)?(?P<what>.*)")
COMMENT = re.compile(r"""(?<!\S)\#(?=(?:[^"]*"[^"]*")*[^"]*$).*""")
ERROR = re.compile(r"(?P<errno>E(?!OF\b)[A-Z0-9]+)(?:\s+\"(?P<text>.*)\")?$")


class ScriptError(Exception):
    """The script cannot be understood."""


class Failure(Exception):
    """The host did not do what the script says."""


def pattern(start, size, capital=False):
    """What a stream carries unless the script says: numbered blocks, `aaa.aab.aac.` and so on."""
    first, blocks = start // 4, []
    for number in range(first, (start + size) // 4 + 1):
        letters = (number // 676 % 26, number // 26 % 26, number % 26)
        blocks.append("".join(chr(97 + letter) for letter in letters) + ".")
    text = "".join(blocks)[start - 4 * first:][:size]
    return (text.upper() if capital else text).encode()


@dataclasses.dataclass
class Statement:
    line: int
    text: str
    delay: float
    until: float
    verb: str
    rest: str
    only: str  # "4" or "6": only in that family

    @property
    def goes_on(self):
        """It need not wait until pspd has done what it has to do."""
        sealed = re.match(r"(@\w+ )?psp\b", self.rest)
        return self.verb.startswith("say_expect") or (self.verb == "say_inject" and sealed)


class Script:
    SETTINGS = ("family", "mtu", "pspd", "offload", "fresh", "patience")

    def __init__(self, path):
        self.path = str(path)
        self.statements = []
        self.settings = {"family": "both", "mtu": "1500", "pspd": "", "patience": str(PATIENCE_S)}
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(lines, 1):
            text = COMMENT.sub("", text).strip()
            if text:
                self.parse(number, text)
        if self.settings["family"] not in ("4", "6", "both"):
            raise ScriptError(f"{self.path}: family is 4, 6 or both")

    @property
    def families(self):
        return {"4": (4,), "6": (6,), "both": (4, 6)}[self.settings["family"]]

    @property
    def config(self):
        """What the lab must be like."""
        return (int(self.settings["mtu"]), tuple(shlex.split(self.settings["pspd"])),
                self.settings.get("offload") == "on")

    def parse(self, number, text):
        match = LINE.match(text)
        verb, _, rest = match["what"].partition(" ")
        if verb in self.SETTINGS and not match["delay"]:
            self.settings[verb] = rest.strip()
            return
        name = {"<": "inject", ">": "expect_next", ">>": "expect_later"}.get(verb, verb)
        name = "say_" + name.replace("-", "_")
        if not hasattr(Run, name):
            raise ScriptError(f"{self.path}:{number}: no such statement: {verb}")
        if verb in ("<", ">", ">>") and not rest.startswith("icmp "):
            try:
                packet.parse_segment(re.sub(r"^\s*@\w+", "", rest))
            except Malformed as error:
                raise ScriptError(f"{self.path}:{number}: {error}") from error
        delay = float(match["delay"]) if match["delay"] else None
        until = float(match["until"]) if match["until"] else None
        self.statements.append(Statement(number, text, delay, until, name, rest.strip(),
                                         match["only"]))


@dataclasses.dataclass
class Connection:
    """A connection as the peer sees it."""

    name: str
    host: object
    peer: object
    host_port: int
    peer_port: int
    peer_isn: int
    host_isn: int = None
    out: bytes = b""  # what the application has written
    received: int = 0  # what it has read
    peer_next: int = 0  # behind the last octet that the peer has sent
    rx: Sa = None  # what the host opens: the peer seals with it
    tx: Sa = None  # what the host seals with
    secured_at: float = None  # when tx-assoc returned
    boundary: int = None  # first octet that must be sealed
    peer_timestamp: int = 0  # the last TS val of the host
    flow: int = None  # the flow label of its last packet that a line asked for
    ivs: dict = dataclasses.field(default_factory=dict)
    queue: collections.deque = dataclasses.field(default_factory=collections.deque)

    def inbound(self):
        return Turn(self.peer, self.host, self.peer_port, self.host_port, self.peer_isn,
                    self.host_isn or 0)


@dataclasses.dataclass
class Seen:
    at: float
    connection: Connection
    segment: Segment
    raw: bytes


def split_result(text):
    """`call = result` as (call, result or None)."""
    match = re.match(r"(.*?)(?:\s+=\s+(.*))?$", text)
    return match[1].strip(), match[2]


def option(words, name, default=None):
    """Takes `name VALUE` out of a list of words."""
    if name not in words:
        return default
    at = words.index(name)
    if at + 1 >= len(words):
        raise ScriptError(f"{name}: a value is missing")
    value = words[at + 1]
    del words[at:at + 2]
    return value


def flag(words, name):
    if name in words:
        words.remove(name)
        return True
    return False


class Run:
    next_port = 20000 + secrets.randbelow(20000)

    def __init__(self, script, family, lab, verbose=False):
        self.script, self.family, self.lab, self.verbose = script, family, lab, verbose
        self.connections, self.current = {}, None
        self.listeners = {}  # name -> port
        self.secured = []  # connections with a Tx key: to find them by SPI
        self.saved = {}
        self.early = {}  # name -> [rx, tx] of sockets that are not connected yet
        self.recent = collections.deque(maxlen=LAST_PACKETS)
        self.iv = secrets.randbits(62)
        self.start = self.last = time.time()
        self.patience = float(script.settings["patience"])
        self.device = None
        self.watching = True
        self.statement = None
        self.base = None
        self.enabled = True
        self.sealed_sent, self.taken_before = 0, 0

    def go(self):
        (self.device,) = self.lab.app.call("devices")
        self.base = self.lab.app.call("counters")
        self.taken_before = self.taken()
        for self.statement in self.script.statements:
            if self.statement.only not in (None, str(self.family)):
                continue
            if self.statement.verb not in ("say_expect_next", "say_expect_later"):
                self.wait_until(self.last + (self.statement.delay or 0))
            if self.sealed_sent and not self.statement.goes_on:
                self.let_pspd_finish()
            try:
                getattr(self, self.statement.verb)(self.statement.rest)
                self.look(0)
            except Malformed as error:
                raise ScriptError(str(error)) from error
            except KeyError as error:
                raise ScriptError(f"nothing is called {error}") from error
            except Failed as error:
                raise Failure(f"refused: {error}") from error
            if not self.statement.verb.startswith("say_expect_"):
                self.last = time.time()

    # --- the wire

    def wait_until(self, when):
        while True:
            left = when - time.time()
            self.look(max(0, min(left, 1)))
            if left <= 0:
                return

    def look(self, timeout):
        """Takes all that has come, and waits up to `timeout` s for the first."""
        got = self.lab.wire.receive(timeout)
        while got:
            self.take(*got)
            got = self.lab.wire.receive(0)

    def take(self, at, raw):
        try:
            ip = Ip.parse(raw)
            if ip.protocol == 6:
                self.take_clear(at, raw, ip)
            elif ip.protocol == 17 and ip.payload[2:4] == packet.PSP_PORT.to_bytes(2, "big"):
                self.take_sealed(at, raw, ip)
        except Malformed as error:
            raise Failure(f"the host sent a malformed packet: {error}\n    {raw.hex()}") from error

    def find(self, ip, host_port, peer_port, secured=None):
        """The newest connection of these ports; with `secured`, one of those."""
        among = self.connections.values() if secured is None else secured
        for one in reversed(list(among)):
            if (one.peer, one.host_port, one.peer_port) == (ip.destination, host_port, peer_port):
                return one
        return None

    def isn_of(self, ip, secured, found):
        def isns(sport, dport, bits, seq):
            connection = self.find(ip, sport, dport, secured)
            if not connection:
                return 0, 0
            found.append(connection)
            if bits & 2 and connection.host_isn is None:
                connection.host_isn = seq
            return connection.host_isn or 0, connection.peer_isn

        return isns

    def take_clear(self, at, raw, ip):
        found = []
        segment = packet.read_segment(ip.payload, ip, self.isn_of(ip, None, found))
        if found:
            self.came(Seen(at, found[0], segment, raw))

    def take_sealed(self, at, raw, ip):
        _, payload = packet.read_udp(ip)
        spi = int.from_bytes(payload[4:8], "big")
        owners = [one for one in self.secured
                  if one.tx.spi == spi and one.peer == ip.destination]
        if not owners:
            return
        fields, inside = packet.open_sealed(payload, owners[0].tx.key)
        found = []
        segment = packet.read_segment(inside, ip, self.isn_of(ip, owners, found))
        if not found:
            raise Failure(f"SPI {spi:#x} carries a segment that is not of its connection")
        segment.psp = fields
        self.came(Seen(at, found[0], segment, raw))

    def came(self, seen):
        self.note(">", seen.connection, seen.segment, seen.at)
        for name, *values in seen.segment.options:
            if name == "TS":
                seen.connection.peer_timestamp = values[0]
        if self.watching:
            self.watch(seen)
        seen.connection.queue.append(seen)

    def watch(self, seen):
        """What no script need say: what the host must never do."""
        segment, connection = seen.segment, seen.connection
        end = segment.seq + segment.length + ("F" in segment.flags)
        if segment.psp is None:
            if connection.secured_at is None or seen.at <= connection.secured_at:
                return
            if segment.length == 0 or end > connection.boundary:
                raise Failure("LEAK: a secured connection (first sealed octet is "
                              f"{connection.boundary}) sent in clear\n    {segment}")
            return
        if segment.length and segment.seq < connection.boundary:
            raise Failure(f"sealed, but octets below {connection.boundary} were queued in clear\n"
                          f"    {segment}")
        if segment.psp["version"] != connection.tx.version:
            raise Failure(f"PSP version is {segment.psp['version']}, not {connection.tx.version}")
        iv, spi = segment.psp["iv"], connection.tx.spi
        if iv <= connection.ivs.get(spi, -1):
            raise Failure(f"the IV does not increase: {iv:#x} after {connection.ivs[spi]:#x}")
        for one in self.secured:
            if one.tx == connection.tx:
                one.ivs[spi] = iv

    def note(self, direction, connection, segment, at=None, remark=""):
        shown = dataclasses.replace(segment)
        if direction == ">":
            shown.tos = shown.ttl = shown.flow = None
            if shown.psp:
                shown.psp = {}
        name = f" {connection.name}:" if len(self.connections) > 1 else ""
        line = f"{(at or time.time()) - self.start:9.4f} {direction}{name} {shown}{remark}"
        self.recent.append(line)
        if self.verbose:
            print("   ", line, flush=True)

    # --- names

    def connection(self, name=None):
        name = name or self.current
        if name is None:
            raise ScriptError("there is no connection yet")
        return self.connections[name]

    def named(self, text):
        """Takes `@NAME` from the front of a packet."""
        match = re.match(r"@(\w+)\s+(.*)", text)
        return (self.connection(match[1]), match[2]) if match else (self.connection(), text)

    def new_connection(self, name, host_port, peer_port=None, number=2):
        if peer_port is None:
            peer_port = Run.next_port = Run.next_port % 50000 + 1
        made = Connection(name, address(self.family, 1), address(self.family, number), host_port,
                          peer_port, secrets.randbits(32))
        self.connections.pop(name, None)
        self.connections[name] = made
        self.current = name
        return made

    # --- packets

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
            sa.key = bytes(len(sa.key)) if how.pop("key") == "zero" else secrets.token_bytes(16)
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
        if self.lab.daemon.poll() is None:
            deadline = time.time() + FINISH_S
            while (taken := self.taken()) < self.taken_before + self.sealed_sent:
                if time.time() > deadline:
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
        self.recent.append(f"{time.time() - self.start:9.4f} < icmp {text}")

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
            left = deadline - time.time()
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
        self.wait_until(time.time() + float(match[1] or 0.1))
        for one in self.connections.values():
            if one.queue:
                raise Failure(f"expected nothing\n    seen     > {one.queue[0].segment}")

    def say_forget(self, rest):
        """forget [NAME]: what has come and no line has asked for"""
        self.wait_until(time.time() + 0.05)
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
        self.recent.append(f"{time.time() - self.start:9.4f} < {rest} (replayed)")

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
                self.wait_until(time.time() + 0.01)

    def say_on(self, rest):
        self.current = self.connection(rest).name

    def say_wait(self, rest):
        self.wait_until(time.time() + float(rest))

    # --- connections

    def say_listen(self, rest):
        """listen NAME [OPTION VALUE]..."""
        name, *words = rest.split()
        options = [(words[at], int(words[at + 1])) for at in range(0, len(words), 2)]
        self.listeners[name] = self.lab.app.call(
            "listen", name=name, family=self.family, address=str(address(self.family, 1)), port=0,
            options=options)

    def say_peer(self, rest):
        """peer NAME to LISTENER [from N] [ports-of OTHER]: a connection that the peer opens"""
        words = rest.split()
        listener, number = option(words, "to"), int(option(words, "from", 2))
        other = option(words, "ports-of")
        before = self.connection(other) if other else None
        port = before.peer_port if before else None
        made = self.new_connection(words[0], self.listeners[listener], port, number)
        if before:  # newer, so that it can take the place of the other in TIME_WAIT
            made.peer_isn = (before.peer_isn + 1_000_000) % packet.SEQ

    def say_connect(self, rest):
        """connect NAME [ports-of OTHER] [OPTION VALUE]...: the socket may be there already"""
        name, *words = rest.split()
        other, before = option(words, "ports-of"), self.connections.get(name)
        options = [(words[at], int(words[at + 1])) for at in range(0, len(words), 2)]
        twin = self.connection(other) if other else before  # who disconnected keeps its port
        made = self.new_connection(name, 0, twin.peer_port if other else None)
        made.host_port = twin.host_port if twin else 10000 + made.peer_port % 10000
        made.rx, made.tx = self.early.pop(name, (before.rx, before.tx) if before else (None, None))
        if made.tx:
            made.boundary, made.secured_at = 0, time.time()
            self.secured.append(made)
        self.lab.app.call("connect", name=name, family=self.family, address=str(made.host),
                          port=made.host_port, peer=str(made.peer), peer_port=made.peer_port,
                          options=options)

    def say_disconnect(self, rest):
        self.lab.app.call("unconnect", name=rest)

    def say_accept(self, rest):
        """accept LISTENER NAME"""
        listener, name = rest.split()
        self.lab.app.call("accept", listener=listener, name=name)

    def say_connection(self, rest):
        """connection NAME [active] [mss N] [wscale N] [sack] [ts] [win N] [from N] [isn N]"""
        words = rest.split()
        name = words.pop(0)
        active, number = flag(words, "active"), int(option(words, "from", 2))
        options = [("mss", int(option(words, "mss", 1460 if self.family == 4 else 1440)))]
        stamps = [("nop",), ("nop",), ("TS", 100, 0)] if flag(words, "ts") else []
        options += [("sackOK",)] if flag(words, "sack") else []
        options += stamps
        scale = option(words, "wscale")
        options += [("nop",), ("wscale", int(scale))] if scale else []
        window = int(option(words, "win", 65535))
        isn = option(words, "isn")
        if words:
            raise ScriptError(f"connection: what is this: {' '.join(words)}")
        if active:
            self.say_connect(name)
        else:
            if "(listener)" not in self.listeners:
                self.say_listen("(listener)")
            self.new_connection(name, self.listeners["(listener)"], number=number)
        if isn:
            self.connection(name).peer_isn = int(isn)
        self.shake_hands(self.connection(name), active, options, window)
        if not active:
            self.say_accept(f"(listener) {name}")

    def shake_hands(self, connection, active, options, window):
        def answered(flags):
            seen = self.next_of(connection, time.time() + self.patience)
            if seen is None or sorted(seen.segment.flags) != sorted(flags):
                raise Failure(f"handshake: expected {flags}, seen {seen and seen.segment}")

        def send(flags, options):
            stamped = [(*one[:2], connection.peer_timestamp) if one[0] == "TS" else one
                       for one in options]
            segment = Segment(flags, 0 if "S" in flags else 1, 0, None, window, options=stamped,
                              data=b"")
            segment.ack = 1 if "." in flags else None
            self.send(connection, segment, self.packet_of(connection, segment))

        later = [one for one in options if one[0] == "TS"]
        later = [("nop",), ("nop",), *later] if later else []
        if active:
            answered("S")
            send("S.", options)
            answered(".")
        else:
            send("S", options)
            answered("S.")
            send(".", later)
        connection.peer_next = 1

    def say_reach(self, rest):
        """reach NAME none|rx|tx|full"""
        name, state = rest.split()
        connection, order = self.connection(name), ("none", "rx", "tx", "full")
        if order.index(state) >= 1:
            self.say_rx_assoc(name)
        if order.index(state) >= 2:
            self.say_tx_assoc(name)
        if state == "full":
            segment = Segment(".", connection.peer_next, 0, 1 + len(connection.out), data=b"",
                              psp={})
            self.send(connection, segment, self.packet_of(connection, segment))
        self.say_state(f"{name} = {state}")

    # --- PSP

    def outcome(self, wanted, call):
        """Does the call, and compares how it ends with what the script says."""
        expected = ERROR.match(wanted) if wanted else None
        if wanted and not expected:
            raise ScriptError(f"an error is wanted here, not: {wanted}")
        try:
            value = call()
        except Failed as failed:
            if not expected or failed.errno_name != expected["errno"] or (
                    expected["text"] is not None and failed.text != expected["text"]):
                raise Failure(f"expected = {wanted or 'success'}\n    seen     = "
                              f"{failed.errno_name} \"{failed.text}\"") from failed
            return None
        if expected:
            raise Failure(f"expected = {wanted}\n    seen     = success")
        return value

    def say_rx_assoc(self, rest):
        """rx-assoc NAME [version N] [dev-id N] [= ERROR ["text"]]"""
        call, wanted = split_result(rest)
        words = call.split()
        version, device = int(option(words, "version", 0)), option(words, "dev-id")
        device = self.device if device == "own" else int(device) if device else None
        got = self.outcome(wanted, lambda: self.lab.app.call(
            "rx_assoc", name=words[0], version=version, device=device))
        if got:
            rx = Sa(version, got[0], bytes.fromhex(got[1]))
            if words[0] in self.connections:
                self.connection(words[0]).rx = rx
            else:
                self.early[words[0]] = [rx, None]

    def new_tx(self, words):
        version = int(option(words, "version", 0))
        other, spi = option(words, "same-key-as"), option(words, "spi")
        if other:
            return dataclasses.replace(self.connection(other).tx)
        number = int(spi, 0) if spi else secrets.randbelow(2**31 - 1) + 1
        return Sa(version, number, secrets.token_bytes(packet.KEY_SIZE.get(version, 16)))

    def say_tx_assoc(self, rest):
        """tx-assoc NAME [version N] [spi N] [same-key-as NAME] [= ERROR ["text"]]"""
        call, wanted = split_result(rest)
        words = call.split()
        if words[0] in self.connections and self.connection(words[0]).rx and "version" not in words:
            words += ["version", str(self.connection(words[0]).rx.version)]
        device = option(words, "dev-id")
        device = self.device if device == "own" else int(device) if device else None
        tx = self.new_tx(words)
        self.secure(words[0], tx, lambda: self.outcome(wanted, lambda: self.lab.app.call(
            "tx_assoc", name=words[0], version=tx.version, spi=tx.spi, key=tx.key.hex(),
            device=device)), wanted is not None)

    def secure(self, name, tx, call, refused=False):
        """Does tx-assoc. What comes from its start on can be sealed already."""
        connection = self.connections.get(name)
        if connection and not refused:
            before = connection.tx
            connection.tx, connection.boundary = tx, 1 + len(connection.out)
            self.secured.append(connection)
        try:
            call()
        except Failure:
            if connection and not refused:
                connection.tx = before
                self.secured.remove(connection)
            raise
        if connection and not refused:
            connection.secured_at = time.time()
        elif name in self.early and not refused:
            self.early[name][1] = tx

    def say_state(self, rest):
        name, wanted = split_result(rest)
        self.becomes(f"state of {name}", wanted, lambda: self.lab.app.call("state", name=name))

    def say_tcp(self, rest):
        name, wanted = split_result(rest)
        self.becomes(f"TCP state of {name}", wanted, lambda: self.lab.app.call("tcp", name=name))

    def becomes(self, what, wanted, ask):
        deadline = time.time() + self.patience
        while (value := ask()) != wanted:
            if time.time() > deadline:
                raise Failure(f"expected: {what} = {wanted}\n    seen:     {value}")
            self.look(0.005)

    def say_counters(self, rest):
        """counters [NAME[+NAME...] +N[..]]...: since the last time; refusals not named: none"""
        words = rest.split()
        wanted = [(words[at].split("+"), words[at + 1]) for at in range(0, len(words), 2)]
        named = {name for names, _ in wanted for name in names}
        wanted += [([name], "+0") for name in REFUSALS if name not in named]
        deadline = time.time() + self.patience
        while True:
            now = self.lab.app.call("counters")
            for name in named - set(now):  # a drop reason is listed from the first drop on
                if not name.isupper():
                    raise ScriptError(f"no such counter: {name}")
            wrong = []
            for names, by in wanted:
                rise = sum(now.get(name, 0) - self.base.get(name, 0) for name in names)
                least, more = int(by.rstrip(".")), by.endswith("..")
                if rise < least or (rise > least and not more):
                    wrong.append(f"{'+'.join(names)}: expected {by}, seen {rise:+d}")
            if not wrong:
                break
            if time.time() > deadline:
                raise Failure("counters\n    " + "\n    ".join(wrong))
            self.look(0.005)
        self.base = now

    def say_rotate(self, rest):
        self.lab.app.call("rotate", device=self.device)

    def say_enable(self, rest):
        """enable all|none|N,N..."""
        mask = {"all": 15, "none": 0}.get(rest)
        if mask is None:
            mask = sum(1 << int(version) for version in rest.split(","))
        self.enabled = mask == 15
        self.lab.app.call("enable", device=self.device, mask=mask)

    # --- the application's calls

    def say_send(self, rest):
        """send NAME SIZE|"text" [= SIZE|ERROR]"""
        call, wanted = split_result(rest)
        name, what = call.split(None, 1)
        connection = self.connections.get(name)
        data = what[1:-1].encode("latin-1") if what[0] == '"' else pattern(
            len(connection.out) if connection else 0, int(what), capital=True)
        error = wanted if wanted and ERROR.match(wanted) else None
        before = connection.out if connection else b""
        if connection:
            connection.out += data  # it can be on the wire before the call returns
        sent = self.outcome(error, lambda: self.lab.app.call("send", name=name,
                                                             data=data.decode("latin-1")))
        if connection:
            connection.out = before + data[:sent or 0]
        if not error and sent != int(wanted or len(data)):
            raise Failure(f"expected = {wanted or len(data)}\n    seen     = {sent}")

    def say_send_urgent(self, rest):
        name, what = rest.split(None, 1)
        self.connection(name).out += what[1:-1].encode("latin-1")
        self.lab.app.call("send_urgent", name=name, data=what[1:-1])

    def say_recv(self, rest):
        self.receive(rest, 0)

    def say_peek(self, rest):
        self.receive(rest, socket.MSG_PEEK)

    def receive(self, rest, flags):
        """recv NAME SIZE [= SIZE|"text"|EOF|ERROR]"""
        call, wanted = split_result(rest)
        name, size = call.split()
        size, wanted = int(size), wanted or size
        error = wanted if ERROR.match(wanted) else None
        got = self.outcome(error, lambda: self.lab.app.call(
            "recv", name=name, size=size, flags=flags, wait=error != "EAGAIN"))
        if error:
            return
        got = got.encode("latin-1")
        connection = self.connection(name)
        if wanted == "EOF":
            expected = b""
        elif wanted.startswith('"'):
            expected = wanted[1:-1].encode("latin-1")
        else:
            expected = pattern(connection.received, int(wanted))
        if got != expected:
            raise Failure(f"expected = {expected!r}\n    seen     = {got!r}")
        if not flags & socket.MSG_PEEK:
            connection.received += len(got)

    def say_shutdown(self, rest):
        name, how = rest.split()
        self.lab.app.call("shutdown", name=name, how=how)

    def say_close(self, rest):
        self.lab.app.call("close", name=rest)

    def say_abort(self, rest):
        self.lab.app.call("abort", name=rest)

    def say_dup(self, rest):
        name, other = rest.split()
        self.lab.app.call("dup", name=name, other=other)

    def say_socket(self, rest):
        """socket NAME tcp|udp|mptcp: one that is not connected"""
        name, kind = rest.split()
        self.lab.app.call("socket", name=name, family=self.family, kind=kind)

    def say_kill_application(self, rest):
        self.lab.new_application()
        self.listeners = {}

    def say_setsockopt(self, rest):
        """setsockopt NAME OPTION VALUE [= ERROR]"""
        call, wanted = split_result(rest)
        name, what, value = call.split()
        value = value if re.match(r"[a-z]", value) else int(value, 0)
        self.outcome(wanted, lambda: self.lab.app.call("setsockopt", name=name, option=what,
                                                       value=value) or 0)

    def say_getsockopt(self, rest):
        """getsockopt NAME OPTION = VALUE"""
        call, wanted = split_result(rest)
        name, what = call.split()
        value = self.lab.app.call("getsockopt", name=name, option=what)
        # The MSS is 20 octets less with IPv6 where the netdev's MTU decides.
        if str(value) != self.by_family(wanted):
            raise Failure(f"expected = {self.by_family(wanted)}\n    seen     = {value}")

    def by_family(self, text):
        """`4:1420 6:1400` says a value for each family."""
        for word in text.split():
            if word.startswith(f"{self.family}:"):
                return word[2:]
        return text

    def say_error(self, rest):
        """error NAME = ERROR: what waits on the socket"""
        name, wanted = split_result(rest)
        value = self.lab.app.call("error", name=name)
        if value != wanted:
            raise Failure(f"expected = {wanted}\n    seen     = {value}")

    # --- the host

    def say_sh(self, rest):
        """sh COMMAND [= STATUS]; {host}, {peer}, {v} (-4 or -6) and {bits} fit the family"""
        call, wanted = split_result(rest)
        call = call.format(host=address(self.family, 1), peer=address(self.family, 2),
                           v=f"-{self.family}", bits=32 if self.family == 4 else 128)
        status, output = self.lab.shell(call)
        if status != int(wanted or 0):
            raise Failure(f"expected = {wanted or 0}\n    seen     = {status}\n"
                          f"    {output.strip()}")

    def say_pspctl(self, rest):
        path = os.path.join(os.path.dirname(self.lab.pspd_path), "pspctl")
        self.say_sh(f"{shlex.quote(path)} {rest}")

    def say_kill_pspd(self, rest):
        self.pspd_goes()
        self.lab.stop_pspd(signal.SIGKILL)

    def pspd_goes(self):
        self.lab.app.call("disconnect")

    def say_stop_pspd(self, rest):
        self.pspd_goes()
        try:
            status = self.lab.stop_pspd()
        except subprocess.TimeoutExpired as error:
            raise Failure("pspd does not stop") from error
        if status:
            raise Failure(f"pspd ended with {status}")

    def say_start_pspd(self, rest):
        self.lab.start_pspd()
        (self.device,) = self.lab.app.call("devices")
        self.base = self.lab.app.call("counters")
        self.taken_before = self.taken()

    def say_unwatched(self, rest):
        """unwatched: from here on the host may send in clear what it has to say"""
        self.watching = False

    def say_race(self, rest):
        """race N: N connections on which clear data arrives while tx-assoc runs"""
        refused, self.race_delay = 0, 1e-4
        for number in range(int(rest)):
            name = f"race{number}"
            self.say_connection(name)
            self.say_rx_assoc(name)
            refused += self.race(self.connection(name))
            self.lab.app.call("abort", name=name)
            del self.connections[name]
            self.current = next(iter(self.connections), None)
        self.recent.append(f"          {refused} of {rest} tx-assoc met clear data")
        if self.verbose:
            print("   ", self.recent[-1])

    def race(self, connection):
        """One round. Whether tx-assoc was refused."""
        segment = Segment("P.", 1, 4, 1, data=b"evil")
        raw = self.packet_of(connection, segment)
        tx = self.new_tx([])
        link = self.lab.app
        link.begin("tx_assoc", name=connection.name, version=0, spi=tx.spi, key=tx.key.hex(),
                   device=None)
        until = time.perf_counter() + self.race_delay
        while time.perf_counter() < until:
            pass
        self.send(connection, segment, raw)
        # The next round comes closer to the instant where the one outcome becomes the other.
        try:
            link.end_call("tx_assoc")
        except Failed as failed:
            if failed.errno_name != "EBUSY":
                raise
            self.race_delay += RACE_STEP_S
            return True
        self.race_delay = max(0, self.race_delay - RACE_STEP_S)
        segment = Segment("P.", 1, 4, 1, data=b"good", psp={})
        self.send(connection, segment, self.packet_of(connection, segment))
        got = self.lab.app.call("recv", name=connection.name, size=4, flags=0, wait=True)
        if got != "good":
            raise Failure(f"after tx-assoc the application read {got!r}, which came in clear")
        return False
