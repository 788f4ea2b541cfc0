"""What a question says, and what the memory says: answers, receipts and rejections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from msgspec import field
from msgspec.json import schema_components
from msgspec.structs import replace

from memory.model.answers import Findings, Message, Neighbor, Position, Prediction, Why
from memory.model.events import Forget
from memory.model.outcomes import Forgotten
from memory.model.questions import Query, Review
from memory.model.reliability import Pruning
from memory.model.times import now_us
from streams.contract.topics import Topic

MAX_AFTER = 256
MAX_TIMEOUT = 300.0
DEFAULT_TIMEOUT = 30.0
DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class QueryEvent:
    """A question, or a request for review, and where its answer is awaited.

    `source` is the asker's. `after`: records that must be merged before. `deadline`: µs, by the
    log's clock.
    """

    source: str
    query: Query | Review
    query_id: str
    reply_partition: int
    after: tuple[Position, ...]
    deadline: int


Status = Literal["answered", "abstained", "empty", "stale", "expired", "rejected"]


def _none() -> None:
    """A default that is written like any other value."""


def _nothing() -> dict[str, float]:
    """As above."""
    return {}


class Answer(Message, frozen=True):
    """What a prediction record says.

    `status`: ``answered``; ``abstained`` (no label has a large enough share; they stand in `shares`);
    ``empty`` (the memory holds nothing); ``stale`` (the memory has not
    come to the positions asked for); ``expired`` (past its deadline); ``rejected`` (see `reason`
    and `detail`). `shares` sum to 1, `timings` are seconds by stage. `why` is there where it was asked
    for, `supposed` where the question was a what-if. `pruning`, ``soft`` or ``hard``,
    is what was done with unreliable items, by counts of `reliability_age` seconds ago. `review` is there
    where that was asked for, alone.
    """

    query: str
    status: Status
    reason: str | None = None
    detail: str | None = None
    label: str | None = field(default_factory=_none)
    shares: Mapping[str, float] = field(default_factory=_nothing)
    neighbors: tuple[Neighbor, ...] = field(default_factory=lambda: ())
    rule: str | None = field(default_factory=_none)
    k: int | None = field(default_factory=_none)
    exact: bool | None = field(default_factory=_none)
    embedder: str | None = field(default_factory=_none)
    as_of: tuple[Position, ...] = field(default_factory=lambda: ())
    timings: Mapping[str, float] = field(default_factory=_nothing)
    why: Why | None = None
    supposed: bool = False
    pruning: str | None = None
    reliability_age: float | None = None
    review: Findings | None = None

    @classmethod
    def of(cls, query_id: str, prediction: Prediction) -> Self:
        status: Status = "empty" if prediction.empty else "answered"
        return cls(
            query=query_id,
            status="abstained" if prediction.abstained else status,
            label=None if prediction.abstained else prediction.vote.label,
            shares=prediction.vote.shares,
            neighbors=prediction.vote.neighbors,
            rule=str(prediction.rule),
            k=prediction.k,
            exact=prediction.exact,
            embedder=prediction.embedder,
            as_of=prediction.as_of,
            timings=prediction.timings,
            why=prediction.why,
            supposed=prediction.supposed,
            pruning=None if prediction.pruning is Pruning.NONE else str(prediction.pruning),
            reliability_age=prediction.reliability_age,
        )


class SelectorDigest(Message, frozen=True):
    """What a receipt says of the selector: nothing that would name a person."""

    kind: str
    digest: str


class Outside(Message, frozen=True):
    """What the memory cannot erase: what it is, whose, and what they have to do."""

    what: str
    owner: str
    must: str


class Receipt(Message, frozen=True):
    """What a forget-receipt says: the stage a request has come to, and when each was reached, µs.

    `request` and the digests of the selector, and of `more`, are digests; no receipt holds a raw id. `stages` are µs by
    name, `until` is µs, `images` counts those of which the request erased something, `matched` those
    of which the memory ever heard: None where that is not known (any more). `status`: ``unmatched``
    when the memory never heard of what the request names (is it spelt so?), ``repeated`` when the
    request was carried out before, whose counts are those of then.

    `memory` is whose receipt it is, where several share their topics: the namespace.
    `regulation`, when it was `submitted` and that it is not to be carried out `not_before` a time are as the
    request says; it is `due` when the promised time is over. From `erased`, or `cancelled`, on receipts are signed and chained (see `signing`): `evidence` is what a stage rests
    on, `outside` names what cannot be erased from here.
    """

    request: str
    stage: str
    stages: Mapping[str, int]
    selector: SelectorDigest
    until: int
    images: int
    repeated: bool = field(default_factory=lambda: False)
    matched: int | None = field(default_factory=_none)
    status: Literal["matched", "unmatched", "repeated", "scheduled", "cancelled"] = field(
        default_factory=lambda: "matched"
    )
    memory: str | None = None
    more: tuple[SelectorDigest, ...] | None = None
    regulation: str | None = None
    submitted: int | None = None
    not_before: int | None = None
    due: int | None = None
    evidence: Mapping[str, int | str] | None = None
    outside: tuple[Outside, ...] | None = None
    sequence: int | None = None
    previous: str | None = None
    key: str | None = None
    signature: str | None = None

    @classmethod
    def of(
        cls,
        request: Forget,
        digests: Sequence[str],
        done: Forgotten,
        memory: str,
        *,
        partition: int,
        offset: int,
    ) -> Self:
        """`digests` are of the request's selectors, in order; it stands there in the log."""
        return replace(
            cls._begun(request, digests, memory),
            evidence={"partition": partition, "offset": offset},
            stage="erased",
            stages={"received": done.first_seen, "fenced": done.fenced, "erased": done.erased},
            until=done.until,
            images=done.images,
            repeated=done.repeated,
            matched=done.matched,
            status="repeated" if done.repeated else "unmatched" if done.matched == 0 else "matched",
        )

    @classmethod
    def plan(
        cls, request: Forget, digests: Sequence[str], memory: str, *, partition: int, offset: int
    ) -> Self:
        """It is noted and will be carried out; it stands there in the log until then."""
        return replace(
            cls._begun(request, digests, memory),
            stage="scheduled",
            stages={"received": request.time, "scheduled": now_us()},
            status="scheduled",
            evidence={"partition": partition, "offset": offset},
        )

    @classmethod
    def _begun(cls, request: Forget, digests: Sequence[str], memory: str) -> Self:
        first, *more = (
            SelectorDigest(str(selector.kind), digest)
            for selector, digest in zip(request.selectors, digests, strict=True)
        )
        return cls(
            request=request.request_id,
            stage="received",
            stages={"received": request.time},
            selector=first,
            memory=memory,
            more=tuple(more) or None,
            regulation=request.regulation,
            submitted=request.submitted,
            not_before=request.not_before,
            until=0,
            images=0,
        )


