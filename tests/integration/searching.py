"""Byte strings looked for in the files of servers that run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

HEAD = 4
MARKED = 1 << 20
"""So many of a head's values are told apart before heads are compared: most of what files hold is passed over so."""


def read_files(folder: Path, pattern: str = "**/*") -> Iterator[tuple[Path, bytes]]:
    """What each file holds; one that Kafka takes out of its log meanwhile is read under its new name."""
    for file in sorted(folder.glob(pattern)):
        for name in (file, file.with_name(f"{file.name}.deleted")):
            try:
                data = name.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                continue
            yield file, data
            break


def found_in(datas: Iterable[bytes], needles: Collection[bytes]) -> set[bytes]:
    """Those that are in one of them; each needle has at least `HEAD` bytes."""
    by_head: dict[int, list[bytes]] = {}
    for needle in needles:
        by_head.setdefault(int.from_bytes(needle[:HEAD], "little"), []).append(needle)
    is_marked = np.zeros(MARKED, np.bool_)
    is_marked[[head % MARKED for head in by_head]] = True
    longest = max(map(len, needles))
    found: set[bytes] = set()
    for whole in datas:
        # Kafka makes its indexes 10 MB large at once; what follows the last byte is nothing.
        data = whole[: len(whole.rstrip(b"\0")) + longest]
        for shift in range(HEAD):
            count = (len(data) - shift) // HEAD
            if count <= 0:
                continue
            words = np.frombuffer(data, "<u4", count, shift)
            for at in np.flatnonzero(is_marked[words % MARKED]).tolist():
                start = shift + HEAD * at
                found.update(
                    n for n in by_head.get(int(words[at]), ()) if data.startswith(n, start)
                )
    return found
