# SPDX-License-Identifier: Apache-2.0
"""The lab: a host namespace with pspd, a veth, and at its other end nothing but a packet socket.

    host namespace                       peer namespace
    application, kernel TCP, pspd
    eth0  10.99.0.1  fd99::1  ---veth--- peer0 (no address, no kernel stack): Wire

Neighbour entries are static, so nobody asks by ARP or ND. Frames come to the wire as a wire has
them: segmentation and checksums are done before, also where the host leaves them to its netdev. With
`offload on` eth0 does both, as a NIC: frames leave it in one piece, and are cut behind it.

    eth0  ---veth---  peer0  ---bridge---  hop0  ---veth---  hop1: Wire
"""
import ctypes
import ipaddress
import os
import random
import select
import signal
import socket
import struct
import subprocess
import time

from . import app

HOST_MAC, PEER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ADDRESSES = {4: "10.99.0.", 6: "fd99::"}
PEERS = range(2, 6)  # the peer is .2; scripts may speak for .3, .4 and .5 too
PACKET_IGNORE_OUTGOING, SO_TIMESTAMPNS, ETH_P_ALL = 23, 35, 3
READY_S, STOP_S = 20, 20


def address(family, number):
    return ipaddress.ip_address(f"{ADDRESSES[family]}{number}")


def missing():
    """What of the host is not there, or an empty string."""
    if os.geteuid():
        return "needs root"
    if not os.access("/sys/kernel/btf/vmlinux", os.R_OK):
        return "needs the kernel's BTF: /sys/kernel/btf/vmlinux"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"needs a TUN driver: /dev/net/tun: {error.strerror}"
    for tool in ("ip", "tc", "ethtool", "nft"):
        if subprocess.run(["sh", "-c", f"command -v {tool}"], stdout=subprocess.DEVNULL,
                          check=False).returncode:
            return f"needs the program {tool}"
    return ""


