"""A server as a child process, on a port of 127.0.0.1, with its data in a folder."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from streams.local.process import ChildSpec, LocalServerError, Process

HOST = "127.0.0.1"
PROBE_TIMEOUT = 1.0
_PORT_TRIES = 5


part = 0, 1
"""Which part of all ports this process chooses from, of how many: those that choose at once, each from
its own, choose none twice.
"""
_chosen: deque[int] = deque(maxlen=1000)
"""By this process lately: nobody may listen there yet."""


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, and was not returned lately. Raises LocalServerError.

    Below the range from which the kernel takes the ports of outgoing connections: a client
    that calls a dead server's port there may be connected to itself and keep the server out.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        low = 32768
    number, of = part
    for port in random.sample(range(10_000 + number, max(low, 12_000), of), 200):
        if port not in _chosen and _is_free(port):
            _chosen.append(port)
            return port
    raise LocalServerError(f"no free port found on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Server(Process):
    """A server on a port of its own choice, or on the one it is told."""

    def __init__(
        self,
        name: str,
        data_dir: Path,
        cache: Path | None,
        port: int | None,
        extra_config: Mapping[str, str] | None,
        ready_timeout: float,
        stop_timeout: float,
    ) -> None:
        self._dir = data_dir.absolute()
        super().__init__(
            ChildSpec(
                name,
                (),
                self._dir / "server.log",
                ready_timeout=ready_timeout,
                stop_timeout=stop_timeout,
            )
        )
        self._cache = cache
        self._port = port
        self._port_is_fixed = port is not None
        self._extra = dict(extra_config or {})

    @property
    def port(self) -> int:
        """The port, which stays the same at every further start of this object.

        Raises LocalServerError before the first start when none was given.
        """
        if self._port is None:
            raise LocalServerError(f"{self.name} has not been started and has no port yet")
        return self._port

    @property
    def address(self) -> str | None:
        return None if self._port is None else f"{HOST}:{self._port}"

    def spawn(self) -> None:
        if self._port is None:
            self._port = free_port()
        super().spawn()

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """As Process.start; a port that it chose and somebody else took is chosen anew."""
        for remaining in reversed(range(_PORT_TRIES)):
            try:
                super().start(cancelled)
            except LocalServerError:
                if not remaining or "Address already in use" not in self.tail():
                    raise
                if not self._port_is_fixed:
                    self._port = None
                elif not _is_free(self.port):
                    raise  # else it was Kafka's controller port, chosen anew at every start
            else:
                self._port_is_fixed = True
                return

    def live(self) -> bool:
        """As `ready`: a server that is up has nothing else to answer with."""
        return self.ready()

    def _probe(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), PROBE_TIMEOUT)
