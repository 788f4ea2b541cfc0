"""What became of an event. Immutable values."""

from __future__ import annotations

from dataclasses import dataclass

from memory.errors import Rejected


@dataclass(frozen=True, slots=True)
class Merged:
    """The event is in the memory. `won` is False when an event with a greater stamp stands.

    `shared_id`: another source has sent an image of this id too.
    """

    won: bool
    shared_id: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The event is about something forgotten; events after `admitted_after` (µs) are taken."""

    admitted_after: int


Outcome = Merged | Refused | Rejected


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A forget-request carried out: what it matched is in no answer from now on.

    Times are µs. `images` counts those of which it erased something, `matched` those of which the
    memory ever heard, however often it was interrupted. A `repeated` request was carried out
    before; its counts are those of then, or 0 and None where the memory was made anew since.
    """

    first_seen: int
    until: int
    fenced: int
    erased: int
    images: int
    matched: int | None
    repeated: bool
