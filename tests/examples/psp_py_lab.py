#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What python/psp.py must do over real PSP, both ends of it. examples_test runs it on two hosts.

usage: psp_py_lab.py serve PORT
       psp_py_lab.py ask HOST PORT PSPCTL     asks that server
       psp_py_lab.py early HOST PORT          asks any echo server, with a part said in TLS
       psp_py_lab.py leave HOST PORT          goes after the TLS handshake
       psp_py_lab.py silent HOST PORT         stays, on one connection before and on one behind it,
                                              until the server has closed both

In the current directory lie server.pem, server.key and ca.pem.
"""
import select
import socket
import ssl
import subprocess
import sys

import psp

EARLY = b"said in TLS, before the upgrade;"


def serve(port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server.pem", "server.key")
    psp.announce(context)
    with socket.create_server(("", int(port))) as listener:
        while True:
            tcp, _ = listener.accept()
            tcp.settimeout(10)
            with context.wrap_socket(tcp, server_side=True) as tls:
                tls.sendall(EARLY)
                secured = psp.upgrade(tls)
            with secured.sock as sock:
                data = secured.early
                while data or (data := sock.recv(65536)):
                    sock.sendall(data)
                    data = b""


def connect(host, port, announce=True):
    context = ssl.create_default_context(cafile="ca.pem")
    if announce:
        psp.announce(context)
    tcp = socket.create_connection((host, int(port)), timeout=10)
    tls = context.wrap_socket(tcp, server_hostname=host)
    assert psp.announced(tls) is (True if announce else None)
    return tls


def answer(secured, question):
    """All that comes, from the server's early octets to the end."""
    secured.sock.sendall(question)
    secured.sock.shutdown(socket.SHUT_WR)
    got = secured.early
    while data := secured.sock.recv(65536):
        got += data
    secured.sock.close()
    return got


def early(host, port):
    tls = connect(host, port, announce=False)
    said = b"early" * 5000  # more than a TLS record, less than anybody's limit
    tls.sendall(said)
    got = answer(psp.upgrade(tls), b"late")
    assert got == said + b"late", f"{len(got)} octets came back of {len(said) + 4}"


def blocking(host, port):
    tls = connect(host, port)
    tls.settimeout(7)
    secured = psp.upgrade(tls, timeout=10, versions=[psp.Version.HDR0_AES_GCM_128])
    assert type(secured.sock) is socket.socket and secured.sock.gettimeout() == 7
    assert tls.fileno() == -1, "the SSLSocket still has the descriptor"
    assert secured.info.version is psp.Version.HDR0_AES_GCM_128 and secured.info.proven
    assert 0 not in (secured.info.rx_spi, secured.info.tx_spi) and secured.why_tls == ""
    question = bytes(range(256)) * 1000
    assert answer(secured, question) == EARLY + question


def non_blocking(host, port):
    tls = connect(host, port)
    tls.sendall(b"mine in TLS;")
    tls.setblocking(False)
    up = psp.Upgrade(tls)
    while True:
        try:
            secured = up.step()
            break
        except ssl.SSLWantReadError:
            select.select([tls], [], [], 10)
        except psp.WantRetry as retry:
            select.select([], [], [], retry.delay)
    assert secured.sock.gettimeout() == 0
    secured.sock.settimeout(10)
    assert answer(secured, b"mine in PSP;") == EARLY + b"mine in TLS;mine in PSP;"


def rotation(host, port, pspctl):
    watch = psp.Rotation()
    ticket = watch.ticket()
    secured = psp.upgrade(connect(host, port))
    ticket.bind(secured.info)
    assert ticket.state is psp.Freshness.FRESH
    for expected in (psp.Freshness.RENEW, psp.Freshness.STALE):
        subprocess.run([pspctl, "key", "rotate", "eth0"], check=True)
        assert select.select([watch], [], [], 10)[0], "no notification came"
        assert watch.process() == 1
        assert ticket.state is expected, ticket.state
    watch.close()
    assert watch.fileno() == -1 and ticket.state is psp.Freshness.STALE
    secured.sock.close()


def leave(host, port):
    connect(host, port, announce=False).close()


def silent(host, port):
    tcp = socket.create_connection((host, int(port)))
    tls = connect(host, port, announce=False)
    for sock in (tcp, socket.socket(fileno=tls.detach())):
        sock.settimeout(30)
        try:
            while sock.recv(4096):  # what TLS still says: tickets, the server's offer
                pass
        except ConnectionResetError:
            pass


def ask(host, port, pspctl):
    blocking(host, port)
    non_blocking(host, port)
    rotation(host, port, pspctl)


role, *arguments = sys.argv[1:]
{"serve": serve, "ask": ask, "early": early, "leave": leave, "silent": silent}[role](*arguments)
