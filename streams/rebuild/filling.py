"""Reading the log into the next generation of a memory, as far as the present one has read it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Misconfigured, Rejected
from memory.model.events import LogPartition
from memory.model.outcomes import Outcome
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.contract.records import Marker, Record
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.fence_log import read_facts
from streams.kafka.reading import partitions_of, read_ranges

SAY_SECONDS = 1.0
AHEAD = 1000
"""Records of a partition that workers may have put without having noted it."""


@dataclass(frozen=True, slots=True)
class EventLog:
    """A topic that is read anew: how its records become events, and how those are merged."""

    topic: str
    topic_id: str
    decode: Callable[[Record], Any]
    merge: Callable[[VisualMemory, Sequence[Any]], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a rebuild reads.

    `fences_id` is the id of the topic with the facts of forgetting. `consumer` is asked where
    partitions begin and end; others, made for it, read them, `batch` records at a time.
    """

    logs: Sequence[EventLog]
    fences_id: str
    cluster: KafkaCluster
    consumer: KafkaConsumer
    batch: int


class Filling:
    """Fills `following`, over which `memory` merges, from the log; `held` is the present one.

    `holds_lease` raises when another rebuild has taken over.
    """

    def __init__(
        self,
        sources: Sources,
        held: RedisIndex,
        following: RedisIndex,
        memory: VisualMemory,
        generations: Generations,
        *,
        holds_lease: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._held = held
        self._following = following
        self._memory = memory
        self._generations = generations
        self._holds_lease = holds_lease
        self._say = say
        self._logs = {log.topic: log for log in sources.logs}
        self._fences_id = sources.fences_id
        self._cluster = sources.cluster
        self._consumer = sources.consumer
        self._batch = sources.batch
        self._said = 0.0
        self._last: dict[str, str] = {}

    def warn_of_deletions(self) -> None:
        """Say which partitions have lost their beginning."""
        for topic in [*self._logs, self._cluster.full_name(Topic.FENCES)]:
            partitions = partitions_of(self._cluster, self._consumer, topic)
            with map_kafka_errors():
                begins = self._consumer.beginning_offsets(partitions)
            for tp, offset in begins.items():
                if offset:
                    self._say(f"{topic}[{tp.partition}] begins at {offset}: records were deleted")

    def catch_up(self) -> None:
        """Take the facts of forgetting, then read on to where the present generation is."""
        self._read_fences()
        targets = self._targets()
        with map_kafka_errors():
            ends = self._consumer.end_offsets(list(targets))
        for tp, end in targets.items():
            if end > ends[tp]:
                raise Misconfigured(
                    f"{tp.topic}[{tp.partition}] ends at {ends[tp]}, but this memory has read up "
                    f"to {end}: records are lost; restore the topic"
                )
        for records, reached in self._read(self._reached(), targets):
            self._merge(records)
            self._following.advance(
                {
                    LogPartition(self._logs[tp.topic].topic_id, tp.partition): offset
                    for tp, offset in reached.items()
                }
            )
            self._say_progress(targets)
        self._say_progress(targets, now=True)

    def retry_failures(self) -> None:
        """Merge again what failed in an earlier run: a claim may be back by now."""
        noted = list(self._generations.lost(self._following))
        offsets: dict[TopicPartition, list[int]] = {}
        for place in noted:
            topic, partition, offset = place.rsplit(":", 2)
            offsets.setdefault(TopicPartition(topic, int(partition)), []).append(int(offset))
        starts = {tp: min(found) for tp, found in offsets.items()}
        ends = {tp: max(found) + 1 for tp, found in offsets.items()}
        still: set[str] = set()
        for records, _ in self._read(starts, ends):
            still.update(self._merge([record for record in records if place_of(record) in noted]))
        self._generations.found_again(self._following, sorted(set(noted) - still))

    def images_ahead(self) -> set[str]:
        """Images of records that a worker may have put already, but has not noted."""
        starts = self._targets()
        for log in self._logs.values():
            for tp in partitions_of(self._cluster, self._consumer, log.topic):
                starts.setdefault(tp, 0)
        with map_kafka_errors():
            found = self._consumer.end_offsets(list(starts))
        ends = {tp: min(end, starts[tp] + AHEAD) for tp, end in found.items()}
        return {
            self._held.image_key(event.image_id)
            for records, _ in self._read(starts, ends)
            for log in self._logs.values()
            for _, event in self._decode(log, [r for r in records if r.topic == log.topic])
        }

    def lag(self) -> int:
        """Records that the present generation has read and the next one has not."""
        reached = self._reached()
        return sum(max(0, end - reached[tp]) for tp, end in self._targets().items())

    def _merge(self, records: Sequence[Record]) -> dict[str, str]:
        """Merge records; notes and returns what the memory shows and cannot be made anew."""
        self._holds_lease()
        lost: dict[str, str] = {}
        for topic, log in self._logs.items():
            events = self._decode(log, [record for record in records if record.topic == topic])
            if not events:
                continue
            outcomes = log.merge(self._memory, [event for _, event in events])
            for (record, event), outcome in zip(events, outcomes, strict=True):
                if isinstance(outcome, Rejected) and self._is_shown(event):
                    image = self._following.image_key(event.image_id)
                    lost[place_of(record)] = f"{outcome.reason} {image}"
        self._generations.note_lost(self._following, lost)
        return lost

    def _read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Iterator[tuple[list[Record], dict[TopicPartition, int]]]:
        if any(starts.get(tp, 0) < end for tp, end in ends.items()):
            with closing(self._cluster.consumer(max_poll_records=self._batch)) as consumer:
                yield from read_ranges(consumer, starts, ends)

    def _decode(self, log: EventLog, records: Sequence[Record]) -> list[tuple[Record, Any]]:
        events = []
        for record in records:
            with suppress(Rejected):  # as it was when the present generation read it
                event = log.decode(record)
                if not isinstance(event, Marker):
                    events.append((record, event))
        return events

    def _read_fences(self) -> None:
        read_facts(self._cluster, self._fences_id, self._following, self._memory.apply)

    def _targets(self) -> dict[TopicPartition, int]:
        """Up to where the present generation has read each partition."""
        positions = self._held.positions()
        return {
            TopicPartition(log.topic, partition): offset
            for log in self._logs.values()
            for (topic_id, partition), offset in positions.items()
            if topic_id == log.topic_id
        }

    def _reached(self) -> dict[TopicPartition, int]:
        positions = self._following.positions()
        return {
            tp: positions.get(LogPartition(self._logs[tp.topic].topic_id, tp.partition), 0)
            for tp in self._targets()
        }

    def _is_shown(self, event: Any) -> bool:
        (held,) = self._generations.held(self._held, [self._held.image_key(event.image_id)])
        return bool(held.trace_stamp == event.stamp)

    def _say_progress(self, targets: Mapping[TopicPartition, int], *, now: bool = False) -> None:
        if not now and time.monotonic() - self._said < SAY_SECONDS:
            return
        reached = self._reached()
        for topic in self._logs:
            places = [tp for tp in targets if tp.topic == topic]
            done = sum(min(reached[tp], targets[tp]) for tp in places)
            text = f"{topic}: {done} of {sum(targets[tp] for tp in places)} records"
            if self._last.get(topic) != text:
                self._say(text)
            self._last[topic] = text
        self._said = time.monotonic()


def place_of(record: Record) -> str:
    """Where a record stands, as text: ``topic:partition:offset``."""
    return f"{record.topic}:{record.partition}:{record.offset}"
