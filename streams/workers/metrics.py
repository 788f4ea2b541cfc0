"""Prometheus metrics: seconds and ``_total``, never an id or free text in a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from memory.errors import Reason
from memory.model.reliability import Pruning
from memory.ports import Embedder
from memory.replica.index import ReplicaState
from streams.contract.records import Marker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FRESHNESS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

EVENTS = Counter(
    "visual_memory_events",
    "Records taken from the log, by role and outcome.",
    ["role", "outcome"],
)
REJECTED = Counter(
    "visual_memory_rejected", "Records and questions rejected, by reason.", ["role", "reason"]
)
REVIVALS_BLOCKED = Counter(
    "visual_memory_revivals_blocked", "Events refused because what they are about is forgotten."
)
SHARED_IDS = Counter(
    "visual_memory_shared_ids", "Images merged whose id another source has sent an image of too."
)
RETRIES = Counter(
    "visual_memory_retries", "Batches tried again because a server was away.", ["role"]
)
STAGE = Histogram(
    "visual_memory_stage_seconds",
    "Duration of a stage for a batch: ingest, correct, fetch, embed, merge, search, vote; "
    "for a request: forget, and erase, which is its part until no answer rests on what it names.",
    ["stage"],
    buckets=LATENCY,
)
EMBEDDED = Counter("visual_memory_embedded_images", "Images embedded, by kind of model.", ["model"])
QUERY = Histogram(
    "visual_memory_query_seconds",
    "From a question's arrival at the worker to its answer, ready to be sent.",
    buckets=LATENCY,
)
FRESHNESS_SECONDS = Histogram(
    "visual_memory_freshness_seconds",
    "From an event's time to its being in the answers.",
    ["role"],
    buckets=FRESHNESS,
)
IMAGES_FORGOTTEN = Counter("visual_memory_images_forgotten", "Images erased by forget-requests.")

ASSIGNED = Gauge(
    "visual_memory_assigned_partitions",
    "Partitions a role's workers read.",
    ["role"],
    multiprocess_mode="livesum",
)

UNREADABLE = Gauge(
    "visual_memory_unreadable_partitions",
    "Partitions of a topic that wait at a batch which cannot be read.",
    ["topic"],
    multiprocess_mode="livesum",
)

SEARCHES = Counter(
    "visual_memory_searches",
    "Searches, by what was searched: a worker's own replica of the memory, or redis.",
    ["by"],
)
REPLICA_ITEMS = Gauge(
    "visual_memory_replica_items",
    "Images in a query worker's replica; 0 where Redis is searched.",
    multiprocess_mode="mostrecent",
)
REPLICA_BYTES = Gauge(
    "visual_memory_replica_bytes",
    "Memory that the vectors of a query worker's replica take.",
    multiprocess_mode="mostrecent",
)
REPLICA_AGE = Gauge(
    "visual_memory_replica_age_seconds",
    "How long ago a query worker's replica was last as Redis is; -1 where Redis is searched.",
    multiprocess_mode="mostrecent",
)
PRUNED_ANSWERS = Counter(
    "visual_memory_pruned_answers",
    "Answers in which unreliable items weighed less (soft) or took no part (hard).",
    ["pruning"],
)
RELIABILITY_AGE = Gauge(
    "visual_memory_reliability_age_seconds",
    "How long ago a query worker's wrong counts were those of the whole memory; -1: it has none.",
    multiprocess_mode="mostrecent",
)
UNRELIABLE = Gauge(
    "visual_memory_unreliable_items",
    "Images that hard pruning leaves out: so often a neighbour of another label.",
    multiprocess_mode="mostrecent",
)
SUSPECTS = Gauge(
    "visual_memory_suspects",
    "Images whose neighbours say another label, for review.",
    multiprocess_mode="mostrecent",
)

# Set by the monitor alone, from the servers' state.
ITEMS = Gauge("visual_memory_items", "Searchable images.", multiprocess_mode="mostrecent")
LABEL_ITEMS = Gauge(
    "visual_memory_label_items",
    "Searchable images by label, of the labels that a setting allows.",
    ["label"],
    multiprocess_mode="mostrecent",
)
BYTES = Gauge("visual_memory_bytes", "Memory the store uses.", multiprocess_mode="mostrecent")
BYTES_LIMIT = Gauge(
    "visual_memory_bytes_limit",
    "Memory the store may use at most; 0 where it has no limit.",
    multiprocess_mode="mostrecent",
)
PRUNED = Gauge(
    "visual_memory_pruned_items",
    "Images that people left out of all answers (visual-memory prune).",
    multiprocess_mode="mostrecent",
)
WAITING = Gauge(
    "visual_memory_waiting_corrections",
    "Corrections whose image has not come yet.",
    multiprocess_mode="mostrecent",
)
OPEN_FORGETS = Gauge(
    "visual_memory_open_forgets",
    "Forget-requests seen but not yet carried out.",
    multiprocess_mode="mostrecent",
)
OLDEST_OPEN_FORGET = Gauge(
    "visual_memory_oldest_open_forget_seconds",
    "Age of the oldest forget-request without a receipt, in the log or taken up; 0 without one.",
    multiprocess_mode="mostrecent",
)
MEASURED = Gauge(
    "visual_memory_measured_timestamp_seconds",
    "When the monitor last measured sizes, lag and forgets, in seconds since 1970; 0 before.",
    ["what"],
    multiprocess_mode="mostrecent",
)
LAG = Gauge(
    "visual_memory_lag",
    "Records in the log that a role has not merged yet.",
    ["topic", "partition"],
    multiprocess_mode="mostrecent",
)

LOG_CUTS = Gauge(
    "visual_memory_log_cuts",
    "Times that partitions of a topic were found to be cut, and read again from there.",
    ["topic"],
    multiprocess_mode="mostrecent",
)


def observe_stage(stage: str, seconds: float) -> None:
    """Record how long a stage took."""
    STAGE.labels(stage).observe(seconds)


_MERGING = ("merged", "superseded", "rejected", *Marker)
OUTCOMES: Mapping[str, Sequence[str]] = {
    "ingest": _MERGING,
    "correct": _MERGING,
    "forget": ("erased", "unmatched", "repeated", "scheduled", "cancel", "rejected", *Marker),
    "query": ("answered", "abstained", "empty", "stale", "expired", "rejected", *Marker),
}
"""What may become of a role's records."""

