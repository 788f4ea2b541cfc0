"""Send many images, then report which were merged, which rejected, and which are in the answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from memory.errors import Reason, Rejected
from memory.model.answers import Position
from memory.model.questions import ItemRef
from memory.ports import MemoryIndex
from streams.client import MemoryClient, Pending

IN_FLIGHT = 2000


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of the events sent.

    `visible` counts images, of those accepted, that answers can rest on now. `reasons` holds an
    id, a reason and a detail a rejection.
    """

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
        self._pending: deque[tuple[str, Pending]] = deque()
        self._sent: list[tuple[str, Position]] = []
        self._ids: set[str] = set()
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
        """Send one image; waits only when thousands are under way.

        Raises `Rejected`, also for an id that was sent before, and OSError.
        """
        spelt = ItemRef(image_id).image_id
        if spelt in self._ids:
            raise Rejected(Reason.INVALID_ID, "another of these files has this id; rename one")
        sent = self._client.ingest(file, id=spelt, label=label, subjects=subjects)
        self._ids.add(spelt)
        self._pending.append((spelt, sent))
        if len(self._pending) > IN_FLIGHT:
            self._place(*self._pending.popleft())

    def _place(self, image_id: str, sent: Pending) -> None:
        self._sent.append((image_id, sent.position(60)))

    def finish(self, timeout: float, merged: Callable[[int], None]) -> IngestReport:
        """Wait until all that was sent is visible or rejected, at most `timeout` seconds."""
        while self._pending:
            self._place(*self._pending.popleft())
        deadline = time.monotonic() + timeout
        while (done := self._merged()) < len(self._sent) and time.monotonic() < deadline:
            merged(done)
            time.sleep(0.1)
        merged(done)
        # By place: a worker that is restarted may say the same again.
        said = {
            (found.topic, found.partition, found.offset): found
            for found in self._rejections.poll(until_quiet=0.5)
        }
        accepted: list[str] = []
        reasons = []
        for image_id, sent in self._sent:
            why = said.get((sent.topic, sent.partition, sent.offset))
            if why is None:
                accepted.append(image_id)
            else:
                reasons.append({"id": image_id, "reason": why.reason, "detail": why.detail})
        return IngestReport(
            accepted=len(accepted),
            rejected=len(reasons),
            visible=sum(self._index.holds(list(dict.fromkeys(accepted)))),
            in_time=done == len(self._sent),
            reasons=tuple(reasons),
        )

    def _merged(self) -> int:
        """How many of those sent have been merged, or looked at and rejected."""
        positions = self._index.positions()
        return sum(positions.get(p.log_partition, 0) > p.offset for _, p in self._sent)
