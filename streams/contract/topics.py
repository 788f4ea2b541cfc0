"""The topics, and the configuration on which promises rest: erasure, expiry, order of time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import inf

from memory.errors import Misconfigured

MAX_RECORD = 1 << 20
"""Bytes of the largest image, unless a deployment sets another limit."""
HEADROOM = 1 << 16
"""Bytes a record may have beside its value: key and headers."""
HOUR, DAY = 3600.0, 86400.0
ANSWERS_KEPT = HOUR
REJECTIONS_KEPT = 7 * DAY
CLAIMS_KEPT = 3 * DAY
"""As long as a request may take by default: their addresses name what is forgotten."""
SEGMENTS_KEPT = 4
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class Topic(StrEnum):
    """The role of a topic. Its full name has the deployment's prefix before it."""

    IMAGE_INGEST = "image-ingest"
    LABEL_CORRECTION = "label-correction"
    FORGET_REQUEST = "forget-request"
    QUERY = "query"
    PREDICTION = "prediction"
    FORGET_RECEIPT = "forget-receipt"
    FORGOTTEN_CLAIM = "forgotten-claim"
    REJECTED = "rejected"
    FENCES = "fences"


@cache
def event_type(topic: Topic) -> str:
    """The versioned ce_type of the events on a topic."""
    return f"visual-memory.{topic}.v1"


class Relation(StrEnum):
    """How a found setting must stand to the wanted one."""

    IS = "is"
    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Setting:
    """A topic's setting as declared, and what else would do."""

    value: str
    relation: Relation = Relation.IS

    def holds(self, found: str) -> bool:
        if self.relation is Relation.IS:
            return found == self.value
        wanted, there = _number(self.value), _number(found)
        return there <= wanted if self.relation is Relation.AT_MOST else there >= wanted


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as this package needs it; `name` has the prefix."""

    topic: Topic
    name: str
    partitions: int
    replication: int
    settings: Mapping[str, Setting]


def declare(
    prefix: str = "",
    *,
    partitions: int = 8,
    replication: int = 1,
    compaction_lag: float = DAY,
    answers_kept: float = ANSWERS_KEPT,
    max_record_bytes: int = MAX_RECORD,
) -> list[TopicSpec]:
    """All topics of a memory; `compaction_lag` and `answers_kept` in seconds. Raises `Misconfigured`.

    Every topic has the log's time, since expiry and admission must not trust a sender's clock.
    """
    common = {
        "message.timestamp.type": Setting("LogAppendTime"),
        "min.insync.replicas": Setting("1", Relation.AT_LEAST),
    }
    compacted = common | {
        "cleanup.policy": Setting("compact"),
        "max.compaction.lag.ms": _milliseconds(compaction_lag),
        "min.compaction.lag.ms": Setting("0"),
        "delete.retention.ms": _milliseconds(DAY),
    }
    kept = common | {
        "cleanup.policy": Setting("delete"),
        "retention.ms": Setting("-1"),
        "retention.bytes": Setting("-1"),
    }
    large = {"max.message.bytes": Setting(str(max_record_bytes + HEADROOM), Relation.AT_LEAST)}

    def expiring(seconds: float) -> dict[str, Setting]:
        # A segment is deleted whole, so one that stays open keeps what has expired.
        return common | {
            "cleanup.policy": Setting("delete"),
            "retention.ms": _milliseconds(seconds),
            "segment.ms": _milliseconds(seconds / SEGMENTS_KEPT),
        }

    shapes: dict[Topic, tuple[int, dict[str, Setting]]] = {
        Topic.IMAGE_INGEST: (partitions, compacted | large),
        Topic.LABEL_CORRECTION: (partitions, compacted),
        Topic.FORGET_REQUEST: (partitions, compacted),
        Topic.QUERY: (partitions, expiring(answers_kept) | large),
        Topic.PREDICTION: (partitions, expiring(answers_kept)),
        Topic.FORGET_RECEIPT: (1, kept),
        Topic.FORGOTTEN_CLAIM: (1, expiring(CLAIMS_KEPT)),
        Topic.REJECTED: (1, expiring(REJECTIONS_KEPT)),
        Topic.FENCES: (1, compacted),
    }
    specs = [
        TopicSpec(topic, prefix + topic, count, replication, settings)
        for topic, (count, settings) in shapes.items()
    ]
    for spec in specs:
        if not _NAME.fullmatch(spec.name):
            raise Misconfigured(
                f"{spec.name!r} cannot be a topic: the prefix may have letters, digits, dots, "
                "underscores and hyphens only"
            )
    return specs


def _milliseconds(seconds: float) -> Setting:
    return Setting(str(max(1, round(seconds * 1000))), Relation.AT_MOST)


def _number(text: str) -> float:
    """A setting's number; -1 means no limit."""
    return inf if text == "-1" else float(text)
