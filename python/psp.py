# SPDX-License-Identifier: Apache-2.0
"""PSP for programs of the standard library's ssl: libpsp-tls in Python.

After the TLS handshake both ends call upgrade() at the same point of their protocol. What comes back
is a plain socket, which the kernel's TCP and PSP secure from then on:

    tls = context.wrap_socket(sock, server_hostname="db.example")
    secured = psp.upgrade(tls)                  # blocks, up to 10 s; raises psp.PspError
    secured.sock.sendall(b"hello")              # socket.socket: PSP
    data = secured.early + secured.sock.recv(4096)

With policy=Policy.PREFERRED the connection stays on TLS where one of the two hosts has no PSP; then
secured.sock is the ssl.SSLSocket as before, and secured.why_tls says why. Programs with an event loop
of their own use Upgrade and its step().

Needs CPython 3.8 or newer, libpsp-tls.so.0, and an ssl module that uses the same OpenSSL library as it
does; anything else is refused with a sentence, before a pointer of it is used. asyncio does TLS in
memory, not on the socket, and is refused too: do TLS with a non-blocking ssl.SSLSocket, see Upgrade.

docs/tls.md tells what is promised and what is asked of a connection.

Threads: one at a time for each object; calls that wait let others run.
"""
from __future__ import annotations

import ctypes
import enum
import functools
import select
import socket
import ssl
import sys
import time
import weakref
from dataclasses import dataclass
from typing import Any, Iterable, Optional

import _ssl

__all__ = [
    "ErrorCode", "Freshness", "Info", "Policy", "PspError", "PspTimeout", "Rotation", "Secured", "Ticket",
    "Upgrade", "Version", "WantDrain", "WantRead", "WantRetry", "WantWrite", "announce", "announced", "upgrade",
]  # fmt: skip


class Version(enum.IntEnum):
    """A PSP version, as the kernel numbers them. The GMAC ones authenticate and do not encrypt."""

    HDR0_AES_GCM_128 = 0
    HDR0_AES_GCM_256 = 1
    HDR0_AES_GMAC_128 = 2
    HDR0_AES_GMAC_256 = 3


class Policy(enum.IntEnum):
    """What to do where one end has no PSP. To stay on TLS, both ends must prefer."""

    REQUIRED = 0
    PREFERRED = 1


class ErrorCode(enum.IntEnum):
    """What kind of failure it was; docs/tls.md has the usual causes."""

    NONE = 0
    IO = 1
    PEER_CLOSED = 2
    PROTOCOL = 3
    AUTHENTICATION = 4
    NO_PSP = 5
    RX_ASSOC = 6
    TX_ASSOC = 7
    CLEAR_DATA = 8
    PEER_REFUSED = 9
    USAGE = 10
    TIMEOUT = 11


class Freshness(enum.IntEnum):
    """How long a connection may still live. RENEW: establish another before the next rotation."""

    FRESH = 0
    RENEW = 1
    STALE = 2
    UNKNOWN = 3


