"""A log, workers that carry it into Redis step by step, and what each answer must have seen.

Workers are delivery's own code without Faust under it. The model knows nothing of them: it tells
which states an answer may show from the events that it claims and those that are in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import redis
from faust.types import TP

from memory.embedders import VectorsOnly
from memory.model.answers import Position
from memory.model.events import LogPartition, Selector, SelectorKind, VectorPayload
from memory.model.forgetting import FenceFact
from memory.model.questions import Query
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.contract import decoding, encoding, forgetting, questions
from streams.contract.messages import Answer
from streams.contract.records import OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.kafka.log_witness import LogWitness
from streams.workers import faust_app
from streams.workers.agents import ForgetAgent, QueryAgent, WritingAgent
from streams.workers.attempts import RecordAttempts
from streams.workers.batch_delivery import BatchDelivery, HandleBatch
from streams.workers.delivery import Source
from streams.workers.faust_app import Read
from tests.streams.stepping import Gated, Stepped

DIM = 4
KEY = bytes(range(32))
IMAGES = ("i0", "i1")
SUBJECTS = ("ada", "bob")
LABELS = ("cat", "dog")
EMBEDDER = "test"
TOPICS = {
    "ingest": Topic.IMAGE_INGEST,
    "correct": Topic.LABEL_CORRECTION,
    "forget": Topic.FORGET_REQUEST,
}
PARTITIONS = {"ingest": 2, "correct": 1, "forget": 1}
APP = faust_app.make_app("none", "localhost:9", instance=None, max_record_bytes=1, batch=1)
BEGINNING = 4_000_000_000_000_000
"""µs; later than now, so that no record that is read again is one that may have ended a worker."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a client wrote; `time` is µs from `BEGINNING`."""

    role: str
    name: str
    time: int
    image: str = ""
    label: str | None = None
    subject: str | None = None

    def concerns(self, image: str) -> bool:
        """A forget-request of a subject concerns all."""
        return self.image in {image, ""}


@dataclass(frozen=True, slots=True)
class Logged:
    event: Event
    record: Record
    time: int


def shown(events: Sequence[Logged], listed: Sequence[Logged] = ()) -> Mapping[str, str]:
    """What a memory of these events shows: image to label. The law once more, in plain Python.

    Events in `listed` have come as far as their image's postings, and no further.
    """
    images: dict[str, str] = {}
    forgets = [each for each in events if each.event.role == "forget"]
    for image in {each.event.image for each in events if each.event.role == "ingest"}:
        mine = [each.event for each in events if each.event.image == image]
        bore = {each.event.subject for each in (*events, *listed) if each.event.image == image}
        barrier = max(
            (
                min(other.time for other in forgets if other.event.name == each.event.name)
                for each in forgets
                if each.event.image == image or each.event.subject in bore - {None}
            ),
            default=-1,
        )
        living = [event for event in mine if event.time > barrier]
        traces = sorted((e.time, e.label) for e in living if e.role == "ingest")
        said = sorted((e.time, e.label or "") for e in living if e.role == "correct")
        if traces:
            images[image] = (said[-1][1] if said else "") or str(traces[-1][1])
    return images


def may_show(image: str, claimed: Sequence[Logged], log: Sequence[Logged]) -> Iterator[str | None]:
    """The labels of an image in all states of what is claimed and any of what else is there."""
    others = [each for each in log if each not in claimed and each.event.concerns(image)]
    known = [each for each in claimed if each.event.concerns(image)]
    for size in range(len(others) + 1):
        for more in combinations(others, size):
            rest = [each for each in others if each not in more and each.event.role == "ingest"]
            for count in range(len(rest) + 1):
                for listed in combinations(rest, count):
                    yield shown([*known, *more], listed).get(image)


