"""What comes in: images, corrections and requests to forget. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, NamedTuple, Self

from memory.errors import Reason, Rejected
from memory.model.text import canonical_json, canonical_name
from memory.model.times import Stamp, stamp_time
from memory.model.vectors import Vector

MAX_ID = 512
MAX_LABEL = 256
MAX_SUBJECTS = 64
MAX_GIVEN_IMAGES = 16
"""Around which one request forgets."""
MAX_SELECTORS = 1000
"""Subjects and sources that one image's events may bear: each event about it has to look at all."""


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


class LogPartition(NamedTuple):
    """A partition of a topic as positions name it: a topic made anew has another id."""

    topic_id: str
    partition: int


def _spell(event: object, field: str, name: str, what: str, reason: Reason, limit: int) -> None:
    """Let a new event hold the one spelling of a name. Raises `Rejected`."""
    spelt = canonical_name(name, what=what, reason=reason, limit=limit)
    if spelt is not name:
        object.__setattr__(event, field, spelt)


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
        what = f"the {self.kind}"
        _spell(self, "value", self.value, what, Reason.INVALID_SELECTOR, limit)

    @classmethod
    def of(
        cls,
        *,
        image: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        label: str | None = None,
    ) -> Self:
        """The selector of the one thing that is named. Raises `Rejected`."""
        named = {"image": image, "subject": subject, "source": source, "label": label}
        given = [(kind, value) for kind, value in named.items() if value is not None]
        if len(given) != 1:
            raise Rejected(Reason.INVALID_SELECTOR, f"name exactly one of {', '.join(named)}")
        ((kind, value),) = given
        return cls(SelectorKind(kind), value)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All within a cosine distance of some images, these too, as it is when they are forgotten."""

    images: tuple[str, ...]
    distance: float
    kind: ClassVar[str] = "within"

    def __post_init__(self) -> None:
        if not 1 <= len(self.images) <= MAX_GIVEN_IMAGES:
            raise Rejected(
                Reason.INVALID_SELECTOR,
                f"{len(self.images)} images to forget around; 1 to {MAX_GIVEN_IMAGES} are allowed",
            )
        if not 0 <= self.distance < 1:
            raise Rejected(
                Reason.INVALID_SELECTOR,
                "the distance must be from 0 to less than 1, where nothing is alike any more",
            )
        spelt = {
            canonical_name(image, what="an image", reason=Reason.INVALID_SELECTOR, limit=MAX_ID)
            for image in self.images
        }
        object.__setattr__(self, "images", tuple(sorted(spelt)))

    @property
    def value(self) -> str:
        """By which two of them are told apart."""
        return canonical_json([float(self.distance), *self.images]).decode()


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
        _spell(self, "image_id", self.image_id, "the image id", Reason.INVALID_ID, MAX_ID)
        _spell(self, "label", self.label, "the label", Reason.INVALID_LABEL, MAX_LABEL)
        _spell(self, "source", self.source, "the source", Reason.INVALID_SOURCE, MAX_ID)
        if len(self.subjects) > MAX_SUBJECTS:
            raise Rejected(
                Reason.INVALID_SUBJECT,
                f"{len(self.subjects)} subjects; at most {MAX_SUBJECTS} are allowed",
            )
        spelt = [
            canonical_name(subject, what="a subject", reason=Reason.INVALID_SUBJECT, limit=MAX_ID)
            for subject in self.subjects
        ]
        object.__setattr__(self, "subjects", tuple(spelt))

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
        _spell(self, "image_id", self.image_id, "the image id", Reason.INVALID_ID, MAX_ID)
        if self.label is not None:
            _spell(self, "label", self.label, "the label", Reason.INVALID_LABEL, MAX_LABEL)

    @property
    def time(self) -> int:
        return stamp_time(self.stamp)


@dataclass(frozen=True, slots=True)
class Prune:
    """Whether an image is left out of all answers (`pruned`) or takes part again."""

    stamp: Stamp
    image_id: str
    pruned: bool
    address: LogAddress | None = None

    def __post_init__(self) -> None:
        _spell(self, "image_id", self.image_id, "the image id", Reason.INVALID_ID, MAX_ID)

    @property
    def time(self) -> int:
        return stamp_time(self.stamp)


@dataclass(frozen=True, slots=True)
class Forget:
    """A request to forget what its selector, or one of `more`, names.

    `time` is when the log received it first, not what it claims: when it was `submitted`, µs, and under
    which `regulation`, is only told on. It is not to be carried out `not_before` a time, µs.
    """

    request_id: str
    selector: Selector | Surroundings
    time: int
    permanent: bool = False
    more: tuple[Selector | Surroundings, ...] = ()
    submitted: int | None = None
    regulation: str | None = None
    not_before: int | None = None

    @property
    def selectors(self) -> tuple[Selector | Surroundings, ...]:
        return (self.selector, *self.more)

    @property
    def surroundings(self) -> list[Surroundings]:
        """Those of the selectors that name what is around images."""
        return [one for one in self.selectors if isinstance(one, Surroundings)]

    def of_kinds(self, *kinds: SelectorKind) -> list[Selector]:
        """Those of the selectors that are of the kinds, one kind after the other."""
        return [
            one
            for kind in kinds
            for one in self.selectors
            if isinstance(one, Selector) and one.kind is kind
        ]