class Cancellation(Message, frozen=True):
    """Among receipts: somebody asked to cancel a request that is to be carried out later.

    `cancel` names that event as `request` does the other, `asked`, µs, is when the log received it.
    `outcome` is ``noted``, and ``too_late`` where the request was to be carried out by then, or is; where it
    was stopped, a `Receipt` says ``cancelled``.
    """

    request: str
    cancel: str
    asked: int
    outcome: Literal["noted", "too_late"] = field(default_factory=lambda: "noted")
    memory: str | None = None
    sequence: int | None = None
    previous: str | None = None
    key: str | None = None
    signature: str | None = None


class KeyChange(Message, frozen=True):
    """Among receipts: those that follow are signed by `next_key`, a public key; this one yet by `key`."""

    next_key: str
    memory: str
    sequence: int | None = None
    previous: str | None = None
    key: str | None = None
    signature: str | None = None


class Rejection(Message, frozen=True):
    """Why the event at (full topic name, partition, offset) was not taken.

    `admitted_after`, µs: for what is forgotten, events after this time are taken again.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    admitted_after: int | None = None


class ForgottenClaim(Message, frozen=True):
    """That what a claim points to is forgotten: its owner has to delete it there.

    `uri` and `sha256` are the claim's, `source` is who sent it; `memory` forgot it.
    """

    uri: str
    sha256: str
    source: str
    memory: str


def json_schemas() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what the memory says, by topic."""
    said = {
        Topic.PREDICTION: Answer,
        Topic.FORGET_RECEIPT: Receipt,
        Topic.FORGOTTEN_CLAIM: ForgottenClaim,
        Topic.REJECTED: Rejection,
    }
    shapes, parts = schema_components(said.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": [
            {"title": str(topic), **shape} for topic, shape in zip(said, shapes, strict=True)
        ],
        "$defs": parts,
    }
