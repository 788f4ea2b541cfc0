"""The classes a JVM had loaded when it ended, kept so that its next start takes half the time.

The JVM does it (application class-data sharing, JEP 350): it passes over an archive that does not
fit its version or its class path.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from streams.local.cache import from_cache

_FILE = "classes.jsa"


class ClassArchive:
    """The archive of one Java and one folder of jars, beside that folder.

    A JVM that finds none writes one into `folder` when it is asked to end.
    """

    def __init__(self, java: Path, jars: Path, folder: Path) -> None:
        # Its time tells an upgrade, whose classes the former's archive does not fit.
        runtime = hashlib.sha256(f"{java.resolve()} {java.stat().st_mtime_ns}".encode()).hexdigest()
        self._cache, self._name = jars.parent, f"{jars.name}-classes-{runtime[:12]}"
        self._written = folder / _FILE

    def options(self, *, may_write: bool) -> list[str]:
        """What to start the JVM with."""
        kept = self._cache / self._name / _FILE
        if kept.exists():
            return [f"-XX:SharedArchiveFile={kept}"]
        return [f"-XX:ArchiveClassesAtExit={self._written}"] if may_write else []

    def keep(self, *, whole: bool) -> None:
        """After a JVM has ended: take what it wrote, if it was not killed while it wrote it."""
        if whole and self._written.exists():
            with contextlib.suppress(OSError):  # a cache that is full or not ours costs only time
                from_cache(self._cache, self._name, self._move)
        self._written.unlink(missing_ok=True)

    def _move(self, to: Path) -> None:
        shutil.move(self._written, to / _FILE)
