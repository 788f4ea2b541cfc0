"""Images a second of Lite0 alone: as a worker embeds them, and as torch and malloc do by themselves.

python -m benchmarks.embedder [--images 1600] [--defaults]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from memory.embedders.lite0 import Lite0Embedder
from memory.images import ImageLimits, decode
from streams.config.settings import prepare_process
from streams.demo.emoji import emoji

TOGETHER = 32
"""Of the defaults: one batch after another, of so many."""


def images_per_s(count: int, *, defaults: bool) -> float:
    """Decoded before the clock starts."""
    images = [decode(s.path.read_bytes(), ImageLimits()) for s in emoji("google")[:count]]
    embedder = Lite0Embedder(batch_size=TOGETHER if defaults else None)
    # One batch alone is not embedded side by side with others.
    at_once = TOGETHER if defaults else len(images)
    embedder.embed(images[:TOGETHER])
    started = time.perf_counter()
    for start in range(0, len(images), at_once):
        embedder.embed(images[start : start + at_once])
    return len(images) / (time.perf_counter() - started)


def alone(count: int, *, defaults: bool = False) -> float:
    """`images_per_s` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.embedder", f"--images={count}"]
    command += ["--defaults"] if defaults else []
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedder", description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--defaults", action="store_true", help="prepare nothing")
    options = parser.parse_args()
    if not options.defaults:
        prepare_process()
    print(round(images_per_s(options.images, defaults=options.defaults), 1))


if __name__ == "__main__":
    main()
