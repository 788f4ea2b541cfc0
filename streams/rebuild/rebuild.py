"""A memory made anew from the log: read into its next generation, which is then put in place.

The next generation reads what the present one has read and not further, so that it knows nothing
that the other does not: whatever is forgotten meanwhile reaches both (memory/facts.py). Every step
can be repeated; a rebuild that was killed is taken up where its generation's positions are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition

from memory.errors import Misconfigured, Rejected, Unavailable
from memory.facts import take
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from memory.service import Outcome, VisualMemory
from streams.contract.records import Marker, Record
from streams.kafka.errors import mapped_errors
from streams.kafka.reading import partitions_of, read_ranges
from streams.workers.fence_log import read_facts

T = TypeVar("T")

AHEAD = 1000
"""Records of a partition that workers may have put without having noted it."""
NEAR = 1000
"""Records that are made up while the old generation's positions stand still."""
SAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Log:
    """A topic that is read anew: how its records become events, and how those are merged."""

    topic: str
    topic_id: str
    decode: Callable[[Record], Any]
    merge: Callable[[VisualMemory, Sequence[Any]], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Loss:
    """An event that the memory shows and that cannot be made anew, and why."""

    topic: str
    partition: int
    offset: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """How a rebuild ended: `switched`, or refused for what would be lost.

    `gone` counts images of which no record of the log tells any more what the memory holds.
    """

    switched: bool
    losses: tuple[Loss, ...] = ()
    gone: int = 0


class Rebuild:
    """One rebuild. `open_next` begins or takes up the next generation."""

    def __init__(
        self,
        held: RedisIndex,
        generations: Generations,
        open_next: Callable[[], tuple[RedisIndex, VisualMemory]],
        logs: Sequence[Log],
        fences: tuple[str, str],
        consumer: KafkaConsumer,
        consume: Callable[[], KafkaConsumer],
        say: Callable[[str], None],
    ) -> None:
        """`fences` is the name and the id of the topic with the facts of forgetting.

        `consumer` is asked where partitions begin and end, what `consume` makes reads them.
        """
        self._held = held
        self._generations = generations
        self._open_next = open_next
        self._logs = {log.topic: log for log in logs}
        self._fences, self._fences_id = fences
        self._consume = consume
        self._consumer = consumer
        self._say = say
        self._said = 0.0
        self._last: dict[str, str] = {}
        self._following: RedisIndex
        self._memory: VisualMemory
        self._holds_lease: Callable[[], None]

    def run(self, *, drop_unembeddable: bool = False) -> Result:
        """Make the memory anew and put it in place; take up what an earlier run left.

        Raises `Misconfigured`, also when another rebuild is at work.
        """
        with self._generations.leased() as self._holds_lease:
            dropping = self._generations.dropping()
            self._drop()
            if dropping and int(dropping) < int(self._held.schema.generation):
                self._say("finished the rebuild that had ended before its last step")
                return Result(switched=True)
            self._following, self._memory = self._open_next()
            result = self._patiently(
                partial(self._fill_and_switch, drop_unembeddable=drop_unembeddable)
            )
            if result.switched:
                self._say(f"generation {self._following.schema.generation} answers now")
                self._patiently(self._drop)
            return result

    def abandon(self) -> bool:
        """Give an unfinished rebuild up and drop what it made; False where there is none."""
        with self._generations.leased() as self._holds_lease:
            found = self._generations.abandon()
            self._drop()
        return found

    def _patiently(self, step: Callable[[], T]) -> T:
        """Do a step again, with back-off, as long as a server is away."""
        delay = 0.2
        while True:
            try:
                return step()
            except Unavailable as error:
                self._say(f"waiting: {error}")
                self._holds_lease()
                time.sleep(delay)
                delay = min(2 * delay, 5.0)

    def _fill_and_switch(self, *, drop_unembeddable: bool) -> Result:
        self._warn_of_deleted()
        self._catch_up()
        self._try_again()
        self._say("comparing the two generations")
        lacking = list(self._generations.lacking(self._held, self._following))
        facts = self._generations.forgotten(self._held, self._following, lacking)
        take(self._following, facts)
        while True:
            self._catch_up()
            lacking = self._generations.still_lacking(self._held, self._following, lacking)
            losses, explained = self._losses(lacking)
            gone = set(lacking) - explained
            if gone:
                gone -= self._ahead()
            if (losses or gone) and not drop_unembeddable:
                return Result(switched=False, losses=tuple(losses), gone=len(gone))
            self._following.label_counts(())  # `Unavailable` while its index is being built
            if sum(self._behind().values()) <= NEAR and self._switch():
                return Result(switched=True, losses=tuple(losses), gone=len(gone))

    def _warn_of_deleted(self) -> None:
        for topic in [*self._logs, self._fences]:
            partitions = partitions_of(self._consumer, topic)
            with mapped_errors():
                begins = self._consumer.beginning_offsets(partitions)
            for tp, offset in begins.items():
                if offset:
                    self._say(f"{topic}[{tp.partition}] begins at {offset}: records were deleted")

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
            tp: positions.get((self._logs[tp.topic].topic_id, tp.partition), 0)
            for tp in self._targets()
        }

    def _behind(self) -> dict[TopicPartition, int]:
        reached = self._reached()
        return {tp: max(0, end - reached[tp]) for tp, end in self._targets().items()}

    def _catch_up(self) -> None:
        """Take the facts of forgetting, then read on to where the present generation is."""
        self._read_fences()
        targets = self._targets()
        with mapped_errors():
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
                    (self._logs[tp.topic].topic_id, tp.partition): offset
                    for tp, offset in reached.items()
                }
            )
            self._say_progress(targets)
        self._say_progress(targets, now=True)

    def _read_fences(self) -> None:
        held = self._following.positions()
        positions = {p: offset for (t, p), offset in held.items() if t == self._fences_id}
        with closing(self._consume()) as consumer:
            ends = read_facts(consumer, self._fences, self._memory.apply, positions)
        self._following.advance({(self._fences_id, p): end for p, end in ends.items()})

    def _read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Iterator[tuple[list[Record], dict[TopicPartition, int]]]:
        if any(starts.get(tp, 0) < end for tp, end in ends.items()):
            with closing(self._consume()) as consumer:
                yield from read_ranges(consumer, starts, ends)

    def _merge(self, records: Sequence[Record]) -> dict[str, str]:
        """Merge records; notes and returns what the memory shows and cannot be made anew."""
        self._holds_lease()
        lost: dict[str, str] = {}
        for topic, log in self._logs.items():
            events = self._decoded(log, [record for record in records if record.topic == topic])
            if not events:
                continue
            outcomes = log.merge(self._memory, [event for _, event in events])
            for (record, event), outcome in zip(events, outcomes, strict=True):
                if isinstance(outcome, Rejected) and self._is_shown(event):
                    image = self._following.image_key(event.image_id)
                    lost[_place(record)] = f"{outcome.reason} {image}"
        self._generations.note_lost(self._following, lost)
        return lost

    def _decoded(self, log: Log, records: Sequence[Record]) -> list[tuple[Record, Any]]:
        events = []
        for record in records:
            with suppress(Rejected):  # as it was when the present generation read it
                event = log.decode(record)
                if not isinstance(event, Marker):
                    events.append((record, event))
        return events

    def _is_shown(self, event: Any) -> bool:
        (held,) = self._generations.held(self._held, [self._held.image_key(event.image_id)])
        return bool(held.trace_stamp == event.stamp)

    def _losses(self, lacking: Sequence[str]) -> tuple[list[Loss], set[str]]:
        """What was noted of these images, and of which of them something was."""
        losses, images = [], set()
        for place, why in sorted(self._generations.lost(self._following).items()):
            reason, _, image = why.partition(" ")
            if image in lacking:
                images.add(image)
                topic, partition, offset = place.rsplit(":", 2)
                losses.append(Loss(topic, int(partition), int(offset), reason))
        return losses, images

    def _try_again(self) -> None:
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
            still.update(self._merge([record for record in records if _place(record) in noted]))
        self._generations.found_again(self._following, sorted(set(noted) - still))

    def _ahead(self) -> set[str]:
        """Images of records that a worker may have put already, but has not noted."""
        starts = self._targets()
        for log in self._logs.values():
            for tp in partitions_of(self._consumer, log.topic):
                starts.setdefault(tp, 0)
        with mapped_errors():
            found = self._consumer.end_offsets(list(starts))
        ends = {tp: min(end, starts[tp] + AHEAD) for tp, end in found.items()}
        return {
            self._held.image_key(event.image_id)
            for records, _ in self._read(starts, ends)
            for log in self._logs.values()
            for _, event in self._decoded(log, [r for r in records if r.topic == log.topic])
        }

    def _switch(self) -> bool:
        """Make up the last records while positions stand still, then put the generation in place."""
        anew = [log.topic_id for log in self._logs.values()]
        self._generations.seal(anew)
        try:
            self._catch_up()
            behind = self._generations.switch(self._following, anew, self._fences_id)
            return not behind
        finally:
            with suppress(Unavailable):
                self._generations.unseal()

    def _drop(self) -> None:
        dropped = 0
        for keys in self._generations.drop():
            self._holds_lease()
            dropped += keys
            if time.monotonic() - self._said >= SAY_SECONDS:
                self._say(f"dropped {dropped} keys")
                self._said = time.monotonic()
        if dropped:
            self._say(f"dropped {dropped} keys of a generation that is not used any more")

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


def _place(record: Record) -> str:
    return f"{record.topic}:{record.partition}:{record.offset}"
