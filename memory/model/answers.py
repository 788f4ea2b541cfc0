"""Answers and what they rest on. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct, field, to_builtins

from memory.model.events import LogPartition
from memory.model.questions import Rule
from memory.model.reliability import Pruning

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Message(Struct, frozen=True, omit_defaults=True):
    """What travels as JSON, its field names apart as it stands here."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object as Python's values."""
        found: dict[str, Any] = to_builtins(self)
        return found


class Position(Message, frozen=True, eq=False):
    """A place in the log: a record's offset, or the offset below which all is merged.

    `time`, where it is known, is when the log took that record, µs. It tells a record that a log
    lost from the one that has its offset now; places are equal without it.
    """

    topic: str
    topic_id: str
    partition: Count
    offset: Count
    time: Count | None = None

    @property
    def log_partition(self) -> LogPartition:
        return LogPartition(self.topic_id, self.partition)

    def _place(self) -> tuple[str, str, int, int]:
        return (self.topic, self.topic_id, self.partition, self.offset)

    def __eq__(self, other: object) -> bool:
        return self._place() == other._place() if isinstance(other, Position) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._place())

    def __lt__(self, other: Position) -> bool:
        return self._place() < other._place()


class Hit(Struct, frozen=True, gc=False):
    """An item found by a search; `distance` is 1 - cosine, 0 to 2."""

    image_id: str
    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The nearest items, sorted by (distance, image id); `exact` is False for an estimate."""

    hits: tuple[Hit, ...]
    exact: bool


class Neighbor(Message, frozen=True, gc=False):
    """A neighbour and what it contributed; `rank` counts from 0."""

    image_id: str = field(name="id")
    label: str
    distance: float
    rank: int
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote. `label` is None when nobody voted; shares sum to 1."""

    label: str | None
    shares: Mapping[str, float]
    neighbors: tuple[Neighbor, ...]


class Contribution(Message, frozen=True):
    """What one neighbour did for the answer.

    `share` of all weight and `of_label`, of its class's weight, are 0 for one that waits behind
    the `k` that vote. `value` is its Shapley value for the winner's share (see `decision.values`).
    """

    image_id: str = field(name="id")
    label: str
    distance: float
    share: float
    of_label: float
    value: float


class Flip(Message, frozen=True):
    """The fewest neighbours without whom the answer is another, and which one."""

    images: tuple[str, ...]
    label: str


class Why(Message, frozen=True):
    """What an answer rests on, and what would change it.

    `contributions`, nearest first, are those of the neighbours that vote and of those that would
    move up; their values sum to the winner's share. `flip` is None where the answer stands
    without any `more_than` of them. `survives` is a certificate: with so many wrong labels in the
    memory, whichever they are, the answer is the same.
    """

    contributions: tuple[Contribution, ...]
    flip: Flip | None
    more_than: int | None
    survives: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer and all it rests on. `timings` are seconds by stage.

    `supposed`: it is the answer to a what-if. `pruning`: what was done with unreliable items, by counts that
    were those of the whole memory `reliability_age` seconds ago. `abstained`: the class that leads has too
    small a share to be the answer.
    """

    vote: Vote
    rule: Rule
    k: int
    exact: bool
    embedder: str
    as_of: tuple[Position, ...]
    timings: Mapping[str, float]
    why: Why | None = None
    supposed: bool = False
    pruning: Pruning = Pruning.NONE
    reliability_age: float | None = None
    abstained: bool = False

    @property
    def empty(self) -> bool:
        return not self.vote.neighbors


class Suspect(Message, frozen=True):
    """An item whose neighbours say another label. Of their vote by rank, 0 to 1:

    `share` for the suggested label, `own_share` for the one that it has. `wrong` is its wrong count over
    ten.
    """

    image_id: str = field(name="id")
    label: str
    suggested: str
    share: float
    own_share: float
    wrong: int


class LabelEffect(Message, frozen=True):
    """Of the items of a label: how many would go and stay, and of those that stay how many their ten
    nearest others call right, by rank, before and after.
    """

    gone: int
    stays: int
    right_before: int
    right_after: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What pruning would do: to which images, and to each label."""

    images: tuple[str, ...]
    labels: Mapping[str, LabelEffect]


class Influence(Message, frozen=True):
    """How often an item was among the neighbours that voted, and how often it decided.

    It decided an answer where that would have been another one without it.
    """

    image_id: str = field(name="id")
    neighbor: Count
    decided: Count

    def order(self) -> tuple[int, int, str]:
        """What they are sorted by: the most influential first."""
        return -self.decided, -self.neighbor, self.image_id


class Findings(Message, frozen=True):
    """What was found by a review: `total` of them, of which the first are listed.

    `suspects`, the clearest first; `images` that pruning would leave out, and `labels` by name; the
    `influence` of items, the greatest first. `age`, seconds, is that of the counts that it rests on.
    """

    about: str
    total: Count
    age: float | None = None
    suspects: tuple[Suspect, ...] = ()
    images: tuple[str, ...] = ()
    labels: Mapping[str, LabelEffect] = field(default_factory=dict)
    influence: tuple[Influence, ...] = ()
