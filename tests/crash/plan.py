"""What happens in a round, decided by its seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

STEPS = {
    "ingest": ("admit", "enlist", "put", "append", "publish", "advance"),
    "correct": ("put", "advance"),
    "forget": ("open_request", "fence", "append", "put", "close_request", "publish", "advance"),
    "query": ("positions", "search_as_of", "publish", "advance"),
}
WORKERS = ("ingest", "ingest-1", "correct", "forget", "query")
STOPPED_SECONDS = 10.0
"""Longer than a session lasts: others have the partitions when the worker goes on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`how` is KILL, TERM, STOP (and CONT later) or the step after which a worker breaks."""

    at: float
    who: str
    how: str
    call: int = 1

    def __str__(self) -> str:
        call = f"x{self.call}" if self.call > 1 else ""
        return f"{self.who}:{self.how}{call}@{self.at:.1f}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`events` are sent at `rate` a second; a fault's time is in seconds from the first."""

    seed: int
    events: int
    rate: float
    faults: tuple[Fault, ...]


def plan_of(seed: int) -> Plan:
    rng = random.Random(seed)
    seconds = rng.uniform(2, 4)
    rate = rng.choice([60.0, 120.0, 240.0])
    count = rng.choices([1, 2, 3], [5, 3, 2])[0]
    faults = sorted((_fault(rng, seconds) for _ in range(count)), key=lambda f: (f.at, str(f)))
    return Plan(seed, round(seconds * rate), rate, tuple(faults))


def _fault(rng: random.Random, seconds: float) -> Fault:
    at = round(rng.uniform(0.1, seconds), 1)
    kind = rng.choices(["worker", "step", "redis", "kafka", "supervisor", "stop"], _WEIGHTS)[0]
    match kind:
        case "worker":
            return Fault(at, rng.choice(WORKERS), rng.choice(["KILL", "TERM"]))
        case "step":
            role = rng.choice(sorted(STEPS))
            return Fault(at, role, rng.choice(STEPS[role]), rng.randint(1, 3))
        case "supervisor":
            return Fault(at, kind, rng.choice(["KILL", "TERM"]))
        case "stop":
            return Fault(at, rng.choice(WORKERS), "STOP")
        case _:
            return Fault(at, kind, "KILL")


_WEIGHTS = [6, 6, 4, 2, 2, 1]
