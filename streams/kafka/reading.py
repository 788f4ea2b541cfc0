"""Reading partitions of the log from where one is to where one wants to be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Misconfigured, Unavailable
from streams.contract.messages import Record
from streams.kafka.cluster import mapped_errors

STALLED_SECONDS = 30.0


def partitions_of(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """A topic's partitions; `Misconfigured` when it is missing."""
    with mapped_errors():
        partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise Misconfigured(f"{topic}: the topic is missing; create it with `visual-memory topics`")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


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
        with mapped_errors():
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
        elif time.monotonic() - moved > STALLED_SECONDS:
            topics = ", ".join(sorted({tp.topic for tp in unread}))
            raise Unavailable(f"Kafka: no records come from {topics}")
        if finished:
            unread -= finished
            consumer.pause(*finished)
