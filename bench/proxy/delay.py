# SPDX-License-Identifier: Apache-2.0
"""A way between the hosts of a lab that takes time, so that round trips can be told from the clock.

Threading: one thread carries the frames.
"""
import contextlib
import select
import socket
import subprocess
import threading
import time

ETH_P_ALL = 3


def insert(lab):
    """Puts a namespace with two ends, m-a and m-b, between the hosts; returns its name."""
    middle = lab.namespace("m")
    ip = ["ip", "-n", middle]
    subprocess.run(["ip", "netns", "add", middle], check=True)
    for side, number in (("a", 1), ("b", 2)):
        there = lab.namespace(side)
        subprocess.run(["ip", "-n", there, "link", "del", "eth0"], check=side == "a", stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "add", "eth0", "netns", there, "type", "veth", "peer", "name", f"m-{side}",
                        "netns", middle], check=True)
        # A checksum left to the hardware would stay undone here.
        lab.run(side, "ethtool", "-K", "eth0", "tx", "off", stdout=subprocess.DEVNULL)
        for command in (["address", "add", f"10.77.0.{number}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            subprocess.run(["ip", "-n", there, *command], check=True)
        subprocess.run([*ip, "link", "set", f"m-{side}", "up"], check=True)
    return middle


def carry(ends, seconds, stop):
    on_the_way = []  # (when it arrives, to whom, frame), in order
    while not stop.is_set():
        patience = max(0, on_the_way[0][0] - time.monotonic()) if on_the_way else 0.05
        for end in select.select(ends, [], [], patience)[0]:
            frame, sender = end.recvfrom(65536)
            if sender[2] != socket.PACKET_OUTGOING:
                on_the_way.append((time.monotonic() + seconds, ends[1 - ends.index(end)], frame))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, frame = on_the_way.pop(0)
            end.send(frame)


@contextlib.contextmanager
def delayed(lab, seconds):
    """Each direction takes so many seconds from now on."""
    middle = insert(lab)
    ends, stop = [], threading.Event()
    with lab.inside("m"):
        for name in ("m-a", "m-b"):
            ends.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
            ends[-1].bind((name, ETH_P_ALL))
    carrier = threading.Thread(target=carry, args=(ends, seconds, stop))
    carrier.start()
    try:
        yield
    finally:
        stop.set()
        carrier.join()
        subprocess.run(["ip", "netns", "del", middle], check=True)
