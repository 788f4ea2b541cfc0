"""Knows a log again, or finds where it was cut, by the marks that are kept with its positions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from kafka import KafkaConsumer, TopicPartition

from memory.model.events import LogPartition
from memory.model.logs import Cut, Witness, Witnesses
from memory.model.times import SECOND, now_us
from memory.ports import LogMarks
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import map_kafka_errors
from streams.kafka.log_times import first_since

_log = logging.getLogger(__name__)

GAP = SECOND // 2
"""No Kafka is stopped, set back and started again within it."""


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
        # Kafka is asked for one time a partition at once.
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


@dataclass(slots=True)
class _Reading:
    """How far a partition was read here, and by what the log is known up to there.

    Behind each of `turns` may be another log than before; its value says whether it is kept.
    """

    expected: int
    youngest: int
    turns: dict[Witness, bool] = field(default_factory=dict)

    def saw(self, offset: int, time: int) -> None:
        if offset < self.expected or time > self.youngest + GAP:
            self.turns.setdefault(Witness(self.expected, self.youngest), False)
        self.expected = offset + 1
        self.youngest = max(self.youngest, time)

    def turns_that_are(self, *, kept: bool) -> list[Witness]:
        return [turn for turn, is_kept in list(self.turns.items()) if is_kept is kept]


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
        self._readings: dict[int, _Reading] = {}

    def saw(self, partition: int, offset: int, time: int) -> None:
        """A record came that was appended at `time`, µs."""
        reading = self._readings.get(partition)
        if reading is None:
            reading = self._readings[partition] = _Reading(offset, time)
        reading.saw(offset, time)

    def keep(self, partitions: Iterable[int]) -> dict[LogPartition, int]:
        """Keep what was seen of these partitions: their positions are about to move.

        Returns the time of the youngest record of each, µs, which goes with its position.
        """
        held = {p: self._readings[p] for p in partitions if p in self._readings}
        turns = {p: new for p, read in held.items() if (new := read.turns_that_are(kept=False))}
        if turns:
            self._marks.note_witnesses({self._place(p): new for p, new in turns.items()})
        for partition, new in turns.items():
            held[partition].turns.update(dict.fromkeys(new, True))
        return {self._place(p): read.youngest for p, read in held.items()}

    def check(self, partitions: Iterable[int], *, anew: bool = False) -> bool:
        """Whether these partitions are what was read; else the positions are set back to the cut.

        So what may have been missed is read again. With `anew` they are about to be read on from
        their positions. Raises `Unavailable`.
        """
        with self._lock:
            places = {p: self._place(p) for p in partitions}
            readings = [self._readings[p] for p in places if p in self._readings]
            looked_at = [(reading, reading.turns_that_are(kept=True)) for reading in readings]
            held = self._marks.witnesses()
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
                self._settle({places[p]: several for p, several in witnesses.items()})
                for reading, turns in looked_at:
                    for turn in turns:
                        reading.turns.pop(turn, None)
            if anew:
                self._begin(places)
        return not cuts

    def _settle(self, known: Witnesses) -> None:
        """One witness stands for all that were found to be so."""
        new = {
            place: several[:1]
            for place, several in known.items()
            if len(several) > 2 or self._noted.get(place) != several[0]
        }
        if new:
            self._marks.note_witnesses(new, instead_of={place: known[place] for place in new})
        self._noted = {place: several[0] for place, several in known.items()}

    def _begin(self, places: Mapping[int, LogPartition]) -> None:
        known = self._marks.witnesses()
        self._readings = {
            partition: _Reading(known[place][0].offset, known[place][0].time)
            for partition, place in places.items()
            if place in known
        }

    def _place(self, partition: int) -> LogPartition:
        return LogPartition(self._topic_id, partition)

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
