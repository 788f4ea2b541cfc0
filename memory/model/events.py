"""Value types of the domain. All are immutable; none knows a server.

Times are integers: microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import numpy as np
import numpy.typing as npt

from memory.errors import Reason, Rejected

Vector = npt.NDArray[np.float32]

Stamp = NewType("Stamp", str)
"""``<16 digits of µs>.<64 hex>``: totally ordered as plain strings."""

NEVER = -1
"""The barrier of what was never forgotten."""
FOREVER = 9_999_999_999_999_999
"""The barrier of a permanent forget: the greatest 16-digit time."""

MAX_ID = 512
MAX_LABEL = 256
MAX_SUBJECTS = 64
MAX_K = 100


def make_stamp(time: int, *parts: str | None) -> Stamp:
    """Order an event: its time first, then a digest of what it says.

    `parts` are source, id, type, image, label, subjects, payload digest, in that order
    (design, "The law"); None and "" differ. Tracing headers never take part.
    """
    canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return Stamp(f"{time:016d}.{hashlib.sha256(canonical.encode()).hexdigest()}")


def stamp_time(stamp: Stamp) -> int:
    """The time of a stamp, µs."""
    return int(stamp[:16])


def checked_text(value: str, *, what: str, reason: Reason, limit: int) -> str:
    """Return `value` unchanged, or raise `Rejected` naming what is wrong with it.

    Refused: empty, longer than `limit` characters, surrounding white space, control
    characters and lone surrogates.
    """
    if not value.strip():
        raise Rejected(reason, f"{what} is empty")
    if len(value) > limit:
        raise Rejected(reason, f"{what} has {len(value)} characters; at most {limit} are allowed")
    if value != value.strip():
        raise Rejected(reason, f"{what} has white space around it; strip it")
    if value.isprintable():
        return value
    for position, character in enumerate(value):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise Rejected(
                reason,
                f"{what} has a control character at position {position}; remove it",
            )
    return value


@dataclass(frozen=True, slots=True)
class LogAddress:
    """Where an event stands in the log, as an erasure needs it: its key, not its offset."""

    time: int
    topic_id: str
    partition: int
    key: str

    def encode(self) -> str:
        """``time|topic id|partition|key``; the time leads, so addresses sort by it."""
        return f"{self.time:016d}|{self.topic_id}|{self.partition}|{self.key}"

    @classmethod
    def decode(cls, text: str) -> LogAddress:
        time, topic_id, partition, key = text.split("|", 3)
        return cls(int(time), topic_id, int(partition), key)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: a record's offset, or the offset below which all is merged."""

    topic: str
    topic_id: str
    partition: int
    offset: int

    def to_json(self) -> dict[str, str | int]:
        return {
            "topic": self.topic,
            "topic_id": self.topic_id,
            "partition": self.partition,
            "offset": self.offset,
        }


