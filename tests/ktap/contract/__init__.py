# SPDX-License-Identifier: Apache-2.0
"""The parts of psp_uapi.py: what a case is, netlink, sockets and their peer, and cases by subject.

The order of these imports is the order of the cases.
"""
from . import family, refusals, data, sockets, processes  # noqa: F401  they register their cases
