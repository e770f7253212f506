# SPDX-License-Identifier: Apache-2.0
"""The words of the language: errors, a statement, and what the rest of a line is made of.

Everything that reads a script or does what it says stands on this; it knows neither the lab nor the
wire. See psp-drill --help for the language as a whole.
"""
import dataclasses
import re

ERROR = re.compile(r"(?P<errno>E(?!OF\b)[A-Z0-9]+)(?:\s+\"(?P<text>.*)\")?$")


class ScriptError(Exception):
    """The script cannot be understood."""


class Failure(Exception):
    """The host did not do what the script says."""


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
