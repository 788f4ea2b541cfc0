"""kafka-python's sockets that came to nothing, closed at once.

By itself it lets go of one that is not connected in time, or whose handshake fails, or whose client is
closed meanwhile: such a socket stays open until it is collected.
"""

from __future__ import annotations

import socket
from typing import Any

from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport

_connect = KafkaNetSocket.sock_connect
_handshake = KafkaSSLTransport.handshake


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


def close_unused_sockets() -> None:
    """Let kafka-python's clients in this process do so."""
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _shake_hands_or_close
