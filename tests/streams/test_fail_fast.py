"""How often a broker may hang up before it is taken to be one without TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from streams.kafka.fail_fast import HANG_UPS, NoTlsSpoken, connections

HOST = "127.0.0.1"


class HangingUp:
    """Reads what a client says first, and hangs up."""

    def __init__(self, listening: socket.socket) -> None:
        self.port = listening.getsockname()[1]
        self.times = 0
        self._listening = listening

    def serve(self) -> None:
        while True:
            try:
                taken, _ = self._listening.accept()
            except OSError:  # the test is over
                return
            with taken:
                taken.recv(1 << 16)
                self.times += 1


@pytest.fixture
def hanging_up() -> Iterator[HangingUp]:
    with socket.create_server((HOST, 0)) as listening:
        server = HangingUp(listening)
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_broker_that_hangs_up_in_the_handshake_is_tried_again_and_then_given_up(
    hanging_up: HangingUp,
) -> None:
    """One that ends does so too, once."""
    client = connections(
        bootstrap_servers=[f"{HOST}:{hanging_up.port}"],
        security_protocol="SSL",
        ssl_context=ssl.create_default_context(),
        reconnect_backoff_ms=1,
        reconnect_backoff_max_ms=1,
    )
    try:
        with pytest.raises(NoTlsSpoken):
            client._manager.bootstrap(20_000)
    finally:
        client.close()
    assert hanging_up.times == HANG_UPS
