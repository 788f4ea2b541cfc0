"""What no single worker knows: the memory's sizes, and how far each role is behind its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Unavailable
from memory.model import Stats
from memory.ports import MemoryIndex
from streams import kafka_clients
from streams.kafka_clients import NO_SECURITY, Security
from streams.metrics import BYTES, ITEMS, LABEL_ITEMS, LAG, OPEN_FORGETS, WAITING

INTERVAL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one partition: the offset below which all is merged, and the log's end."""

    topic: str
    partition: int
    position: int
    end: int

    @property
    def records(self) -> int:
        return max(0, self.end - self.position)


class Monitor:
    """Reads sizes from the index and lag from the log. `topics` maps names to topic ids."""

    def __init__(
        self,
        index: MemoryIndex,
        bootstrap: str,
        topics: Mapping[str, str],
        labels: Sequence[str] = (),
        security: Security = NO_SECURITY,
    ) -> None:
        self.index = index
        self._bootstrap = bootstrap
        self._topics = dict(topics)
        self._labels = tuple(labels)
        self._security = security
        self._consumer: KafkaConsumer | None = None
        self._reasons = ["nothing is measured yet"]

    def close(self) -> None:
        """Free the connection to Kafka."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def lag(self) -> list[Lag]:
        """The lag of every partition of the topics. Raises `Unavailable`."""
        with kafka_clients.mapped_errors():
            if self._consumer is None:
                self._consumer = kafka_clients.consumer(self._bootstrap, self._security)
            partitions = [
                TopicPartition(topic, partition)
                for topic in self._topics
                for partition in sorted(self._consumer.partitions_for_topic(topic) or ())
            ]
            ends = self._consumer.end_offsets(partitions)
        merged = self.index.positions()
        return [
            Lag(tp.topic, tp.partition, merged.get((self._topics[tp.topic], tp.partition), 0), end)
            for tp, end in sorted(ends.items())
        ]

    def measure(self) -> Stats:
        """Set the gauges once."""
        stats = self.index.stats()
        ITEMS.set(stats.items)
        WAITING.set(stats.waiting_corrections)
        BYTES.set(stats.bytes)
        OPEN_FORGETS.set(self.index.open_requests())
        if self._labels:
            counts = self.index.label_counts(self._labels)
            for label in self._labels:
                LABEL_ITEMS.labels(label).set(counts.get(label, 0))
        for lag in self.lag():
            LAG.labels(lag.topic, str(lag.partition)).set(lag.records)
        return stats

    def status(self) -> dict[str, Any]:
        """Everything about the memory that a person or a program may want to see at once."""
        stats, digests, counts = self.index.stats(), self.index.digests(), self.index.label_counts()
        return {
            "items": stats.items,
            "labels": len(counts),
            "largest_labels": dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:10]),
            "waiting_corrections": stats.waiting_corrections,
            "open_forgets": self.index.open_requests(),
            "bytes": stats.bytes,
            "embedder": self.index.embedder,
            "digest": {"visible": digests.visible, "full": digests.full},
            "lag": [
                {
                    "topic": lag.topic,
                    "partition": lag.partition,
                    "position": lag.position,
                    "lag": lag.records,
                }
                for lag in self.lag()
            ],
        }

    async def run(self) -> None:
        """Measure for ever; servers that are away make it unready, not dead."""
        while True:
            started = time.monotonic()
            try:
                await asyncio.to_thread(self.measure)
                self._reasons = []
            except Unavailable as error:
                self._reasons = [str(error)]
            # A large memory takes long to count: never more than a twentieth of the time.
            took = time.monotonic() - started
            await asyncio.sleep(max(INTERVAL_SECONDS, 20 * took))

    async def ready(self) -> list[str]:
        """Why the numbers are not fresh, if they are not."""
        return self._reasons
