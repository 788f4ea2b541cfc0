"""Prometheus metrics: seconds and ``_total``, never an id or free text in a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
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
RETRIES = Counter(
    "visual_memory_retries", "Batches tried again because a server was away.", ["role"]
)
STAGE = Histogram(
    "visual_memory_stage_seconds",
    "Duration of a stage for a batch: ingest, correct, forget, fetch, embed, merge, search, vote.",
    ["stage"],
    buckets=LATENCY,
)
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

# Set by the monitor alone, from the servers' state.
ITEMS = Gauge("visual_memory_items", "Searchable images.", multiprocess_mode="mostrecent")
LABEL_ITEMS = Gauge(
    "visual_memory_label_items",
    "Searchable images by label, of the labels that a setting allows.",
    ["label"],
    multiprocess_mode="mostrecent",
)
BYTES = Gauge("visual_memory_bytes", "Memory the store uses.", multiprocess_mode="mostrecent")
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
LAG = Gauge(
    "visual_memory_lag",
    "Records in the log that a role has not merged yet.",
    ["topic", "partition"],
    multiprocess_mode="mostrecent",
)


def observe_stage(stage: str, seconds: float) -> None:
    """Record how long a stage took."""
    STAGE.labels(stage).observe(seconds)
