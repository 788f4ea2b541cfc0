"""The client, against a real Kafka; a thread of the test plays the agents."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.future import Future

from memory.errors import Misconfigured, Reason, Rejected, Unavailable
from memory.model.answers import Findings, Position, Suspect
from memory.model.events import (
    Correction,
    Forget,
    ImagePayload,
    Ingest,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.questions import About, ItemRef, Query, Review
from streams.client import MemoryClient, sending
from streams.contract import decoding, encoding, forgetting, questions, topics
from streams.contract.cloudevents import Header
from streams.contract.messages import Answer, QueryEvent, Receipt, SelectorDigest
from streams.contract.records import Marker, OutgoingRecord, Record
from streams.contract.signing import SigningKey
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster

PARTITIONS = 2
SKEW = 300_000_000
FAULT = Rejected(Reason.TIME_AHEAD, "the clock is wrong")

Reply = Callable[[Record], list[OutgoingRecord]]


class Agent:
    """Answers the records of some topics by a function, in a thread."""

    def __init__(self, bootstrap: str, prefix: str, reply: Reply) -> None:
        self._prefix = prefix
        self._reply = reply
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._producer = KafkaProducer(bootstrap_servers=bootstrap)
        roles = [Topic.IMAGE_INGEST, Topic.FORGET_REQUEST, Topic.QUERY]
        self._consumer.assign(
            [TopicPartition(prefix + role, p) for role in roles for p in range(PARTITIONS)]
        )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            for batch in self._consumer.poll(timeout_ms=100).values():
                for record in batch:
                    self.send(*self._reply(Record.of(record)))

    def send(self, *records: OutgoingRecord) -> None:
        for record in records:
            self._producer.send(
                self._prefix + record.topic,
                record.value,
                record.key,
                list(record.headers),
                record.partition,
            )

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._consumer.close()
        self._producer.close()


@pytest.fixture
def prefix(kafka_bootstrap: str, unique: Callable[[str], str]) -> str:
    prefix = unique("client")
    admin.create(KafkaCluster(kafka_bootstrap), topics.declare(prefix, partitions=PARTITIONS))
    return prefix


@pytest.fixture
def client(kafka_bootstrap: str, prefix: str) -> Iterator[MemoryClient]:
    with MemoryClient(kafka_bootstrap, source="tests", prefix=prefix) as client:
        yield client


@pytest.fixture
def agent(kafka_bootstrap: str, prefix: str) -> Iterator[Callable[[Reply], Agent]]:
    agents: list[Agent] = []

    def start(reply: Reply) -> Agent:
        agents.append(Agent(kafka_bootstrap, prefix, reply))
        return agents[-1]

    yield start
    for started in agents:
        started.close()


@pytest.fixture
def written(kafka_bootstrap: str, prefix: str) -> Callable[[Position], Record]:
    """The record at a position."""

    def read(position: Position) -> Record:
        consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=None)
        place = TopicPartition(position.topic, position.partition)
        consumer.assign([place])
        consumer.seek(place, position.offset)
        (record, *_) = consumer.poll(timeout_ms=10_000)[place]
        consumer.close()
        return Record.of(record)

    return read


def question(record: Record) -> QueryEvent | None:
    if not record.topic.endswith(Topic.QUERY):
        return None
    event = questions.decode_query(record, partitions=PARTITIONS)
    assert isinstance(event, QueryEvent)
    return event


def echo(record: Record) -> list[OutgoingRecord]:
    """Answers with the label that the question's image spells, or the item's id."""
    if (event := question(record)) is None:
        return []
    assert isinstance(event.query, Query)
    payload = event.query.payload
    match payload:
        case ImagePayload(data):
            label = data.decode()
        case ItemRef(image_id):
            label = image_id
        case VectorPayload(vector):
            label = str(vector.tolist())
    answer = Answer(
        event.query_id,
        "answered",
        label=label,
        k=event.query.k,
        rule=event.query.rule,
        as_of=event.after,
    )
    return [encoding.encode_prediction(answer, event.reply_partition)]


# --- writing


def test_an_image_gets_its_position_in_the_log(
    client: MemoryClient, written: Callable[[Position], Record], kafka_bootstrap: str, prefix: str
) -> None:
    pending = client.ingest(
        b"png", id="img, 1", label="猫", subjects=["ann"], attributes={"site": "hall"}, time=123
    )
    position = pending.position(30)
    name = prefix + Topic.IMAGE_INGEST
    assert (position.topic, position.topic_id) == (
        name,
        admin.topic_ids(KafkaCluster(kafka_bootstrap), [name])[name],
    )
    event = decoding.decode_ingest(written(position), position.topic_id, clock_skew=SKEW)
    assert isinstance(event, Ingest)
    assert (event.image_id, event.label, event.source) == ("img, 1", "猫", "tests")
    assert (event.subjects, event.attributes) == (("ann",), {"site": "hall"})
    assert (event.time, event.payload) == (123, ImagePayload(b"png"))


def test_a_file_and_a_vector_are_sent_too(
    client: MemoryClient, written: Callable[[Position], Record], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    file = client.ingest(tmp_path / "a.png", id="a", label="x").position(30)
    vector = client.ingest(np.array([3, 4]), id="b", label="x", embedder="digest").position(30)
    assert written(file).value == b"file"
    event = decoding.decode_ingest(written(vector), "t", clock_skew=SKEW)
    assert isinstance(event, Ingest)
    assert isinstance(event.payload, VectorPayload)
    assert event.payload.vector.tolist() == [3, 4]


def test_many_images_keep_their_own_positions(client: MemoryClient) -> None:
    sent = [client.ingest(b"x", id=str(i), label="l") for i in range(500)]
    positions = {pending.position(30) for pending in sent}
    assert len(positions) == 500
    assert {p.partition for p in positions} == set(range(PARTITIONS))


def test_the_same_event_id_is_the_same_record_key(
    client: MemoryClient, written: Callable[[Position], Record]
) -> None:
    first, second = (
        written(client.ingest(b"x", id="i", label="l", event_id="once").position(30))
        for _ in range(2)
    )
    assert first.key == second.key
    assert first.partition == second.partition


def test_the_time_of_an_event_is_the_clients_clock(
    kafka_bootstrap: str, prefix: str, written: Callable[[Position], Record]
) -> None:
    with MemoryClient(kafka_bootstrap, source="s", prefix=prefix, clock=lambda: 77) as client:
        position = client.correct("i", "l").position(30)
    event = decoding.decode_correction(written(position), "t", clock_skew=SKEW)
    assert isinstance(event, Correction)
    assert event.time == 77


@pytest.mark.parametrize("label", ["dog", None])
def test_a_correction_is_sent(
    client: MemoryClient, written: Callable[[Position], Record], label: str | None
) -> None:
    event = decoding.decode_correction(
        written(client.correct("img", label).position(30)), "t", clock_skew=SKEW
    )
    assert isinstance(event, Correction)
    assert (event.image_id, event.label) == ("img", label)


@pytest.mark.parametrize("kind", list(SelectorKind))
def test_a_forget_request_is_sent_and_has_the_id_its_receipts_name(
    client: MemoryClient, written: Callable[[Position], Record], kind: SelectorKind
) -> None:
    named: dict[str, Any] = {str(kind): "a, b"}
    request = client.forget(**named, permanent=True)
    event = forgetting.decode_forget(written(request.position(30)), clock_skew=SKEW)
    assert isinstance(event, Forget)
    assert event.request_id == request.request_id
    assert (event.selector, event.permanent) == (Selector(kind, "a, b"), True)


@pytest.mark.parametrize("named", [{}, {"image": "a", "label": "b"}])
def test_a_forget_request_names_exactly_one_thing(named: dict[str, str]) -> None:
    with pytest.raises(Rejected, match="exactly one"):
        MemoryClient("nowhere.invalid:1", source="s").forget(**named)  # type: ignore[arg-type]  # only texts


# --- refused at once, without Kafka


def test_an_image_over_the_limit_fails_at_once_saying_size_and_limit() -> None:
    client = MemoryClient("nowhere.invalid:1", source="s")
    with pytest.raises(Rejected, match=r"1048577 bytes, the limit is 1048576.*raise") as caught:
        client.ingest(bytes((1 << 20) + 1), id="i", label="l")
    assert caught.value.reason == Reason.IMAGE_TOO_LARGE


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    client = MemoryClient("nowhere.invalid:1", source="s")
    with pytest.raises(Rejected, match="the limit is"):
        client.ingest(tmp_path / "huge", id="i", label="l")


def test_headers_over_the_limit_fail_at_once() -> None:
    client = MemoryClient("nowhere.invalid:1", source="s")
    attributes = {f"a{i}": "猫" * 1024 for i in range(64)}
    with pytest.raises(Rejected, match="attributes take"):
        client.ingest(b"x", id="i", label="l", attributes=attributes)


def test_an_image_of_the_greatest_size_is_taken(
    client: MemoryClient, written: Callable[[Position], Record]
) -> None:
    data = bytes(1 << 20)
    attributes = {f"a{i}": "x" * 1000 for i in range(60)}
    position = client.ingest(data, id="i", label="l", attributes=attributes).position(30)
    assert written(position).value == data


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image": b""}, Reason.EMPTY_PAYLOAD),
        ({"image": b"x", "item": "i"}, Reason.INVALID_PAYLOAD),
        ({}, Reason.INVALID_PAYLOAD),
        ({"image": np.ones(3)}, Reason.NO_EMBEDDER),
        ({"image": np.zeros(3), "embedder": "e"}, Reason.ZERO_VECTOR),
        ({"image": np.ones(0), "embedder": "e"}, Reason.EMPTY_PAYLOAD),
        ({"item": ""}, Reason.INVALID_ID),
        ({"item": "i", "k": 0}, Reason.INVALID_K),
        ({"item": "i", "rule": "best"}, Reason.UNKNOWN_RULE),
        ({"item": "i", "timeout": 301}, Reason.INVALID_HEADER),
    ],
)
def test_a_question_that_would_be_rejected_fails_at_once(
    arguments: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(Rejected) as caught:
        MemoryClient("nowhere.invalid:1", source="s").query(**arguments)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "named",
    [{"near": ["i"]}, {"within": 0.1}, {"near": ["i"], "within": 0.1, "subject": "ann"}],
)
def test_what_is_alike_is_named_by_images_and_a_distance_alone(named: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="by nothing else") as caught:
        MemoryClient("nowhere.invalid:1", source="s").forget(**named)
    assert caught.value.reason == Reason.INVALID_SELECTOR


def test_an_image_that_is_a_text_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="Path"):
        MemoryClient("nowhere.invalid:1", source="s").ingest("a.png", id="i", label="l")  # type: ignore[arg-type]  # on purpose


# --- asking


def test_a_question_is_answered(client: MemoryClient, agent: Callable[[Reply], Agent]) -> None:
    agent(echo)
    after = [Position("image-ingest", "id", 0, 7)]
    answer = client.query(b"cat", k=3, rule="plurality", after=after)
    assert (answer.status, answer.label) == ("answered", "cat")
    assert (answer.k, answer.rule, answer.as_of) == (3, "plurality", tuple(after))


def test_items_and_vectors_can_be_asked_with(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    agent(echo)
    assert client.query(item="img, 1").label == "img, 1"
    assert client.query(np.array([1.0, 2.0]), embedder="e").label == "[1.0, 2.0]"


def test_many_threads_get_their_own_answers(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    agent(echo)

    def ask(i: int) -> str | None:
        return client.query(str(i).encode()).label

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(200))) == [str(i) for i in range(200)]


def test_two_clients_do_not_take_each_others_answers(
    kafka_bootstrap: str, prefix: str, agent: Callable[[Reply], Agent]
) -> None:
    agent(echo)
    clients = [MemoryClient(kafka_bootstrap, source="s", prefix=prefix) for _ in range(3)]
    futures = [(str(i), clients[i % 3].ask(str(i).encode())) for i in range(30)]
    assert all(future.result(30).label == label for label, future in futures)
    for client in clients:
        client.close()


@pytest.mark.parametrize("status", ["empty", "stale", "expired", "rejected"])
def test_every_status_reaches_the_asker(
    client: MemoryClient, agent: Callable[[Reply], Agent], status: Any
) -> None:
    def reply(record: Record) -> list[OutgoingRecord]:
        event = question(record)
        assert event
        answer = Answer(event.query_id, status, reason="a-reason", detail="a detail")
        return [encoding.encode_prediction(answer, event.reply_partition)]

    agent(reply)
    answer = client.query(b"x")
    assert (answer.status, answer.reason, answer.detail) == (status, "a-reason", "a detail")


def test_a_question_nobody_answers_is_unavailable(client: MemoryClient) -> None:
    with pytest.raises(Unavailable, match="no answer"):
        client.query(b"x", timeout=0.1)


def test_an_answer_after_its_time_disturbs_nobody(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    with pytest.raises(Unavailable):
        client.query(b"late", timeout=0.1)
    agent(echo)  # answers the question that is overdue, too
    assert client.query(b"next").label == "next"


def test_an_answer_that_cannot_be_read_fails_its_question_only(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    def reply(record: Record) -> list[OutgoingRecord]:
        event = question(record)
        assert event
        (good,) = echo(record)
        assert isinstance(event.query, Query)
        if event.query.payload == ImagePayload(b"good"):
            return [good]
        return [OutgoingRecord(good.topic, good.key, b"{", good.headers, good.partition)]

    agent(reply)
    with pytest.raises(Misconfigured, match="cannot be read"):
        client.query(b"bad")
    assert client.query(b"good").label == "good"


def test_a_review_is_asked_for_and_told(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    found = Findings("suspects", 7, 1.5, suspects=(Suspect("i0", "a", "b", 0.9, 0.1, 3),))

    def reply(record: Record) -> list[OutgoingRecord]:
        event = question(record)
        assert event
        assert isinstance(event.query, Review)
        said: dict[str, Any] = {"status": "answered", "review": found}
        if event.query.about is About.PRUNING:
            said = {"status": "rejected", "reason": "not-counted", "detail": str(event.query.least)}
        elif event.query.image_id:
            said = {"status": "expired"}
        answer = Answer(event.query_id, **said)
        return [encoding.encode_prediction(answer, event.reply_partition)]

    agent(reply)
    assert client.review("suspects", count=3) == found
    with pytest.raises(Rejected, match="9") as why:
        client.review("pruning", least=9)
    assert why.value.reason is Reason.NOT_COUNTED
    with pytest.raises(Unavailable, match="in time"):
        client.review("influence", image="i0")
    with pytest.raises(Rejected, match="suspects, pruning, influence"):
        client.review("weather")


def test_a_question_waiting_at_close_fails(client: MemoryClient) -> None:
    future = client.ask(b"x", timeout=60)
    client.close()
    with pytest.raises(Unavailable, match="closed"):
        future.result(10)


# --- what became of it


def receipts(record: Record) -> list[OutgoingRecord]:
    if not record.topic.endswith(Topic.FORGET_REQUEST):
        return []
    event = forgetting.decode_forget(record, clock_skew=SKEW)
    assert isinstance(event, Forget)

    def receipt(stage: str, stages: dict[str, int], request: str) -> OutgoingRecord:
        return encoding.encode_receipt(
            Receipt(request, stage, stages, SelectorDigest(str(event.selector.kind), "d"), 9, 4)
        )

    return [
        receipt("erased", {"fenced": 1, "erased": 2}, "somebody-elses"),
        receipt("fenced", {"fenced": 1}, event.request_id),
        receipt("erased", {"fenced": 1, "erased": 2}, event.request_id),
    ]


def test_requests_to_forget_are_signed_with_the_desks_key(
    kafka_bootstrap: str, client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    key = SigningKey(bytes(range(32)))
    seen: list[Record] = []

    def note(record: Record) -> list[OutgoingRecord]:
        seen.append(record)
        return receipts(record)

    agent(note)
    prefix = client._cluster.prefix
    with MemoryClient(
        kafka_bootstrap, source="desk", prefix=prefix, request_key=bytes(range(32))
    ) as desk:
        desk.receipt(desk.forget(subject="ann"), "erased", 30)
    client.receipt(client.forget(subject="ann"), "erased", 30)
    signed, plain = (r for r in seen if r.topic.endswith(Topic.FORGET_REQUEST))
    forgetting.decode_forget(signed, clock_skew=SKEW, keys=(key.public,))
    with pytest.raises(Rejected, match="invalid-signature"):
        forgetting.decode_forget(plain, clock_skew=SKEW, keys=(key.public,))


def test_the_receipt_of_a_stage_is_waited_for(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    agent(receipts)
    request = client.forget(subject="ann")
    receipt = client.receipt(request, "erased", 30)
    assert receipt.request == request.request_id
    assert (receipt.stage, receipt.images) == ("erased", 4)
    assert client.receipt(request, "fenced", 30).stage == "fenced"


def test_a_request_made_elsewhere_is_found_by_its_id(
    kafka_bootstrap: str,
    prefix: str,
    client: MemoryClient,
    agent: Callable[[Reply], Agent],
) -> None:
    agent(receipts)
    with MemoryClient(kafka_bootstrap, source="desk", prefix=prefix) as other:
        request = other.forget(image="i")
        other.receipt(request, "erased", 30)
    assert client.receipt(request.request_id, "erased", 30).request == request.request_id


def rejects(record: Record) -> list[OutgoingRecord]:
    return [encoding.encode_rejection(record, FAULT, admitted_after=8)]


def test_a_request_that_was_rejected_says_why(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    agent(rejects)
    with pytest.raises(Rejected, match="the clock is wrong") as caught:
        client.receipt(client.forget(image="i"), "erased", 30)
    assert caught.value.reason == Reason.TIME_AHEAD


def test_a_receipt_that_does_not_come_is_unavailable(client: MemoryClient) -> None:
    with pytest.raises(Unavailable, match="no receipt of the stage erased within"):
        client.receipt(client.forget(image="i"), "erased", 0.5)


def test_who_waits_for_a_request_that_is_cancelled_is_told(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    def cancels(record: Record) -> list[OutgoingRecord]:
        event = forgetting.decode_forget(record, clock_skew=SKEW)
        assert isinstance(event, Forget)
        stages = {"received": 1, "cancelled": 2}
        told = Receipt(event.request_id, "cancelled", stages, SelectorDigest("image", "d"), 9, 0)
        return [encoding.encode_receipt(told)]

    agent(cancels)
    with pytest.raises(Unavailable, match="was cancelled"):
        client.receipt(client.forget(image="i"), "erased", 30)


def test_of_a_cancel_that_nobody_hears_nothing_is_known(client: MemoryClient) -> None:
    with pytest.raises(Unavailable, match=r"within 0\.5 s nothing is said of the cancel"):
        client.cancel("0" * 64, 0.5)


def test_rejections_are_read_from_now_on_and_again_from_a_position(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    playing = agent(rejects)
    early = client.rejections()
    position = client.ingest(b"x", id="i", label="l").position(30)
    (rejection,) = early.poll(3)
    assert (rejection.topic, rejection.partition, rejection.offset) == (
        position.topic,
        position.partition,
        position.offset,
    )
    assert (rejection.reason, rejection.admitted_after) == ("time-ahead", 8)
    resume = early.positions
    assert list(client.rejections().poll(0.2)) == []
    assert list(client.rejections({0: 0}).poll(1)) == [rejection]
    assert list(client.rejections(resume).poll(0.2)) == []
    playing.send(encoding.encode_heartbeat(Topic.REJECTED, 0))
    assert list(client.rejections(resume).poll(1)) == []


def test_iterating_gives_rejections_as_they_come(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    agent(rejects)
    rejections = iter(client.rejections())
    client.ingest(b"x", id="i", label="l")
    assert next(rejections).reason == "time-ahead"


# --- ends and faults


def test_closing_sends_what_waits(
    kafka_bootstrap: str, prefix: str, written: Callable[[Position], Record]
) -> None:
    with MemoryClient(kafka_bootstrap, source="s", prefix=prefix) as client:
        sent = [client.ingest(b"x", id=str(i), label="l") for i in range(50)]
    assert written(sent[-1].position(0)).value == b"x"


def test_flushing_waits_for_all_that_was_sent(client: MemoryClient) -> None:
    sent = [client.ingest(b"x", id=str(i), label="l") for i in range(50)]
    client.flush()
    assert len({pending.position(0) for pending in sent}) == 50


class Unanswered:
    """A producer whose log acknowledges nothing until it is told to."""

    def __init__(self) -> None:
        self.sent: list[Future] = []

    def send(self, _topic: str, **_record: object) -> Future:
        self.sent.append(Future())
        return self.sent[-1]


def test_no_more_waits_in_a_client_than_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images fit. Who would add a third waits, and is told when it has waited too long."""
    monkeypatch.setattr(sending, "MAX_UNSENT", 3000)
    monkeypatch.setattr(sending, "BLOCK_SECONDS", 0.2)
    log = Unanswered()
    client = MemoryClient("nowhere:1", source="s")
    monkeypatch.setattr(client._sender, "_connect", lambda _topic, _linger: ("id", log))
    image = b"x" * 1000
    for name in ("one", "two"):
        client.ingest(image, id=name, label="l")
    with pytest.raises(Unavailable, match="too much waits"):
        client.ingest(image, id="three", label="l")
    assert len(log.sent) == 2
    log.sent[0].success(None)
    client.ingest(image, id="three", label="l")
    log.sent[1].failure(KafkaTimeoutError())  # what has failed waits no more either
    client.ingest(image, id="four", label="l")
    assert len(log.sent) == 4
    client.close()


