"""Leases of a rebuild and of erasing: one at a time, taken over when its holder has died."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from memory.errors import Misconfigured, Unavailable
from memory.redis.connection import map_redis_errors

LEASE_SECONDS = 6.0
ERASER_LEASE_SECONDS = 10.0
ERASER_LOOK_SECONDS = 0.5


@contextlib.contextmanager
def _renewing(take: Callable[[], bool], seconds: float, lost: str) -> Iterator[Callable[[], None]]:
    """Renew a lease in a thread, so often; yields what raises `Misconfigured` once another has it."""
    ended, taken = threading.Event(), threading.Event()

    def renew() -> None:
        while not ended.wait(seconds):
            with contextlib.suppress(Unavailable):
                if not take():
                    taken.set()

    def check_held() -> None:
        if taken.is_set():
            raise Misconfigured(lost)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check_held
    finally:
        ended.set()
        thread.join()


class RebuildLease:
    """The lease of one memory's rebuilds. `call` calls a function of law.lua for one holder."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def take(self) -> bool:
        """Take or renew it; False where another rebuild holds it. Raises `Unavailable`."""
        held, _ = self._renew()
        return bool(held)

    @contextlib.contextmanager
    def hold(self) -> Iterator[Callable[[], None]]:
        """Hold it; waits for that of a rebuild that has died.

        Yields what raises `Misconfigured` once another has taken it over. Raises that, too, when
        another rebuild is at work.
        """
        self._wait()
        try:
            with _renewing(self.take, LEASE_SECONDS / 3, "another rebuild has taken over") as check:
                yield check
        finally:
            with contextlib.suppress(Unavailable):
                self._call("vm1_lease", 0)

    def _wait(self) -> None:
        held, first = self._renew()
        while not held:
            time.sleep(0.25)
            held, ends = self._renew()
            if not held and ends != first:
                raise Misconfigured("a rebuild of this memory is at work already")

    def _renew(self) -> Any:
        return self._call("vm1_lease", int(LEASE_SECONDS * 1000))


class EraserLease:
    """Of a namespace's memory. It keeps two from taking turns; that neither spoils what the other
    wrote is seen to elsewhere.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self._key = f"{namespace}:eraser"
        self._token = secrets.token_hex(16).encode()

    def take(self) -> bool:
        """Take or renew it; False where another has it. Raises `Unavailable`."""
        milliseconds = int(ERASER_LEASE_SECONDS * 1000)
        with map_redis_errors():
            if self._client.set(self._key, self._token, nx=True, px=milliseconds):
                return True
            if self._client.get(self._key) != self._token:
                return False
            return bool(self._client.set(self._key, self._token, xx=True, px=milliseconds))

    @contextlib.contextmanager
    def hold(self) -> Iterator[Callable[[], None]]:
        """Wait for it, then hold it. Yields what raises `Misconfigured` once another has it."""
        while not self.take():
            time.sleep(ERASER_LOOK_SECONDS)
        lost = "another process erases this memory by now"
        try:
            with _renewing(self.take, ERASER_LEASE_SECONDS / 4, lost) as check:
                yield check
        finally:
            with contextlib.suppress(Unavailable), map_redis_errors():
                if self._client.get(self._key) == self._token:
                    self._client.delete(self._key)
