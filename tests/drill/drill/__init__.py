# SPDX-License-Identifier: Apache-2.0
"""The parts of psp-drill: packets, control messages, the application, the lab, the language."""