class SelectorKind(StrEnum):
    """What a forget-request may name. A label is expanded into images once."""

    IMAGE = "image"
    SUBJECT = "subject"
    SOURCE = "source"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Selector:
    """A fact of an ingest that never changes (image, subject, source), or a label to expand."""

    kind: SelectorKind
    value: str

    def __post_init__(self) -> None:
        limit = MAX_LABEL if self.kind is SelectorKind.LABEL else MAX_ID
        checked_text(
            self.value,
            what=f"the {self.kind}",
            reason=Reason.INVALID_SELECTOR,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class ImagePayload:
    """An encoded image (PNG, JPEG, ...), not yet decoded."""

    data: bytes


@dataclass(frozen=True, slots=True)
class VectorPayload:
    """An embedding the producer already has; `embedder` is the digest of what made it."""

    vector: Vector
    embedder: str


@dataclass(frozen=True, slots=True)
class ClaimPayload:
    """Where an image is to be had, and the SHA-256 of its bytes, 64 lower hex digits."""

    uri: str
    digest: str


Payload = ImagePayload | VectorPayload | ClaimPayload


@dataclass(frozen=True, slots=True)
class Ingest:
    """One image to remember. `address` is None outside a log (library use)."""

    stamp: Stamp
    image_id: str
    label: str
    source: str
    payload: Payload
    payload_digest: str
    subjects: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    address: LogAddress | None = None

    def __post_init__(self) -> None:
        checked_text(self.image_id, what="the image id", reason=Reason.INVALID_ID, limit=MAX_ID)
        checked_text(self.label, what="the label", reason=Reason.INVALID_LABEL, limit=MAX_LABEL)
        checked_text(self.source, what="the source", reason=Reason.INVALID_SOURCE, limit=MAX_ID)
        if len(self.subjects) > MAX_SUBJECTS:
            raise Rejected(
                Reason.INVALID_SUBJECT,
                f"{len(self.subjects)} subjects; at most {MAX_SUBJECTS} are allowed",
            )
        for subject in self.subjects:
            checked_text(subject, what="a subject", reason=Reason.INVALID_SUBJECT, limit=MAX_ID)

    @property
    def time(self) -> int:
        return stamp_time(self.stamp)

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """What a later forget can find this image by, besides its own id."""
        subjects = tuple(Selector(SelectorKind.SUBJECT, s) for s in self.subjects)
        return (*subjects, Selector(SelectorKind.SOURCE, self.source))


@dataclass(frozen=True, slots=True)
class Correction:
    """A person's label for an image; None withdraws an earlier correction."""

    stamp: Stamp
    image_id: str
    label: str | None
    address: LogAddress | None = None

    def __post_init__(self) -> None:
        checked_text(self.image_id, what="the image id", reason=Reason.INVALID_ID, limit=MAX_ID)
        if self.label is not None:
            checked_text(
                self.label,
                what="the label",
                reason=Reason.INVALID_LABEL,
                limit=MAX_LABEL,
            )

    @property
    def time(self) -> int:
        return stamp_time(self.stamp)


@dataclass(frozen=True, slots=True)
class Forget:
    """A request to forget. `time` is when the log received it first, not what it claims."""

    request_id: str
    selector: Selector
    time: int
    permanent: bool = False


class Rule(StrEnum):
    """How neighbours vote (paper, section 3 and appendix)."""

    PLURALITY = "plurality"
    DISTANCE = "distance"
    SOFTMAX = "softmax"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class ItemRef:
    """Ask with the vector of a remembered image; it is no neighbour of itself."""

    image_id: str

    def __post_init__(self) -> None:
        checked_text(self.image_id, what="the item id", reason=Reason.INVALID_ID, limit=MAX_ID)


@dataclass(frozen=True, slots=True)
class Query:
    """A question: what is this?"""

    payload: Payload | ItemRef
    k: int = 10
    rule: Rule = Rule.RANK

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise Rejected(Reason.INVALID_K, f"k must be 1 to {MAX_K}, not {self.k}")


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found by a search; `distance` is 1 - cosine, 0 to 2."""

    image_id: str
    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The nearest items, sorted by (distance, image id); `exact` is False for an estimate."""

    hits: tuple[Hit, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbour and what it contributed; `rank` counts from 0."""

    image_id: str
    label: str
    distance: float
    rank: int
    weight: float

    def to_json(self) -> dict[str, str | float | int]:
        return {
            "id": self.image_id,
            "label": self.label,
            "distance": self.distance,
            "rank": self.rank,
            "weight": self.weight,
        }


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote. `label` is None when nobody voted; shares sum to 1."""

    label: str | None
    shares: Mapping[str, float]
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer and all it rests on. `timings` are seconds by stage."""

    vote: Vote
    rule: Rule
    k: int
    exact: bool
    embedder: str
    as_of: tuple[Position, ...]
    timings: Mapping[str, float]

    @property
    def empty(self) -> bool:
        return not self.vote.neighbors


@dataclass(frozen=True, slots=True)
class Trace:
    """What an ingest left in the memory. `vector` has unit length, shape (dim,)."""

    image_id: str
    image_digest: str
    label: str
    source: str
    subjects: tuple[str, ...]
    attributes: Mapping[str, str]
    embedder: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class Item:
    """One image as the memory holds it. A register that was never set has the stamp ""."""

    barrier: int
    trace_stamp: str
    trace: Trace | None
    corrected_stamp: str
    corrected: str | None
    selectors: frozenset[str]
    log: frozenset[LogAddress]
    outbox: frozenset[LogAddress]

    @property
    def label(self) -> str | None:
        """The label that counts: the corrected one if there is one."""
        if self.corrected is not None:
            return self.corrected
        return self.trace.label if self.trace else None


@dataclass(frozen=True, slots=True)
class Put:
    """One merge into one image's slot (design, "The law", `put`).

    `image` is the image's keyed digest; exactly one of `trace` and `correction_stamp` is set
    to write a register, neither to raise the barrier or to note an address alone.
    """

    image: str
    barrier: int = NEVER
    address: LogAddress | None = None
    selectors: tuple[str, ...] = ()
    stamp: Stamp | None = None
    trace: Trace | None = None
    correction: bool = False
    corrected: str | None = None


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a merge did.

    `barrier`: the item's barrier after it, µs. `won`: the given register's value stands now
    because of this or an earlier equal put. `erased`: a live register was erased by it.
    `selectors`: keyed selectors the image ever bore. `outbox`: addresses awaiting a tombstone.
    """

    barrier: int
    won: bool
    erased: bool
    visible: bool
    selectors: frozenset[str]
    outbox: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Sizes: searchable items, corrections waiting for their image, bytes used by the store.

    `bytes_limit` is what the store may use at most, 0 where it has no limit.
    """

    items: int
    waiting_corrections: int
    barriers: int
    bytes: int
    bytes_limit: int = 0


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256, hex, of what the memory shows and of all it must keep (design, "State")."""

    visible: str
    full: str


def canonical_json(value: Mapping[str, object] | Sequence[object]) -> str:
    """One text for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
