"""Knows a log again, or finds where it was cut, by the marks that are kept with its positions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from kafka import KafkaConsumer, TopicPartition

from memory.model.events import LogPartition
from memory.model.logs import Cut, Witness
from memory.model.times import now_us
from memory.ports import LogMarks
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.log_times import first_since

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundCut:
    """A partition that is not the log it was: it was read up to `read`."""

    partition: int
    cut: Cut
    read: int


def find_cuts(
    consumer: KafkaConsumer, topic: str, witnesses: Mapping[int, Sequence[Witness]]
) -> list[FoundCut]:
    """Where partitions were cut, by what was so of each of them. Raises `Unavailable`.

    Of the log that a witness was taken from no record below its offset is younger than it says,
    whatever was appended, compacted or expired since.
    """
    found: dict[int, FoundCut] = {}
    with map_kafka_errors():
        ends = consumer.end_offsets([TopicPartition(topic, p) for p in witnesses])
        for number in range(max(map(len, witnesses.values()), default=0)):
            held = {p: several[number] for p, several in witnesses.items() if len(several) > number}
            since = {TopicPartition(topic, p): w.time // 1000 + 1 for p, w in held.items()}
            younger = first_since(consumer, since)
            for partition, witness in held.items():
                place = TopicPartition(topic, partition)
                first = younger.get(place)
                if first is not None and first.offset < witness.offset:
                    cut = Cut(first.offset, first.timestamp * 1000 - 1)
                elif ends[place] < witness.offset:
                    cut = Cut(ends[place], now_us())
                else:
                    continue
                earlier = found.get(partition)
                if earlier is None or cut.offset < earlier.cut.offset:
                    found[partition] = FoundCut(partition, cut, witness.offset)
    return list(found.values())


class LogWitness:
    """Checks that a topic is the log its positions were read from. Safe for many threads."""

    def __init__(self, cluster: KafkaCluster, topic: str, topic_id: str, marks: LogMarks) -> None:
        self._cluster = cluster
        self._topic = topic
        self._topic_id = topic_id
        self._marks = marks
        self._lock = Lock()
        self._consumer: KafkaConsumer | None = None
        self._noted: dict[LogPartition, Witness] = {}
        self._youngest: dict[LogPartition, int] = {}

    def saw(self, partition: int, time: int) -> None:
        """A record came that was appended at `time`, µs."""
        place = LogPartition(self._topic_id, partition)
        self._youngest[place] = max(time, self._youngest.get(place, time))

    def keep(self, partitions: Iterable[int]) -> None:
        """Keep what was seen of these partitions: their positions are about to move."""
        places = [LogPartition(self._topic_id, partition) for partition in partitions]
        youngest = dict(self._youngest)
        self._marks.note_times({p: youngest[p] for p in places if p in youngest})

    def check(self, partitions: Iterable[int]) -> bool:
        """Whether these partitions are what was read; else the positions are set back to the cut.

        So what may have been missed is read again. Raises `Unavailable`.
        """
        with self._lock:
            held = self._marks.witnesses()
            places = {p: LogPartition(self._topic_id, p) for p in partitions}
            witnesses = {p: held[place] for p, place in places.items() if place in held}
            cuts = self._find(witnesses) if witnesses else []
            for found in cuts:
                self._marks.rewind(places[found.partition], found.cut)
                _log.error(
                    "%s[%d] is not the log that was read up to %d: it was cut at %d; read again "
                    "from there, and what it held beyond is lost unless it is sent again",
                    *(self._topic, found.partition, found.read, found.cut.offset),
                )
            if not cuts:
                new = {places[p]: several[0] for p, several in witnesses.items()}
                self._marks.note_witnesses(
                    {p: witness for p, witness in new.items() if self._noted.get(p) != witness}
                )
                self._noted = new
        return not cuts

    def close(self) -> None:
        """Free the connection to Kafka."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _find(self, witnesses: Mapping[int, Sequence[Witness]]) -> list[FoundCut]:
        if self._consumer is None:
            self._consumer = self._cluster.consumer()
        return find_cuts(self._consumer, self._topic, witnesses)
