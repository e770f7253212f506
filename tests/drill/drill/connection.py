# SPDX-License-Identifier: Apache-2.0
"""A connection as the peer sees it, a packet that was seen on it, and what its streams carry.

Sequence numbers count from the SYN of whoever sends them, as in a script; the keys are those that
the script's associations gave.
"""
import collections
import dataclasses

from .packet import Sa, Segment, Turn


def pattern(start, size, capital=False):
    """What a stream carries unless the script says: numbered blocks, `aaa.aab.aac.` and so on."""
    first, blocks = start // 4, []
    for number in range(first, (start + size) // 4 + 1):
        letters = (number // 676 % 26, number // 26 % 26, number % 26)
        blocks.append("".join(chr(97 + letter) for letter in letters) + ".")
    text = "".join(blocks)[start - 4 * first:][:size]
    return (text.upper() if capital else text).encode()


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
