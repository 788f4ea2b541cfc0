"""Follow one's own events: what was accepted, what was rejected, what is in the answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from memory.model import Position
from memory.ports import MemoryIndex
from streams.client import MemoryClient, Pending

IN_FLIGHT = 2000


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the events sent. `reasons` holds one (reason, detail) a rejection."""

    accepted: int
    rejected: int
    visible: int
    in_time: bool
    reasons: tuple[dict[str, str], ...]


class Follower:
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

    def finish(self, timeout: float, merged: Callable[[int], None]) -> Report:
        """Wait until all that was sent is visible or rejected, at most `timeout` seconds."""
        self._sent.extend(pending.position(60) for pending in self._pending)
        self._pending.clear()
        deadline = time.monotonic() + timeout
        while (visible := self._merged()) < len(self._sent) and time.monotonic() < deadline:
            merged(visible)
            time.sleep(0.1)
        merged(visible)
        mine = {(p.topic, p.partition, p.offset) for p in self._sent}
        reasons = tuple(
            {"reason": found.reason, "detail": found.detail}
            for found in self._rejections.poll(until_quiet=0.5)
            if (found.topic, found.partition, found.offset) in mine
        )
        return Report(
            accepted=len(self._sent) - len(reasons),
            rejected=len(reasons),
            visible=visible - len(reasons),
            in_time=visible == len(self._sent),
            reasons=reasons,
        )

    def _merged(self) -> int:
        positions = self._index.positions()
        return sum(positions.get((p.topic_id, p.partition), 0) > p.offset for p in self._sent)
