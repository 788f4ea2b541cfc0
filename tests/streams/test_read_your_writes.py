"""`after=` and `as_of` tell the truth, whatever happens between any two steps of any worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memory.errors import Rejected
from memory.model.answers import Position, Prediction
from memory.model.events import LogPartition
from memory.model.logs import OF_NONE, ByPartition
from memory.model.questions import Query
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.workers.delivery import PositionsWentBack
from streams.workers.faust_app import Read
from tests.streams.writes import (
    IMAGES,
    LABELS,
    PARTITIONS,
    SUBJECTS,
    TOPICS,
    Asking,
    Carried,
    Event,
    Log,
    Question,
    Worker,
    may_show,
    open_memory,
    shown,
)

EVENTS = 10
ALL_STEPS = 12
STEPS = st.sampled_from([0, 1, 2, 3, 4, ALL_STEPS, ALL_STEPS])
AT = 10**9
"""When a question is asked, far from any deadline."""
ROLES = sorted(PARTITIONS)
roles, images = st.sampled_from(ROLES), st.sampled_from(IMAGES)


class Memory(RuleBasedStateMachine):
    """Two workers a role, that crash and lose their partitions to each other, and an asker."""

    store: redis.Redis
    namespace: str
    worker: type[Worker] = Worker
    opened: Callable[[redis.Redis, str], RedisIndex] = staticmethod(open_memory)
    asking: type[Asking] = Asking

    def __init__(self) -> None:
        super().__init__()
        if keys := list(self.store.scan_iter(f"{self.namespace}:1:*", count=10_000)):
            self.store.delete(*keys)
        self.store.delete(
            *(f"none:{kind}:{role}" for kind in ("starts", "attempts") for role in ROLES)
        )
        self.index = self.opened(self.store, self.namespace)
        self.log = Log()
        self.workers = {
            role: [self.worker(role, self.log, lambda: self.index, self.store) for _ in range(2)]
            for role in ROLES
        }
        for role in ROLES:
            self.workers[role][0].assign(range(PARTITIONS[role]))
        self.written: list[Position] = []
        self.asked: list[Question] = []
        self.held: dict[LogPartition, int] = {}

    @precondition(lambda self: len(self.written) < EVENTS)
    @rule(
        role=roles,
        image=images,
        label=st.sampled_from(LABELS),
        subject=st.none() | st.sampled_from(SUBJECTS),
        ago=st.integers(0, 3),
        partition=st.integers(0, 1),
    )
    def write(
        self, role: str, image: str, label: str, subject: str | None, ago: int, partition: int
    ) -> None:
        named = role != "forget" or subject is None
        event = Event(
            role,
            f"e{len(self.written)}",
            self.log.time_of(ago),
            image if named else "",
            label if role == "ingest" or subject is None else None,
            subject if role != "correct" else None,
        )
        self.written.append(self.log.append(event, partition))

    @precondition(lambda self: 0 < len(self.written) < EVENTS)
    @rule(which=st.integers(0, EVENTS), partition=st.integers(0, 1))
    def write_again(self, which: int, partition: int) -> None:
        at = self.written[which % len(self.written)]
        event = self.log.partitions[at.topic_id, at.partition][at.offset].event
        self.written.append(self.log.append(event, partition))

    @precondition(lambda self: self.able())
    @rule(which=st.integers(0, 5), most=st.integers(1, 2), steps=STEPS)
    def work(self, which: int, most: int, steps: int) -> None:
        able = self.able()
        worker = able[which % len(able)]
        worker.take(most)
        for _ in range(steps):
            worker.step()

    def able(self) -> list[Worker]:
        return [worker for worker in self.all_workers() if worker.can_work]

    @rule(role=roles, number=st.integers(0, 1))
    def crash(self, role: str, number: int) -> None:
        partitions = list(self.workers[role][number].next)
        self.workers[role][number].crash()
        self.workers[role][number].assign(partitions)

    @rule(role=roles, to=st.lists(st.integers(0, 1), min_size=2, max_size=2), steps=STEPS)
    def rebalance(self, role: str, to: list[int], steps: int) -> None:
        """Who had a partition may be amid a batch of it, and ends that later."""
        for number, worker in enumerate(self.workers[role]):
            worker.assign([p for p in range(PARTITIONS[role]) if to[p] == number])
        owner = self.workers[role][to[0]]
        owner.take(EVENTS)
        for _ in range(steps):
            owner.step()

    @precondition(lambda self: len(self.asked) < 2)
    @rule(which=st.lists(st.integers(0, EVENTS), max_size=2), steps=STEPS)
    def ask(self, which: list[int], steps: int) -> None:
        after = {self.written[n % len(self.written)] for n in which if self.written}
        self.asked.append(self.asking(lambda: self.index).ask(tuple(sorted(after)), AT))
        self.answer(-1, steps)

    @rule(number=st.integers(0, 1), steps=STEPS)
    def answer(self, number: int, steps: int) -> None:
        if not self.asked:
            return
        question = self.asked[number % len(self.asked)]
        for _ in range(steps):
            if not question.work.done:
                question.work.step()
        if question.work.done:
            self.asked.remove(question)
            self.check(question)

    @precondition(lambda self: self.able())
    @rule(steps=st.integers(1, 3))
    def be_overtaken(self, steps: int) -> None:
        """A question stands while all that waits is carried out."""
        self.asked.append(self.asking(lambda: self.index).ask((), AT))
        self.answer(-1, steps)
        for worker in self.able():
            worker.take(EVENTS)
            worker.finish()
        self.answer(-1, ALL_STEPS)

    def check(self, question: Question) -> None:
        (answer,) = question.answers
        assert answer.status in {"answered", "empty"}, answer
        claimed = self.log.below(answer.as_of)
        for position in question.after:
            logged = self.log.partitions[position.topic_id, position.partition][position.offset]
            assert logged in claimed, f"asked after {position}, as of {answer.as_of}"
        for image in IMAGES:
            found = labels_of(question).get(image)
            assert found in may_show(image, claimed, self.log.all), (
                f"{image} is {found} as of {answer.as_of}"
            )

    @invariant()
    def positions_never_go_back(self) -> None:
        held = self.index.positions()
        assert all(held.get(place, 0) >= offset for place, offset in self.held.items())
        self.held = dict(held)

    def teardown(self) -> None:
        """Let everything be carried to its end: no question waits, and nothing is missing."""
        try:
            self.finish()
        finally:
            for question in self.asked:
                question.work.kill()
            for worker in self.all_workers():
                worker.end()

    def finish(self) -> None:
        self.asked.append(self.asking(lambda: self.index).ask((), AT))
        self.answer(-1, 9)
        for worker in self.all_workers():
            worker.finish()
        for role, (first, second) in self.workers.items():
            second.assign([])
            first.assign(range(PARTITIONS[role]))
            first.take(2 * EVENTS)
            first.finish()
        last = self.asking(lambda: self.index).ask(tuple(self.written), AT)
        self.asked.append(last)
        for question in self.asked:
            for _ in range(20):
                if not question.work.done:
                    question.work.step()
            assert question.work.done, "a question waits for ever"
            self.check(question)
        assert labels_of(last) == shown(self.log.all)

    def all_workers(self) -> list[Worker]:
        return [worker for workers in self.workers.values() for worker in workers]


def labels_of(question: Question) -> Mapping[str, str]:
    return {neighbor.image_id: neighbor.label for neighbor in question.answers[0].neighbors}


def run(machine: type[Memory], examples: int, phases: tuple[Phase, ...]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def memory(redis_client: redis.Redis, unique: Callable[[str], str]) -> type[Memory]:
    class Fresh(Memory):
        store = redis_client
        namespace = unique("reads")

    return Fresh


def test_an_answer_has_seen_what_it_claims_and_what_was_asked_for(memory: type[Memory]) -> None:
    run(memory, 120, (Phase.generate, Phase.shrink))


class AdvanceFirst(Carried):
    """A mistake: the position says that a batch is merged before it is."""

    async def _process(
        self, handle: Any, reads: Sequence[Read], before: asyncio.Task[None] | None = None
    ) -> None:
        await self._advance(self._ends_of([read.record for read in reads]))
        await super()._process(handle, reads, before)


class FromTheEnd(Carried):
    """A mistake: a worker without a position reads what comes from now on."""

    async def _seek_offsets(self, assigned: set[Any]) -> dict[Any, int]:
        offsets = await super()._seek_offsets(assigned)
        return {tp: offset or len(self.log_of(tp)) for tp, offset in offsets.items()}

    def log_of(self, tp: Any) -> Sequence[object]:
        return self.log.partitions[self._source.role, tp.partition]


class PositionsLast(VisualMemory):
    """A mistake: an answer claims what was merged while it was searched."""

    def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        found = super().recall(queries)
        claimed = tuple(
            Position(TOPICS[topic_id], topic_id, partition, offset)
            for (topic_id, partition), offset in self.index.positions().items()
        )
        return [
            replace(each, as_of=claimed) if isinstance(each, Prediction) else each for each in found
        ]


class Impatient(Asking):
    """A mistake: nobody waits for what was asked for."""

    def after_of(self, question: Question) -> tuple[Position, ...]:
        return ()


class BackAgain(RedisIndex):
    """A mistake: a position is what was last written, also by one who is late."""

    def advance(
        self, positions: ByPartition, youngest: ByPartition = OF_NONE, noted: ByPartition = OF_NONE
    ) -> bool:
        for (topic_id, partition), offset in positions.items():
            self._client.hset(self.names.positions, f"{topic_id}:{partition}", offset)
        return True


def with_delivery(kind: type[Carried]) -> type[Worker]:
    return type("Wrong", (Worker,), {"delivery": kind})


MISTAKES: list[dict[str, Any]] = [
    {"worker": with_delivery(AdvanceFirst)},
    {"worker": with_delivery(FromTheEnd)},
    {"asking": type("Wrong", (Asking,), {"memory": PositionsLast})},
    {"asking": Impatient},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: str(*mistake))
def test_a_mistake_in_the_order_of_steps_is_caught(
    mistake: dict[str, Any], memory: type[Memory]
) -> None:
    with pytest.raises((AssertionError, PositionsWentBack)):
        run(type("Wrong", (memory,), mistake), 900, (Phase.generate,))


def overtake(machine: Memory, steps: int) -> None:
    """A worker stands amid a batch, after so many steps, while another one carries out more."""
    for image in IMAGES[:2]:
        machine.write("ingest", image, LABELS[0], None, 0, 0)
    late, other = machine.workers["ingest"]
    late.take(1)
    for _ in range(steps):
        late.step()
    late.assign([])
    other.assign(range(PARTITIONS["ingest"]))
    other.take(EVENTS)
    other.finish()
    machine.positions_never_go_back()
    late.finish()
    machine.positions_never_go_back()


@pytest.mark.parametrize("kind", [RedisIndex, BackAgain])
def test_who_is_late_by_whatever_it_did_sets_no_position_back_and_a_mistake_is_caught(
    memory: type[Memory], kind: type[RedisIndex]
) -> None:
    caught = 0
    for steps in range(ALL_STEPS):
        machine = type(
            "Late", (memory,), {"opened": staticmethod(partial(open_memory, kind=kind))}
        )()
        try:
            overtake(machine, steps)
        except (AssertionError, PositionsWentBack):
            caught += 1
        finally:
            for worker in machine.all_workers():
                worker.end()
    assert bool(caught) == (kind is BackAgain)