class PspError(OSError):
    """It failed: str() is the library's sentence, `code` an ErrorCode. Close the socket."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


class PspTimeout(PspError, TimeoutError):
    """Time was up; the sentence says what was missing."""


class WantRead(ssl.SSLWantReadError):
    """Call step() again when the socket is readable. Also an ssl.SSLWantReadError."""


class WantWrite(ssl.SSLWantWriteError):
    """Call step() again when the socket is writable. Also an ssl.SSLWantWriteError."""


class WantRetry(BlockingIOError):
    """Call step() again in `delay` seconds."""

    delay = 0.02


class WantDrain(BlockingIOError):
    """The peer has sent a lot before its upgrade: take it with read_early(), then call again."""


@dataclass(frozen=True)
class Info:
    """What came of an upgrade to PSP. `proven`: the stream begins as agreed inside TLS."""

    version: Version
    dev_id: int
    rx_spi: int
    tx_spi: int
    proven: bool


@dataclass(frozen=True)
class Secured:
    """The end of an upgrade.

    sock     PSP: a plain socket.socket; the SSLSocket that was given is detached. TLS: that SSLSocket.
    early    What the peer's application had sent already: it comes before all that `sock` gives.
    info     None on TLS.
    why_tls  Why it is TLS; empty with PSP.
    """

    sock: socket.socket
    early: bytes
    info: Optional[Info]
    why_tls: str = ""


# --- libpsp-tls, as psp/tls.h has it -----------------------------------------------------------------
_PSP, _TLS = 1, 2  # enum psp_upgrade_status
_WANTS = {3: WantRead, 4: WantWrite, 5: WantRetry, 6: WantDrain}
_pointer = ctypes.c_void_p


class _Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("versions", ctypes.c_uint32), ("policy", ctypes.c_int),
        ("protocol", ctypes.c_char_p), ("pspd", ctypes.c_char_p), ("early_max", ctypes.c_size_t),
    ]  # fmt: skip


class _Info(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint32) for name in ("version", "dev_id", "rx_spi", "tx_spi", "proven")
    ]  # fmt: skip


class _Error(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("text", ctypes.c_char * 160), ("attr", ctypes.c_char * 32)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "psp_upgrade_new": (_pointer, [_pointer, ctypes.POINTER(_Options)]),
    "psp_upgrade": (ctypes.c_int, [_pointer]),
    "psp_upgrade_pending": (ctypes.c_size_t, [_pointer]),
    "psp_upgrade_read": (ctypes.c_size_t, [_pointer, ctypes.c_char_p, ctypes.c_size_t]),
    "psp_upgrade_message": (ctypes.c_char_p, [_pointer]),
    "psp_upgrade_error": (ctypes.c_int, [_pointer]),
    "psp_upgrade_get_info": (ctypes.c_int, [_pointer, ctypes.POINTER(_Info)]),
    "psp_upgrade_free": (None, [_pointer]),
    "psp_upgrade_announce": (ctypes.c_int, [_pointer]),
    "psp_upgrade_announced": (ctypes.c_int, [_pointer]),
    "psp_rotation_new": (_pointer, [ctypes.c_char_p, ctypes.POINTER(_Error)]),
    "psp_rotation_fd": (ctypes.c_int, [_pointer]),
    "psp_rotation_process": (ctypes.c_int, [_pointer]),
    "psp_rotation_free": (None, [_pointer]),
    "psp_ticket_new": (_pointer, [_pointer]),
    "psp_ticket_bind": (None, [_pointer, ctypes.c_uint32]),
    "psp_ticket_state": (ctypes.c_int, [_pointer]),
    "psp_ticket_free": (None, [_pointer]),
}
_OPENSSL_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "SSL_get_fd": (ctypes.c_int, [_pointer]),
    "SSL_get_SSL_CTX": (_pointer, [_pointer]),
}


def _declare(library: ctypes.CDLL, signatures: dict[str, tuple[Any, list[Any]]]) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def _address(library: ctypes.CDLL, name: str) -> Optional[int]:
    """Where a library, or one that it is linked with, has a function."""
    function = getattr(library, name, None)
    return ctypes.cast(function, _pointer).value if function is not None else None


@functools.lru_cache(maxsize=None)
def _library() -> ctypes.CDLL:
    """libpsp-tls, once it is sure that an SSL of Python's ssl is an SSL to it."""
    if sys.implementation.name != "cpython":
        raise PspError(f"psp.py knows the ssl objects of CPython only, this is {sys.implementation.name}")
    try:
        library = ctypes.CDLL("libpsp-tls.so.0")
    except OSError as error:
        raise PspError(f"cannot load libpsp-tls ({error}): install it, run ldconfig or set LD_LIBRARY_PATH") from None
    of_python = _address(ctypes.CDLL(getattr(_ssl, "__file__", None)), "SSL_get_fd")
    if of_python is None or of_python != _address(library, "SSL_get_fd"):
        raise PspError(
            f"{sys.executable} has its own OpenSSL ({ssl.OPENSSL_VERSION}), which is not the library that libpsp-tls "
            "uses: take a Python that uses the system's libssl.so.3, for example /usr/bin/python3"
        )
    _declare(library, _SIGNATURES)
    _declare(library, _OPENSSL_SIGNATURES)
    return library


# --- CPython's ssl objects ---------------------------------------------------------------------------
def _ssl_pointer(ssl_object: Any, owner: Optional[ssl.SSLSocket]) -> int:
    """The SSL* in an _ssl._SSLSocket, which begins

        PyObject_HEAD; PyObject *Socket (a weak reference to the owner); SSL *ssl; PySSLContext *ctx;

    in every CPython from 3.7 to 3.13. Both neighbours are known here, and so is checked that they
    are where they must be before the pointer between them is believed.
    """
    word = ctypes.sizeof(_pointer)
    if type(ssl_object).__basicsize__ < object.__basicsize__ + 3 * word:
        raise PspError(f"the ssl objects of {sys.version.split()[0]} are not laid out as psp.py knows them")
    of_owner, pointer, context = (_pointer * 3).from_address(id(ssl_object) + object.__basicsize__)
    owners = [None] if owner is None else [id(reference) for reference in weakref.getweakrefs(owner)]
    if of_owner not in owners or context != id(ssl_object.context) or not pointer:
        raise PspError(f"the ssl objects of {sys.version.split()[0]} are not laid out as psp.py knows them")
    return pointer


