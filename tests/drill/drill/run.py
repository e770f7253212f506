# SPDX-License-Identifier: Apache-2.0
"""One run of a script for one address family: does what each line says, in its order.

Whatever the script says, the wire is watched: see Wire.watch.
"""

from .app import Failed
from .language import Failure, ScriptError
from .packet import Malformed
from .say.connections import Connections
from .say.host import HostStatements
from .say.packets import Packets
from .say.psp import Psp
from .say.sockets import Sockets
from .wire import Wire


class Run(Packets, Connections, Psp, Sockets, HostStatements, Wire):
    """A run; every `say_NAME` of its bases is a statement."""

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
                self.last = self.lab.now()
