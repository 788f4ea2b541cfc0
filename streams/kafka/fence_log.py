"""The facts of forgetting in the log: written before a request is closed, kept for ever."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from memory.errors import Misconfigured
from memory.model.events import LogPartition
from memory.model.forgetting import FenceFact
from memory.model.logs import Witness
from memory.model.times import FOREVER
from memory.ports import LogMarks, Positions
from streams.contract.cloudevents import Header
from streams.contract.facts import decode_fact, encode_fact, key_of_fact
from streams.contract.records import Marker, Record
from streams.contract.topics import Topic
from streams.kafka.cluster import BLOCK_SECONDS, KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.log_witness import LogWitness, find_cuts
from streams.kafka.reading import partitions_of, read_ranges

FACTS_A_POLL = 2000
FACTS_A_STEP = 1000
_DIGEST = re.compile(rb"[0-9a-f]{64}")
NOTHING_READ: Mapping[int, int] = MappingProxyType({})
NOTHING_KNOWN: Mapping[int, Sequence[Witness]] = MappingProxyType({})


def _send(
    producer: KafkaProducer, topic: str, facts: Sequence[FenceFact], timeout: float
) -> list[Any]:
    """Where the log has each fact, in this order, once all in-sync replicas have it; else `Unavailable`."""
    deadline = time.monotonic() + timeout
    with map_kafka_errors():
        sent = [
            # One partition keeps the order, however many the topic has.
            producer.send(topic, fact.value, fact.key, list(fact.headers), partition=0)
            for fact in map(encode_fact, facts)
        ]
        return [each.get(max(0.0, deadline - time.monotonic())) for each in sent]


class ReadLog(Positions, LogMarks, Protocol):
    """How far a log was read, and what it is known by."""


class KafkaFenceLog:
    """Keeps facts in the `fences` topic. Connects at the first append; safe for many threads.

    By `marks`, if given, the log is known again when it has come to what was appended here.
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        topic_id: str = "",
        marks: LogMarks | None = None,
        *,
        timeout: float = BLOCK_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._topic_id = topic_id
        self._marks = marks
        self._known: dict[LogPartition, list[Witness]] = {}
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
        told = _send(producer, self._topic, facts, self._timeout)
        if self._marks is not None:
            known = {
                LogPartition(self._topic_id, place.partition): [
                    Witness(place.offset + 1, place.timestamp * 1000)
                ]
                for place in told
            }
            self._marks.note_witnesses(known, instead_of=self._known)
            self._known |= known

    def connect(self) -> None:
        """Know the topic's leaders now: the first append takes 90 ms less. `Unavailable`."""
        with map_kafka_errors():
            self._connected().partitions_for(self._topic)

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


def read_facts(
    cluster: KafkaCluster,
    topic_id: str,
    index: ReadLog,
    apply: Callable[[Sequence[FenceFact]], None],
) -> None:
    """Apply the facts that an index has not seen, up to the log's present end, and note that.

    Raises `Misconfigured` as `replay`.
    """
    positions, witnesses = _read_so_far(index, topic_id)
    known = LogWitness(cluster, cluster.full_name(Topic.FENCES), topic_id, index)
    ends = replay(
        cluster,
        apply,
        positions,
        witnesses,
        lambda read: known.saw(read.partition, read.offset, read.timestamp),
    )
    known.keep(ends)
    index.advance({LogPartition(topic_id, p): end for p, end in ends.items()})
    # They were found to be so, and the one at the new positions says as much.
    index.note_witnesses({}, {LogPartition(topic_id, p): held for p, held in witnesses.items()})


def _read_so_far(
    index: ReadLog, topic_id: str
) -> tuple[dict[int, int], dict[int, Sequence[Witness]]]:
    """Of each partition the position, and what it is known by."""
    positions = {p: o for (t, p), o in index.positions().items() if t == topic_id}
    return positions, {p: held for (t, p), held in index.witnesses().items() if t == topic_id}


def retell(
    cluster: KafkaCluster,
    topic_ids: Mapping[str, str],
    index: ReadLog,
    facts: Iterable[Sequence[FenceFact]],
) -> int:
    """Tell a log that was cut what the index has taken, and let it be the log from now on.

    Returns how many facts were written; none where the log was not cut.
    """
    topic = cluster.full_name(Topic.FENCES)
    topic_id = topic_ids[topic]
    positions, witnesses = _read_so_far(index, topic_id)
    for partition, offset in positions.items():  # of an older version, without any
        witnesses.setdefault(partition, [Witness(offset, FOREVER)])
    with closing(cluster.consumer()) as consumer:
        cuts = find_cuts(consumer, topic, witnesses)
    count = 0
    with closing(cluster.producer()) as producer:
        for page in facts if cuts else ():
            for start in range(0, len(page), FACTS_A_STEP):
                _send(producer, topic, page[start : start + FACTS_A_STEP], BLOCK_SECONDS)
            count += len(page)
    for found in cuts:
        index.rewind(LogPartition(topic_id, found.partition), found.cut)
    return count


