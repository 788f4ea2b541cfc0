"""One client for all systems: what they are asked, and how long they take."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.service import quantiles, vectors
from memory.model.vectors import Vector

K = 100
SETTLE_SECONDS = 120.0
WRITES_A_SECOND = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """A record for a system, encoded before the clock starts."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Dialect(Protocol):
    """How a system is spoken to. A neighbour is (image id, label)."""

    @property
    def answers(self) -> str:
        """The topic of the answers."""
        ...

    def ingest(self, image: str, label: str, vector: Vector) -> Sent: ...

    def relabel(self, image: str, label: str, vector: Vector) -> Sent:
        """Some want the vector again."""
        ...

    def delete(self, image: str) -> Sent: ...

    def ask(self, question: str, vector: Vector, k: int) -> Sent: ...

    def question_of(self, record: Any) -> str: ...

    def neighbours(self, record: Any) -> list[tuple[str, str]]: ...


class Driver:
    """Sends records, and waits for answers."""

    def __init__(
        self, dialect: Dialect, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer
    ) -> None:
        self._dialect = dialect
        self._producer = producer
        self._consumer = consumer
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    @classmethod
    @asynccontextmanager
    async def connect(cls, kafka: str, dialect: Dialect) -> AsyncIterator[Self]:
        producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=0, acks="all")
        consumer = AIOKafkaConsumer(dialect.answers, bootstrap_servers=kafka)
        await producer.start()
        await consumer.start()
        # A position is known once the consumer has found the topic's end.
        for partition in consumer.assignment():
            await consumer.position(partition)
        driver = cls(dialect, producer, consumer)
        reading = asyncio.create_task(driver._read())
        try:
            yield driver
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            await consumer.stop()
            await producer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            waiting = self._waiting.pop(self._dialect.question_of(record), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(record)

    async def send(self, record: Sent) -> Awaitable[Any]:
        """Returns what to wait for until the record is acknowledged."""
        sent: Awaitable[Any] = await self._producer.send(
            record.topic, record.value, key=record.key, headers=list(record.headers)
        )
        return sent

    async def ask(self, vector: Vector, k: int = K, seconds: float = 30) -> Any:
        """The record of the answer."""
        question = f"q{next(self._numbers)}"
        self._waiting[question] = asyncio.get_running_loop().create_future()
        await self.send(self._dialect.ask(question, vector, k))
        return await asyncio.wait_for(self._waiting[question], seconds)

    async def nearest(self, vector: Vector) -> tuple[str, str] | None:
        found = self._dialect.neighbours(await self.ask(vector, 1))
        return found[0] if found else None

    async def until(
        self,
        vector: Vector,
        seen: Callable[[tuple[str, str] | None], bool],
        pause: float = 0,
    ) -> None:
        """Ask again and again until the nearest neighbour is as it should be."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not seen(await self.nearest(vector)):
            if time.monotonic() > deadline:
                raise TimeoutError("the system has not learnt it")
            await asyncio.sleep(pause)

    async def up(self) -> None:
        """Wait until the system answers at all."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                await self.ask(vectors(1)[0], 1, seconds=2)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    async def learn(self, items: Sequence[Vector], first: int = 0) -> float:
        """Events a second, from the first sent to the last seen in an answer; ids count from `first`."""
        dialect = self._dialect
        told = [(f"i{n}", f"l{n % 100}") for n in range(first, first + len(items))]
        records = [dialect.ingest(*one, v) for one, v in zip(told, items, strict=True)]
        started = time.perf_counter()
        for sent in [await self.send(record) for record in records]:
            await sent
        # A question now and then: asked all the time, it takes the CPU that is measured.
        await self.until(items[-1], lambda found: found == told[-1], pause=0.05)
        return len(items) / (time.perf_counter() - started)

    async def latencies(self, asked: Sequence[Vector], k: int = K) -> list[float]:
        """Seconds of questions by one asker."""
        found = []
        for vector in asked:
            started = time.perf_counter()
            await self.ask(vector, k)
            found.append(time.perf_counter() - started)
        return found

    async def side_by_side(
        self, asked: Sequence[Vector], askers: int, k: int = K
    ) -> dict[str, float]:
        """Answers a second, and the latencies, of so many askers."""
        started = time.perf_counter()
        seconds = await asyncio.gather(
            *(self.latencies(asked[n::askers], k) for n in range(askers))
        )
        rate = len(asked) / (time.perf_counter() - started)
        return {"per_s": round(rate, 1), **quantiles([s for each in seconds for s in each])}

    async def under_writes(self, asked: Sequence[Vector], items: Sequence[Vector]) -> list[float]:
        """Seconds of questions by one asker while items are written again and again."""

        async def write() -> None:
            started = time.perf_counter()
            for n in itertools.count():
                at = n % len(items)
                await self.send(self._dialect.ingest(f"w{at}", "written", items[at]))
                await asyncio.sleep(max(0, started + n / WRITES_A_SECOND - time.perf_counter()))

        writing = asyncio.create_task(write())
        try:
            await asyncio.sleep(1)
            return await self.latencies(asked)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def lags(self, rounds: Sequence[Vector]) -> dict[str, dict[str, float]]:
        """Seconds from sending to the first answer that shows it, by what was sent."""
        dialect = self._dialect
        found: dict[str, list[float]] = {"freshness": [], "relabel": [], "delete": []}
        for n, vector in enumerate(rounds):
            image = f"fresh{n}"
            steps = (
                ("freshness", dialect.ingest(image, "a", vector), (image, "a")),
                ("relabel", dialect.relabel(image, "b", vector), (image, "b")),
                ("delete", dialect.delete(image), None),
            )
            for name, record, wanted in steps:
                started = time.perf_counter()
                await self.send(record)
                await self.until(
                    vector,
                    lambda seen, wanted=wanted, image=image: (  # type: ignore[misc]
                        seen == wanted if wanted else seen is None or seen[0] != image
                    ),
                )
                found[name].append(time.perf_counter() - started)
        return {name: quantiles(seconds) for name, seconds in found.items()}

    async def wrong_answers(self, items: Sequence[Vector], relabelled: int, deleted: int) -> int:
        """Stale labels and ghosts after corrections and deletions sent at once, and a rest."""
        dialect = self._dialect
        sent = [
            await self.send(dialect.relabel(f"i{n}", "new", items[n])) for n in range(relabelled)
        ]
        gone = range(relabelled, relabelled + deleted)
        sent += [await self.send(dialect.delete(f"i{n}")) for n in gone]
        for one in sent:
            await one
        await asyncio.sleep(3)
        wrong = 0
        for n in range(relabelled):
            wrong += await self.nearest(items[n]) != (f"i{n}", "new")
        for n in gone:
            seen = await self.nearest(items[n])
            wrong += seen is not None and seen[0] == f"i{n}"
        return wrong
