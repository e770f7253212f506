# SPDX-License-Identifier: Apache-2.0
"""Cases: a netlink socket among threads and processes: shared, inherited, handed on, closed.

The last is what a process without CAP_NET_ADMIN may ask.
"""
import array
import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import threading

from .case import case, equal, options, undo
from .netlink import (DEV_ASSOC, DEV_DISASSOC, DEV_GET, DEV_SET, ENA, GET_STATS, ID, KEY_ROTATE,
                      KEY_ROTATE_NTF, NETLINK_GENERIC, NLM_F_REQUEST, NO_SUCH_ID, PATIENCE, SILENCE,
                      Netlink, messages, psp, u32)
from .peer import command, connect, netlink, receive, rx_assoc, tx_assoc


@case("python: threads with their own sockets do not disturb each other")
def _():
    wrong = []

    def work():
        nl = Netlink()
        try:
            for _ in range(50):
                if nl.ask(DEV_GET, u32(ID, psp.id)).error or \
                        nl.ask(DEV_GET, u32(ID, NO_SUCH_ID)).error != errno.ENODEV:
                    wrong.append("a wrong answer")
        except OSError as error:
            wrong.append(str(error))
        nl.sock.close()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(wrong, [], "what threads saw")


@case("python: threads may share one socket for sending")
def _():
    nl = netlink()
    request = nl.message(DEV_GET, u32(ID, psp.id), NLM_F_REQUEST)
    threads = [threading.Thread(target=lambda: [nl.sock.send(request) for _ in range(10)])
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(40):
        equal(next(messages(nl.sock.recv(65536)))[0], psp.family, "type of an answer")
    equal(select.select([nl.sock], [], [], SILENCE)[0], [], "what is left")


@case("python: after fork both processes use the socket")
def _():
    nl = netlink()
    child = os.fork()
    if child == 0:
        try:
            os._exit(nl.ask(DEV_GET, u32(ID, psp.id)).error)
        except BaseException:  # noqa: B902  a child must not run the rest of the parent's cases
            os._exit(99)
    equal(os.waitpid(child, 0)[1], 0, "status of the child")
    nl.seq += 10
    equal(nl.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error in the parent")


@case("python: a socket outlives exec and a listener of the parent hears the child", "root")
def _():
    listener, nl = netlink().join(psp.use), netlink()
    os.set_inheritable(nl.sock.fileno(), True)
    request = nl.message(KEY_ROTATE, u32(ID, psp.id))
    program = f"import os; os.write({nl.sock.fileno()}, bytes.fromhex('{request.hex()}'))"
    subprocess.run([sys.executable, "-c", program], check=True, close_fds=False)
    equal(nl.answer(nl.seq).error, 0, "error, read by the parent")
    equal(listener.heard()[0], KEY_ROTATE_NTF, "notification")


@case("python: a socket that was handed over by SCM_RIGHTS works")
def _():
    one, two = socket.socketpair(socket.AF_UNIX)
    undo.keep(one), undo.keep(two)
    nl = netlink()
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                          array.array("i", [nl.sock.fileno()]))])
    _, control, _, _ = two.recvmsg(1, 64)
    other = Netlink(undo.keep(socket.socket(fileno=array.array("i", control[0][2])[0])))
    nl.sock.close()
    other.sock.settimeout(PATIENCE)
    equal(other.ask(DEV_GET, u32(ID, psp.id)).error, 0, "error")


@case("python: a duplicate keeps socket and membership alive", "root")
def _():
    first = Netlink().join(psp.use)
    second = Netlink(undo.keep(first.sock.dup()))
    equal(second.port, first.port, "port of the duplicate")
    first.sock.close()
    psp.rotate()
    equal(second.heard()[0], KEY_ROTATE_NTF, "notification")


@case("python: a new socket does not inherit the membership of a closed one", "root")
def _():
    old = Netlink().join(psp.use)
    number_, port = old.sock.fileno(), old.port
    old.sock.close()
    new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    undo.keep(new)
    with contextlib.suppress(OSError):
        new.bind((port, 0))
    equal(new.fileno(), number_, "descriptor")
    psp.rotate()
    equal(select.select([new], [], [], SILENCE)[0], [], "what the new one hears")


@case("python: an association outlives every netlink socket", "peer-assoc")
def _():
    sock, nl = connect(), Netlink()
    spi, key = rx_assoc(sock, nl=nl)
    nl.sock.close()
    port = sock.getsockname()[1]
    their_spi, their_key = command(f"ASSOC {port} 0 {spi} {key.hex()}")
    nl = Netlink()
    equal(tx_assoc(sock, 0, int(their_spi), bytes.fromhex(their_key), nl).error, 0, "tx-assoc")
    nl.sock.close()
    command(f"SEND {port} 1000")
    equal(len(receive(sock, 1000)), 1000, "octets")


@case("python: without CAP_NET_ADMIN only queries and associations are allowed", "root")
def _():
    child = os.fork()
    if child == 0:
        try:
            os._exit(as_nobody())
        except BaseException:  # noqa: B902  as above
            os._exit(99)
    equal(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "number of the step that failed")


def as_nobody():
    """In a child without privilege: 0, or which step failed."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    nl, privileged = Netlink(), 0 if options.compat == "linux-6.18" else errno.EPERM
    sock = connect()
    steps = [
        (nl.ask(DEV_SET, u32(ID, psp.id) + u32(ENA, psp.ena())).error, privileged),
        (nl.ask(KEY_ROTATE, u32(ID, psp.id)).error, privileged),
        (nl.ask(DEV_ASSOC, u32(ID, psp.id)).error, errno.EPERM),
        (nl.ask(DEV_DISASSOC, b"").error, errno.EPERM),
        (nl.ask(DEV_GET, u32(ID, psp.id)).error, 0),
        (nl.ask(GET_STATS, u32(1, psp.id)).error, 0),
        (len(rx_assoc(sock, nl=nl)), 2),
        (tx_assoc(sock, nl=nl).error, 0),
    ]
    for step, (got, want) in enumerate(steps, 1):
        if got != want:
            print(f"# step {step}: {got}, not {want}", flush=True)
            return step
    return 0
