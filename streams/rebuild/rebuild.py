"""A memory made anew from the log: read into its next generation, which is then put in place.

The next generation reads what the present one has read and not further, so that it knows nothing
that the other does not: whatever is forgotten meanwhile reaches both (memory/facts.py). Every step
can be repeated; a rebuild that was killed is taken up where its generation's positions are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from memory.errors import Unavailable
from memory.facts import take
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.rebuild.filling import SAY_SECONDS, Filling, Sources

_T = TypeVar("_T")

NEAR = 1000
"""Records that are made up while the old generation's positions stand still."""


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
        sources: Sources,
        say: Callable[[str], None],
    ) -> None:
        self._held = held
        self._generations = generations
        self._open_next = open_next
        self._sources = sources
        self._say = say

    def run(self, *, drop_unembeddable: bool = False) -> Result:
        """Make the memory anew and put it in place; take up what an earlier run left.

        Raises `Misconfigured`, also when another rebuild is at work.
        """
        with self._generations.lease.hold() as holds_lease:
            dropping = self._generations.dropping()
            self._drop(holds_lease)
            if dropping and int(dropping) < int(self._held.schema.generation):
                self._say("finished the rebuild that had ended before its last step")
                return Result(switched=True)
            following, memory = self._open_next()
            filling = Filling(
                self._sources,
                self._held,
                following,
                memory,
                self._generations,
                holds_lease=holds_lease,
                say=self._say,
            )
            fill = partial(
                self._fill_and_switch, following, filling, drop_unembeddable=drop_unembeddable
            )
            result = self._patiently(fill, holds_lease)
            if result.switched:
                self._say(f"generation {following.schema.generation} answers now")
                self._patiently(partial(self._drop, holds_lease), holds_lease)
            return result

    def abandon(self) -> bool:
        """Give an unfinished rebuild up and drop what it made; False where there is none."""
        with self._generations.lease.hold() as holds_lease:
            found = self._generations.abandon()
            self._drop(holds_lease)
        return found

    def _patiently(self, step: Callable[[], _T], holds_lease: Callable[[], None]) -> _T:
        """Do a step again, with back-off, as long as a server is away."""
        delay = 0.2
        while True:
            try:
                return step()
            except Unavailable as error:
                self._say(f"waiting: {error}")
                holds_lease()
                time.sleep(delay)
                delay = min(2 * delay, 5.0)

    def _fill_and_switch(
        self, following: RedisIndex, filling: Filling, *, drop_unembeddable: bool
    ) -> Result:
        filling.warn_of_deletions()
        filling.catch_up()
        filling.retry_failures()
        self._say("comparing the two generations")
        lacking = list(self._generations.lacking(self._held, following))
        take(following, self._generations.forgotten(self._held, following, lacking))
        while True:
            filling.catch_up()
            lacking = self._generations.still_lacking(self._held, following, lacking)
            losses, explained = self._losses(following, lacking)
            gone = set(lacking) - explained
            if gone:
                gone -= filling.images_ahead()
            if (losses or gone) and not drop_unembeddable:
                return Result(switched=False, losses=tuple(losses), gone=len(gone))
            following.label_counts(())  # `Unavailable` while its index is being built
            if filling.lag() <= NEAR and self._switch(following, filling):
                return Result(switched=True, losses=tuple(losses), gone=len(gone))

    def _losses(self, following: RedisIndex, lacking: Sequence[str]) -> tuple[list[Loss], set[str]]:
        """What was noted of these images, and of which of them something was."""
        losses, images = [], set()
        for place, why in sorted(self._generations.lost(following).items()):
            reason, _, image = why.partition(" ")
            if image in lacking:
                images.add(image)
                topic, partition, offset = place.rsplit(":", 2)
                losses.append(Loss(topic, int(partition), int(offset), reason))
        return losses, images

    def _switch(self, following: RedisIndex, filling: Filling) -> bool:
        """Make up the last records while positions stand still, then put the generation in place."""
        anew = [log.topic_id for log in self._sources.logs]
        self._generations.seal(anew)
        try:
            filling.catch_up()
            return not self._generations.switch(following, anew, self._sources.fences_id)
        finally:
            with suppress(Unavailable):
                self._generations.unseal()

    def _drop(self, holds_lease: Callable[[], None]) -> None:
        dropped = 0
        said = time.monotonic()
        for keys in self._generations.drop():
            holds_lease()
            dropped += keys
            if time.monotonic() - said >= SAY_SECONDS:
                self._say(f"dropped {dropped} keys")
                said = time.monotonic()
        if dropped:
            self._say(f"dropped {dropped} keys of a generation that is not used any more")
