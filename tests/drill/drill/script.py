# SPDX-License-Identifier: Apache-2.0
"""The text of a script: its head, and its lines as statements.

A line that no statement answers to, and a segment that makes no sense, are told before anything
runs; what a statement does is in say/.
"""
import pathlib
import re
import shlex

from . import packet
from .language import ScriptError, Statement
from .packet import Malformed
from .run import Run

PATIENCE_S = 3
LINE = re.compile(r"(?:IPv(?P<only>[46]): *)?"
                  r"(?:\+(?P<delay>\d*\.?\d+)(?:~(?P<until>\d*\.?\d+))?\s+)?(?P<what>.*)")
COMMENT = re.compile(r"""(?<!\S)\#(?=(?:[^"]*"[^"]*")*[^"]*$).*""")


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
