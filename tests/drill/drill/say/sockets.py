# SPDX-License-Identifier: Apache-2.0
"""The application's own calls: send, recv, shutdown, close, socket options.

They run in the program of app.py, on real kernel TCP sockets. What it reads must be what the peer
has sent: the numbered pattern, or the text of the line.
"""
import re
import socket

from ..connection import pattern
from ..language import ERROR, Failure, split_result


class Sockets:
    """Statements of the application."""

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
