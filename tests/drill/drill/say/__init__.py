# SPDX-License-Identifier: Apache-2.0
"""The statements, by subject. Each is a method `say_NAME` that takes the rest of its line.

A class of a subject cannot stand alone: the Run (run.py) has them all, and the Wire.
"""
