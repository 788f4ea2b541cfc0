"""A worker of delivery alone, over files: a ledger, and a handler that does as it is told.

Run as a program with a JSON object as its argument: bootstrap, topic, group, folder, way. In the
folder are `positions` (offsets by partition), `calls` (a line a call of the handler: the offsets
by partition), `times` (how often the way's trouble is still to happen) and `taken` (how many records
the worker has taken from the log). Of the way "first-waits" the first call waits until `go` is
there. `outgoing`, if given, is a topic for what the handler tells, a record for each one that it
is given.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memory.errors import Unavailable
from memory.model.events import LogPartition
from memory.model.logs import OF_NONE, ByPartition
from streams.contract.records import OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.local.state import write_atomically
from streams.workers import batch_delivery, delivery, faust_app, worker_process
from streams.workers.batch_delivery import BatchDelivery
from streams.workers.task_delivery import TaskDelivery

TOPIC_ID = "topic-id"
BATCH = 16
PLACES = 4
SECRET = "what nobody may read"


class UnexpectedError(Exception):
    """No part of the error tree."""


class FileLedger:
    """Positions in a file, of one worker at a time."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._positions = Path(told["folder"], "positions")
        self._way = told["way"]
        self._go = Path(told["folder"], "go")

    def positions(self) -> Mapping[LogPartition, int]:
        if self._way == "broken-ledger":
            raise UnexpectedError(SECRET)
        stored = json.loads(self._positions.read_text()) if self._positions.exists() else {}
        return {
            LogPartition(TOPIC_ID, int(partition)): offset for partition, offset in stored.items()
        }

    def advance(
        self, positions: ByPartition, youngest: ByPartition = OF_NONE, noted: ByPartition = OF_NONE
    ) -> bool:
        if self._way == "ledger-away" and not self._go.exists():
            raise Unavailable("away")
        after = {partition: offset for (_, partition), offset in self.positions().items()}
        if any(after.get(partition, 0) < offset for (_, partition), offset in noted.items()):
            return False
        for (_, partition), offset in positions.items():
            after[partition] = max(offset, after.get(partition, 0))
        # In one step: another thread reads it, and a kill may come at any time.
        written = self._positions.with_suffix(".new")
        written.write_text(json.dumps(after))
        written.replace(self._positions)
        return True

    def follow(self) -> None:
        """There is no other memory."""

    def saw(self, partition: int, offset: int, time: int) -> None:
        """The log stays the same here."""

    def keep(self, partitions: Iterable[int]) -> None:
        """As above."""

    def check(self, partitions: Iterable[int], *, anew: bool = False) -> bool:
        return True

    def count_start(self, topic_id: str, partition: int, offset: int, *, within: int = 1) -> int:
        return 2 if self._way == "ended-before" and partition == 0 else 1

    def clear_starts(self, topic_id: str, partition: int) -> None:
        with Path(self._positions.parent, "taken_back").open("a") as file:
            file.write(f"{partition}\n")

    def count_attempt(self, topic_id: str, partition: int, offset: int) -> int:
        return 1

    def holds_attempts(self, topic_id: str, partition: int, offset: int) -> bool:
        return False

    def withdraw(self, topic_id: str, partition: int, offset: int) -> None:
        """Nothing is counted here."""

    def clear(self, topic_id: str, partition: int, offset: int) -> None:
        """Nothing is counted here."""


class Handler:
    def __init__(self, told: Mapping[str, str]) -> None:
        self._calls = Path(told["folder"], "calls")
        self._times = Path(told["folder"], "times")
        self._go = Path(told["folder"], "go")
        self._way = told["way"]
        self._first = True
        self._tells = "outgoing" in told

    def note(self, records: Sequence[Record]) -> None:
        """Write a call down."""
        offsets: dict[int, list[int]] = {}
        for record in records:
            offsets.setdefault(record.partition, []).append(record.offset)
        with self._calls.open("a") as calls:
            calls.write(json.dumps(offsets) + "\n")

    def __call__(self, records: Sequence[Record]) -> list[OutgoingRecord]:
        first, self._first = self._first, False
        self.note(records)
        if self._way == "stuck":
            time.sleep(600)
        elif self._way == "first-waits" and first:
            while not self._go.exists():
                time.sleep(0.01)
        elif self._is_due():
            if self._way == "away":
                raise Unavailable("away")
            raise UnexpectedError(SECRET)
        if not self._tells:
            return []
        places = [f"{record.partition}:{record.offset}" for record in records]
        return [OutgoingRecord(Topic.REJECTED, b"k", place.encode(), ()) for place in places]

    def _is_due(self) -> bool:
        left = int(self._times.read_text()) if self._times.exists() else 0
        if left:
            write_atomically(self._times, str(left - 1))
        return left > 0


async def note_taken(app: Any, file: Path) -> None:
    """Write down how many records Faust has taken from the log so far."""
    while True:
        await asyncio.sleep(0.01)
        taken = sum((offset or 0) + 1 for offset in app.consumer._read_offset.values())
        write_atomically(file, str(taken))


def main(told: Mapping[str, Any]) -> None:
    batch_delivery.MAX_BATCH_BYTES = told.get("batch_bytes", batch_delivery.MAX_BATCH_BYTES)
    app = faust_app.make_app(
        told["group"], told["bootstrap"], instance=None, max_record_bytes=1 << 20, batch=BATCH
    )
    delivery.WATCH_SECONDS = told.get("watch", delivery.WATCH_SECONDS)
    source = delivery.Source("ingest", told["topic"], TOPIC_ID, BATCH, told.get("at_once", 1))
    ledger = FileLedger(told)
    more: dict[str, Any] = {
        "positions": ledger,
        "known_log": ledger,
        "attempts": ledger,
        "full_name": lambda _topic: told["outgoing"],
        "reject": lambda _record: [],
    }
    handler = Handler(told)
    app.task(lambda: note_taken(app, Path(told["folder"], "taken")))
    worker_process.SHUTDOWN_SECONDS = told.get("bound", worker_process.SHUTDOWN_SECONDS)
    if told.get("tasks"):

        async def answer(record: Record) -> list[OutgoingRecord]:
            if told["way"] == "waits":
                handler.note([record])
                await asyncio.Event().wait()
            return await tasks.in_thread(handler, [record])

        tasks = TaskDelivery(app, source, **more)
        tasks.start(answer, PLACES)
    else:
        BatchDelivery(app, source, **more).start(handler)
    worker_process.run_app(app, "INFO")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
