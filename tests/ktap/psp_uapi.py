#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The contract of Linux's `psp` generic netlink family, as a program that speaks it from Python.

Standard library only; own copy of the numbers. It asks the most important half of what the psp_uapi
in C asks, by a second hand, and what a scripting language shows better: sockets that are polled,
peeked at, shared between threads and processes, handed on, closed in any order. It runs on a kernel
with PSP and a NIC, and unchanged on softpsp by `pspctl run -- psp_uapi.py ...`. Output: KTAP
version 1. The cases and what they stand on are in contract/, which has to lie beside this file.

usage: psp_uapi.py --dev eth0 --peer 10.77.0.2:7000 [--peer-assoc] [--compat KERNEL]
                   [--without NEED,...] [--only TEXT] [--list]
The peer is `psp_uapi --serve ADDR:PORT`; without --peer-assoc any TCP service that accepts.
"""
import argparse
import os
import sys

sys.dont_write_bytecode = True

from contract.case import Failed, cases, options, undo  # noqa: E402
from contract.netlink import psp  # noqa: E402


def lack(needs):
    if "root" in needs and os.geteuid() != 0:
        return "needs root"
    if "peer-assoc" in needs and not options.peer_assoc:
        return "needs --peer-assoc"
    return None


def chosen(name, needs):
    if options.only and options.only not in name:
        return False
    net_next = options.compat == "net-next"
    if ("net-next" in needs and not net_next) or ("released" in needs and net_next):
        return False
    return not set(needs) & set(options.without.split(","))


def run(function):
    """None, or why the case does not hold."""
    try:
        with undo:
            function()
        return None
    except Failed as failed:
        return str(failed)
    except Exception as error:  # noqa: B902  any other is a failure of the case too
        line = error.__traceback__
        while line.tb_next:
            line = line.tb_next
        where = os.path.basename(line.tb_frame.f_code.co_filename)
        return f"{type(error).__name__} at {where}:{line.tb_lineno}: {error}"


def parse_peer(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dev")
    parser.add_argument("--peer", type=parse_peer, metavar="ADDR:PORT")
    parser.add_argument("--peer-assoc", action="store_true")
    parser.add_argument("--compat", choices=["linux-6.18", "linux-7.2", "linux-7.3", "net-next"])
    parser.add_argument("--without", default="", metavar="NEED,...")
    parser.add_argument("--only", metavar="TEXT")
    parser.add_argument("--list", action="store_true")
    parser.parse_args(namespace=options)
    if options.list:
        print("\n".join(name for name, _, _ in cases))
        return 0
    if not options.dev or not options.peer:
        parser.error("--dev and --peer are needed")
    wrong = psp.set_up(options.dev)
    print("KTAP version 1")
    if wrong:
        print(f"1..0 # SKIP {wrong}")
        return 4
    plan = [entry for entry in cases if chosen(entry[0], entry[2])]
    print(f"1..{len(plan)}")
    failed = 0
    for at, (name, function, needs) in enumerate(plan, 1):
        skip = lack(needs)
        why = None if skip else run(function)
        if why:
            print("# " + why.replace("\n", " "))
            failed += 1
        print(f"{'not ok' if why else 'ok'} {at} {name}" + (f" # SKIP {skip}" if skip else ""),
              flush=True)
    print(f"# {failed} of {len(plan)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