class Log:
    """The writing topics, in memory."""

    def __init__(self) -> None:
        self.partitions: dict[tuple[str, int], list[Logged]] = {
            (role, partition): []
            for role, partitions in PARTITIONS.items()
            for partition in range(partitions)
        }
        self._written = 0

    @property
    def all(self) -> list[Logged]:
        return [each for partition in self.partitions.values() for each in partition]

    def append(self, event: Event, partition: int) -> Position:
        self._written += 1
        place = (event.role, partition % PARTITIONS[event.role])
        offset, time = len(self.partitions[place]), now(self._written)
        record = recorded(encoded(event), place[1], offset, time)
        self.partitions[place].append(Logged(event, record, time))
        return Position(TOPICS[event.role], event.role, place[1], offset)

    def time_of(self, ago: int) -> int:
        """A time for an event, that no other has."""
        return now(max(0, self._written - ago)) - 1 - self._written % 900

    def below(self, positions: Sequence[Position]) -> list[Logged]:
        return [
            each
            for at in positions
            for each in self.partitions[at.topic_id, at.partition][: at.offset]
        ]


def now(written: int) -> int:
    """The log's clock in µs, when so many events are written."""
    return 1000 * (written + 1)


def encoded(event: Event) -> OutgoingRecord:
    time = BEGINNING + event.time
    if event.role == "ingest":
        return encoding.encode_ingest(
            source="camera",
            event_id=event.name,
            time=time,
            image_id=event.image,
            label=str(event.label),
            payload=VectorPayload(vector_of(event.image), EMBEDDER),
            subjects=[event.subject] if event.subject else [],
        )
    if event.role == "correct":
        return encoding.encode_correction(
            source="person",
            event_id=event.name,
            time=time,
            image_id=event.image,
            label=event.label,
        )
    selector = (
        Selector(SelectorKind.SUBJECT, event.subject)
        if event.subject
        else Selector(SelectorKind.IMAGE, event.image)
    )
    return encoding.encode_forget(source="desk", event_id=event.name, time=time, selector=selector)


def recorded(sent: OutgoingRecord, partition: int, offset: int, time: int) -> Record:
    return Record(
        sent.topic, partition, offset, sent.key, sent.value, sent.headers, BEGINNING + time
    )


def vector_of(image: str) -> Any:
    return np.eye(DIM, dtype=np.float32)[IMAGES.index(image)]


