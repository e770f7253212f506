# SPDX-License-Identifier: Apache-2.0
"""The wire, from the peer's end: takes what the host sends, and watches over it.

Each packet is read and opened, and goes to the queue of its connection, where a line of the script
asks for it. What no script need say is checked here: see Wire.watch. A Run is made of this and of
the statements in say/.
"""
import collections
import dataclasses
import re

from . import packet
from .connection import Connection, Seen
from .lab import address
from .language import Failure, ScriptError
from .packet import Ip, Malformed

LAST_PACKETS = 12


class Wire:
    """One run as far as packets go; the statements add what a line can say."""

    def __init__(self, script, family, lab, verbose=False):
        self.script, self.family, self.lab, self.verbose = script, family, lab, verbose
        self.connections, self.current = {}, None
        self.listeners = {}  # name -> port
        self.secured = []  # connections with a Tx key: to find them by SPI
        self.saved = {}
        self.early = {}  # name -> [rx, tx] of sockets that are not connected yet
        self.recent = collections.deque(maxlen=LAST_PACKETS)
        self.iv = self.lab.random.getrandbits(62)
        self.start = self.last = self.lab.now()
        self.patience = float(script.settings["patience"])
        self.device = None
        self.watching = True
        self.statement = None
        self.base = None
        self.enabled = True
        self.sealed_sent, self.taken_before = 0, 0

    def wait_until(self, when):
        while True:
            left = when - self.lab.now()
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
        line = f"{(at or self.lab.now()) - self.start:9.4f} {direction}{name} {shown}{remark}"
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
            peer_port = self.lab.next_port()
        made = Connection(name, address(self.family, 1), address(self.family, number), host_port,
                          peer_port, self.lab.random.getrandbits(32))
        self.connections.pop(name, None)
        self.connections[name] = made
        self.current = name
        return made
