"""The monitor: gauges of the memory's sizes, and of how far each role is behind its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Unavailable
from memory.model.events import LogPartition
from memory.model.state import Stats
from memory.model.times import SECOND
from memory.ports import MonitoredIndex
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.log_times import written_at
from streams.workers.metrics import (
    BYTES,
    BYTES_LIMIT,
    ITEMS,
    LABEL_ITEMS,
    LAG,
    LOG_CUTS,
    MEASURED,
    OLDEST_OPEN_FORGET,
    OPEN_FORGETS,
    PRUNED,
    WAITING,
)

INTERVAL_SECONDS = 2.0
STALE_SECONDS = 15.0
"""A measurement that takes as long has met a server that hangs."""


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
    """Reads sizes from the index and lag from the log. `topics` maps names to topic ids.

    `forgets` is the one of them that holds forget-requests.
    """

    def __init__(
        self,
        index: MonitoredIndex,
        cluster: KafkaCluster,
        topics: Mapping[str, str],
        labels: Sequence[str] = (),
        forgets: str | None = None,
    ) -> None:
        self.index = index
        self._cluster = cluster
        self._topics = dict(topics)
        self._labels = tuple(labels)
        self._forgets = forgets
        self._consumer: KafkaConsumer | None = None
        self._reasons = ["nothing is measured yet"]
        self._measured = time.monotonic()
        self._took = 0.0
        self._due = STALE_SECONDS

    def close(self) -> None:
        """Free the connection to Kafka."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def lag(self) -> list[Lag]:
        """The lag of every partition of the topics. Raises `Unavailable`."""
        with map_kafka_errors():
            if self._consumer is None:
                self._consumer = self._cluster.consumer()
            partitions = [
                TopicPartition(topic, partition)
                for topic in self._topics
                for partition in sorted(self._consumer.partitions_for_topic(topic) or ())
            ]
            ends = self._consumer.end_offsets(partitions)
        merged = self.index.positions()

        def position(tp: TopicPartition) -> int:
            return merged.get(LogPartition(self._topics[tp.topic], tp.partition), 0)

        return [Lag(tp.topic, tp.partition, position(tp), end) for tp, end in sorted(ends.items())]

    def oldest_open_forget(self, lags: Sequence[Lag]) -> float:
        """Seconds since the oldest forget-request without a receipt came; 0 without one.

        Of requests that wait in the log the time is the log's, of those taken up their own.
        `lags` is what `lag` has just returned. Raises `Unavailable`.
        """
        waiting = {
            TopicPartition(lag.topic, lag.partition): lag.position
            for lag in lags
            if lag.topic == self._forgets and lag.records
        }
        with map_kafka_errors():
            times = [1000 * at for at in written_at(self._consumer, waiting).values()]
        if (taken_up := self.index.oldest_request()) is not None:
            times.append(taken_up)
        now = time.time()
        return max([0.0, *(now - at / SECOND for at in times)])

    def measure(self) -> Stats:
        """Set the gauges once; each says when, and those that could be measured stay new."""
        self.index.follow()  # the memory may have been rebuilt
        stats = self.index.stats()
        ITEMS.set(stats.items)
        PRUNED.set(stats.pruned)
        WAITING.set(stats.waiting_corrections)
        BYTES.set(stats.bytes)
        BYTES_LIMIT.set(stats.bytes_limit)
        OPEN_FORGETS.set(self.index.open_requests())
        if self._labels:
            counts = self.index.label_counts(self._labels)
            for label in self._labels:
                LABEL_ITEMS.labels(label).set(counts.get(label, 0))
        MEASURED.labels("sizes").set_to_current_time()
        lags = self.lag()
        for lag in lags:
            LAG.labels(lag.topic, str(lag.partition)).set(lag.records)
        cuts = self.index.cuts()
        for topic, topic_id in self._topics.items():
            count = sum(len(found) for place, found in cuts.items() if place.topic_id == topic_id)
            LOG_CUTS.labels(topic).set(count)
        MEASURED.labels("lag").set_to_current_time()
        OLDEST_OPEN_FORGET.set(self.oldest_open_forget(lags))
        MEASURED.labels("forgets").set_to_current_time()
        return stats

    def status(self) -> dict[str, Any]:
        """Everything about the memory that a person or a program may want to see at once."""
        stats, digests, counts = self.index.stats(), self.index.digests(), self.index.label_counts()
        return {
            "items": stats.items,
            "labels": len(counts),
            "largest_labels": dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:10]),
            "shared_ids": digests.shared_ids,
            "waiting_corrections": stats.waiting_corrections,
            "pruned": stats.pruned,
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
            started, pause = time.monotonic(), INTERVAL_SECONDS
            try:
                await asyncio.to_thread(self.measure)
                self._reasons = []
                self._measured = time.monotonic()
                took = self._measured - started
                # A large memory takes long to count: never more than a twentieth of the time. A
                # server that has hung for once has not grown.
                pause = max(pause, 20 * min(took, self._took))
                self._took = took
                self._due = pause + max(STALE_SECONDS, 2 * took)
            except Unavailable as error:
                # Waiting for a server costs nobody anything.
                self._reasons = [str(error)]
            await asyncio.sleep(pause)

    async def ready(self) -> list[str]:
        """Why the numbers are not fresh, if they are not."""
        age = time.monotonic() - self._measured
        if not self._reasons and age > self._due:
            return [f"a server does not answer: the last measurement is {age:.0f} s old"]
        return self._reasons
