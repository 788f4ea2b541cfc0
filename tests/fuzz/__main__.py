"""Thousands of broken records and images at real workers, from a seed.

    python -m tests.fuzz --records 25000 --images 1500 --seed 1

Ends with 1, and says what did not hold, when a record was not told exactly once, a worker was
ended, or memory was not given back.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests import servers
from tests.fuzz.checking import Result, fuzz_memory, warm_up
from tests.integration.running import running


def table(found: Result) -> str:
    lines = [f"{'role':<8} {'records':>8} {'rejected':>8} {'MB more':>8}"]
    lines += [
        f"{role:<8} {sent:>8} {found.rejected.get(role, 0):>8} {found.grown[role]:>8}"
        for role, sent in sorted(found.sent.items())
    ]
    reasons = sorted(found.reasons.items(), key=lambda reason: -reason[1])
    return "\n".join([*lines, ", ".join(f"{reason} {count}" for reason, count in reasons)])


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--records", type=int, default=25_000)
    parser.add_argument("--images", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with (
            servers.kafka(folder / "kafka") as kafka,
            servers.redis(folder / "redis") as redis_url,
            running(
                folder / "workers",
                kafka=kafka,
                redis_url=redis_url,
                name=f"fuzz-{given.seed}-",
                workers=dict.fromkeys(("ingest", "correct", "forget", "query"), 1),
            ) as memory,
        ):
            warm_up(memory)
            try:
                found = fuzz_memory(memory, given.seed, given.records, given.images)
            except AssertionError as error:
                print(f"seed {given.seed}: {error}\n{memory.logs()}")
                sys.exit(1)
    print(table(found))
    print(f"seed {given.seed}: each record told once, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
