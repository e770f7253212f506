# SPDX-License-Identifier: Apache-2.0
"""How connections come to be: listen, peer, accept, connect, and `connection`, which does it all.

The peer's half of the handshake is played packet by packet; `reach` brings a connection to one of
the states that an association can be in.
"""

from .. import packet
from ..lab import address
from ..language import Failure, ScriptError, flag, option
from ..packet import Segment


class Connections:
    """Statements that open connections."""

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
            made.boundary, made.secured_at = 0, self.lab.now()
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
            seen = self.next_of(connection, self.lab.now() + self.patience)
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
