"""Read what a web server answers to a claim's address."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import ssl
import threading
from concurrent.futures import Future
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from memory.claims.addresses import PORTS, Address, is_public
from memory.errors import Reason, Rejected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
from memory.claims.limits import CHUNK, Deadline, Fetched, Limits

MAX_FRAMING_BYTES = 8 << 20
"""Bytes that headers and the framing of chunks may take."""


def read_http(
    address: Address, limits: Limits, *, private_addresses: bool, tls: ssl.SSLContext | None
) -> Fetched:
    """The body of a GET, sent without cookies, credentials or a proxy; no redirect is followed.

    Without `private_addresses` nothing is connected to but the public internet. `tls` is for
    https alone. Raises TimeoutError past the deadline.
    """
    try:
        with contextlib.ExitStack() as opened:
            plain = _connected(address, limits.deadline, private_addresses=private_addresses)
            opened.callback(plain.close)
            connection = plain
            if tls is not None:
                plain.settimeout(limits.deadline.remaining())
                connection = tls.wrap_socket(plain, server_hostname=_bare(address.host))
                opened.callback(connection.close)
            connection.settimeout(limits.deadline.remaining())
            connection.sendall(_request(address))
            stream = _Stream(connection, limits)
            response = HTTPResponse(cast("socket.socket", _Readable(stream)), method="GET")
            opened.callback(response.close)
            response.begin()
            return _body(response, limits)
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError:
        raise _unavailable("its certificate cannot be verified") from None
    except ssl.SSLError:
        raise _unavailable("it does not speak TLS as it should") from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise _unavailable(f"it ended the connection ({name})") from None
    except (HTTPException, ValueError):  # ValueError: a chunk of a negative size
        raise _unavailable("its answer is no HTTP, or was cut short") from None


def _unavailable(why: str) -> Rejected:
    return Rejected(
        Reason.CLAIM_UNAVAILABLE,
        f"the claim's server could not give the image: {why}; send the event again later",
    )


def _bare(host: str) -> str:
    return host.strip("[]")


def _request(address: Address) -> bytes:
    host = address.host
    if address.port != PORTS[address.scheme]:
        host = f"{host}:{address.port}"
    lines = (
        f"GET {address.path}{address.query} HTTP/1.1",
        f"Host: {host}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "User-Agent: visual-memory",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _connected(address: Address, deadline: Deadline, *, private_addresses: bool) -> socket.socket:
    """A socket connected to one of the host's addresses, none of which is looked up twice."""
    found = _looked_up(_bare(address.host), address.port, deadline)
    allowed = [a for a in found if private_addresses or is_public(a[1][0])]
    if not allowed:
        raise _private()
    fault: OSError | None = None
    for left, (family, place) in zip(range(len(allowed), 0, -1), allowed, strict=True):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(deadline.remaining() / left)
            connection.connect(place)
            if not private_addresses and not is_public(connection.getpeername()[0]):
                raise _private()
        except OSError as error:
            connection.close()
            fault = error
        except Rejected:
            connection.close()
            raise
        else:
            return connection
    if isinstance(fault, TimeoutError):
        raise fault
    name = errno.errorcode.get((fault and fault.errno) or 0, type(fault).__name__)
    raise _unavailable(f"no connection ({name})")


def _private() -> Rejected:
    return Rejected(
        Reason.CLAIM_PRIVATE_ADDRESS,
        "the claim's host has a private, local or reserved IP address; if that is meant to be, "
        "set claim_private_addresses",
    )


def _looked_up(
    host: str, port: int, deadline: Deadline
) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """Address families and socket addresses of a host."""
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)

    # The resolver takes no deadline. Left behind, it gives up by itself after half a minute.
    threading.Thread(target=ask, name="claim-lookup", daemon=True).start()
    try:
        found = answer.result(deadline.remaining())
    except TimeoutError:
        raise
    except (OSError, UnicodeError):
        raise _unavailable("its host's name is not known") from None
    return [(family, place) for family, _, _, _, place in found]


def _body(response: HTTPResponse, limits: Limits) -> Fetched:
    if 300 <= response.status < 400:
        raise Rejected(
            Reason.CLAIM_REDIRECTED,
            "the claim's address redirects to another, which is not followed; "
            "put the final address in the event",
        )
    if response.status in (404, 410):
        raise Rejected(
            Reason.CLAIM_MISSING,
            f"there is nothing at the claim's address (status {response.status})",
        )
    if response.status in (401, 403):
        raise Rejected(
            Reason.CLAIM_DENIED,
            f"the claim's server refuses (status {response.status}); this memory sends no "
            "credentials: let it read the image, or sign the address for as long as it may wait",
        )
    if response.status != 200:
        raise _unavailable(f"it answers with status {response.status}")
    limits.check(response.length or 0)
    data = bytearray()
    while chunk := response.read(min(CHUNK, limits.max_bytes + 1 - len(data))):
        data += chunk
        limits.check(len(data))
    if response.length:
        raise _unavailable("it ended the connection before the image's end")
    # Stores keep what an uploader once said of an object: only its digest tells whether it is so.
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    return Fetched(bytes(data), encoded=encoding != "identity")


class _Stream(io.RawIOBase):
    """What comes from a socket, within limits that hold for headers and framing as well.

    http.client by itself puts its timeout off with each byte that drips in, and reads a chunk
    of the size -1 until memory ends.
    """

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        super().__init__()
        self._connection = connection
        self._limits = limits
        self._left = 2 * limits.max_bytes + MAX_FRAMING_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._left < 0:
            self._limits.check(self._limits.max_bytes + 1)
        self._connection.settimeout(self._limits.deadline.remaining())
        received = self._connection.recv_into(buffer)
        self._left -= received
        return received


class _Readable:
    """As much of a socket as http.client needs to read an answer."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._stream, CHUNK)
