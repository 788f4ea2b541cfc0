"""The facts of forgetting in the log: written before anything is erased, kept for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType

from kafka import KafkaProducer, TopicPartition

from memory.errors import Misconfigured
from memory.model.forgetting import FenceFact
from streams.contract.facts import decode_fact, encode_fact
from streams.contract.records import Marker, Record
from streams.contract.topics import Topic
from streams.kafka.cluster import BLOCK_SECONDS, KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.reading import partitions_of, read_ranges

FACTS_A_POLL = 2000
FACTS_A_STEP = 1000
NOTHING_READ: Mapping[int, int] = MappingProxyType({})


class KafkaFenceLog:
    """Keeps facts in the `fences` topic. Connects at the first append; safe for many threads."""

    def __init__(self, cluster: KafkaCluster, timeout: float = BLOCK_SECONDS) -> None:
        self._cluster = cluster
        self._topic = cluster.full_name(Topic.FENCES)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Return once all in-sync replicas have every fact, `Unavailable` after the timeout.

        The timeout is a step's, so that no number of facts is too many.
        Safe to repeat: a fact that arrived all the same is the same fact.
        """
        for start in range(0, len(facts), FACTS_A_STEP):
            self._append(facts[start : start + FACTS_A_STEP])

    def _append(self, facts: Sequence[FenceFact]) -> None:
        producer = self._connected()
        deadline = time.monotonic() + self._timeout
        with map_kafka_errors():
            sent = [
                producer.send(
                    self._topic, key=record.key, value=record.value, headers=list(record.headers)
                )
                for record in map(encode_fact, facts)
            ]
            for acknowledgement in sent:
                acknowledgement.get(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        with self._lock, map_kafka_errors():
            if self._producer is not None:
                self._producer.close(timeout=BLOCK_SECONDS)
                self._producer = None

    def _connected(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = self._cluster.producer()
            return self._producer


def replay(
    cluster: KafkaCluster,
    apply: Callable[[Sequence[FenceFact]], None],
    positions: Mapping[int, int] = NOTHING_READ,
) -> dict[int, int]:
    """Apply the facts from `positions` (by partition; else the start) to the log's present end.

    Returns the end of each partition. What cannot be understood is `Misconfigured`, naming its
    offset: a memory that passed it over would show what was forgotten.
    """
    topic = cluster.full_name(Topic.FENCES)
    with closing(cluster.consumer(max_poll_records=FACTS_A_POLL)) as consumer:
        partitions = partitions_of(cluster, consumer, topic)
        with map_kafka_errors():
            ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
        for tp, end in ends.items():
            if positions.get(tp.partition, 0) > end:
                raise Misconfigured(
                    f"{topic}[{tp.partition}] ends at {end}, but this memory has read up to "
                    f"{positions[tp.partition]}: facts of forgetting are lost; restore the topic"
                )
        starts = {tp: positions.get(tp.partition, 0) for tp in ends}
        for records, _ in read_ranges(consumer, starts, ends):
            facts = [fact for fact in map(_decode, records) if not isinstance(fact, Marker)]
            if facts:
                apply(facts)
    return {tp.partition: end for tp, end in ends.items()}


def _decode(record: Record) -> FenceFact | Marker:
    try:
        return decode_fact(record)
    except ValueError as why:
        raise Misconfigured(
            f"{record.topic}[{record.partition}]@{record.offset} cannot be understood: {why}"
        ) from None
