"""Random load, random kills, and what must hold afterwards; again and again.

    python -m tests.crash --rounds 50 --seed 1

Prints a line a round. Ends with 1 at the first round that breaks a promise, keeps its folder and
says how to play it again. (In the manner of RocksDB's db_crashtest.)
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.memory import Outcome, crashed, servers_in
from tests.crash.plan import Plan, plan_of

FRESH = 10
"""Rounds for which one memory grows."""
HEAD = f"{'seed':>9} events answers lost equal seconds  happened"


def line(plan: Plan, found: Outcome, seconds: float) -> str:
    equal = "yes" if found.equal else "NO"
    return (
        f"{plan.seed:>9} {found.events:>6} {found.answers:>7} {len(found.lost):>4} {equal:>5} "
        f"{seconds:>7.1f}  {' '.join(found.happened)}"
    )


def run(folder: Path, rounds: int, seed: int) -> bool:
    """Whether all rounds were clean; their seeds are `seed` and those after it."""
    print(HEAD, flush=True)
    with servers_in(folder / "servers") as servers:
        for first in range(seed, seed + rounds, FRESH):
            name = f"crash-{first}-"
            last = min(first + FRESH, seed + rounds)
            with crashed(folder / name, folder / "servers", servers, name) as memory:
                for number in range(first, last):
                    plan, found, started = plan_of(number), Outcome(), time.monotonic()
                    try:
                        memory.round(plan, found)
                    except Exception as error:  # noqa: BLE001 - told below, whatever it is
                        print(line(plan, found, time.monotonic() - started))
                        told = f"{type(error).__name__}: {error}"
                        print(f"round {number} broke a promise: {told[:4000]}")
                        print(f"planned: {' '.join(map(str, plan.faults))}")
                        print(f"logs and data: {folder}")
                        print(f"again: make crash ROUNDS=1 SEED={number}")
                        if number > first:
                            before = f"make crash ROUNDS={number - first + 1} SEED={first}"
                            print(f"with the rounds before it: {before}", flush=True)
                        return False
                    print(line(plan, found, time.monotonic() - started), flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, help="of the first round; the next has the next")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="visual-memory-crash-"))
    started = time.monotonic()
    if not run(folder, given.rounds, seed):
        return 1
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    print(f"{given.rounds} rounds, all clean, in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
