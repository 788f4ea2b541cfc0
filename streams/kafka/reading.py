"""Reading partitions of the log: up to given ends, or as records come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Rejected, Unavailable, VisualMemoryError
from streams.contract.records import Marker, Record
from streams.kafka.admin import partition_count
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors

_T = TypeVar("_T")

SILENT_SECONDS = 30.0


def partitions_of(
    cluster: KafkaCluster, consumer: KafkaConsumer, topic: str
) -> list[TopicPartition]:
    """The partitions of a topic, by its full name.

    Raises `Misconfigured` when it is missing or this user may not see it, `Unavailable`.
    """
    with map_kafka_errors():
        found = consumer.partitions_for_topic(topic)
    # A consumer does not tell a topic that is missing from one that is not ours to see.
    partitions = sorted(found) if found else range(partition_count(cluster, topic))
    return [TopicPartition(topic, partition) for partition in partitions]


def read_ranges(
    consumer: KafkaConsumer,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> Iterator[tuple[list[Record], dict[TopicPartition, int]]]:
    """The records of each partition from its start (0 where none is given) to before its end.

    Wants a consumer that has read nothing yet: one that reads a partition again may get nothing.

    Yields what one poll brings, and up to where the partitions it reads are read then.
    """
    unread = {tp for tp, end in ends.items() if starts.get(tp, 0) < end}
    if not unread:
        return
    consumer.assign(sorted(unread))
    for tp in unread:
        consumer.seek(tp, starts.get(tp, 0))
    moved = time.monotonic()
    while unread:
        with map_kafka_errors():
            batches = consumer.poll(timeout_ms=500)
            # A position passes records that compaction has removed; an offset would not.
            reached = {tp: min(consumer.position(tp) or 0, ends[tp]) for tp in unread}
        records = [
            Record.of(record)
            for tp, batch in batches.items()
            for record in batch
            if record.offset < ends[tp]
        ]
        finished = {tp for tp in unread if reached[tp] >= ends[tp]}
        if batches or finished:
            yield records, reached
            moved = time.monotonic()
        elif time.monotonic() - moved > SILENT_SECONDS:
            topics = ", ".join(sorted({tp.topic for tp in unread}))
            raise Unavailable(f"Kafka: no records come from {topics}")
        if finished:
            unread -= finished
            consumer.pause(*finished)


class Tail:
    """Records of some topics from given offsets, or from the present end. For one thread."""

    def __init__(
        self,
        cluster: KafkaCluster,
        topics: Sequence[str],
        start: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._consumer = cluster.consumer()
        try:
            partitions = [
                tp for topic in topics for tp in partitions_of(cluster, self._consumer, topic)
            ]
            with map_kafka_errors():
                self._consumer.assign(partitions)
                ends = self._consumer.end_offsets(partitions) if start is None else {}
                for tp in partitions:
                    given = (start or {}).get((tp.topic, tp.partition), 0)
                    self._consumer.seek(tp, ends.get(tp, given))
        except VisualMemoryError:
            self._consumer.close()
            raise

    def ends(self) -> dict[tuple[str, int], int]:
        """By (topic, partition), the offset that the next record will have."""
        with map_kafka_errors():
            found = self._consumer.end_offsets(sorted(self._consumer.assignment()))
        return {(tp.topic, tp.partition): end for tp, end in found.items()}

    def positions(self) -> dict[tuple[str, int], int]:
        """By (topic, partition), the offset to read on from."""
        with map_kafka_errors():
            return {
                (tp.topic, tp.partition): self._consumer.position(tp)
                for tp in self._consumer.assignment()
            }

    def poll(self, timeout: float) -> list[Record]:
        """What is there, waiting at most `timeout` seconds for a first record."""
        with map_kafka_errors():
            batches = self._consumer.poll(timeout_ms=max(0, int(timeout * 1000)))
        return [Record.of(record) for batch in batches.values() for record in batch]

    def close(self) -> None:
        self._consumer.close()


def decode_known(
    records: Sequence[Record], decode: Callable[[Record], _T | Marker]
) -> Iterator[_T]:
    """What records say; those of another version are passed by."""
    for record in records:
        try:
            said = decode(record)
        except Rejected:
            continue
        if not isinstance(said, Marker):
            yield said
