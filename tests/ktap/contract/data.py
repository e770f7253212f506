# SPDX-License-Identifier: Apache-2.0
"""Cases: keys are exchanged with the peer and data flows, over one connection and a hundred.

Also what one request may be: long, and by a socket of the other address family.
"""
import select
import socket

from .case import case, equal, options, undo
from .netlink import NETLINK_CAP_ACK, SOCK_FD, SOL_NETLINK, TX_ASSOC, VERSION, psp, u32
from .peer import command, connect, netlink, receive, rx_assoc, secure, tx_assoc, tx_key


@case("python: data flows both ways after an exchange of keys", "peer-assoc")
def _():
    for version in range(4):
        if not psp.cap >> version & 1:
            continue
        sock, port = secure(version)
        sock.sendall(b"x" * 100000)
        command(f"SEND {port} 100000")
        octets = receive(sock, 100000)
        equal(octets[:4], bytes(at * 31 + 7 & 255 for at in range(4)), "what came")
        for _ in range(100):
            if command(f"COUNT {port}") == ["100000"]:
                break
            select.select([], [], [], 0.02)
        equal(command(f"COUNT {port}"), ["100000"], "octets at the peer")


@case("python: an IPv6 socket that speaks IPv4 is secured as any other")
def _():
    host, port = options.peer
    sock = undo.keep(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    sock.connect((host if ":" in host else "::ffff:" + host, port))
    rx_assoc(sock)
    equal(tx_assoc(sock).one(), {}, "reply of tx-assoc")


@case("python: an error quotes a long request whole, unless CAP_ACK is set")
def _():
    sock, nl = connect(), netlink()
    rx_assoc(sock, nl=nl)
    request = nl.message(TX_ASSOC, u32(VERSION, 0) + tx_key(key=bytes(12000)) +
                         u32(SOCK_FD, sock.fileno()))
    nl.sock.send(request)
    answer = nl.sock.recv(65536)
    equal(answer[20:20 + len(request)], request, "what is quoted")
    nl.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    nl.sock.send(request)
    equal(nl.sock.recv(65536)[20:36], request[:16], "what is quoted with CAP_ACK")


@case("python: a hundred connections are secured at once", "peer-assoc")
def _():
    socks = [secure() for _ in range(100)]
    for sock, port in socks:
        command(f"SEND {port} 10")
    for sock, _ in socks:
        equal(len(receive(sock, 10)), 10, "octets")
