#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speaks the `psp` family by pyynl, the kernel's own Python library, and our spec/psp.yaml.

What is asked is not the contract (tests/ktap asks that), but whether a program of this library sees
what it would see of a kernel: values by their names, errors with the attribute named, dumps,
notifications. Run by tests/ynl/run; output: KTAP version 1.

usage: pyynl_client.py DIR_OF_PYYNL SPEC SCHEMA ADDRESS PORT
"""
import contextlib
import errno
import socket
import sys
import time

sys.path.insert(0, sys.argv[1])
from lib import NlError, YnlFamily  # noqa: E402  (the kernel's)

SPEC, SCHEMA, ADDRESS, PORT = sys.argv[2:]
ALL_VERSIONS = {"hdr0-aes-gcm-128", "hdr0-aes-gcm-256", "hdr0-aes-gmac-128", "hdr0-aes-gmac-256"}
PATIENCE_S = 5
EXAMPLE_KEY = {"spi": 0x123, "key": bytes(range(16))}
CASES = []


def case(function):
    CASES.append(function)
    return function


def family():
    return YnlFamily(SPEC, schema=SCHEMA)


def the_device(psp):
    index = socket.if_nametoindex("eth0")
    (device,) = [each for each in psp.dev_get({}, dump=True) if each["ifindex"] == index]
    return device


def equal(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, expected {want!r}")


@contextlib.contextmanager
def refused(number, **extack):
    """The request inside is answered with the errno, and with these attributes of the extack."""
    try:
        yield
    except NlError as error:
        equal(-error.nl_msg.error, number, "errno")
        for name, value in extack.items():
            equal((error.nl_msg.extack or {}).get(name.replace("_", "-")), value, name)
        return
    raise AssertionError(f"it was accepted, not refused with {errno.errorcode[number]}")


def connected():
    return socket.create_connection((ADDRESS, int(PORT)))


def notified(psp, name, device):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        psp.check_ntf()
        queue = psp.async_msg_queue  # a list in old releases, a queue in new ones
        messages = list(queue) if isinstance(queue, list) else list(queue.queue)
        if any(message["name"] == name and message["msg"]["id"] == device for message in messages):
            return
        time.sleep(0.02)
    raise AssertionError(f"no {name} came")


@case
def devices_are_dumped_with_named_versions(psp):
    equal(set(the_device(psp)["psp-versions-cap"]), ALL_VERSIONS, "psp-versions-cap")


@case
def a_device_is_got_by_its_number(psp):
    device = the_device(psp)
    equal(psp.dev_get({"id": device["id"]}), device, "dev-get")


@case
def an_unknown_device_is_enodev(psp):
    with refused(errno.ENODEV):
        psp.dev_get({"id": 64999})


@case
def device_number_zero_is_out_of_range_and_named(psp):
    with refused(errno.ERANGE, bad_attr=".id"):
        psp.dev_get({"id": 0})


@case
def a_missing_number_is_named(psp):
    with refused(errno.EINVAL, miss_type="id"):
        psp.key_rotate({})


@case
def both_associations_of_a_connected_socket(psp):
    with connected() as sock:
        device = the_device(psp)["id"]
        rx = psp.rx_assoc({"version": "hdr0-aes-gcm-256", "sock-fd": sock.fileno()})
        equal(rx["dev-id"], device, "dev-id")
        equal(len(rx["rx-key"]["key"]), 32, "octets of the key")
        tx = psp.tx_assoc({"dev-id": device, "version": 1, "tx-key": rx["rx-key"],
                           "sock-fd": sock.fileno()})
        equal(tx, {}, "answer to tx-assoc")
        with refused(errno.EBUSY, bad_attr=".sock-fd"):
            psp.rx_assoc({"version": 0, "sock-fd": sock.fileno()})


@case
def another_device_than_the_sockets_is_named(psp):
    with connected() as sock, refused(errno.EINVAL, bad_attr=".dev-id"):
        psp.rx_assoc({"version": 0, "dev-id": 64999, "sock-fd": sock.fileno()})


@case
def a_key_of_wrong_length_is_named_where_it_lies(psp):
    with connected() as sock:
        psp.rx_assoc({"version": 0, "sock-fd": sock.fileno()})
        with refused(errno.EINVAL, bad_attr=".tx-key.key", msg="incorrect key length"):
            psp.tx_assoc({"version": 0, "tx-key": {**EXAMPLE_KEY, "key": bytes(15)},
                          "sock-fd": sock.fileno()})


@case
def a_socket_that_is_not_tcp_is_refused(psp):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, refused(errno.EOPNOTSUPP):
        psp.rx_assoc({"version": 0, "sock-fd": sock.fileno()})


@case
def statistics_count_a_rotation(psp):
    device = the_device(psp)["id"]
    before = psp.get_stats({"dev-id": device})["key-rotations"]
    psp.key_rotate({"id": device})
    equal(psp.get_stats({"dev-id": device})["key-rotations"], before + 1, "key-rotations")
    equal([each["dev-id"] for each in psp.get_stats({}, dump=True)], [device], "devices dumped")


@case
def listeners_of_use_hear_of_a_rotation(psp):
    listener, device = family(), the_device(psp)["id"]
    listener.ntf_subscribe("use")
    psp.key_rotate({"id": device})
    notified(listener, "key-rotate-ntf", device)


@case
def listeners_of_mgmt_hear_of_a_change(psp):
    listener, device = family(), the_device(psp)
    listener.ntf_subscribe("mgmt")
    psp.dev_set({"id": device["id"], "psp-versions-ena": device["psp-versions-cap"]})
    notified(listener, "dev-change-ntf", device["id"])


def main():
    print(f"KTAP version 1\n1..{len(CASES)}", flush=True)
    psp, failed = family(), 0
    for number, holds in enumerate(CASES, 1):
        why = None
        try:
            holds(psp)
        except Exception as error:  # pylint: disable=broad-except
            why = f"{type(error).__name__}: {error}"
        failed += why is not None
        if why:
            print("# " + " ".join(why.split()))
        print(f"{'not ok' if why else 'ok'} {number} {holds.__name__.replace('_', ' ')}", flush=True)
    return 1 if failed else 0


sys.exit(main())
