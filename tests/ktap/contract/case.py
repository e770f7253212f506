# SPDX-License-Identifier: Apache-2.0
"""What a case is: its name and needs, how it fails, and what is closed behind it.

A case is a function that returns; it fails by an exception. Options are those of the command line.
"""
import argparse
import contextlib

TOO_LONG = 300  # to print


class Failed(Exception):
    """A case does not hold."""


def equal(got, want, what):
    if got != want:
        raise Failed(f"{what} is {repr(got)[:TOO_LONG]}, not {repr(want)[:TOO_LONG]}")


def true(condition, what):
    if not condition:
        raise Failed(what)


cases = []
options = argparse.Namespace()  # filled in by main


def case(name, *needs):
    def add(function):
        cases.append((name, function, needs))
        return function
    return add


class Undo(contextlib.ExitStack):
    """Sockets of the running case; closed behind it."""

    def keep(self, thing):
        self.callback(thing.close)
        return thing


undo = Undo()