def _ssl_of(sock: ssl.SSLSocket) -> int:
    if not isinstance(sock, ssl.SSLSocket):
        raise PspError(f"an ssl.SSLSocket is needed, on a socket of its own; this is {type(sock).__name__}")
    if sock._sslobj is None:  # type: ignore[attr-defined]
        raise PspError("TLS has not begun on this socket: connect it first")
    library = _library()
    pointer = _ssl_pointer(sock._sslobj, sock)  # type: ignore[attr-defined]
    if library.SSL_get_fd(pointer) != sock.fileno():
        raise PspError("this SSLSocket does TLS over something else than its own socket")
    return pointer


# --- the upgrade -------------------------------------------------------------------------------------
def _free(library: ctypes.CDLL, state: int, _keeps_the_ssl_alive: ssl.SSLSocket) -> None:
    library.psp_upgrade_free(state)


class Upgrade:
    """One upgrade under way, for event loops.

    `sock` is non-blocking (settimeout(0)) and its TLS 1.3 handshake is done. Until the end nothing else
    may use it. `versions` are those that may be used; without any, those that encrypt. `pspd` is
    where pspd listens, and nobody else is asked; without it $PSP_SOCKET, or else the
    kernel and pspd at "@softpsp".

        up = psp.Upgrade(tls)
        try:
            secured = up.step()
        except psp.WantRead: ...        # as ssl's; also WantWrite, WantRetry, WantDrain
        except psp.PspError: ...        # failed: close tls
    """

    def __init__(
        self,
        sock: ssl.SSLSocket,
        *,
        policy: Policy = Policy.REQUIRED,
        versions: Iterable[Version] = (),
        pspd: Optional[str] = None,
        early_max: int = 0,
    ) -> None:
        bits = sum(1 << version for version in set(versions))
        options = _Options(ctypes.sizeof(_Options), bits, policy, None, pspd.encode() if pspd else None, early_max)
        pointer = _ssl_of(sock)
        self._library = _library()
        self._sock = sock
        self._state = self._library.psp_upgrade_new(pointer, ctypes.byref(options))
        if not self._state:
            raise MemoryError("psp_upgrade_new")
        # Before the SSL is freed, whatever way this object goes.
        self._end = weakref.finalize(self, _free, self._library, self._state, sock)

    def step(self) -> Secured:
        """Goes on as far as it can without waiting. Raises what it wants, or PspError."""
        self._check()
        status = self._library.psp_upgrade(self._state)
        if status in (_PSP, _TLS):
            return self._ended(status)
        if status in _WANTS:
            raise _WANTS[status](self._message())
        error = PspError(self._message(), ErrorCode(self._library.psp_upgrade_error(self._state)))
        self.close()
        raise error

    def run(self, timeout: Optional[float] = 10.0) -> Secured:
        """Waits for the end, in seconds; None: for ever. Raises PspError or WantDrain."""
        self._check()
        before = self._sock.gettimeout()
        self._sock.settimeout(0)
        sock: socket.socket = self._sock
        try:
            secured = self._run(timeout)
            sock = secured.sock
            return secured
        finally:
            sock.settimeout(before)

    def _run(self, timeout: Optional[float]) -> Secured:
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        while True:
            try:
                return self.step()
            except (WantRead, WantWrite) as want:
                poller.register(self._sock, select.POLLIN if isinstance(want, WantRead) else select.POLLOUT)
                longest = None
            except WantRetry as retry:
                longest = retry.delay
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                error = PspTimeout(f"gave up after {timeout:g} s without {self._message()}", ErrorCode.TIMEOUT)
                self.close()
                raise error
            if longest is None:
                poller.poll(None if left is None else left * 1000 + 1)
            else:
                time.sleep(longest)

    def pending(self) -> int:
        """How many octets of the peer's application read_early() would give."""
        self._check()
        return int(self._library.psp_upgrade_pending(self._state))

    def read_early(self) -> bytes:
        """Takes what the peer's application sent before its upgrade and nobody has read."""
        buffer = ctypes.create_string_buffer(self.pending())
        size = self._library.psp_upgrade_read(self._state, buffer, len(buffer))
        return buffer.raw[:size]

    def close(self) -> None:
        """Ends it; before its end that cancels it, and the socket must be closed. May be repeated."""
        self._end()

    def __enter__(self) -> Upgrade:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if not self._end.alive:
            raise PspError("this upgrade has ended")

    def _message(self) -> str:
        return self._library.psp_upgrade_message(self._state).decode(errors="replace")

    def _ended(self, status: int) -> Secured:
        early, message, raw = self.read_early(), self._message(), _Info(ctypes.sizeof(_Info))
        self._library.psp_upgrade_get_info(self._state, ctypes.byref(raw))
        self.close()
        if status == _TLS:
            return Secured(self._sock, early, None, message)
        timeout = self._sock.gettimeout()
        plain = socket.socket(fileno=self._sock.detach())
        plain.settimeout(timeout)
        return Secured(plain, early, Info(Version(raw.version), raw.dev_id, raw.rx_spi, raw.tx_spi, bool(raw.proven)))