STAGES: Mapping[str, Sequence[str]] = {
    "ingest": ("ingest", "fetch", "embed", "merge"),
    "correct": ("correct", "merge"),
    "forget": ("forget", "erase"),
    "query": ("fetch", "embed", "search", "vote"),
}
"""What a role's batches go through."""


def begin_at_zero(role: str) -> None:
    """Export a role's series from its start: a rate misses the increment that makes a series."""
    RETRIES.labels(role)
    for outcome in OUTCOMES[role]:
        EVENTS.labels(role, outcome)
    for reason in Reason:
        REJECTED.labels(role, reason)
    for pruning in (Pruning.SOFT, Pruning.HARD) if role == "query" else ():
        PRUNED_ANSWERS.labels(pruning)
    for stage in STAGES[role]:
        STAGE.labels(stage)
    if "merged" in OUTCOMES[role]:
        FRESHNESS_SECONDS.labels(role)


class ReplicaMetrics:
    """What a query worker's replica does."""

    def __init__(self) -> None:
        self._searches = {by: SEARCHES.labels(by) for by in ("replica", "redis")}

    def count_searches(self, by: str, count: int) -> None:
        """Count searches by what was searched."""
        self._searches[by].inc(count)

    def note_state(self, state: ReplicaState) -> None:
        """Export how the replica is."""
        REPLICA_ITEMS.set(state.items)
        REPLICA_BYTES.set(state.bytes)
        REPLICA_AGE.set(-1 if state.age is None else state.age)
        counts = state.counts
        RELIABILITY_AGE.set(-1 if counts is None else counts.age)
        UNRELIABLE.set(0 if counts is None else len(counts.pruned))
        SUSPECTS.set(state.suspects)


class Counted:
    """An embedder whose images are counted under the kind of its model."""

    def __init__(self, embedder: Embedder, kind: str) -> None:
        self._embedder = embedder
        self._count = EMBEDDED.labels(kind)

    @property
    def name(self) -> str:
        return self._embedder.name

    @property
    def digest(self) -> str:
        return self._embedder.digest

    @property
    def dim(self) -> int:
        return self._embedder.dim

    def embed(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """As the embedder's; what raises counts nothing."""
        vectors = self._embedder.embed(images)
        self._count.inc(len(images))
        return vectors
