# SPDX-License-Identifier: Apache-2.0
"""Cases: the family in the kernel's control family, the device, and what listeners hear.

Who listens hears what happens from then on, in order, and is told when it missed something.
"""
import errno
import socket
import struct

from .case import Failed, case, equal, options, true, undo
from .netlink import (CTRL_GETFAMILY, CTRL_GETPOLICY, DEV_ASSOC, DEV_CHANGE_NTF, DEV_DISASSOC,
                      DEV_GET, DEV_SET, ENA, GENL_ID_CTRL, GET_STATS, ID, IFINDEX, KEY_ROTATE,
                      KEY_ROTATE_NTF, KEY_ROTATIONS, NETLINK_CAP_ACK, NETLINK_EXT_ACK,
                      NETLINK_GENERIC, NETLINK_GET_STRICT_CHK, PATIENCE, RX_ASSOC, SILENCE,
                      SOL_NETLINK, TX_ASSOC, VERSION, Netlink, attr, attributes, number, psp, u32)
from .peer import netlink


@case("python: the family is found by name and by id")
def _():
    by_id = psp.nl.ask(CTRL_GETFAMILY, attr(1, struct.pack("=H", psp.family)),
                       family=GENL_ID_CTRL).one()
    by_name = psp.nl.ask(CTRL_GETFAMILY, attr(2, b"psp\0"), family=GENL_ID_CTRL).one()
    equal(by_id, by_name, "the answer by id")
    equal(number(by_name[3]), 1, "version")


@case("python: operations have the kernel's flags")
def _():
    about = psp.nl.ask(CTRL_GETFAMILY, attr(2, b"psp\0"), family=GENL_ID_CTRL).one()
    got = {}
    for _, octets in attributes(about[6]):
        operation = dict(attributes(octets))
        got[number(operation[1])] = number(operation[2])
    admin = 0 if options.compat == "linux-6.18" else 1
    equal(got, {DEV_GET: 0xE, DEV_SET: 0xA | admin, KEY_ROTATE: 0xA | admin, RX_ASSOC: 0xA,
                TX_ASSOC: 0xA, GET_STATS: 0xE, DEV_ASSOC: 0xB, DEV_DISASSOC: 0xB}, "flags")


@case("python: the policy dump tells attributes of each operation")
def _():
    answer = psp.nl.dump(CTRL_GETPOLICY, attr(2, b"psp\0"), family=GENL_ID_CTRL)
    equal(answer.error, 0, "error")
    index, policies = {}, {}
    for _, octets in answer.messages:
        row = dict(attributes(octets))
        equal(number(row[1]), psp.family, "family")
        for cmd, op in attributes(row.get(9, b"")):
            index[cmd] = number(dict(attributes(op))[1])
        for number_, policy in attributes(row.get(8, b"")):
            for kind, limits in attributes(policy):
                policies.setdefault(number_, {})[kind] = dict(attributes(limits))
    got = {cmd: sorted(policies[i]) for cmd, i in index.items()}
    equal(got, {DEV_GET: [1], DEV_SET: [1, 4], KEY_ROTATE: [1], RX_ASSOC: [1, 2, 5],
                TX_ASSOC: [1, 2, 4, 5], GET_STATS: [1], DEV_ASSOC: [1, 2, 6],
                DEV_DISASSOC: [1, 2, 6]}, "attributes")
    equal(number(policies[index[RX_ASSOC]][VERSION][5]), 3, "greatest version")
    equal(number(policies[index[DEV_SET]][ENA][12]), 0xF, "mask of versions-ena")


@case("python: the dump of families has psp beside the kernel's")
def _():
    answer = psp.nl.dump(CTRL_GETFAMILY, family=GENL_ID_CTRL)
    names = [dict(attributes(octets))[2] for _, octets in answer.messages]
    equal(names.count(b"psp\0"), 1, "families called psp")
    true(b"nlctrl\0" in names and len(names) > 2, f"families are {names}")


@case("python: dev-get and its dump agree")
def _():
    one = psp.nl.ask(DEV_GET, u32(ID, psp.id)).one()
    rows = [dict(attributes(octets)) for _, octets in psp.nl.dump(DEV_GET).messages]
    true(one in rows, f"{one} is not in {rows}")
    equal(number(one[IFINDEX]), psp.ifindex, "ifindex")


@case("python: counters are told in as many octets as they need")
def _():
    stats = psp.nl.ask(GET_STATS, u32(1, psp.id)).one()
    equal(sorted(stats), list(range(1, 12)), "attributes")
    for kind in range(2, 12):
        equal(len(stats[kind]), 8 if number(stats[kind]) >> 32 else 4, f"octets of counter {kind}")


@case("python: dev-set is seen by dev-get and by listeners", "root")
def _():
    listener, before = netlink().join(psp.mgmt), psp.ena()
    for value in (psp.cap, before):
        equal(psp.set_ena(value).one(), {}, "reply")
        cmd, row, seq, pid = listener.heard()
        equal((cmd, seq, pid), (DEV_CHANGE_NTF, 0, 0), "command, seq and pid")
        equal(row, psp.nl.ask(DEV_GET, u32(ID, psp.id)).one(), "the notification's attributes")


@case("python: key-rotate is heard by use and counted", "root")
def _():
    def rotations():
        return number(psp.nl.ask(GET_STATS, u32(1, psp.id)).one()[KEY_ROTATIONS])
    listener, before = netlink().join(psp.use), rotations()
    equal(psp.rotate().one(), {ID: struct.pack("=I", psp.id)}, "reply")
    equal(listener.heard(), (KEY_ROTATE_NTF, {ID: struct.pack("=I", psp.id)}, 0, 0), "notification")
    equal(rotations(), before + 1, "key-rotations")


@case("python: a listener that comes late hears nothing old", "root")
def _():
    psp.rotate()
    equal(netlink().join(psp.use).heard(SILENCE), None, "notification")


@case("python: a hundred rotations are a hundred notifications in order", "root")
def _():
    listener = netlink().join(psp.use)
    for _ in range(100):
        equal(psp.rotate().error, 0, "error")
    for _ in range(100):
        heard = listener.heard()
        true(heard is not None and heard[0] == KEY_ROTATE_NTF, f"heard {heard}")
    equal(listener.heard(SILENCE), None, "one more")


@case("python: a listener that does not read is told that it lost some", "root")
def _():
    listener = netlink()
    listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
    listener.join(psp.use)
    for _ in range(200):
        psp.rotate()
    heard = 0
    try:
        while listener.heard(SILENCE):
            heard += 1
    except OSError as error:
        equal(error.errno, errno.ENOBUFS, "error of recv")
        return
    raise Failed(f"{heard} of 200 notifications came and nothing was said of the others")


@case("python: a group that there is not cannot be joined")
def _():
    try:
        netlink().join(psp.use + 100000)
    except OSError as error:
        equal(error.errno, errno.EINVAL, "error")
        return
    raise Failed("it can")


@case("python: an unbound socket is bound by its first request, as ynl's is")
def _():
    nl = Netlink(undo.keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)))
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
        nl.sock.setsockopt(SOL_NETLINK, option, 1)
    nl.sock.settimeout(PATIENCE)
    equal(nl.sock.getsockname(), (0, 0), "name before")
    answer = nl.ask(DEV_GET, u32(ID, psp.id))
    equal(answer.error, 0, "error")
    true(nl.sock.getsockname()[0] != 0, "no port after the first request")
