"""Metrics that processes share through files (prometheus_client's): what to do when one has died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import multiprocess
from prometheus_client.mmap_dict import MmapedDict

COUNTING = ("counter", "histogram", "summary")


def settle_dead_process(folder: Path, pid: int) -> None:
    """Drop what a dead process last said of itself, and keep what it counted.

    Else its gauges are summed for ever, and each restart leaves files that every scrape reads.
    All that the dead have counted stands in one file a kind.
    """
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # untyped there
    for kind in COUNTING:
        file = folder / f"{kind}_{pid}.db"
        if file.exists():
            kept: Any = MmapedDict(str(folder / f"{kind}_ended.db"))  # type: ignore[no-untyped-call]  # as above
            found: Any = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]  # as above
            for key, value, timestamp, _ in found:
                kept.write_value(key, kept.read_value(key)[0] + value, timestamp)
            kept.close()
            file.unlink()
