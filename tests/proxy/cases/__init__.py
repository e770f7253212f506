# SPDX-License-Identifier: Apache-2.0
"""The cases of tests/proxy/run, by subject. Programs are on host a, what they connect to on host b.

They run by the names of their classes; each stands on base.Case.
"""
from .base import Case, make_certificates, missing  # noqa: F401  for run
from .life import Keys, Stop  # noqa: F401
from .limits import Limits  # noqa: F401
from .peers import Peers, Reload  # noqa: F401
from .servers import Servers  # noqa: F401
from .streams import Streams  # noqa: F401
