"""Which files a user means who names files and folders, and what they are called in the memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory.images import SUFFIXES

THUMBNAIL_FOLDERS = frozenset({"@eaDir", "__MACOSX"})
"""What file managers put beside images; the others' names are hidden."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to send. `folder` is the name of the folder it is in."""

    path: Path
    image_id: str
    folder: str


@dataclass(slots=True)
class Selection:
    """What was found. `passed_over` counts by kind, `unreadable` tells why."""

    images: list[ImageFile] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unreadable: dict[Path, str] = field(default_factory=dict)


def find_images(paths: Sequence[Path]) -> Selection:
    """The images among files and in folders, each file once.

    A file that is named is taken whatever it is called. Of a folder those are taken whose suffix
    is an image's; hidden ones and thumbnails are passed over, links are followed, loops are not.
    Ids are relative to the folder where one is named, else to the folder that all of them are in,
    so that no two files share one.
    """
    found = Selection()
    base = _base(paths)
    taken: set[Path] = set()
    for path in paths:
        for file in _files(path, found):
            absolute = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would follow links
            if absolute not in taken:
                taken.add(absolute)
                image_id = absolute.relative_to(base).as_posix()
                found.images.append(ImageFile(file, image_id, absolute.parent.name))
    return found


def _base(paths: Sequence[Path]) -> str:
    named = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - as above
    if len(paths) == 1 and paths[0].is_dir():
        return named[0]
    return os.path.commonpath([os.path.dirname(path) for path in named])  # noqa: PTH120


def _files(path: Path, found: Selection) -> Iterator[Path]:
    try:
        if path.is_dir():
            yield from _walk(path, (), found)
        elif path.exists() and not path.is_file():
            found.unreadable[path] = "a pipe, socket or device"
        else:
            path.open("rb").close()
            yield path
    except OSError as error:
        found.unreadable[path] = error.strerror or str(error)


def _walk(folder: Path, above: tuple[str, ...], found: Selection) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        found.unreadable[folder] = error.strerror or str(error)
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in THUMBNAIL_FOLDERS:
            found.passed_over["hidden or thumbnails"] += 1
        elif entry.is_dir():
            yield from _walk(entry, (*above, here), found)
        elif entry.suffix.lower() not in SUFFIXES:
            found.passed_over[entry.suffix.lower() or "without a suffix"] += 1
        else:
            yield from _files(entry, found)
