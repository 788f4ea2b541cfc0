"""Tools of the event loop: batches of what waits together, waiting for positions, and bounds of it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from memory.errors import Unavailable
from memory.model.answers import Position
from memory.model.events import LogPartition

_T = TypeVar("_T")
R = TypeVar("R")

MAX_WAITING = 4096
"""Questions that wait in one worker for what they must have seen."""
MAX_WAITING_BYTES = 256 << 20


class Batcher(Generic[_T, R]):
    """Runs what waits together: each batch holds all that came while the last one ran."""

    def __init__(
        self, run: Callable[[Sequence[_T]], Awaitable[Sequence[R]]], *, at_most: int
    ) -> None:
        self._run = run
        self._at_most = at_most
        self._waiting: deque[tuple[_T, asyncio.Future[R]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def submit(self, item: _T) -> R:
        """The result for `item`; raises what the run of its batch raised."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                size = min(self._at_most, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(size)]
                try:
                    results = await self._run([item for item, _ in batch])
                    told = list(zip(batch, results, strict=True))
                except Exception as error:  # noqa: BLE001 - handed to those who wait for it
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), result in told:
                        if not future.done():
                            future.set_result(result)
        finally:
            self._running = None


class Watch:
    """Waits until the memory has come to given positions; one poll serves all who wait."""

    INTERVAL = 0.004
    """Seconds between two looks: a fifth of what an event takes to be in the answers (18 ms)."""

    def __init__(self, positions: Callable[[], Awaitable[Mapping[LogPartition, int]]]) -> None:
        self._positions = positions
        self._waiting: list[tuple[tuple[Position, ...], asyncio.Future[bool]]] = []
        self._polling: asyncio.Task[None] | None = None

    async def wait_for(self, after: tuple[Position, ...], within: float) -> bool:
        """Whether every record at `after` is merged `within` so many seconds."""
        if not after:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((after, future))
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            return await asyncio.wait_for(future, within)
        except TimeoutError:
            return False

    async def _poll(self) -> None:
        try:
            while self._waiting:
                try:
                    merged = await self._positions()
                except Unavailable:
                    merged = {}
                except Exception as error:  # noqa: BLE001 - handed to those who wait for it
                    self._fail(error)
                    continue
                still = []
                for after, future in self._waiting:
                    if future.done():
                        continue
                    if all(merged.get(p.log_partition, 0) > p.offset for p in after):
                        future.set_result(True)
                    else:
                        still.append((after, future))
                self._waiting = still
                await asyncio.sleep(self.INTERVAL)
        finally:
            self._polling = None

    def _fail(self, error: Exception) -> None:
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting = []


class WaitingRoom:
    """Bounds the questions that wait, in all and for each asker, by number and by bytes.

    An asker has a quarter of the room: nobody's questions can keep all others' out.
    """

    def __init__(self, seats: int = MAX_WAITING, size: int = MAX_WAITING_BYTES) -> None:
        self._max_seats, self._max_bytes = seats, size
        self._seats, self._bytes = Counter[str](), Counter[str]()
        self._all_seats = self._all_bytes = 0

    @contextmanager
    def seat(self, asker: str, size: int) -> Iterator[bool]:
        """Whether there is room for a question of so many bytes, as long as this lasts."""
        has_room = (
            4 * (self._seats[asker] + 1) <= self._max_seats
            and 4 * (self._bytes[asker] + size) <= self._max_bytes
            and self._all_seats < self._max_seats
            and self._all_bytes + size <= self._max_bytes
        )
        if not has_room:
            yield False
            return
        self._take(asker, 1, size)
        try:
            yield True
        finally:
            self._take(asker, -1, -size)

    def _take(self, asker: str, seats: int, size: int) -> None:
        self._seats[asker] += seats
        self._bytes[asker] += size
        self._all_seats += seats
        self._all_bytes += size
        if not self._seats[asker]:
            del self._seats[asker], self._bytes[asker]
