#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A program for the kernel's psp family that uses the standard library only.

Lists the devices, hears of a key rotation, asks for a device that there is not.
"""
import os
import select
import socket
import struct

NETLINK_GENERIC, SOL_NETLINK, ADD_MEMBERSHIP = 16, 270, 1
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE, CTRL = 2, 3, 16


def attributes(data):
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


def request(sock, family, flags, seq, cmd, body=b""):
    head = struct.pack("=IHHII", 20 + len(body), family, REQUEST | flags, seq, 0)
    sock.send(head + struct.pack("=BBH", cmd, 1, 0) + body)


def messages(sock):
    data, sender = sock.recvfrom(65536)
    assert sender[0] == 0, sender
    while data:
        size, kind, _, seq, port = struct.unpack_from("=IHHII", data)
        yield kind, seq, port, data[16:size]
        data = data[(size + 3) & ~3 :]


def ids(body):
    return [str(struct.unpack("=I", value)[0]) for kind, value in attributes(body[4:]) if kind == 1]


def main():
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    sock.bind((0, 0))
    request(sock, CTRL, 0, 1, 3, struct.pack("=HH", 8, 2) + b"psp\0")
    ((_, seq, port, body),) = messages(sock)
    assert (seq, port) == (1, sock.getsockname()[0])
    found = dict(attributes(body[4:]))
    family = struct.unpack("=H", found[1])[0]
    groups = {}
    for _, group in attributes(found[7]):
        parts = dict(attributes(group))
        groups[parts[1].rstrip(b"\0")] = struct.unpack("=I", parts[2])[0]

    request(sock, family, DUMP, 2, 1)
    devices = []
    done = False
    while not done:
        for kind, seq, _, body in messages(sock):
            assert seq == 2
            done = kind == DONE
            if not done:
                devices += ids(body)
    print("devices:", *devices)

    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    events.bind((0, 0))
    events.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, groups[b"use"])
    events.setblocking(False)
    request(sock, family, 0, 3, 6, struct.pack("=HHI", 8, 1, 2))
    list(messages(sock))
    assert select.select([events], [], [], 5)[0]
    print("rotated:", *[one for _, _, _, body in messages(events) for one in ids(body)])

    request(sock, family, 0, 4, 1, struct.pack("=HHI", 8, 1, 9))
    ((kind, _, _, body),) = messages(sock)
    assert kind == ERROR
    print("no device:", os.strerror(-struct.unpack_from("=i", body)[0]))


main()
