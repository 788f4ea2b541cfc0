"""Questions and what a search is asked. Immutable values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memory.errors import Reason, Rejected
from memory.model.events import MAX_ID, MAX_LABEL, Payload, Selector
from memory.model.keys import ImageKey, SelectorKey
from memory.model.reliability import HARD_FROM, Pruning
from memory.model.text import canonical_name
from memory.model.vectors import Vector

MAX_K = 100
MAX_NAMED = 100
"""Exclusions, and weights, that a question may name."""
MAX_COMPOSED = 16
"""Items that a question may add and subtract."""
MAX_FACTOR = 1e6
DEFAULT_LISTED = 20
MAX_LISTED = 1000
MAX_LEAST = 9999
MAX_REMOVED = 50
"""How many neighbours are looked for whose removal would change an answer."""


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
        spelt = canonical_name(
            self.image_id, what="the item id", reason=Reason.INVALID_ID, limit=MAX_ID
        )
        object.__setattr__(self, "image_id", spelt)


@dataclass(frozen=True, slots=True)
class Factors:
    """What the weights of some neighbours are multiplied by: of an image and of a label."""

    images: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [*self.images.values(), *self.labels.values()]
        if len(given) > MAX_NAMED:
            raise Rejected(
                Reason.INVALID_WEIGHT, f"{len(given)} weights; at most {MAX_NAMED} are allowed"
            )
        spelt = (
            ("images", "a weighted image's id", MAX_ID),
            ("labels", "a weighted label", MAX_LABEL),
        )
        for name, what, limit in spelt:
            factors = {
                canonical_name(key, what=what, reason=Reason.INVALID_WEIGHT, limit=limit): factor
                for key, factor in getattr(self, name).items()
            }
            object.__setattr__(self, name, factors)
        if not all(0 <= factor <= MAX_FACTOR for factor in given):  # NaN is in no range
            raise Rejected(
                Reason.INVALID_WEIGHT, f"a weight must be a number from 0 to {MAX_FACTOR:g}"
            )

    def __bool__(self) -> bool:
        return bool(self.images or self.labels)

    def of(self, image_id: str, label: str) -> float:
        """The product of what is said of the image and of the label."""
        return self.images.get(image_id, 1.0) * self.labels.get(label, 1.0)


NO_FACTORS = Factors()


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a question supposes. It is answered as if this were so, and nothing changes.

    `without`: as if these had been forgotten. `weights`: as if neighbours counted so much more or
    less. `plus`, `minus`: ids of remembered images whose vectors, of length 1, are added to the
    question's own and subtracted from it (composition; paper, section on compositionality).
    """

    without: tuple[Selector, ...] = ()
    weights: Factors = NO_FACTORS
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.without) > MAX_NAMED:
            raise Rejected(
                Reason.INVALID_EXCLUSION,
                f"{len(self.without)} exclusions; at most {MAX_NAMED} are allowed",
            )
        if len(self.composed) > MAX_COMPOSED:
            raise Rejected(
                Reason.INVALID_ID,
                f"{len(self.composed)} items to add or subtract; at most {MAX_COMPOSED} are allowed",
            )
        for name in ("plus", "minus"):
            spelt = tuple(ItemRef(image_id).image_id for image_id in getattr(self, name))
            object.__setattr__(self, name, spelt)

    @property
    def composed(self) -> tuple[str, ...]:
        return (*self.plus, *self.minus)

    def __bool__(self) -> bool:
        return bool(self.without or self.weights or self.composed)


NOTHING_SUPPOSED = WhatIf()


@dataclass(frozen=True, slots=True)
class Query:
    """A question: what is this? With `why` its answer comes with what would change it.

    `pruning` None is what the memory does where nobody says otherwise. With `min_share`, 0 to 1, it abstains
    where the class that leads has less than this share of all weight; None is the memory's own.
    """

    payload: Payload | ItemRef
    k: int = 10
    rule: Rule = Rule.RANK
    what_if: WhatIf = NOTHING_SUPPOSED
    why: bool = False
    pruning: Pruning | None = None
    min_share: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise Rejected(Reason.INVALID_K, f"k must be 1 to {MAX_K}, not {self.k}")
        if self.min_share is not None and not 0 <= self.min_share <= 1:  # NaN is in no range
            raise Rejected(
                Reason.INVALID_THRESHOLD, "the share to abstain below must be a number from 0 to 1"
            )


class About(StrEnum):
    """What may be looked through."""

    SUSPECTS = "suspects"
    PRUNING = "pruning"
    INFLUENCE = "influence"


@dataclass(frozen=True, slots=True)
class Review:
    """A request to look the memory through: for labels that are doubted, for what pruning would
    change (`least` is the wrong count from which it is so), for the influence of items (of one).

    At most `count` of them are listed.
    """

    about: About
    count: int = DEFAULT_LISTED
    least: int = HARD_FROM
    image_id: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_LISTED:
            raise Rejected(
                Reason.INVALID_K, f"1 to {MAX_LISTED} items can be listed, not {self.count}"
            )
        if not 1 <= self.least <= MAX_LEAST:
            raise Rejected(
                Reason.INVALID_THRESHOLD,
                f"the wrong count must be 1 to {MAX_LEAST}, not {self.least}",
            )
        if self.image_id is not None:
            object.__setattr__(self, "image_id", ItemRef(self.image_id).image_id)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Items that take no part in a search: by image, by a subject or source ever borne, by label."""

    images: frozenset[ImageKey] = frozenset()
    selectors: frozenset[SelectorKey] = frozenset()
    labels: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.images or self.selectors or self.labels)

    def covers(self, image: ImageKey, selectors: Collection[SelectorKey], label: str) -> bool:
        return (
            image in self.images or label in self.labels or not self.selectors.isdisjoint(selectors)
        )


NOBODY = Exclusion()


@dataclass(frozen=True, slots=True)
class Probe:
    """One search: the `k` nearest items of `vector` without those that `without` covers."""

    vector: Vector
    k: int
    without: Exclusion = NOBODY
