# SPDX-License-Identifier: Apache-2.0
"""Watches for rotations, by the installed psp.py; prints why it cannot."""
import sys

import psp

try:
    psp.Rotation()
except psp.PspError as error:
    print(f"watch: {error}")
    sys.exit(1)
