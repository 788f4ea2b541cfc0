"""Erasing what is forgotten from every copy, and saying so in receipts once it was seen to be gone."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kafka import TopicPartition

from memory.model.events import LogAddress, LogPartition
from memory.model.keys import ImageKey
from memory.model.times import microseconds, now_us
from memory.redis.connection import RedisFiles
from memory.redis.index import RedisIndex
from memory.redis.reports import Leftovers
from streams.contract.messages import Outside, Receipt
from streams.contract.topics import Topic
from streams.erasure.bound import MARGIN_SECONDS, Bound, look_seconds
from streams.erasure.chain import ReceiptChain, Told
from streams.erasure.ledger import Erasure, Ledger
from streams.erasure.log import ANSWERING, NAMING, ErasureLog, Scan
from streams.erasure.metrics import UNREADABLE_RECORDS, export_requests, observe_stages
from streams.erasure.schedule import Schedule

_log = logging.getLogger(__name__)

MERGED = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION)
"""What may bring back what is forgotten, were it merged later: all of it has to be read first."""
BACKUPS = Outside(
    "backups and replicas of Kafka's and Redis' files, made before",
    "operator",
    "let them expire; a restored one forgets again before it answers",
)
DISK = Outside("blocks of a disk that a file was deleted from", "operator", "encrypt the disk")
PROCESS = Outside(
    "freed pages of Redis' process memory", "operator", "restart Redis where that matters"
)
CONSUMERS = Outside(
    "what consumers of predictions kept", "consumers", "follow the topic of receipts"
)
CLAIMED = Outside(
    "images that events only point to, whose addresses forgotten-claim tells for three days",
    "owners of the claims",
    "delete them there",
)


@dataclass(slots=True)
class _Sweep:
    """A scan of the log for some requests, and since when nothing dead was there any more."""

    erasures: Sequence[Erasure]
    scan: Scan
    delay: float
    clean_since: float | None = None


@dataclass(slots=True)
class _Needed:
    """What has to be passed since a request was taken up."""

    merged: Mapping[TopicPartition, int]
    answered: Mapping[TopicPartition, int]
    gone_at: float | None = None


class Eraser:
    """Does all that is to be done for the memory of a name, a step at a time. For one thread.

    Requests are due within `limit` seconds; `pause` seconds at least lie between two rewrites of Redis'
    files, and between two scans of the log; `beat` seconds between heartbeats. All it knows stands in the
    log and in Redis: one that is killed goes on where it was.
    """

    def __init__(
        self,
        index: RedisIndex,
        leftovers: Leftovers,
        files: RedisFiles,
        log: ErasureLog,
        chain: ReceiptChain,
        topic_ids: Mapping[str, str],
        *,
        name: str,
        pause: float,
        beat: float,
        limit: float,
        claims: bool,
    ) -> None:
        self._index, self._leftovers, self._files = index, leftovers, files
        self._log, self._chain, self.topic_ids = log, chain, topic_ids
        self._pause, self._beat, self._claims = pause, beat, claims
        self._limit = microseconds(limit)
        self.ledger = Ledger(name)
        self.bound: Bound | None = None
        """How long it may take at worst as the servers are configured; told by who may read that."""
        self._schedule = Schedule(
            self.ledger,
            log,
            chain,
            topic_ids,
            topic=log.full_name(Topic.FORGET_REQUEST),
            due_key=index.due_key,
        )
        self._needed: dict[str, _Needed] = {}
        self._sweep: _Sweep | None = None
        self._next_beat = self._next_sweep = self._next_rewrite = self._next_claims = 0.0
        self._next_look = 0.0

    def open(self) -> None:
        """Read what was told so far."""
        self.ledger.note(self._chain.open(), now_us())
        self._leftovers.find_outboxes()

    def step(self) -> list[Told]:
        """Whatever can be done now; returns what was told of it. Raises `Unavailable`."""
        self._index.follow()
        self.ledger.note(self._chain.poll(), now_us())
        self._bury()
        if time.monotonic() >= self._next_beat:
            self._log.beat()
            self._next_beat = time.monotonic() + self._beat
        self._schedule.step(self._index.positions)
        self._take_up()
        self._rewrite_files()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + look_seconds(self._beat)
            self._sweep_log()
            self._look_at_answers()
        self._look_at_copies()
        told = {one.last.request: set(one.last.stages) for one in self.ledger.open.values()}
        stopped = self.ledger.stops(now_us())
        self._log.bury(map(self._address_of, [*stopped, *self.ledger.take_again()]))
        bound = self.bound.seconds if self.bound else 0.0
        at_worst = microseconds(bound) if math.isfinite(bound) else 0
        due = self.ledger.due(now_us(), self._limit, self._outside(), at_worst)
        written = self._chain.append([*stopped, *self.ledger.too_late(), *due])
        for receipt in due:
            observe_stages(told[receipt.request], receipt)
        self.ledger.note(written, now_us())
        export_requests(self.ledger, now_us())
        return written

    def _address_of(self, receipt: Receipt) -> LogAddress:
        """Where the request stands."""
        topic_id = self.topic_ids[self._log.full_name(Topic.FORGET_REQUEST)]
        partition = int((receipt.evidence or {})["partition"])
        return LogAddress(receipt.stages["received"], topic_id, partition, receipt.request)

    def _bury(self) -> None:
        if self._claims:
            self._bury_once_owners_are_told()
            return
        for events in self._leftovers.dead_events():
            self._bury_page(events)

    def _bury_once_owners_are_told(self) -> None:
        """What a claim points to stands in its event alone, so the log is read before its tombstone."""
        if time.monotonic() < self._next_claims:
            return
        pages = list(self._leftovers.dead_events())
        if any(any(events.values()) for events in pages):
            self._log.scan(self._index, self._leftovers.dead_until, self.ledger.over())
            self._next_claims = time.monotonic() + self._pause
        for events in pages:
            self._bury_page(events)

    def _bury_page(self, events: Mapping[ImageKey, Sequence[LogAddress]]) -> None:
        self._log.bury(address for addresses in events.values() for address in addresses)
        self._leftovers.note_tombstones(events)

    def _take_up(self) -> None:
        """Note where the log ends for requests that came since."""
        open_ = self.ledger.open
        self._needed = {one: held for one, held in self._needed.items() if one in open_}
        if new := [request for request in open_ if request not in self._needed]:
            merged, answered = self._log.ends(MERGED), self._log.ends(ANSWERING)
            for request in new:
                self._needed[request] = _Needed(merged, answered)

    def _rewrite_files(self) -> None:
        stage = "redis_purged"
        lacking = self.ledger.lacking(stage)
        if not lacking or time.monotonic() < self._next_rewrite:
            return
        if not self._files.rewrite() or (as_of := self._files.as_of) is None:
            return
        self._next_rewrite = time.monotonic() + self._pause
        for erasure in lacking:
            if erasure.taken_up <= as_of:
                erasure.reach(stage, now_us(), {"redis_files_as_of": as_of})

    def _sweep_log(self) -> None:
        if self._sweep is None:
            lacking = self.ledger.lacking("log_compacted")
            if not lacking or time.monotonic() < self._next_sweep:
                return
            positions = self._index.positions()
            lacking = [one for one in lacking if self._is_merged(one, positions)]
            if not lacking:
                return
            scan = self._log.scan(self._index, self._leftovers.dead_until, self.ledger.over())
            self._sweep = _Sweep(lacking, scan, self._log.file_delay(NAMING) + MARGIN_SECONDS)
            UNREADABLE_RECORDS.set(scan.unreadable)
            if scan.unreadable:
                _log.warning("%d records of the log cannot be looked at", scan.unreadable)
        sweep = self._sweep
        if sweep.clean_since is None:
            if self._log.still_there(sweep.scan.dead):
                return
            sweep.clean_since = time.monotonic()
        if time.monotonic() < sweep.clean_since + sweep.delay:
            return
        self._sweep, self._next_sweep = None, time.monotonic() + self._pause
        if sweep.scan.unreadable:
            return
        erased = sum(map(len, sweep.scan.dead.values()))
        for erasure in sweep.erasures:
            evidence = {"log_records_read": sweep.scan.records, "log_records_erased": erased}
            erasure.reach("log_compacted", now_us(), evidence)

    def _is_merged(self, erasure: Erasure, positions: Mapping[LogPartition, int]) -> bool:
        """Whether all that was in the log when the request was taken up is merged or refused."""
        needed = self._needed[erasure.last.request].merged
        return all(
            positions.get(LogPartition(self.topic_ids[place.topic], place.partition), 0) >= end
            for place, end in needed.items()
        )

    def _look_at_answers(self) -> None:
        stage = "answers_expired"
        if not (lacking := self.ledger.lacking(stage)):
            return
        starts = self._log.starts(self._log.partitions(ANSWERING))
        delay: float | None = None
        for erasure in lacking:
            needed = self._needed[erasure.last.request]
            if any(starts.get(place, 0) < end for place, end in needed.answered.items()):
                continue
            if needed.gone_at is None:
                delay = self._log.file_delay(ANSWERING) if delay is None else delay
                needed.gone_at = time.monotonic() + delay + MARGIN_SECONDS
            if time.monotonic() >= needed.gone_at:
                erasure.reach(stage, now_us(), {})

    def _look_at_copies(self) -> None:
        if lacking := self.ledger.lacking("repaired"):
            as_of = self._leftovers.copies_as_of()
            for erasure in lacking:
                if as_of is None or erasure.taken_up <= as_of:
                    erasure.reach("repaired", now_us(), {})

    def _outside(self) -> tuple[Outside, ...]:
        return (BACKUPS, DISK, PROCESS, CONSUMERS, *((CLAIMED,) if self._claims else ()))
