"""What a question says, and what the memory says: answers, receipts and rejections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from memory.model.answers import Neighbor, Position, Prediction, Query

MAX_AFTER = 256
MAX_TIMEOUT = 300.0
DEFAULT_TIMEOUT = 30.0
DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class QueryEvent:
    """A question and where its answer is awaited.

    `source` is the asker's. `after`: records that must be merged before. `deadline`: µs, by the
    log's clock.
    """

    source: str
    query: Query
    query_id: str
    reply_partition: int
    after: tuple[Position, ...]
    deadline: int


Status = Literal["answered", "empty", "stale", "expired", "rejected"]
STATUSES: tuple[Status, ...] = ("answered", "empty", "stale", "expired", "rejected")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a prediction record says.

    `status`: ``answered``; ``empty`` (the memory holds nothing); ``stale`` (the memory has not
    come to the positions asked for); ``expired`` (past its deadline); ``rejected`` (see `reason`
    and `detail`). `shares` sum to 1, `timings` are seconds by stage.
    """

    query: str
    status: Status
    reason: str | None = None
    detail: str | None = None
    label: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    neighbors: tuple[Neighbor, ...] = ()
    rule: str | None = None
    k: int | None = None
    exact: bool | None = None
    embedder: str | None = None
    as_of: tuple[Position, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, query_id: str, prediction: Prediction) -> Self:
        return cls(
            query=query_id,
            status="empty" if prediction.empty else "answered",
            label=prediction.vote.label,
            shares=prediction.vote.shares,
            neighbors=prediction.vote.neighbors,
            rule=str(prediction.rule),
            k=prediction.k,
            exact=prediction.exact,
            embedder=prediction.embedder,
            as_of=prediction.as_of,
            timings=prediction.timings,
        )

    def to_json(self) -> dict[str, Any]:
        why = {"reason": self.reason, "detail": self.detail}
        return {
            "query": self.query,
            "status": self.status,
            **{name: text for name, text in why.items() if text is not None},
            "label": self.label,
            "shares": dict(self.shares),
            "neighbors": [neighbor.to_json() for neighbor in self.neighbors],
            "rule": self.rule,
            "k": self.k,
            "exact": self.exact,
            "embedder": self.embedder,
            "as_of": [position.to_json() for position in self.as_of],
            "timings": dict(self.timings),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError if the value is not an answer."""
        if value["status"] not in STATUSES:
            raise ValueError("unknown status")
        return cls(
            query=str(value["query"]),
            status=value["status"],
            reason=value.get("reason"),
            detail=value.get("detail"),
            label=value["label"],
            shares={label: float(share) for label, share in value["shares"].items()},
            neighbors=tuple(
                Neighbor(n["id"], n["label"], float(n["distance"]), n["rank"], float(n["weight"]))
                for n in value["neighbors"]
            ),
            rule=value["rule"],
            k=value["k"],
            exact=value["exact"],
            embedder=value["embedder"],
            as_of=tuple(position_from_json(position) for position in value["as_of"]),
            timings={stage: float(seconds) for stage, seconds in value["timings"].items()},
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a forget-receipt says: the stage a request has come to, and when each was reached.

    `request` and `selector_digest` are digests; no receipt holds a raw id. `stages` are µs by
    name, `until` is µs, `images` counts those that showed something until now, `matched` those of
    which the memory ever heard: None where that is not known (any more).
    """

    request: str
    stage: str
    stages: Mapping[str, int]
    selector_kind: str
    selector_digest: str
    until: int
    images: int
    repeated: bool = False
    matched: int | None = None

    @property
    def status(self) -> Literal["matched", "unmatched", "repeated"]:
        """``unmatched``: the memory never heard of what the request names; is it spelt so?

        ``repeated``: the request was carried out before.
        """
        if self.repeated:
            return "repeated"
        return "unmatched" if self.matched == 0 else "matched"

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "stage": self.stage,
            "stages": dict(self.stages),
            "selector": {"kind": self.selector_kind, "digest": self.selector_digest},
            "until": self.until,
            "status": self.status,
            "matched": self.matched,
            "images": self.images,
            "repeated": self.repeated,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError if the value is not a receipt."""
        return cls(
            request=str(value["request"]),
            stage=str(value["stage"]),
            stages={stage: int(time) for stage, time in value["stages"].items()},
            selector_kind=str(value["selector"]["kind"]),
            selector_digest=str(value["selector"]["digest"]),
            until=int(value["until"]),
            images=int(value["images"]),
            repeated=bool(value["repeated"]),
            matched=None if value.get("matched") is None else int(value["matched"]),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the event at (full topic name, partition, offset) was not taken.

    `admitted_after`, µs: for what is forgotten, events after this time are taken again.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    admitted_after: int | None = None

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "reason": self.reason,
            "detail": self.detail,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
        }
        if self.admitted_after is not None:
            shown["admitted_after"] = self.admitted_after
        return shown

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError if the value is not a rejection."""
        after = value.get("admitted_after")
        return cls(
            reason=str(value["reason"]),
            detail=str(value["detail"]),
            topic=str(value["topic"]),
            partition=int(value["partition"]),
            offset=int(value["offset"]),
            admitted_after=None if after is None else int(after),
        )


def position_from_json(value: Any) -> Position:
    """Raises KeyError, TypeError or ValueError if the value is not a position."""
    texts = (value["topic"], value["topic_id"])
    numbers = (value["partition"], value["offset"], value.get("time", 0))
    if not all(isinstance(text, str) for text in texts) or not all(
        type(number) is int and 0 <= number < 1 << 63 for number in numbers
    ):
        raise ValueError("not a position")
    return Position(*texts, *numbers[:2], time=value.get("time"))
