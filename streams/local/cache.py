"""A folder for what is fetched once, which any number of processes may share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from streams.local.process import Log, silent


def default_cache() -> Path:
    """The user's cache folder for this project (XDG_CACHE_HOME is respected)."""
    return user_cache_path("visual-memory", appauthor=False)


def from_cache(cache: Path, name: str, fill: Callable[[Path], None], log: Log = silent) -> Path:
    """The folder `name` of the cache; made by `fill`, whole or not at all, by one process.

    Raises OSError when the cache cannot be written, and what `fill` raises.
    """
    target = cache / name
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{name}.lock"):
        if target.is_dir():
            return target
        for left_over in cache.glob(f".{name}-*"):
            shutil.rmtree(left_over)
        log(f"installing {name} into {cache}")
        unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}-"))
        try:
            fill(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target
