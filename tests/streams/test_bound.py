"""How long erasing takes at worst: the formula, and what breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streams.erasure.bound import Configuration, look_seconds, step_seconds, worst_case

COMPACTED = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": "100000",
    "min.compaction.lag.ms": "0",
    "segment.ms": "604800000",
    "file.delete.delay.ms": "60000",
    "retention.ms": "-1",
}
EXPIRING = {
    "cleanup.policy": "delete",
    "segment.ms": "20000",
    "retention.ms": "30000",
    "file.delete.delay.ms": "60000",
}
GIVEN = Configuration(
    topics={"in": COMPACTED, "out": EXPIRING},
    compacted=("in",),
    expiring=("out",),
    brokers={"log.cleaner.backoff.ms": 15000, "log.retention.check.interval.ms": 300000},
    log_bytes=200_000_000,
    redis={"appendonly": "yes"},
    redis_bytes=100_000_000,
    replicas=0,
    pause=7,
    beat=25,
    erases=True,
)


def topic(name: str, **settings: str) -> Configuration:
    changed = {key.replace("_", "."): value for key, value in settings.items()}
    return replace(GIVEN, topics={**GIVEN.topics, name: {**GIVEN.topics[name], **changed}})


def test_the_bound_is_what_the_measured_formula_says() -> None:
    bound = worst_case(GIVEN)
    # Closing, heartbeat, back-off, a pass of the cleaner, file delay and its margin; then the looks.
    passing = 5 + 10
    log = 100 + 25 + 15 + passing + 60 + 1
    assert bound.parts["log"] == log + 2 * 2 + 2.5 + 7 + 2 * passing
    assert bound.parts["answers"] == 20 + 30 + 300 + 60 + 1 + 2 + 2.5
    assert bound.parts["redis"] == 7 + 2 * (5 + 5) + 2 * 2
    assert bound.seconds == 20 + 30 + 300 + 60 + 1 + 2 + 2.5
    assert bound.faults == ()


@pytest.mark.parametrize(
    ("given", "part", "longer"),
    [
        (replace(GIVEN, claims=True), "log", 7 + 15),
        (topic("in", segment_ms="50000"), "log", -50),
        (topic("in", min_compaction_lag_ms="150000"), "log", 50),
        (topic("in", max_compaction_lag_ms="-1"), "log", 604800 - 100),
        (topic("out", segment_ms="25000"), "answers", 5),
        (replace(GIVEN, pause=17), "log", 10),
        (replace(GIVEN, beat=26), "log", 1 + 0.1),
        (replace(GIVEN, beat=10), "log", -15 - 2 * 1 - 1.5),
        (replace(GIVEN, redis_bytes=0), "redis", -10),
    ],
)
def test_each_setting_counts(given: Configuration, part: str, longer: float) -> None:
    assert worst_case(given).parts[part] == pytest.approx(worst_case(GIVEN).parts[part] + longer)


def test_steps_are_seconds_apart_where_the_log_takes_long_and_half_a_second_at_least() -> None:
    assert [step_seconds(beat) for beat in (0.1, 5, 10, 20, 3600)] == [0.5, 0.5, 1, 2, 2]
    assert [look_seconds(beat) for beat in (0.1, 5, 10, 20, 3600)] == [0.5, 0.5, 1, 2, 15]


def test_what_never_expires_has_no_bound() -> None:
    assert worst_case(topic("out", retention_ms="-1")).seconds == float("inf")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (topic("in", cleanup_policy="delete"), "in: cleanup.policy is delete"),
        (topic("in", cleanup_policy="compact,delete"), "in: cleanup.policy is compact,delete"),
        (topic("out", cleanup_policy="compact"), "out: cleanup.policy is compact"),
        (topic("in", remote_storage_enable="true"), "in: remote.storage.enable is true"),
        (replace(GIVEN, redis={"appendonly": "no"}), "CONFIG SET appendonly yes"),
        (replace(GIVEN, replicas=2), "2 replicas keep files of their own"),
        (replace(GIVEN, erases=False), "no erase worker runs"),
    ],
)
def test_what_keeps_the_forgotten_is_named(given: Configuration, said: str) -> None:
    (fault,) = worst_case(given).faults
    assert said in fault


def test_settings_of_other_topics_do_not_count() -> None:
    other: Any = {**GIVEN.topics, "rejected": {"cleanup.policy": "none"}}
    assert worst_case(replace(GIVEN, topics=other)) == worst_case(GIVEN)
