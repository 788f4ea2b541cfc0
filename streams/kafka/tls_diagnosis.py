"""What went wrong with TLS, told from errors and by asking the port."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

HANDSHAKE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class TlsFault:
    """A fault that stays until a setting changes; `text` for a person."""

    kind: Literal["untrusted", "name", "unwanted", "plain"]
    text: str


UNTRUSTED = TlsFault("untrusted", "the server's certificate is not trusted")
OTHER_NAME = TlsFault("name", "the server's certificate is for another host name")
UNWANTED = TlsFault("unwanted", "the server refuses our certificate, or wants one")
PLAIN = TlsFault("plain", "no TLS is spoken there")


def fault_of(error: BaseException) -> TlsFault | None:
    """The fault behind an error, however many libraries wrapped it; None if it may pass."""
    for part in _behind(error, set()):
        if isinstance(part, ssl.SSLCertVerificationError):
            other_name = part.verify_code in _NAME_CODES
            return OTHER_NAME if other_name else UNTRUSTED
        if isinstance(part, ssl.SSLError):
            reason = (part.reason or "").upper()
            if reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
                return PLAIN
            if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
                return UNWANTED
    return None


def is_cut_short(error: BaseException) -> bool:
    """Whether the other side hung up within the TLS handshake, as one without TLS may do."""
    return any(isinstance(part, ssl.SSLEOFError) for part in _behind(error, set()))


_NAME_CODES = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def _behind(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """The error, what it was raised from, and errors among its arguments."""
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for part in (error.__cause__, error.__context__, *error.args):
        if isinstance(part, BaseException):
            yield from _behind(part, seen)


def speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake succeeds there; whose certificate it is does not matter."""
    try:
        with (
            socket.create_connection((host, port), HANDSHAKE_SECONDS) as plain,
            _trusting().wrap_socket(plain),
        ):
            return True
    except OSError:
        return False


def ignores_tls(host: str, port: int) -> bool:
    """Whether somebody takes a connection there and leaves a TLS handshake without an answer.

    A Redis without TLS does: it waits for the line to end that the handshake seems to begin.
    """
    try:
        plain = socket.create_connection((host, port), HANDSHAKE_SECONDS)
    except OSError:
        return False
    try:
        with plain, _trusting().wrap_socket(plain):
            return False
    except TimeoutError:
        return True
    except OSError:
        return False


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
