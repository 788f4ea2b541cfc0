"""What the erase worker exports: how far requests are, how long stages take, and the bound."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

from memory.model.times import SECOND
from streams.contract.messages import Receipt
from streams.erasure.bound import Bound
from streams.erasure.ledger import COMPLETED, PROVEN, Ledger, begun

HOUR = 3600
ERASURE_BUCKETS = (1, 5, 15, 60, 300, 900, HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR, 168 * HOUR)

ERASURES = Gauge(
    "visual_memory_erasures",
    "Forget-requests that are erased and not completed, by the stage that they have not come to.",
    ["stage"],
    multiprocess_mode="mostrecent",
)
OLDEST_ERASURE = Gauge(
    "visual_memory_oldest_erasure_seconds",
    "Since when the oldest request that is erased and not completed was to be carried out; 0 without one.",
    multiprocess_mode="mostrecent",
)
ERASURE_SECONDS = Histogram(
    "visual_memory_erasure_seconds",
    "From the log's receiving a forget-request to each stage.",
    ["stage"],
    buckets=ERASURE_BUCKETS,
)
BOUND_SECONDS = Gauge(
    "visual_memory_erasure_bound_seconds",
    "How long erasing takes at worst, as the servers are configured now; -1: not known.",
    multiprocess_mode="mostrecent",
)
LIMIT_SECONDS = Gauge(
    "visual_memory_erasure_limit_seconds",
    "The time to erasure that is promised.",
    multiprocess_mode="mostrecent",
)
FAULTS = Gauge(
    "visual_memory_erasure_faults",
    "What keeps the forgotten for good, as the servers are configured now (visual-memory audit).",
    multiprocess_mode="mostrecent",
)
UNREADABLE_RECORDS = Gauge(
    "visual_memory_unscanned_records",
    "Records of the log that the last scan for the forgotten could not look at.",
    multiprocess_mode="mostrecent",
)


def export_requests(ledger: Ledger, now: int) -> None:
    """How far those are that are under way; `now` in µs."""
    for stage in PROVEN:
        ERASURES.labels(stage).set(len(ledger.lacking(stage)))
    began = [begun(one.last, one.stages) for one in ledger.open.values()]
    OLDEST_ERASURE.set(max([0.0, *((now - time) / SECOND for time in began if time is not None)]))


def observe_stages(before: set[str], receipt: Receipt) -> None:
    """How long a request took to the stages that a receipt says first."""
    for stage in {*PROVEN, COMPLETED} & receipt.stages.keys() - before:
        began = begun(receipt, receipt.stages)
        took = 0 if began is None else receipt.stages[stage] - began
        ERASURE_SECONDS.labels(stage).observe(max(0.0, took / SECOND))


def export_bound(bound: Bound | None, limit: float) -> None:
    """The worst case by now; None where it cannot be told."""
    LIMIT_SECONDS.set(limit)
    BOUND_SECONDS.set(-1 if bound is None else bound.seconds)
    FAULTS.set(0 if bound is None else len(bound.faults))


def begin_stages_at_zero() -> None:
    """Export the series of stages from the start: a rate misses the increment that makes one."""
    for stage in (*PROVEN, COMPLETED):
        ERASURE_SECONDS.labels(stage)
