"""The index of a process that answers: state in Redis, search in a copy of its own."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memory.errors import Misconfigured, Moved, Unavailable
from memory.model.answers import Effect, SearchResult, Suspect
from memory.model.events import LogPartition
from memory.model.questions import Probe
from memory.model.reliability import WrongCounts
from memory.model.times import microseconds, now_us
from memory.redis.index import RedisIndex
from memory.redis.listings import pruned_ids
from memory.redis.reports import report_copy
from memory.redis.schema import Schema
from memory.replica.reliability import Reliability
from memory.replica.replica import LostTrack, Replica
from memory.replica.rows import OverBudget

_log = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.05
"""How often changes are read when nobody asks; a question reads them itself."""
AWAY_SECONDS = 1.0
BUSY_SECONDS = 1.0
"""So long after a question or a change others are taken to use this process."""
BUSY_SHARE = 0.06
IDLE_SHARE = 1.0
"""Of the time, what wrong counts may take."""
OVER_BUDGET_SECONDS = 60.0
REPORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """How a replica is. `age` is how long ago it was last as Redis is, seconds; None: not loaded.

    `counts` are its wrong counts, None where there are none (yet); `suspects` is how many items are.
    """

    items: int
    bytes: int
    age: float | None
    counts: WrongCounts | None = None
    suspects: int = 0


class ReplicaObserver(Protocol):
    """Is told what happens, for metrics."""

    def count_searches(self, by: str, count: int) -> None:
        """So many searches were made in the ``replica`` or in ``redis``."""
        ...

    def note_state(self, state: ReplicaState) -> None:
        """How the replica is, now and then."""
        ...


class Unobserved:
    """Nobody looks."""

    def count_searches(self, by: str, count: int) -> None:
        """Nothing."""

    def note_state(self, state: ReplicaState) -> None:
        """Nothing."""


class ReplicatedIndex(RedisIndex):
    """A `RedisIndex` that searches in a replica of what it shows, and in Redis where it cannot.

    Each search reads what changed since it began, so that an answer is never older than one of Redis.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._replica: Replica | None = None
        self._reliability: Reliability | None = None
        self._current = self._busy_until = 0.0
        self._left_over = 0
        self._next_count = 0.0
        self._name = secrets.token_hex(16)
        self._next_report = 0.0
        self._counts_wrong = False
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._observe: ReplicaObserver = Unobserved()
        super().__init__(*arguments, **named)

    def start(
        self,
        max_bytes: int,
        observe: ReplicaObserver | None = None,
        *,
        counts_wrong: bool = False,
    ) -> None:
        """Load the replica and follow Redis, in a thread, until `stop`.

        `max_bytes` is what its vectors may take. With `counts_wrong` it keeps wrong counts of them.
        """
        self._max_bytes = max_bytes
        self._counts_wrong = counts_wrong
        self._observe = observe or self._observe
        self._thread = threading.Thread(target=self._follow_redis, name="replica", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Overwrite the replica; Redis answers."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._drop()

    def state(self) -> ReplicaState:
        replica, current = self._replica, self._current
        if replica is None:
            return ReplicaState(0, 0, None)
        age = time.monotonic() - current
        suspects = len(self.suspects())
        return ReplicaState(
            len(replica.rows), replica.rows.nbytes, age, self.wrong_counts(), suspects
        )

    def effect_of_pruning(self, least: int) -> Effect | None:
        """What leaving out the items of a wrong count of `least` or more would change; None: not counted."""
        with self._counting:
            reliability = self._reliability
            return None if reliability is None else reliability.effect_of_pruning(least)

    def pruned_ids(self) -> list[str]:
        """Ids of the images that are pruned by events."""
        return pruned_ids(self._client, self.names)

    def _adopt(self, schema: Schema) -> None:
        with self._lock:
            super()._adopt(schema)
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        if self._replica is not None:
            self._replica.rows.clear()
            self._replica = self._reliability = None

    def wrong_counts(self) -> WrongCounts | None:
        reliability = self._reliability
        return None if reliability is None else reliability.counts

    def suspects(self) -> Sequence[Suspect]:
        """Items whose neighbours say another label, the clearest first; as of the last wrong counts."""
        reliability = self._reliability
        return () if reliability is None else reliability.suspects

    def search(self, probes: Sequence[Probe]) -> list[SearchResult]:
        return self.search_as_of(probes)[1]

    def search_as_of(
        self, probes: Sequence[Probe]
    ) -> tuple[Mapping[LogPartition, int], list[SearchResult]]:
        self._busy_until = time.monotonic() + BUSY_SECONDS
        with self._lock:
            # The longest part of a search comes before the look at what changed, so that answers are as new.
            scan = None if self._replica is None else self._replica.rows.scan(probes)
            positions = self._catch_up()
            if positions is not None and (replica := self._replica) is not None:
                self._observe.count_searches("replica", len(probes))
                return positions, replica.rows.nearest(probes, scan)
        self._observe.count_searches("redis", len(probes))
        positions = self.positions()
        return positions, super().search(probes)

    def _catch_up(self) -> Mapping[LogPartition, int] | None:
        """Positions up to which the replica is as Redis is; None without one.

        Raises `Unavailable`, `Moved`.
        """
        if self._replica is None:
            return None
        began = time.monotonic()
        try:
            positions = self._replica.catch_up()
        except (LostTrack, OverBudget) as why:
            _log.warning("the replica is given up: %s", type(why).__name__)
            self._drop()
            return None
        self._current = began
        return positions

    def _follow_redis(self) -> None:
        while not self._closed:
            pause = FOLLOW_SECONDS
            try:
                if self._replica is None:
                    self._load()
                if time.monotonic() > self._current + FOLLOW_SECONDS / 2:
                    with self._lock:
                        self._catch_up()
                self._count_wrong()
                self._report()
            except OverBudget:
                _log.warning("the memory is too large for a replica; Redis is searched")
                pause = OVER_BUDGET_SECONDS
            except (Unavailable, Moved, LostTrack):
                pause = AWAY_SECONDS
            except Misconfigured as why:
                _log.warning("no replica, Redis is searched: %s", why)
                pause = OVER_BUDGET_SECONDS
            except Exception as error:  # noqa: BLE001 - Redis answers as long as this does not
                _log.error("the replica is given up: unexpected %s", type(error).__name__)
                with self._lock:
                    self._drop()
                pause = OVER_BUDGET_SECONDS
            self._observe.note_state(self.state())
            self._wake.wait(pause)
            self._wake.clear()

    def _count_wrong(self) -> None:
        """Go on with the wrong counts for a part of the time, a small one while others use this process."""
        reliability, replica = self._reliability, self._replica
        if reliability is None or replica is None:
            return
        now = time.monotonic()
        if len(replica.rows.changed) > self._left_over:
            self._busy_until = now + BUSY_SECONDS
        busy = now < self._busy_until
        share = BUSY_SHARE if busy else IDLE_SHARE
        if now < self._next_count:
            return
        until = now + FOLLOW_SECONDS * share
        current = self._current
        try:
            with self._counting:
                while time.monotonic() < until:
                    if reliability.work(4 if busy else 16, current):
                        break
        except Exception as error:  # noqa: BLE001 - questions are answered without counts
            _log.error("wrong counts are given up: unexpected %s", type(error).__name__)
            self._reliability = None
        self._left_over = len(replica.rows.changed)
        # Beside others the least that can be done takes longer than its share of one pause.
        self._next_count = now + (time.monotonic() - now) / share

    def _report(self) -> None:
        """Say now and then as of when all that is kept here is what Redis shows."""
        if self._replica is None or (now := time.monotonic()) < self._next_report:
            return
        as_of, reliability = self._current, self._reliability
        if reliability is not None and reliability.counts is not None:
            as_of = min(as_of, reliability.as_of)
        report_copy(self._client, self.names, self._name, now_us() - microseconds(now - as_of))
        self._next_report = now + REPORT_SECONDS

    def _load(self) -> None:
        schema, started = self._schema, time.monotonic()
        replica = Replica(self._client, self.names, schema, self._max_bytes)
        try:
            replica.load()
        except BaseException:
            replica.rows.clear()
            raise
        with self._lock:
            if schema == self._schema:
                self._replica = replica
                if self._counts_wrong:
                    self._reliability = Reliability(replica.rows, self._lock)
                    self._left_over = len(replica.rows)
        _log.info(
            "%d items are in the replica, after %.1f s",
            len(replica.rows),
            time.monotonic() - started,
        )
