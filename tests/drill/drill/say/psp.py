# SPDX-License-Identifier: Apache-2.0
"""The psp family as the application asks it: associations, states, counters, rotation.

An outcome is compared with what the line says: success, or an error by its name and text. `race`
has clear data arrive while tx-assoc runs.
"""
import dataclasses
import time

from .. import packet
from ..app import Failed
from ..language import ERROR, Failure, ScriptError, option, split_result
from ..packet import Sa, Segment

RACE_STEP_S = 7e-6
REFUSALS = ("rx-auth-fail", "rx-error", "rx-bad", "tx-error", "POLICY_CLEAR", "POLICY_MISMATCH",
            "POLICY_NO_ASSOC", "POLICY_ROUTE", "POLICY_EPOCH", "POLICY_FORGED")


class Psp:
    """Statements about associations and the device."""

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
        number = int(spi, 0) if spi else self.lab.random.randrange(2**31 - 1) + 1
        return Sa(version, number, self.lab.random.randbytes(packet.KEY_SIZE.get(version, 16)))

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
            connection.secured_at = self.lab.now()
        elif name in self.early and not refused:
            self.early[name][1] = tx

    def say_state(self, rest):
        name, wanted = split_result(rest)
        self.becomes(f"state of {name}", wanted, lambda: self.lab.app.call("state", name=name))

    def say_tcp(self, rest):
        name, wanted = split_result(rest)
        self.becomes(f"TCP state of {name}", wanted, lambda: self.lab.app.call("tcp", name=name))

    def becomes(self, what, wanted, ask):
        deadline = self.lab.now() + self.patience
        while (value := ask()) != wanted:
            if self.lab.now() > deadline:
                raise Failure(f"expected: {what} = {wanted}\n    seen:     {value}")
            self.look(0.005)

    def say_counters(self, rest):
        """counters [NAME[+NAME...] +N[..]]...: since the last time; refusals not named: none"""
        words = rest.split()
        wanted = [(words[at].split("+"), words[at + 1]) for at in range(0, len(words), 2)]
        named = {name for names, _ in wanted for name in names}
        wanted += [([name], "+0") for name in REFUSALS if name not in named]
        deadline = self.lab.now() + self.patience
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
            if self.lab.now() > deadline:
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
