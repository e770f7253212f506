# SPDX-License-Identifier: Apache-2.0
"""The parts of psp-drill, from the wire up: packets and control messages; the application and the
lab; connections and the watch over what they send (wire); the language and its statements (language,
say/); a run, and the text of a script.
"""
