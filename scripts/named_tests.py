# SPDX-License-Identifier: Apache-2.0
"""The tests that there are, by the names that pages give them."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent


def gtest_cases():
    """Suite.Case of all GoogleTest sources; parametrised suites by the suite's own name."""
    found = set()
    for top in ("src", "tests", "bench", "fuzz"):
        for path in (ROOT / top).rglob("*_test.cc"):
            for suite, case in re.findall(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\s*\)",
                                          path.read_text(encoding="utf-8"), re.M):
                found.add(f"{suite}.{case}")
    return found


def drill_scripts():
    """Names of the packet scripts."""
    return {path.stem for path in (ROOT / "tests/drill/scripts").glob("*") if path.is_file()}