def new_netns():
    """Moves this process to a new network namespace; returns a descriptor of it."""
    if app.libc.unshare(app.CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Wire:
    """The peer's end of the veth."""

    def __init__(self, netdev):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((netdev, ETH_P_ALL))
        self.socket.setblocking(False)

    def send(self, packet, vlan=()):
        """Sends an IP packet, behind 802.1Q tags of these VLANs."""
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        tags = b"".join(struct.pack("!HH", 0x8100, number) for number in vlan)
        self.socket.send(HOST_MAC + PEER_MAC + tags + kind + packet)

    def receive(self, timeout):
        """Waits up to `timeout` s for the next (time, IP packet); None if there is none."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(0, deadline - time.monotonic())
            if not select.select([self.socket], [], [], left)[0]:
                return None
            frame, ancillary, _, _ = self.socket.recvmsg(1 << 17, 128)
            if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("=qq", data[:16])
                    return seconds + nanoseconds / 1e9, frame[14:]
            return time.time(), frame[14:]


class Clock:
    """What a run asks a lab for: the time, chance, ports of the peer. Here those of this machine."""

    def __init__(self, source=None):
        self.random = source or random.SystemRandom()
        self.port = 20000 + self.random.randrange(20000)

    def now(self):
        return time.time()

    def next_port(self):
        self.port = self.port % 50000 + 1
        return self.port


class Lab(Clock):
    """One lab: made once, then used by script after script until one asks for another."""

    def __init__(self, pspd, mtu=1500, arguments=(), offload=False):
        super().__init__()
        self.pspd_path, self.arguments = pspd, list(arguments)
        self.config = (mtu, tuple(arguments), offload)
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.host = new_netns()
        self.peer = new_netns()
        self.daemon = None
        self.log = b""
        self.set_up(mtu, offload)
        self.wire = Wire("hop1" if offload else "peer0")
        app.enter(self.home)
        self.app = app.Application(self.host)
        self.start_pspd()

    def set_up(self, mtu, offload):
        me = f"/proc/{os.getpid()}/fd"
        set_sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        run(f"ip link add peer0 mtu {mtu} arp off type veth peer name eth0 mtu {mtu} "
            f"netns {me}/{self.host}")
        set_sysctl("net/ipv6/conf/peer0/disable_ipv6", 1)
        run("ip link set peer0 up")
        if offload:
            run(f"ip link add hop0 mtu {mtu} type veth peer name hop1 mtu {mtu} && "
                "ethtool -K hop0 tso off tx off >/dev/null && "
                f"ip link add br0 mtu {mtu} type bridge mcast_snooping 0 && "
                "for one in hop0 peer0; do ip link set $one master br0; done && "
                "for one in br0 hop0 hop1; do ip link set $one up; done")
        else:
            run(f"ip link set peer0 address {PEER_MAC.hex(':')}")
        app.enter(self.host)
        for where in ("all", "default", "eth0"):
            set_sysctl(f"net/ipv4/conf/{where}/rp_filter", 0)
            set_sysctl(f"net/ipv6/conf/{where}/accept_dad", 0)
            set_sysctl(f"net/ipv6/conf/{where}/router_solicitations", 0)
        # What a script sees must not depend on what earlier connections have taught the host.
        set_sysctl("net/ipv4/tcp_no_metrics_save", 1)
        set_sysctl("net/ipv4/tcp_challenge_ack_limit", 1 << 30)
        set_sysctl("net/ipv4/tcp_invalid_ratelimit", 0)
        set_sysctl("net/ipv4/tcp_congestion_control", "reno")
        set_sysctl("net/ipv4/tcp_min_tso_segs", 32)  # how much goes out at once: not by the clock
        set_sysctl("net/ipv4/icmp_ratelimit", 0)
        set_sysctl("net/ipv6/icmp/ratelimit", 0)
        lines = [f"ip link set eth0 address {HOST_MAC.hex(':')} && ip link set lo up",
                 "true" if offload else "ethtool -K eth0 tso off tx off >/dev/null",
                 f"ip addr add {ADDRESSES[4]}1/24 dev eth0",
                 f"ip addr add {ADDRESSES[6]}1/64 dev eth0 nodad && ip link set eth0 up"]
        for number in PEERS:
            for family in (4, 6):
                lines.append(f"ip neigh add {address(family, number)} "
                             f"lladdr {PEER_MAC.hex(':')} dev eth0 nud permanent")
        run(" && ".join(lines))
        app.enter(self.peer)

    def in_host(self):
        app.enter(self.host)

    def start_pspd(self):
        command = [self.pspd_path, "--dev", "eth0", "--enable", "all", *self.arguments]

        def before():
            app.enter(self.host)
            app.die_with_parent(signal.SIGTERM)

        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       preexec_fn=before)
        os.set_blocking(self.daemon.stdout.fileno(), False)
        self.log = b""
        deadline = time.monotonic() + READY_S
        while b"pspd: ready\n" not in self.log:
            self.read_log(0.05)
            if not self.is_up() or time.monotonic() > deadline:
                raise RuntimeError("pspd does not start:\n" + self.log.decode(errors="replace"))

    def is_up(self):
        return self.daemon.poll() is None

    def read_log(self, timeout=0):
        log = self.daemon.stdout
        if not log.closed and select.select([log], [], [], timeout)[0]:
            self.log += log.read(1 << 16) or b""

    def stop_pspd(self, sig=signal.SIGTERM):
        """Ends pspd; returns its exit status (negative for a signal)."""
        if self.is_up():
            self.daemon.send_signal(sig)
        status = self.daemon.wait(STOP_S)
        self.read_log()
        self.daemon.stdout.close()
        return status

    def new_application(self):
        self.app.kill()
        self.app = app.Application(self.host)

    def shell(self, command):
        """Runs a command in the host's namespace; returns (status, output)."""
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False,
                              stderr=subprocess.STDOUT, preexec_fn=self.in_host)
        return done.returncode, done.stdout

    def quiet(self):
        """Ends what the last script left, and forgets what the wire still holds of it."""
        self.app.call("abort_all")
        while self.wire.receive(0.005):
            pass

    def close(self):
        self.app.end()
        if self.daemon.returncode is None:
            self.stop_pspd()
        if self.daemon.returncode:  # it was killed, and left its programs
            self.shell(f"{self.pspd_path} --cleanup --dev eth0")
        self.wire.socket.close()
        for fd in (self.host, self.peer, self.home):
            os.close(fd)


def set_sysctl(path, value):
    try:
        with open("/proc/sys/" + path, "w", encoding="ascii") as file:
            file.write(str(value))
    except FileNotFoundError:
        pass  # not in every kernel, or not in every namespace
    except OSError as error:
        raise RuntimeError(f"/proc/sys/{path}: {error.strerror}") from error


def run(command):
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
