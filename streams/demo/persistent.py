"""A client that carries on though any process of its stack is killed, the supervisor too."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from memory.errors import Unavailable
from streams import bootstrap, stack
from streams.client import MemoryClient
from streams.config.settings import Settings
from streams.local.process import LocalServerError
from streams.local.state import read_state

_T = TypeVar("_T")

STARTS = 3
START_SECONDS = 300.0
LOOK_SECONDS = 1.0
QUICK = {"compaction_lag": 10, "answers_kept": 25, "erasure_pause": 1, "erasure_limit": 60}
"""Settings with which what is forgotten is erased within a minute."""


def start(folder: Path) -> stack.Addresses:
    """Start the stack of a folder, again if one of its processes is killed meanwhile."""
    for remaining in reversed(range(STARTS)):
        try:
            return stack.start_in_background(
                folder, kafka=None, redis=None, timeout=START_SECONDS, defaults=QUICK
            )
        except LocalServerError:
            if not remaining:
                raise
    raise AssertionError


class Persistent:
    """Repeats what fails while a server is away; starts the stack again when all of it is.

    What is done must be the same when it is done twice: events have ids of their own.
    """

    def __init__(self, folder: Path, source: str, say: Callable[[str], None], wait: float) -> None:
        self._folder = folder
        self._source = source
        self._say = say
        self._wait = wait
        self.run = uuid.uuid4().hex
        """For ids of events: the same at each repetition, another in another run."""
        self._client = self._connected()

    def settings(self) -> Settings:
        """Of the stack that runs now."""
        return stack.settings_for(self._folder, default=self._folder, kafka=None, redis=None)

    def _connected(self) -> MemoryClient:
        return bootstrap.client(self.settings(), self._source)

    def do(self, attempt: Callable[[MemoryClient], _T]) -> _T:
        """What `attempt` returns once it does not raise `Unavailable`, for `wait` seconds."""
        deadline = time.monotonic() + self._wait
        while True:
            try:
                return attempt(self._client)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                self._mend()
                time.sleep(LOOK_SECONDS)

    def result(self, future: Future[_T]) -> _T:
        """Of a future of the client; `Unavailable` when the stack is gone meanwhile."""
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except TimeoutError:
                if self._is_gone():
                    raise Unavailable("the stack is gone") from None

    def _is_gone(self) -> bool:
        return read_state(self._folder) is None

    def _mend(self) -> None:
        if not self._is_gone():
            return
        self._say("  the stack was killed: starting it again on its data")
        self.close()
        start(self._folder)
        self._client = self._connected()

    def close(self) -> None:
        # Nobody may be there to take what is unsent.
        with contextlib.suppress(Unavailable):
            self._client.close(LOOK_SECONDS)