class Facts:
    """The fence log; only that it is a step of its own matters here."""

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Keep nothing."""


class Carried(BatchDelivery):
    """Delivery without Faust under it: its threads and its producer are steps of the test."""

    gate: Callable[[], None]
    log: Log

    async def in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(*arguments)

    async def publish(self, outgoing: Sequence[OutgoingRecord]) -> None:
        if outgoing:
            self.gate()


class SameLog(LogWitness):
    """The log of these tests is a list, and always the same."""

    def __init__(self) -> None:
        """Nothing is asked."""

    def saw(self, partition: int, offset: int, time: int) -> None:
        """As above."""

    def keep(self, partitions: Iterable[int]) -> dict[LogPartition, int]:
        return {}

    def check(self, partitions: Iterable[int], *, anew: bool = False) -> bool:
        return True


class Worker:
    """One of a role: reads its partitions on, a batch at a time, step by step."""

    delivery: type[Carried] = Carried

    def __init__(
        self, role: str, log: Log, open_index: Callable[[], RedisIndex], store: Any
    ) -> None:
        self.role = role
        self._log = log
        self._open_index = open_index
        self._store = store
        self.work: Stepped | None = None
        self.next: dict[int, int] = {}
        """By partition that it has, the offset to read on from."""
        self._begin()

    def _begin(self) -> None:
        """A process of this role, as it starts."""
        index = Gated(self._open_index(), self._gate)
        memory: Any = VisualMemory(index, None, fence_log=Gated(Facts(), self._gate), clock_skew=0)
        source = Source(self.role, TOPICS[self.role], self.role, batch=4)
        self._carrier = self.delivery(
            APP,
            source,
            positions=index,
            known_log=SameLog(),
            attempts=RecordAttempts(self._store, "none", self.role),
            full_name=str,
            reject=lambda _record: [],
        )
        self._carrier.gate, self._carrier.log = self._gate, self._log
        self._handle: HandleBatch
        match self.role:
            case "ingest":
                decode = partial(decoding.decode_ingest, topic_id="ingest", clock_skew=0)
                self._handle = WritingAgent("ingest", decode, memory.remember)
            case "correct":
                corrections = partial(decoding.decode_correction, topic_id="correct", clock_skew=0)
                self._handle = WritingAgent("correct", corrections, memory.correct)
            case _:
                self._handle = ForgetAgent(
                    memory, partial(forgetting.decode_forget, clock_skew=0), "vm"
                )

    def _gate(self) -> None:
        if self.work is not None and not self.work.done:
            self.work.gate()

    def assign(self, partitions: Sequence[int]) -> None:
        """What the group gives it from now on; what it does, it goes on doing."""
        working, self.work = self.work, None
        found = asyncio.run(
            self._carrier._seek_offsets({TP(TOPICS[self.role], p) for p in partitions})
        )
        self.work = working
        self.next = {tp.partition: offset for tp, offset in found.items()}

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work.done

    @property
    def can_work(self) -> bool:
        return self.busy or any(
            offset < len(self._log.partitions[self.role, partition])
            for partition, offset in self.next.items()
        )

    def take(self, most: int) -> None:
        """Begin with a batch of what its partitions hold, if it is idle."""
        if self.busy:
            return
        reads: list[Read] = []
        for partition, offset in self.next.items():
            unread = self._log.partitions[self.role, partition][offset:][: most - len(reads)]
            reads += [Read(each.record, None) for each in unread]
            self.next[partition] = offset + len(unread)
        if reads:
            self.work = Stepped(
                lambda _work: asyncio.run(self._carrier._process(self._handle, reads))
            )

    def step(self) -> None:
        if self.work is not None and not self.work.done:
            self.work.step()

    def crash(self) -> None:
        """Gone where it stands, and started again without partitions."""
        self.end()
        self.next = {}
        self._begin()

    def finish(self) -> None:
        while self.work is not None and not self.work.done:
            self.work.step()

    def end(self) -> None:
        if self.work is not None:
            self.work.kill()
            self.work = None


@dataclass
class Question:
    """A question on its way through a query worker, step by step."""

    after: tuple[Position, ...]
    work: Stepped
    answers: list[Answer] = field(default_factory=list)


class Asking:
    """A query worker."""

    memory: type[VisualMemory] = VisualMemory

    def __init__(self, open_index: Callable[[], RedisIndex]) -> None:
        self._open_index = open_index

    def ask(self, after: tuple[Position, ...], at: int) -> Question:
        question = Question(
            after, Stepped(lambda work: asyncio.run(self._answer(question, at, work)))
        )
        return question

    def after_of(self, question: Question) -> tuple[Position, ...]:
        return question.after

    async def _answer(self, question: Question, at: int, work: Stepped) -> None:
        index: Any = Gated(self._open_index(), work.gate)
        memory = self.memory(index, None, logs=TOPICS)

        async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
            return function(*arguments)

        async def positions() -> Mapping[LogPartition, int]:
            held: Mapping[LogPartition, int] = index.positions()
            return held

        agent = QueryAgent(
            memory,
            partial(questions.decode_query, partitions=1),
            partial(questions.reply_address, partitions=1),
            in_thread,
            positions,
        )
        sent = encoding.encode_query(
            source="asker",
            event_id="q",
            time=BEGINNING,
            query=Query(VectorPayload(vector_of(IMAGES[0]), EMBEDDER), k=len(IMAGES)),
            reply_partition=0,
            after=self.after_of(question),
        )
        for record in await agent(recorded(sent, 0, 0, at)):
            answer = decoding.decode_prediction(recorded(record, 0, 0, at))
            assert isinstance(answer, Answer)
            question.answers.append(answer)


def open_memory(
    store: redis.Redis, namespace: str, kind: type[RedisIndex] = RedisIndex
) -> RedisIndex:
    return kind.open(store, namespace=namespace, hmac_key=KEY, embedder=VectorsOnly(EMBEDDER, DIM))
