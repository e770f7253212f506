# SPDX-License-Identifier: Apache-2.0
"""Cases: a netlink socket used as programs use them: polled, peeked at, cut short, gathered.

Other families answer on the same socket, and options shape what an error says.
"""
import errno
import os
import select
import socket

from .case import Failed, case, equal
from .netlink import (CTRL_GETFAMILY, DEV_GET, GENL_ID_CTRL, ID, NETLINK_CAP_ACK, NETLINK_EXT_ACK,
                      NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_REQUEST, NO_SUCH_ID, PATIENCE,
                      SOL_NETLINK, attr, number, psp, u32)
from .peer import netlink


@case("python: poll tells of an answer and a non-blocking socket of none")
def _():
    nl = netlink()
    nl.sock.setblocking(False)
    try:
        nl.sock.recv(4096)
        raise Failed("recv gave something")
    except BlockingIOError:
        pass
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)))
    poll = select.poll()
    poll.register(nl.sock, select.POLLIN)
    equal(poll.poll(PATIENCE * 1000), [(nl.sock.fileno(), select.POLLIN)], "poll")
    equal(nl.answer(nl.seq).error, 0, "error")
    equal(poll.poll(0), [], "poll after everything is read")


@case("python: MSG_PEEK leaves the answer and MSG_TRUNC tells its length")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST))
    peeked = nl.sock.recv(65536, socket.MSG_PEEK)
    equal(nl.sock.recv_into(bytearray(4), 4, socket.MSG_PEEK | socket.MSG_TRUNC), len(peeked),
          "length by MSG_TRUNC")
    equal(nl.sock.recv(65536), peeked, "what is read after peeking")


@case("python: a short buffer cuts a message and says so")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST))
    octets, _, flags, sender = nl.sock.recvmsg(20)
    equal((len(octets), flags & socket.MSG_TRUNC, sender), (20, socket.MSG_TRUNC, (0, 0)),
          "length, flags and sender")
    equal(select.select([nl.sock], [], [], 0)[0], [], "what is left")


@case("python: a request may be gathered from pieces, written or sent on a connected socket")
def _():
    nl = netlink()
    request = nl.message(DEV_GET, u32(ID, psp.id))
    nl.sock.sendmsg([request[:7], request[7:16], b"", request[16:]])
    equal(nl.answer(nl.seq).error, 0, "error after sendmsg")
    os.write(nl.sock.fileno(), nl.message(DEV_GET, u32(ID, psp.id)))
    equal(nl.answer(nl.seq).error, 0, "error after write")
    request = nl.message(DEV_GET, u32(ID, psp.id))
    os.writev(nl.sock.fileno(), [request[:20], request[20:]])
    equal(nl.answer(nl.seq).error, 0, "error after writev")
    nl.sock.connect((0, 0))
    equal(nl.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error after connect and send")
    nl.sock.sendto(nl.message(DEV_GET, u32(ID, psp.id)), (0, 0))
    equal(nl.answer(nl.seq).error, 0, "error after sendto")


@case("python: other families answer on the same socket")
def _():
    nl = netlink()
    other = nl.ask(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL).one()
    equal(number(other[1]), GENL_ID_CTRL, "id of nlctrl")
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)))
    first = nl.seq
    nl.sock.send(nl.message(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL))
    equal(nl.answer(first).error, 0, "error of psp")
    equal(nl.answer(first + 1).error, 0, "error of nlctrl")
    equal(nl.ask(1, family=31999).error, errno.ENOENT, "error of a family that there is not")


@case("python: requests of two families in one datagram are answered in order")
def _():
    nl = netlink()
    nl.sock.send(nl.message(DEV_GET, u32(ID, psp.id)) +
                 nl.message(CTRL_GETFAMILY, attr(2, b"nlctrl\0"), family=GENL_ID_CTRL) +
                 nl.message(DEV_GET, u32(ID, NO_SUCH_ID)))
    errors = [nl.answer(seq).error for seq in range(nl.seq - 2, nl.seq + 1)]
    equal(errors, [0, 0, errno.ENODEV], "errors")


@case("python: CAP_ACK and EXT_ACK shape the error")
def _():
    nl = netlink()
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    answer = nl.ask(DEV_GET, u32(ID, 0))
    equal(answer.flags, NLM_F_CAPPED | NLM_F_ACK_TLVS, "flags with both")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 0)
    equal(nl.ask(DEV_GET, u32(ID, 0)).flags, NLM_F_CAPPED, "flags with CAP_ACK")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 0)
    equal(nl.ask(DEV_GET, u32(ID, 0)).flags, 0, "flags with neither")
