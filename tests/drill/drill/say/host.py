# SPDX-License-Identifier: Apache-2.0
"""The host around the sockets: commands in its namespace, pspctl, and pspd that goes and comes.

After pspd has come again its counters begin anew, and `unwatched` ends the watch over what the host
sends: for scripts that show what is lost then.
"""
import os
import shlex
import signal
import subprocess

from ..lab import address
from ..language import Failure, split_result


class HostStatements:
    """Statements about the host."""

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
