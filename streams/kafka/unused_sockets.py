"""kafka-python's sockets that came to nothing, closed at once.

By itself it lets go of one that is not connected in time, or whose handshake fails, or whose client is
closed meanwhile or before all is sent: such a socket stays open until it is collected.
"""

from __future__ import annotations

import socket
from typing import Any
from weakref import WeakSet

from kafka.net.inet import KafkaNetSocket
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

_UNSENT = "_unsent"
"""Of a loop the transports that close themselves once they have sent what they hold, if it lasts so long."""
_connect = KafkaNetSocket.sock_connect
_handshake = KafkaSSLTransport.handshake
_close = KafkaTCPTransport.close
_end = NetworkSelector.close


async def _connect_or_close(
    factory: KafkaNetSocket, net: Any, sock: socket.socket, *rest: Any, **options: Any
) -> socket.socket:
    try:
        connected: socket.socket = await _connect(factory, net, sock, *rest, **options)
    except BaseException:  # a client that is closed ends it so
        sock.close()
        raise
    return connected


async def _shake_hands_or_close(transport: KafkaSSLTransport) -> None:
    try:
        await _handshake(transport)
    except BaseException:  # as above
        transport.close()
        raise


def _close_or_note(transport: KafkaTCPTransport) -> None:
    _close(transport)
    if transport._sock is not None:  # noqa: SLF001 - told nowhere else
        vars(transport._net).setdefault(_UNSENT, WeakSet()).add(transport)  # noqa: SLF001 - as above


def _end_and_close(loop: NetworkSelector) -> None:
    _end(loop)
    for transport in vars(loop).pop(_UNSENT, ()):
        if transport._sock is not None:  # noqa: SLF001 - as above
            transport._sock.close()  # noqa: SLF001 - as above


def close_unused_sockets() -> None:
    """Let kafka-python's clients in this process do so."""
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _shake_hands_or_close
    KafkaTCPTransport.close = _close_or_note
    NetworkSelector.close = _end_and_close
