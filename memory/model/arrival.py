"""An event on its way into the memory, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from memory.errors import Rejected
from memory.model.events import Correction, Ingest, Prune
from memory.model.keys import ImageKey, SelectorKey
from memory.model.outcomes import Merged, Outcome, Refused
from memory.model.state import Put, PutResult, Trace, TraceWrite
from memory.model.times import NEVER
from memory.model.vectors import Vector


@dataclass(slots=True)
class Arrival:
    """An image's event on its way into the memory, with what each step finds out.

    `vector` stays None where the event is refused, `no_room` where its image may bear its selectors.
    """

    event: Ingest
    image: ImageKey
    selectors: tuple[SelectorKey, ...]
    barrier: int = NEVER
    vector: Vector | Rejected | None = None
    no_room: Rejected | None = None

    def meet(self, barrier: int | Rejected) -> None:
        """Take what listing the image said."""
        if isinstance(barrier, Rejected):
            self.no_room, self.selectors = barrier, ()
        else:
            self.barrier = barrier

    @property
    def is_admitted(self) -> bool:
        """Whether its payload is to be looked at."""
        return self.no_room is None and self.event.time > self.barrier

    def put(self, embedder: str) -> Put:
        """What to merge. Also of what is refused or rejected: the image bore these selectors.

        A forget that comes first never looks at the payload.
        """
        event, write = self.event, None
        if self.vector is not None and not isinstance(self.vector, Rejected):
            trace = Trace(
                image_id=event.image_id,
                image_digest=event.payload_digest,
                label=event.label,
                source=event.source,
                subjects=event.subjects,
                attributes=event.attributes,
                embedder=embedder,
                vector=self.vector,
            )
            write = TraceWrite(event.stamp, trace)
        return Put(self.image, self.barrier, event.address, self.selectors, write)

    def outcome(self, result: PutResult | Rejected) -> Outcome:
        if self.no_room is not None:
            return self.no_room
        if isinstance(result, Rejected):
            return result
        # What is forgotten is so whatever its payload holds.
        if isinstance(self.vector, Rejected) and self.event.time > result.barrier:
            return self.vector
        return outcome_of(self.event, result)


def outcome_of(event: Ingest | Correction | Prune, result: PutResult) -> Merged | Refused:
    """What became of an event that was merged so."""
    if event.time <= result.barrier:
        return Refused(result.barrier)
    return Merged(result.won, shared_id=isinstance(event, Ingest) and result.sources > 1)
