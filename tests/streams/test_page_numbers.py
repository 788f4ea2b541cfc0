"""The numbers that pages tell are those of the program."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from memory import service
from memory.claims import addresses
from memory.model import events, questions, reliability
from memory.model.times import SECOND
from memory.redis import generations, lease
from memory.replica import index as replica
from streams import bootstrap
from streams.config.roles import ROLES
from streams.config.settings import MALLOC
from streams.contract import forgetting, topics
from streams.erasure import bound
from streams.kafka import decompression
from streams.local.process import ChildSpec
from streams.workers import (
    batch_delivery,
    delivery,
    faust_app,
    fetched_batches,
    handlers,
    readiness,
    worker_process,
)

ROOT = Path(__file__).parents[2]
MiB = 1 << 20
SPELT = {2: "two", 5: "five", 10: "ten", 15: "fifteen", 16: "sixteen", 50: "fifty", 100: "hundred"}
TIMES, MINUTES = {2: "twice"}, {1.0: "a minute"}
(ANNOUNCED_MS,) = re.findall(
    r"^local ANNOUNCED_MS = (\d+)$",
    files("memory.redis").joinpath("law.lua").read_text(),
    re.MULTILINE,
)

TOLD: dict[str, list[str]] = {
    "README.md": [
        f"`ce_k` (1 to {questions.MAX_K})",
        f"`ce_k` (1 to {questions.MAX_LISTED:,})",
        (
            f"may name {questions.MAX_NAMED} exclusions, {questions.MAX_NAMED} weights and "
            f"{questions.MAX_COMPOSED} items"
        ),
        f"Beyond {SPELT[questions.MAX_REMOVED]} it says so",
        f"by {reliability.SOFT_FACTOR}/(1 + count over {reliability.SOFT_NEIGHBORS})",
        f"that were it {reliability.HARD_FROM} times or more over {reliability.HARD_NEIGHBORS}",
        f"every {SPELT[round(handlers.INFLUENCE_SECONDS)]} seconds (more seldom where they are so many "
        f"that this would take over {handlers.INFLUENCE_SHARE:.0%} of its time)".replace("%", " %"),
        f"at most {SPELT[service.DEFAULT_CLOCK_SKEW // SECOND // 60]} minutes ahead of the log",
        (
            f"names at most {events.MAX_SUBJECTS} subjects, and events about one image at most "
            f"{events.MAX_SELECTORS:,} subjects and sources"
        ),
        f"become up to {decompression.MAX_DECOMPRESSED_BYTES // MiB} MiB",
    ],
    "docs/operations.md": [
        f"| `query`, `prediction` | `VISUAL_MEMORY_PARTITIONS` | {topics.ANSWERS_KEPT / 3600:g} hour |",
        f"| `rejected` | 1 | {topics.REJECTIONS_KEPT / 86400:g} days |",
        f"| `forgotten-claim` | 1 | {topics.CLAIMS_KEPT / 86400:g} days |",
        f"end a worker within {worker_process.SHUTDOWN_SECONDS:g} seconds",
        f"| {worker_process.EXIT_REFUSED} | refused:",
        f"| {worker_process.EXIT_UNEXPECTED} | something unexpected",
        f"a Kafka that is away is told after {readiness.KAFKA_SECONDS:g} seconds",
        f"for {readiness.STALLED_SECONDS:g} seconds none of its positions has moved",
        f"looks every {bootstrap.PROMISES_WATCH_SECONDS:g} seconds whether Redis is still durable",
        f"again every {fetched_batches.RETRY_SECONDS:g} seconds",
        f"may become {decompression.MAX_DECOMPRESSED_BYTES // MiB} MiB once it is decompressed",
        f"at most {SPELT[ROLES['ingest'].batches_at_once]} batches",
        f"that takes it over {batch_delivery.MAX_BATCH_BYTES // MiB} MB",
        f"read at most once in {1000 * ROLES['ingest'].gather_seconds:g} ms",
        f"fewer than {faust_app.FEW} records",
        f"rejects a record that ends it {TIMES[delivery.ATTEMPTS_ALONE]} more",
        f"every {SPELT[round(delivery.WATCH_SECONDS)]} seconds while it runs",
        f"taken over after {lease.LEASE_SECONDS:g} seconds",
        f"stand still for it, {generations.SEAL_SECONDS:g} seconds at most",
        f"when it was more than {MINUTES[int(ANNOUNCED_MS) / 60_000]} behind",
        f"what has not answered for {MINUTES[ChildSpec.hang_timeout / 60]}",
        f"each image's list of its {SPELT[reliability.HARD_NEIGHBORS]} nearest others",
        f"for {replica.BUSY_SHARE:.0%} of the time".replace("%", " %"),
        f"every {SPELT[round(handlers.INFLUENCE_SECONDS)]} seconds, more seldom where they are so many "
        f"that this would take over {handlers.INFLUENCE_SHARE:.0%}".replace("%", " %"),
        f"Up to {MALLOC['MALLOC_TRIM_THRESHOLD_'][1] // MiB} MB that are free it keeps",
    ],
    "docs/forgetting.md": [
        f"forgets up to {SPELT[events.MAX_GIVEN_IMAGES]} images",
        f"Up to {SPELT[forgetting.MAX_SELECTORS_OF_REQUEST]} identities and selectors",
        f"(plus {SPELT[service.DEFAULT_CLOCK_SKEW // SECOND // 60]} minutes",
        f"looks at the log every {SPELT[round(bound.MAX_LOOK_SECONDS)]}",
        f"swells to more than {decompression.MAX_DECOMPRESSED_BYTES // MiB} MiB",
    ],
    "docs/claim-checks.md": [
        f"at most {addresses.MAX_URI:,} characters",
        f"up to {addresses.WELL_FORMED.max_length:,}: signed addresses",
    ],
}


@pytest.mark.parametrize(("page", "told"), [(p, t) for p, several in TOLD.items() for t in several])
def test_a_number_on_a_page_is_the_programs(page: str, told: str) -> None:
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert told in text