def upgrade(
    sock: ssl.SSLSocket,
    *,
    timeout: Optional[float] = 10.0,
    policy: Policy = Policy.REQUIRED,
    versions: Iterable[Version] = (),
    pspd: Optional[str] = None,
    early_max: int = 0,
) -> Secured:
    """Makes of a TLS connection a PSP connection, and waits for it up to `timeout` seconds.

    Raises PspError (PspTimeout); then the SSLSocket can only be closed. The socket's own time-out, or
    that it has none, is afterwards as it was.
    """
    with Upgrade(sock, policy=policy, versions=versions, pspd=pspd, early_max=early_max) as under_way:
        try:
            return under_way.run(timeout)
        except WantDrain:
            raise PspError("the peer sent more before its upgrade than early_max allows", ErrorCode.PROTOCOL) from None


def announce(context: ssl.SSLContext) -> None:
    """Makes the connections of `context` announce the upgrade in their TLS handshake.

    So a server serves clients with and without it on one port: where the peer did not announce, an
    upgrade sends nothing and ends at once. Call it once, before the first wrap_socket.
    """
    library = _library()
    server = context.protocol == ssl.PROTOCOL_TLS_SERVER
    # An SSL tells its SSL_CTX by a public call; nobody needs to know where a context keeps it.
    probe = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server, None if server else "localhost")
    pointer = _ssl_pointer(probe._sslobj, None)  # type: ignore[attr-defined]
    if library.psp_upgrade_announce(library.SSL_get_SSL_CTX(pointer)) != 0:
        raise PspError("OpenSSL refuses the announcement; was it made already?")


def announced(sock: ssl.SSLSocket) -> Optional[bool]:
    """Whether the peer announced the upgrade; None if this end did not ask."""
    return {1: True, 0: False}.get(_library().psp_upgrade_announced(_ssl_of(sock)))


# --- rotation ----------------------------------------------------------------------------------------
class Rotation:
    """Watches the device keys of this host. It has a fileno(), for select and selectors."""

    def __init__(self, pspd: Optional[str] = None) -> None:
        self._library = _library()
        error = _Error(ctypes.sizeof(_Error))
        self._watch = self._library.psp_rotation_new(pspd.encode() if pspd else None, ctypes.byref(error))
        if not self._watch:
            raise PspError(error.text.decode(errors="replace"), ErrorCode.NO_PSP)
        self._end = weakref.finalize(self, self._library.psp_rotation_free, self._watch)

    def fileno(self) -> int:
        """Readable when process() has something to do; -1: pspd went away, make a new one."""
        return int(self._library.psp_rotation_fd(self._watch)) if self._end.alive else -1

    def process(self) -> int:
        """Never waits. Returns how many tickets have changed."""
        return int(self._library.psp_rotation_process(self._watch)) if self._end.alive else 0

    def ticket(self) -> Ticket:
        """A ticket for a connection, to be taken BEFORE its upgrade."""
        if not self._end.alive:
            raise PspError("this watch is closed")
        return Ticket(self._library, self._library.psp_ticket_new(self._watch))

    def close(self) -> None:
        self._end()


class Ticket:
    """One connection's; made by Rotation.ticket(). It may outlive the watch."""

    def __init__(self, library: ctypes.CDLL, ticket: int) -> None:
        if not ticket:
            raise MemoryError("psp_ticket_new")
        self._library, self._ticket = library, ticket
        weakref.finalize(self, library.psp_ticket_free, ticket)

    def bind(self, info: Info) -> None:
        """Says which device the connection stands on, after its upgrade."""
        self._library.psp_ticket_bind(self._ticket, info.dev_id)

    @property
    def state(self) -> Freshness:
        """As of the last process() of the watch."""
        return Freshness(self._library.psp_ticket_state(self._ticket))
