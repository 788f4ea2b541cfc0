"""No socket of kafka-python's is left open, whatever a connection comes to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka.net.inet import KafkaNetSocket
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from streams.kafka import unused_sockets
from streams.kafka.fail_fast import connections

HOST = "127.0.0.1"


class KeepingContext(ssl.SSLContext):
    """Keeps the sockets that it made, so that nothing but `close` closes them."""

    def __init__(self, *_: Any) -> None:
        self.check_hostname = False
        self.kept: list[ssl.SSLSocket] = []

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self.kept.append(super().wrap_socket(*arguments, **options))
        return self.kept[-1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The sockets that were made for connections, kept as above; by a kafka-python that nobody has changed."""
    monkeypatch.setattr(KafkaNetSocket, "sock_connect", unused_sockets._connect)
    monkeypatch.setattr(KafkaSSLTransport, "handshake", unused_sockets._handshake)
    monkeypatch.setattr(KafkaTCPTransport, "close", unused_sockets._close)
    monkeypatch.setattr(NetworkSelector, "close", unused_sockets._end)
    kept: list[socket.socket] = []
    make = KafkaNetSocket.socket

    def making(factory: KafkaNetSocket, *arguments: Any) -> socket.socket:
        kept.append(make(factory, *arguments))
        return kept[-1]

    monkeypatch.setattr(KafkaNetSocket, "socket", making)
    return kept


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections, and says nothing."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(0)
        yield listening


@pytest.fixture
def full_listener(listener: socket.socket) -> Iterator[socket.socket]:
    """Takes no more connections, and refuses none."""
    taken = [socket.socket() for _ in range(4)]
    for one in taken:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    yield listener
    for one in taken:
        one.close()


def connect(port: int, is_over: Callable[[], bool], **settings: Any) -> None:
    """Try to reach a broker there until it `is_over`, and close the client in the middle of it."""
    client = connections(bootstrap_servers=[f"{HOST}:{port}"], **settings)
    try:
        client._manager.bootstrap_async(20_000)
        while not is_over():
            client.poll(timeout_ms=20)
    finally:
        client.close()


def test_of_a_port_that_refuses(opened: list[socket.socket], listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    connect(port, lambda: len(opened) > 1)
    assert [one.fileno() for one in opened] == [-1] * len(opened)


def test_of_a_server_that_takes_no_connection_when_the_client_is_closed(
    opened: list[socket.socket], full_listener: socket.socket
) -> None:
    connect(full_listener.getsockname()[1], lambda: len(opened) == 1)
    assert [one.fileno() for one in opened] == [-1]


@pytest.mark.usefixtures("opened")
def test_of_a_server_that_says_nothing_of_tls_when_the_client_is_closed(
    listener: socket.socket,
) -> None:
    context = KeepingContext(ssl.PROTOCOL_TLS_CLIENT)
    port = listener.getsockname()[1]
    connect(port, lambda: len(context.kept) == 1, security_protocol="SSL", ssl_context=context)
    assert [one.fileno() for one in context.kept] == [-1]


@pytest.mark.parametrize("size", [1, 1 << 24])
def test_of_a_client_that_is_closed_before_all_is_sent(
    opened: list[socket.socket], listener: socket.socket, size: int
) -> None:
    unused_sockets.close_unused_sockets()
    loop = NetworkSelector()
    sock = KafkaNetSocket().socket(socket.AF_INET)
    sock.connect(listener.getsockname())
    sock.setblocking(False)
    taken, _ = listener.accept()
    with taken:
        transport = KafkaTCPTransport(loop, sock)
        transport.write(b"x" * size)
        transport.close()
        loop.close()
        assert [one.fileno() for one in opened] == [-1]
