#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the PSP conformance corpus against an implementation.

usage: runner.py [--vectors DIR] corpus.json

As it stands the implementation is the one in this file, written from the protocol alone (it shares
no code with softpsp): put a subclass of Psp in its place that calls yours. --vectors DIR also opens
the reference implementation's packets (its manifest.tsv) to their clear twins.

Needs Python 3.9 and python3-cryptography. Exit status: 0 all agree, 1 not, 2 usage.
"""
import argparse
import json
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

TUNNEL = {4: 4, 41: 6}
KEY_SIZE = {0: 16, 1: 32, 2: 16, 3: 32}
DROP = None
# RFC 6040, figure 4: MERGED_ECN[inner][outer].
MERGED_ECN = [[0, 0, 0, DROP], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]]


class Drop(Exception):
    """A packet is dropped; the argument is the reason."""


def checksum(octets):
    """Returns the Internet checksum of octets (RFC 1071)."""
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_checksum(header):
    header = header[:10] + b"\0\0" + header[12:]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:]


def parse_ip(packet):
    """Returns (family, header length, total length, protocol, is fragment)."""
    if not packet:
        raise Drop("TRUNCATED")
    if packet[0] >> 4 == 4:
        if len(packet) < 20:
            raise Drop("TRUNCATED")
        header = (packet[0] & 15) * 4
        total, control = struct.unpack_from("!HxxH", packet, 2)
        if header < 20:
            raise Drop("BAD_IP")
        if header > len(packet):
            raise Drop("TRUNCATED")
        if not header <= total <= len(packet):
            raise Drop("BAD_LENGTH")
        return 4, header, total, packet[9], bool(control & 0x3FFF)
    if packet[0] >> 4 == 6:
        if len(packet) < 40:
            raise Drop("TRUNCATED")
        total = 40 + struct.unpack_from("!H", packet, 4)[0]
        if total > len(packet):
            raise Drop("BAD_LENGTH")
        return 6, 40, total, packet[6], packet[6] == 44
    raise Drop("BAD_IP")


def with_payload(header, family, size, protocol):
    """Returns the IP header for a payload of that size and protocol."""
    if family == 4:
        header = header[:2] + struct.pack("!H", len(header) + size) + header[4:]
        return with_checksum(header[:9] + bytes([protocol]) + header[10:])
    return header[:4] + struct.pack("!HB", size, protocol) + header[7:]


def traffic_class(packet):
    return packet[1] if packet[0] >> 4 == 4 else struct.unpack_from("!H", packet)[0] >> 4 & 0xFF


def with_traffic_class(packet, value):
    if packet[0] >> 4 == 4:
        # Incremental (RFC 1624): a damaged header must not be repaired.
        old, = struct.unpack_from("!H", packet, 10)
        total = (~old & 0xFFFF) + (~packet[1] & 0xFFFF) + value
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return (packet[:1] + bytes([value]) + packet[2:10] + struct.pack("!H", ~total & 0xFFFF)
                + packet[12:])
    first, = struct.unpack_from("!I", packet)
    return struct.pack("!I", first & 0xF00FFFFF | value << 20) + packet[4:]


class Psp:
    """A PSP device with two device keys. Packets start at the IP header."""

    def __init__(self, device_keys):
        self.device_keys = device_keys

    def derive(self, version, spi):
        """Returns the SA key: SP 800-108 in counter mode over AES-256-CMAC."""
        key = b""
        while len(key) < KEY_SIZE[version]:
            mac = CMAC(algorithms.AES(self.device_keys[spi >> 31]))
            mac.update(struct.pack("!I3sBII", len(key) // 16 + 1, b"Pv%d" % version, 0, spi,
                                   8 * KEY_SIZE[version]))
            key += mac.finalize()
        return key

    def seal(self, header, inner, version, crypt_offset):
        """Returns the datagram: `header` is the whole PSP header, extension included."""
        clear = len(header) + len(inner) if version > 1 else 16 + 4 * crypt_offset
        whole = header + inner
        spi, = struct.unpack_from("!I", header, 4)
        sealed = AESGCM(self.derive(version, spi)).encrypt(header[4:16], whole[clear:],
                                                          whole[:clear])
        return whole[:clear] + sealed

    def receive(self, packet):
        """Returns the clear IP packet, or raises Drop."""
        family, ip_header, total, protocol, fragment = parse_ip(packet)
        if fragment:
            raise Drop("FRAGMENT")
        if protocol != 17:
            raise Drop("BAD_IP")
        if total - ip_header < 8:
            raise Drop("TRUNCATED")
        port, udp_length = struct.unpack_from("!xxHH", packet, ip_header)
        if port != 1000 or (family == 4 and checksum(packet[:ip_header])):
            raise Drop("BAD_IP")
        if udp_length != total - ip_header:
            raise Drop("BAD_LENGTH")
        datagram = packet[ip_header + 8:total]
        next_header, tail = self.open(datagram)
        if next_header not in TUNNEL:
            return with_payload(packet[:ip_header], family, len(tail), next_header) + tail
        try:
            inner_family, _, inner_total, _, _ = parse_ip(tail)
        except Drop:
            raise Drop("BAD_INNER") from None
        if inner_family != TUNNEL[next_header] or inner_total != len(tail):
            raise Drop("BAD_INNER")
        before = traffic_class(tail)
        ecn = MERGED_ECN[before & 3][traffic_class(packet) & 3]
        if ecn is DROP:
            raise Drop("BAD_ECN")
        return with_traffic_class(tail, before & 0xFC | ecn) if ecn != before & 3 else tail

    def open(self, datagram):
        """Returns (next header, inner packet) of a datagram, or raises Drop."""
        if len(datagram) < 32:
            raise Drop("TRUNCATED")
        next_header, ext_length, offset, flags, spi = struct.unpack_from("!BBBBI", datagram)
        version = flags >> 2 & 15
        if not flags & 1 or ext_length < (2 if flags & 2 else 1):
            raise Drop("BAD_HEADER")
        header = 8 * (ext_length + 1)
        if len(datagram) < header + 16:
            raise Drop("TRUNCATED")
        clear = 16 + 4 * (offset & 63)
        if version in (2, 3):
            clear = len(datagram) - 16
        if clear > len(datagram) - 16:
            raise Drop("BAD_CRYPT_OFFSET")
        if version > 3:
            raise Drop("BAD_VERSION")
        if not spi & 0x7FFFFFFF:
            raise Drop("BAD_SPI")
        try:
            opened = AESGCM(self.derive(version, spi)).decrypt(datagram[4:16], datagram[clear:],
                                                              datagram[:clear])
        except InvalidTag:
            raise Drop("AUTH_FAIL") from None
        return next_header, (datagram[:clear] + opened)[header:]


def expected_header(case, protocol):
    """Returns the PSP header, extension included, that a sender must write for a case."""
    extension = bytes.fromhex(case["extension"])
    next_header = protocol
    if case["mode"] == "tunnel":
        next_header = 4 if case["clear"][0] == "4" else 41
    flags = 1 | case["cookie"] << 1 | case["version"] << 2
    return struct.pack("!BBBB", next_header, 1 + len(extension) // 8, case["crypt_offset"],
                       flags) + bytes.fromhex(case["spi"] + case["iv"]) + extension


def check_seal(psp, case, packet, clear):
    """Returns what is wrong with sealing a case, or nothing."""
    family, ip_header, total, protocol, _ = parse_ip(clear)
    inner = clear if case["mode"] == "tunnel" else clear[ip_header:total]
    header = expected_header(case, protocol)
    if psp.derive(case["version"], int(case["spi"], 16)).hex() != case["sa_key"]:
        return "the key differs"
    datagram = psp.seal(header, inner, case["version"], case["crypt_offset"])
    udp = struct.pack("!HHHH", case["source_port"], 1000, 8 + len(datagram), 0)
    if case["mode"] == "tunnel":
        outer = packet[:20 if packet[0] >> 4 == 4 else 40]  # a matter of policy
    else:
        outer = with_payload(clear[:ip_header], family, 8 + len(datagram), 17)
    return None if outer + udp + datagram == packet else "the sealed packet differs"


def check_case(psp, case):
    """Returns what is wrong, or nothing."""
    packet = bytes.fromhex(case["packet"])
    try:
        opened = psp.receive(packet)
    except Drop as drop:
        if case["kind"] != "drop":
            return f"dropped: {drop}"
        return None if str(drop) == case["reason"] else f"{drop}, not {case['reason']}"
    if case["kind"] == "drop":
        return f"opened, not {case['reason']}"
    clear = bytes.fromhex(case["clear"])
    if opened != clear:
        return "the opened packet differs"
    return check_seal(psp, case, packet, clear) if case["kind"] == "seal" else None


def read_pcap(path):
    """Yields the IP packets of an Ethernet pcap file."""
    octets = path.read_bytes()
    at = 24
    while at < len(octets):
        size, = struct.unpack_from("<I", octets, at + 8)
        yield octets[at + 16 + 14:at + 16 + size]
        at += 16 + size


def check_vectors(directory, make_psp):
    """Returns (packets, what is wrong) for the reference implementation's files."""
    lines = (directory / "manifest.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    wrong, count = [], 0
    for line in lines[1:]:
        row = dict(zip(names, line.split("\t")))
        digits = "".join((directory / row["cfg"]).read_text().split()[:64])
        psp = make_psp([bytes.fromhex(digits[:64]), bytes.fromhex(digits[64:])])
        pairs = zip(read_pcap(directory / row["encrypted_file"]),
                    read_pcap(directory / row["clear_file"]))
        for packet, clear in pairs:
            count += 1
            try:
                if psp.receive(packet) != clear:
                    wrong.append(f"{row['encrypted_file']}: the opened packet differs")
            except Drop as drop:
                wrong.append(f"{row['encrypted_file']}: {drop}")
    return count, wrong


def main():
    parser = argparse.ArgumentParser(description="Runs the PSP conformance corpus.")
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--vectors", type=pathlib.Path)
    arguments = parser.parse_args()
    corpus = json.loads(arguments.corpus.read_text())
    if corpus.get("format") != "psp-conformance-1":
        parser.error(f"{arguments.corpus} is no corpus that I know")
    psp = Psp([bytes.fromhex(corpus["device_key_0"]), bytes.fromhex(corpus["device_key_1"])])
    wrong = []
    for case in corpus["cases"]:
        problem = check_case(psp, case)
        if problem:
            wrong.append(f"{case['name']}: {problem}")
    count = len(corpus["cases"])
    if arguments.vectors and (arguments.vectors / "manifest.tsv").exists():
        packets, more = check_vectors(arguments.vectors, Psp)
        print(f"{packets} packets of the reference implementation")
        wrong += more
        count += packets
    print("\n".join(wrong[:50]))
    print(f"{count} cases, {len(wrong)} wrong")
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    sys.exit(main())
