"""Knowing a log again: whatever is cut off, and when, nothing behind the cut is passed over.

The log is a list here, since no Kafka can be cut at each of so many moments; on real servers:
tests/integration/test_cut_logs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from memory.exact.index import ExactIndex
from memory.model.events import LogPartition
from memory.model.logs import Witness
from streams.kafka import log_witness
from streams.kafka.cluster import KafkaCluster
from streams.kafka.log_witness import FoundCut, LogWitness, find_cuts

HERE = LogPartition("id", 0)
START = 1_790_000_000_000


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_witness._log, "disabled", True)


@dataclass
class Log:
    """A partition: the time of each record, ms, and whether it was ever carried out."""

    times: list[int] = field(default_factory=list)
    read: list[bool] = field(default_factory=list)
    now: int = START

    def append(self, pause: int) -> None:
        self.now += pause
        self.times.append(self.now)
        self.read.append(False)

    def cut(self, at: int) -> None:
        del self.times[at:], self.read[at:]
        self.now += 1_000

    # What of kafka-python's consumer is asked.

    def end_offsets(self, partitions: Sequence[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, len(self.times))

    def offsets_for_times(self, times: Mapping[Any, int]) -> dict[Any, Any]:
        return {
            place: next(
                (
                    SimpleNamespace(offset=offset, timestamp=found)
                    for offset, found in enumerate(self.times)
                    if found >= time
                ),
                None,
            )
            for place, time in times.items()
        }


class Watching(LogWitness):
    def __init__(self, log: Log, index: ExactIndex) -> None:
        super().__init__(KafkaCluster("nowhere:9"), "topic", "id", index)
        self._log = log

    def _find(self, witnesses: Mapping[int, Sequence[Witness]]) -> list[FoundCut]:
        with patch.object(log_witness, "now_us", lambda: self._log.now * 1000):
            return find_cuts(self._log, "topic", witnesses)


class Worker:
    """Reads a log on from the positions of an index; what it has read it carries out later."""

    def __init__(self, log: Log, index: ExactIndex) -> None:
        self._log = log
        self._index = index
        self.start()

    def start(self) -> None:
        self._witness = Watching(self._log, self._index)
        self._queue: list[tuple[int, int]] = []
        self._witness.check([0], anew=True)
        self._next = self._index.positions().get(HERE, 0)

    def take(self, count: int) -> None:
        if self._next > len(self._log.times):
            self._next = 0  # as the driver does with an offset outside the log
        for offset in range(self._next, min(self._next + count, len(self._log.times))):
            self._witness.saw(0, offset, self._log.times[offset] * 1000)
            self._queue.append((offset, self._log.times[offset]))
            self._next = offset + 1

    def carry_out(self, count: int) -> None:
        done, self._queue = self._queue[:count], self._queue[count:]
        if done:
            for offset, time in done:
                if self._log.times[offset : offset + 1] == [time]:
                    self._log.read[offset] = True
            self._index.advance({HERE: max(done)[0] + 1}, self._witness.keep([0]))

    def check(self) -> None:
        if not self._witness.check([0]):
            self.start()


def exact() -> ExactIndex:
    return ExactIndex(embedder="test", dim=2)


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 700)),
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("carry_out"), st.integers(1, 4)),
    st.tuples(st.just("check"), st.just(0)),
    st.tuples(st.just("start"), st.just(0)),
)


def carried(before: list[Any], cut: int, after: list[Any], again: list[Any]) -> list[bool]:
    """A log that is cut once, and a second time when the first was looked at."""
    log, index = Log(), exact()
    worker = Worker(log, index)

    def go(steps: list[Any]) -> None:
        for name, number in steps:
            match name:
                case "append":
                    log.append(number)
                case "start":
                    worker.start()
                case "check":
                    worker.check()
                case _:
                    getattr(worker, name)(number)

    go(before)
    log.cut(min(cut, len(log.times)))
    go(after)
    worker.check()
    go(again)
    log.cut(min(cut, len(log.times)))
    go(after)
    log.append(1)
    worker.check()
    for _ in range(3 * len(log.times) + 3):
        worker.take(4)
        worker.carry_out(4)
        worker.check()
    return log.read


HISTORIES = given(
    st.lists(STEPS, max_size=14),
    st.integers(0, 6),
    st.lists(STEPS, max_size=14),
    st.lists(STEPS, max_size=8),
)


@settings(max_examples=3000, derandomize=True, database=None)
@HISTORIES
def test_whatever_is_cut_off_all_that_is_there_then_is_read(
    before: list[Any], cut: int, after: list[Any], again: list[Any]
) -> None:
    assert all(carried(before, cut, after, again))


def no_turns(self: Any, offset: int, time: int) -> None:
    self.expected, self.youngest = offset + 1, max(self.youngest, time)


def the_first_turn_alone(self: Any, offset: int, time: int) -> None:
    if not self.turns and time > self.youngest + log_witness.GAP:
        self.turns[Witness(self.expected, self.youngest)] = False
    no_turns(self, offset, time)


@pytest.mark.parametrize("mistake", [no_turns, the_first_turn_alone])
def test_a_mistake_in_what_is_kept_is_caught(
    mistake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The youngest record alone does not tell: those behind the cut are younger still."""
    monkeypatch.setattr(log_witness._Reading, "saw", mistake)
    with pytest.raises(AssertionError):
        settings(
            max_examples=3000,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # what fails is neither shrunk nor explained
            report_multiple_bugs=False,
        )(HISTORIES(lambda b, c, a, g: _all_read(carried(b, c, a, g))))()


def _all_read(read: list[bool]) -> None:
    assert all(read)


class Checking(ExactIndex):
    """An index at which a check comes between a turn's being kept and its being known as kept."""

    check: Callable[[], object] = staticmethod(lambda: None)

    def note_witnesses(self, *noted: Any, **more: Any) -> None:
        super().note_witnesses(*noted, **more)
        check, self.check = self.check, lambda: None
        check()


def test_a_turn_is_kept_though_a_check_comes_while_an_earlier_one_is() -> None:
    log, index = Log(), Checking(embedder="test", dim=2)
    witness = Watching(log, index)
    for offset in range(4):
        log.append(1_000)
        witness.saw(0, offset, log.times[offset] * 1000)
        if offset == 2:
            index.check = lambda: witness.check([0])
        index.advance({HERE: offset + 1}, witness.keep([0]) if offset else {})
    kept = {held.offset for held in index.witnesses()[HERE]}
    assert 3 in kept, "behind it another log may stand"


@settings(max_examples=300, derandomize=True, database=None)
@given(st.lists(STEPS, max_size=40))
def test_a_log_that_is_never_cut_is_always_known_again(steps: list[Any]) -> None:
    log, index = Log(), exact()
    worker = Worker(log, index)
    for name, number in steps:
        if name == "append":
            log.append(number)
        elif name in ("start", "check"):
            getattr(worker, name)()
        else:
            getattr(worker, name)(number)
    worker.check()
    assert index.cuts() == {}