def test_an_image_larger_than_the_room_is_sent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_UNSENT", 10)
    log = Unanswered()
    client = MemoryClient("nowhere:1", source="s")
    monkeypatch.setattr(client._sender, "_connect", lambda _topic, _linger: ("id", log))
    client.ingest(b"x" * 1000, id="i", label="l")
    assert len(log.sent) == 1
    client.close()


def test_a_closed_client_sends_nothing(client: MemoryClient) -> None:
    client.close()
    client.close()
    with pytest.raises(Unavailable, match="closed"):
        client.ingest(b"x", id="i", label="l")
    with pytest.raises(Unavailable, match="closed"):
        client.query(b"x")


def test_missing_topics_are_named(kafka_bootstrap: str, unique: Callable[[str], str]) -> None:
    prefix = unique("absent")
    with MemoryClient(kafka_bootstrap, source="s", prefix=prefix) as client:
        with pytest.raises(Misconfigured, match=f"{prefix}image-ingest"):
            client.ingest(b"x", id="i", label="l")
        with pytest.raises(Misconfigured, match=f"{prefix}prediction"):
            client.query(b"x")


def test_kafka_away_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = MemoryClient(address, source="s", bootstrap_timeout_ms=300)
        with pytest.raises(Unavailable):
            client.ingest(b"x", id="i", label="l")
        with pytest.raises(Unavailable):
            client.query(b"x")
        client.close()


def test_a_marker_is_no_answer(client: MemoryClient, agent: Callable[[Reply], Agent]) -> None:
    def reply(record: Record) -> list[OutgoingRecord]:
        event = question(record)
        assert event
        beat = encoding.encode_heartbeat(Topic.PREDICTION, event.reply_partition)
        assert (
            decoding.decode_prediction(Record("p", 0, 0, beat.key, beat.value, beat.headers, 0))
            is Marker.HEARTBEAT
        )
        return [beat, *echo(record)]

    agent(reply)
    assert client.query(b"cat").label == "cat"


def test_a_beat_in_the_place_of_an_answer_is_told_to_who_asked(
    client: MemoryClient, agent: Callable[[Reply], Agent]
) -> None:
    def reply(record: Record) -> list[OutgoingRecord]:
        event = question(record)
        assert event
        beat = encoding.encode_heartbeat(Topic.PREDICTION, event.reply_partition)
        return [replace(beat, headers=(*beat.headers, (Header.QUERY_ID, event.query_id.encode())))]

    agent(reply)
    with pytest.raises(Misconfigured, match="it has no value"):
        client.query(b"cat")
