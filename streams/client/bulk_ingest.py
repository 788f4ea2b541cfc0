"""Send many images, then report which were merged, which rejected, and which are in the answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from memory.model.answers import Position
from memory.ports import MemoryIndex
from streams.client import MemoryClient, Pending

IN_FLIGHT = 2000


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of the events sent. `reasons` holds one (reason, detail) a rejection."""

    accepted: int
    rejected: int
    visible: int
    in_time: bool
    reasons: tuple[dict[str, str], ...]


class BulkIngest:
    """Sends images as a stream and then waits until the memory has dealt with each."""

    def __init__(self, client: MemoryClient, index: MemoryIndex) -> None:
        self._client = client
        self._index = index
        self._pending: deque[Pending] = deque()
        self._sent: list[Position] = []
        self._rejections = client.rejections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ingest(self, file: Path, image_id: str, label: str, subjects: Sequence[str]) -> None:
        """Send one image; waits only when thousands are under way."""
        self._pending.append(self._client.ingest(file, id=image_id, label=label, subjects=subjects))
        if len(self._pending) > IN_FLIGHT:
            self._sent.append(self._pending.popleft().position(60))

    def finish(self, timeout: float, merged: Callable[[int], None]) -> IngestReport:
        """Wait until all that was sent is visible or rejected, at most `timeout` seconds."""
        self._sent.extend(pending.position(60) for pending in self._pending)
        self._pending.clear()
        deadline = time.monotonic() + timeout
        while (done := self._merged(self._sent)) < len(self._sent) and time.monotonic() < deadline:
            merged(done)
            time.sleep(0.1)
        merged(done)
        # By place: a worker that is restarted may say the same again.
        said = {
            (found.topic, found.partition, found.offset): found
            for found in self._rejections.poll(until_quiet=0.5)
        }
        places = {place: (place.topic, place.partition, place.offset) for place in self._sent}
        accepted = [place for place in self._sent if places[place] not in said]
        reasons = tuple(
            {"reason": said[place].reason, "detail": said[place].detail}
            for place in places.values()
            if place in said
        )
        return IngestReport(
            accepted=len(accepted),
            rejected=len(reasons),
            visible=self._merged(accepted),
            in_time=done == len(self._sent),
            reasons=reasons,
        )

    def _merged(self, places: Sequence[Position]) -> int:
        """How many of these have been merged, or looked at and rejected."""
        positions = self._index.positions()
        return sum(positions.get(p.log_partition, 0) > p.offset for p in places)
