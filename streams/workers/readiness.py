"""Whether a worker serves: what keeps it from doing so, for /readyz."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from memory.errors import Unavailable
from memory.model.events import LogPartition
from memory.replica.index import ReplicatedIndex
from streams.workers.fetched_batches import held_partitions

LAG_SECONDS = 5.0
STALLED_SECONDS = 60.0
KAFKA_SECONDS = 10.0
"""Two looks: a broker that answers none of them is away."""


class Carrier(Protocol):
    """The part of delivery that tells how it is."""

    waiting_for: str

    def assignment_size(self) -> int: ...


class Index(Protocol):
    """The part of the index that tells how far the memory has come."""

    def ping(self) -> None: ...

    def positions(self) -> Mapping[LogPartition, int]: ...


Ends = Callable[[], Awaitable[Mapping[int, int]]]
"""The offset that the next record will have, of each partition of the worker's."""


class Headway:
    """Tells a worker whose lag only grows from one that gets on, however slowly.

    A worker has stalled when none of its positions has moved for `patience` seconds, though
    records have come since the last one did.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._positions: dict[int, int] = {}
        self._lag_then = 0
        self._lag = 0
        self._since = 0.0
        self._now = 0.0

    def look(self, now: float, lags: Mapping[int, tuple[int, int]]) -> None:
        """At `now`, in seconds: position and end of each partition that the worker has."""
        positions = {partition: position for partition, (position, _) in lags.items()}
        self._lag = sum(max(0, end - position) for position, end in lags.values())
        self._now = now
        if positions != self._positions or not self._lag:
            self._positions, self._lag_then, self._since = positions, self._lag, now

    @property
    def stalled(self) -> bool:
        return self._now - self._since >= self._patience and self._lag > self._lag_then


def beside(index: object) -> dict[str, object]:
    """What keeps a worker from nothing: partitions that are held up, and what is searched."""
    found: dict[str, object] = {}
    if waiting := held_partitions():
        found["held"] = waiting
    if isinstance(index, ReplicatedIndex):
        state = index.state()
        found["search"] = "redis" if state.age is None else f"replica of {state.items} images"
    return found


class Readiness:
    """What keeps a worker from serving; nothing when it is ready.

    `ends` may raise `Unavailable`.
    """

    def __init__(self, ends: Ends, topic_id: str, carrier: Carrier, index: Index) -> None:
        self._ends = ends
        self._topic_id = topic_id
        self._carrier = carrier
        self._index = index
        self._headway = Headway(STALLED_SECONDS)
        self._kafka_answered = time.monotonic()

    async def __call__(self) -> list[str]:
        reasons = []
        if not self._carrier.assignment_size():
            reasons.append("the consumer group has given this worker no partition")
        if self._carrier.waiting_for:
            reasons.append(f"waiting for {self._carrier.waiting_for}")
        if self._headway.stalled:
            reasons.append(f"its lag grows, and nothing was merged for {STALLED_SECONDS:g} s")
        try:
            await asyncio.to_thread(self._index.ping)
        except Unavailable:
            reasons.append("Redis is away")
        if time.monotonic() - self._kafka_answered > KAFKA_SECONDS:
            reasons.append("Kafka is away")
        return reasons

    async def watch(self) -> None:
        """Look at the lag for ever. A server that is away is told by `__call__`.

        Here and not there, so that one look waits for Kafka and not as many as there are probes.
        """
        while True:
            await asyncio.sleep(LAG_SECONDS)
            with suppress(Unavailable):
                await self._look()

    async def _look(self) -> None:
        ends = await self._ends()
        self._kafka_answered = time.monotonic()
        held = await asyncio.to_thread(self._index.positions)
        lags = {
            partition: (held.get(LogPartition(self._topic_id, partition), 0), end)
            for partition, end in ends.items()
        }
        self._headway.look(time.monotonic(), lags)