def replay(
    cluster: KafkaCluster,
    apply: Callable[[Sequence[FenceFact]], None],
    positions: Mapping[int, int] = NOTHING_READ,
    witnesses: Mapping[int, Sequence[Witness]] = NOTHING_KNOWN,
    saw: Callable[[Record], None] = lambda _: None,
) -> dict[int, int]:
    """Apply the facts from `positions` (by partition; else the start) to the log's present end.

    Returns the end of each partition. `witnesses` tell whether it is the log that was read up to
    there, `saw` is told each record that is read now. What cannot be understood is
    `Misconfigured`, naming its offset: a memory that passed it over would show what was forgotten.
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
                    f"{positions[tp.partition]}: facts of forgetting are lost; restore the topic, or "
                    "see `visual-memory fences --retell`"
                )
        for found in find_cuts(consumer, topic, witnesses):
            raise Misconfigured(
                f"{topic}[{found.partition}] is not the log that this memory has read up to "
                f"{found.read}: it was cut at {found.cut.offset}, and facts of forgetting are lost; "
                "restore the topic, or see `visual-memory fences --retell`"
            )
        starts = {tp: positions.get(tp.partition, 0) for tp in ends}
        for garbage in _read(consumer, starts, ends, apply, saw):
            raise Misconfigured(
                f"{topic}[{garbage.partition}]@{garbage.offset} cannot be understood: "
                f"{garbage.why}; see `visual-memory fences`"
            )
    return {tp.partition: end for tp, end in ends.items()}


@dataclass(frozen=True, slots=True)
class Garbage:
    """A record of `fences` that cannot be understood, and whom it names as its source.

    `may_hide`: by its key a fact that was written before it may be compacted away.
    """

    partition: int
    offset: int
    time: int
    key: bytes
    source: str | None
    why: str
    may_hide: bool


def find_garbage(cluster: KafkaCluster) -> tuple[int, list[Garbage]]:
    """How many facts `fences` holds, and what cannot be understood."""
    count = 0

    def add(facts: Sequence[FenceFact]) -> None:
        nonlocal count
        count += len(facts)

    with closing(cluster.consumer(max_poll_records=FACTS_A_POLL)) as consumer:
        partitions = partitions_of(cluster, consumer, cluster.full_name(Topic.FENCES))
        with map_kafka_errors():
            ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
        garbage = _read(consumer, {}, ends, add)
    return count, garbage


def give_up(cluster: KafkaCluster, garbage: Garbage) -> None:
    """Write a tombstone for the key of a record: from then on it is passed over. `Unavailable`."""
    with closing(cluster.producer()) as producer, map_kafka_errors():
        producer.send(
            cluster.full_name(Topic.FENCES), None, garbage.key, partition=garbage.partition
        ).get(BLOCK_SECONDS)


def _read(
    consumer: KafkaConsumer,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    apply: Callable[[Sequence[FenceFact]], None],
    saw: Callable[[Record], None] = lambda _: None,
) -> list[Garbage]:
    """Apply the facts, and return what is garbage; what a tombstone follows is not."""
    garbage: dict[tuple[int, bytes], Garbage] = {}
    for records, _ in read_ranges(consumer, starts, ends):
        facts = []
        for record in records:
            saw(record)
            place = (record.partition, record.key or b"")
            try:
                fact = decode_fact(record)
            except ValueError as why:
                garbage[place] = _garbage(record, str(why))
                continue
            if fact is Marker.TOMBSTONE:
                garbage.pop(place, None)
            elif not isinstance(fact, Marker):
                facts.append(fact)
        if facts:
            apply(facts)
    return sorted(garbage.values(), key=lambda one: (one.partition, one.offset))


def _garbage(record: Record, why: str) -> Garbage:
    sources = [value for name, value in record.headers if name == Header.SOURCE and value]
    key = record.key or b""
    return Garbage(
        record.partition,
        record.offset,
        record.timestamp,
        key,
        sources[0].decode(errors="replace")[:80] if sources else None,
        why,
        may_hide=bool(_DIGEST.fullmatch(key)) and key != key_of_fact(record.value or b""),
    )
