"""How long erasing may take at worst, from what is configured, and what would break that. Pure.

A record that a tombstone follows goes with the segment it is in: Kafka closes that after the shorter of
segment.ms and max.compaction.lag.ms, when something is appended to its partition, hence the heartbeats;
the cleaner comes by, rewrites it, and deletes the old file after a delay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIN_STEP_SECONDS, MAX_STEP_SECONDS, MAX_LOOK_SECONDS = 0.5, 2.0, 15.0
STEPS_A_BEAT = 10
MARGIN_SECONDS = 1.0
"""Kafka deletes files a moment after their delay."""
FIRST_CLEANING_SECONDS = 5.0
CLEANED_A_SECOND = 20e6
"""Bytes of the log that Kafka's cleaner, a scan, or a rewrite of Redis' file gets through, at least."""
REPORTS_SECONDS = 10.0
"""Copies of the memory say within this how current they are."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is configured; times in seconds, sizes in bytes.

    `topics`: of each topic its settings as Kafka tells them, by full name. `compacted` and `expiring`
    name those that are so by promise. `brokers`: settings of the broker that has the greatest values.
    `redis`: settings; `replicas` copy it.
    """

    topics: Mapping[str, Mapping[str, str]]
    compacted: tuple[str, ...]
    expiring: tuple[str, ...]
    brokers: Mapping[str, float]
    log_bytes: int
    redis: Mapping[str, str]
    redis_bytes: int
    replicas: int
    pause: float
    beat: float
    erases: bool
    claims: bool = False

    @property
    def step(self) -> float:
        return step_seconds(self.beat)

    @property
    def look(self) -> float:
        return look_seconds(self.beat)


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds from the log's receiving a request to `completed` at worst, where workers keep up.

    `parts` say what it is made of; `faults` why it does not hold, with setting and remedy.
    """

    parts: Mapping[str, float]
    faults: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The longest of the parts, which go on side by side."""
        return max(self.parts.values())


def step_seconds(beat: float) -> float:
    """Between two steps of the eraser."""
    return min(MAX_STEP_SECONDS, max(MIN_STEP_SECONDS, beat / STEPS_A_BEAT))


def look_seconds(beat: float) -> float:
    """Between two looks at what is dead in the log: where it takes hours to let go, looking often costs
    others the more for nothing.
    """
    return min(MAX_LOOK_SECONDS, max(MIN_STEP_SECONDS, beat / STEPS_A_BEAT))


def worst_case(given: Configuration) -> Bound:
    """The bound of a configuration."""
    return Bound(
        {
            "log": max(_compacted(given, name) for name in given.compacted) + _looking(given),
            "answers": max(_expired(given, name) for name in given.expiring)
            + given.step
            + given.look,
            "redis": given.pause
            + 2 * (FIRST_CLEANING_SECONDS + given.redis_bytes / CLEANED_A_SECOND)
            + 2 * given.step,
            "copies": REPORTS_SECONDS + 2 * given.step,
        },
        tuple(_faults(given)),
    )


def _compacted(given: Configuration, name: str) -> float:
    topic = given.topics[name]
    lag, roll, least = (
        _seconds(topic[setting])
        for setting in ("max.compaction.lag.ms", "segment.ms", "min.compaction.lag.ms")
    )
    return (
        max(min(roll, lag), least)
        + given.beat
        + given.brokers["log.cleaner.backoff.ms"] / 1000
        + _passing(given)
        + _seconds(topic["file.delete.delay.ms"])
        + MARGIN_SECONDS
    )


def _looking(given: Configuration) -> float:
    """Tombstones first; a scan, which may wait for the one before; then looks at what was dead.

    With claims a scan comes before the tombstones too.
    """
    scans = 2 if given.claims else 1
    return 2 * given.step + given.look + scans * given.pause + (1 + scans) * _passing(given)


def _passing(given: Configuration) -> float:
    return FIRST_CLEANING_SECONDS + given.log_bytes / CLEANED_A_SECOND


def _expired(given: Configuration, name: str) -> float:
    topic = given.topics[name]
    return (
        _seconds(topic["segment.ms"])
        + _seconds(topic["retention.ms"])
        + given.brokers["log.retention.check.interval.ms"] / 1000
        + _seconds(topic["file.delete.delay.ms"])
        + MARGIN_SECONDS
    )


def _seconds(text: str) -> float:
    return float("inf") if text == "-1" else float(text) / 1000


def _faults(given: Configuration) -> list[str]:
    found = []
    for name in (*given.compacted, *given.expiring):
        topic = given.topics[name]
        wanted = "compact" if name in given.compacted else "delete"
        if topic["cleanup.policy"] != wanted:
            found.append(
                f"{name}: cleanup.policy is {topic['cleanup.policy']}, so what is forgotten stays; set it to "
                f"{wanted}"
            )
        if topic.get("remote.storage.enable") == "true":
            found.append(
                f"{name}: remote.storage.enable is true: what is moved to tiered storage is out of reach; "
                "make the topic without it"
            )
    if given.redis.get("appendonly") != "yes":
        found.append("Redis: appendonly is not yes; set it: CONFIG SET appendonly yes")
    if given.replicas:
        found.append(
            f"Redis: {given.replicas} replicas keep files of their own, which nobody here writes anew; "
            "do without, or have BGREWRITEAOF run on each and count them as backups"
        )
    if not given.erases:
        found.append(
            "no erase worker runs: Redis' append-only file is never written anew and no tombstone is "
            "written; start `visual-memory worker erase`"
        )
    return found
