"""The service's own steps, interleaved: each worker stops before each call of the index."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings

from memory.model.events import Correction, Ingest, Prune, SelectorKind
from memory.model.forgetting import FenceFact
from memory.model.keys import RequestKey, SelectorKey
from memory.ports import MemoryIndex
from memory.service import VisualMemory
from tests.memory import oracle
from tests.memory.histories import History, Steps, carry, exact, histories, property_of, schedules


class Crashed(BaseException):
    """The worker ends here. No handler of errors may hold it up."""


class Stepwise:
    """A call run in a thread that goes on, up to its next pause, each time it is asked to."""

    def __init__(self, call: Callable[[Callable[[], None]], object]) -> None:
        self._call = call
        self._go = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._dropped = self._done = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _pause(self) -> None:
        self._paused.release()
        self._go.acquire()
        if self._dropped:
            raise Crashed

    def _run(self) -> None:
        try:
            self._pause()
            self._call(self._pause)
        except Crashed:
            pass
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        self._done = True
        self._paused.release()

    def steps(self) -> Iterator[None]:
        """One pause a step. A worker whose iterator is dropped crashes there."""
        try:
            self._paused.acquire()
            while True:
                self._go.release()
                self._paused.acquire()
                if self._error:
                    raise self._error
                if self._done:
                    return
                yield
        finally:
            self._dropped = True
            self._go.release()
            self._thread.join()


class Pausing:
    """An index that pauses before each call."""

    def __init__(self, index: MemoryIndex, pause: Callable[[], None]) -> None:
        self._index = index
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if not callable(found) or name.endswith("_key"):
            return found

        def paused(*args: Any) -> Any:
            self._pause()
            return found(*args)

        return paused


class Facts:
    """A fence log kept in a list."""

    def __init__(self) -> None:
        self.all: list[FenceFact] = []

    def append(self, facts: Sequence[FenceFact]) -> None:
        self.all.extend(facts)


class ServiceSteps(Steps):
    """What VisualMemory does with an event."""

    def __init__(self) -> None:
        self.facts = Facts()

    def carry(self, index: MemoryIndex, admitted: oracle.Admitted) -> Iterator[None]:
        event = admitted.event

        def call(pause: Callable[[], None]) -> object:
            paused = cast("MemoryIndex", Pausing(index, pause))
            memory = VisualMemory(paused, None, fence_log=self.facts, clock_skew=0)
            match event:
                case Ingest():
                    return memory.remember([event])
                case Correction() | Prune():
                    return memory.correct([event])
                case _:
                    return memory.forget(event)

        return Stepwise(call).steps()


class FencesTooLate(ServiceSteps):
    """A mistake: the index raises a fence only after the listed images were looked at."""

    def carry(self, index: MemoryIndex, admitted: oracle.Admitted) -> Iterator[None]:
        return super().carry(cast("MemoryIndex", _LateFences(index)), admitted)


class _LateFences:
    def __init__(self, index: MemoryIndex) -> None:
        self._index = index
        self._late: tuple[SelectorKey, int] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def fence(self, selector: SelectorKey, until: int) -> None:
        self._late = (selector, until)

    def close_request(self, request: RequestKey, until: int) -> None:
        if self._late:
            self._index.fence(*self._late)
        self._index.close_request(request, until)


def by_id(admitted: oracle.Admitted) -> bool:
    """Not a forget by label: what it finds depends on the moment, so it is no admitted event."""
    event = admitted.event
    return (
        isinstance(event, Ingest | Correction | Prune)
        or event.selector.kind is not SelectorKind.LABEL
    )


def test_interleaved_workers_of_the_service_end_in_the_batch_rebuild() -> None:
    property_of(lambda: [exact()], examples=400, steps=ServiceSteps(), keep=by_id)()


def test_a_service_that_fences_too_late_is_caught() -> None:
    with pytest.raises(AssertionError):
        property_of(
            lambda: [exact()], examples=3000, steps=FencesTooLate(), keep=by_id, search_only=True
        )()


@settings(max_examples=400, derandomize=True, database=None)
@given(histories, schedules)
def test_facts_of_forgetting_and_what_is_left_of_the_log_rebuild_the_memory(
    history: History, schedule: bytes
) -> None:
    index, steps = exact(), ServiceSteps()
    carry(list(filter(by_id, history)), schedule, [index], steps)
    erased = {address for item in index.state.items.values() for address in item.outbox}
    again = exact()
    memory = VisualMemory(again, None, clock_skew=0)
    memory.apply(steps.facts.all)
    for admitted in history:
        match admitted.event:
            case Ingest() as event if event.address not in erased:
                memory.remember([event])
            case Correction() as event if event.address not in erased:
                memory.correct([event])
    assert again.digests() == index.digests()
