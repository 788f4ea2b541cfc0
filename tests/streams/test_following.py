"""What became of one's own events, told from a real log; the test plays the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from memory.errors import Reason, Rejected, Unavailable
from memory.exact.index import ExactIndex
from memory.model.answers import Position
from memory.model.events import LogPartition
from memory.model.state import Put, Trace, TraceWrite
from memory.model.times import make_stamp
from streams.client import MemoryClient, bulk_ingest
from streams.client.bulk_ingest import BulkIngest, IngestReport
from streams.contract import encoding, topics
from streams.contract.records import Record
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster

PARTITIONS = 2


def trace(image_id: str) -> Trace:
    vector = np.ones(2, np.float32)
    return Trace(image_id, "digest", "cat", "tests", (), {}, "test", vector)


class Workers:
    """Merge and reject what a follower has sent."""

    def __init__(
        self, bootstrap: str, prefix: str, follower: BulkIngest, index: ExactIndex
    ) -> None:
        self._producer = KafkaProducer(bootstrap_servers=bootstrap)
        self._prefix = prefix
        self._follower = follower
        self._index = index
        self._bad: set[tuple[str, int, int]] = set()

    @property
    def sent(self) -> list[Position]:
        return [place for _, place in self._follower._sent]

    def merge(self, *places: Position) -> None:
        for image_id, place in self._follower._sent:
            if place in places and (place.topic, place.partition, place.offset) not in self._bad:
                write = TraceWrite(make_stamp(1, image_id), trace(image_id))
                self._index.put([Put(self._index.image_key(image_id), write=write)])
        self._index.advance({LogPartition(p.topic_id, p.partition): p.offset + 1 for p in places})

    def reject(self, topic: str, partition: int, offset: int) -> None:
        self._bad.add((topic, partition, offset))
        record = Record(topic, partition, offset, None, None, (), 0)
        said = encoding.encode_rejection(record, Rejected(Reason.NOT_AN_IMAGE, "no image"))
        self._producer.send(
            self._prefix + said.topic, said.value, said.key, list(said.headers), said.partition
        )
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def index() -> ExactIndex:
    return ExactIndex(embedder="test", dim=2, hmac_key=bytes(32))


@pytest.fixture
def prefix(kafka_bootstrap: str, unique: Callable[[str], str]) -> str:
    prefix = unique("following")
    admin.create(KafkaCluster(kafka_bootstrap), topics.declare(prefix, partitions=PARTITIONS))
    return prefix


@pytest.fixture
def client(kafka_bootstrap: str, prefix: str) -> MemoryClient:
    return MemoryClient(kafka_bootstrap, source="tests", prefix=prefix)


@pytest.fixture
def follower(client: MemoryClient, index: ExactIndex) -> Iterator[BulkIngest]:
    with BulkIngest(client, index) as follower:
        yield follower


@pytest.fixture
def workers(
    kafka_bootstrap: str, prefix: str, follower: BulkIngest, index: ExactIndex
) -> Iterator[Workers]:
    made = Workers(kafka_bootstrap, prefix, follower, index)
    yield made
    made.close()


@pytest.fixture
def send(follower: BulkIngest, tmp_path: Path) -> Callable[[int], None]:
    def send(count: int) -> None:
        file = tmp_path / "image"
        file.write_bytes(b"pixels")
        for n in range(count):
            follower.ingest(file, f"i{n}", "cat", ())

    return send


def test_what_is_merged_is_accepted_and_visible(
    follower: BulkIngest, workers: Workers, send: Callable[[int], None]
) -> None:
    told: list[int] = []

    def work(merged: int) -> None:
        told.append(merged)
        workers.merge(*workers.sent)

    send(4)
    assert follower.finish(30, work) == IngestReport(4, 0, 4, in_time=True, reasons=())
    assert (told[0], told[-1]) == (0, 4)


def test_what_is_not_merged_in_time_is_accepted_but_not_visible(
    follower: BulkIngest, workers: Workers, send: Callable[[int], None]
) -> None:
    def work(_merged: int) -> None:
        first = [place for place in workers.sent if place.partition == 0]
        workers.merge(*first)

    send(8)
    report = follower.finish(0.3, work)
    first = sum(place.partition == 0 for place in workers.sent)
    assert report == IngestReport(8, 0, first, in_time=first == 8, reasons=())


def test_rejections_of_ones_own_events_are_told_with_their_reason(
    follower: BulkIngest, workers: Workers, send: Callable[[int], None]
) -> None:
    def work(merged: int) -> None:
        if not merged:
            bad = workers.sent[1]
            workers.reject(bad.topic, bad.partition, bad.offset)
            workers.merge(*workers.sent)

    send(3)
    reasons = ({"id": "i1", "reason": "not-an-image", "detail": "no image"},)
    assert follower.finish(30, work) == IngestReport(2, 1, 2, in_time=True, reasons=reasons)


def test_a_rejection_that_a_restarted_worker_repeats_counts_once(
    follower: BulkIngest, workers: Workers, send: Callable[[int], None]
) -> None:
    def work(merged: int) -> None:
        if not merged:
            for _ in range(2):
                bad = workers.sent[0]
                workers.reject(bad.topic, bad.partition, bad.offset)
            workers.merge(*workers.sent)

    send(3)
    report = follower.finish(30, work)
    assert (report.accepted, report.rejected, report.visible) == (2, 1, 2)


def test_a_rejection_whose_place_is_not_passed_in_time_takes_nothing_from_what_is_visible(
    follower: BulkIngest, workers: Workers, send: Callable[[int], None]
) -> None:
    """A worker rejects before it notes how far it came."""

    def work(_merged: int) -> None:
        bad = workers.sent[0]
        workers.reject(bad.topic, bad.partition, bad.offset)

    send(1)
    report = follower.finish(0.3, work)
    assert (report.accepted, report.rejected, report.visible) == (0, 1, 0)
    assert not report.in_time


def test_rejections_of_others_events_are_not_ones_own(
    follower: BulkIngest,
    workers: Workers,
    prefix: str,
    send: Callable[[int], None],
) -> None:
    def work(merged: int) -> None:
        if not merged:
            one = workers.sent[0]
            workers.reject(one.topic, one.partition, one.offset + 1000)
            workers.reject(prefix + Topic.QUERY, one.partition, one.offset)
            workers.merge(*workers.sent)

    send(2)
    assert follower.finish(30, work) == IngestReport(2, 0, 2, in_time=True, reasons=())


def test_visible_is_what_answers_can_rest_on(
    follower: BulkIngest, workers: Workers, index: ExactIndex, send: Callable[[int], None]
) -> None:
    """Merged is not enough: it may be forgotten by then."""

    def work(merged: int) -> None:
        if not merged:
            workers.merge(*workers.sent)
            index.put([Put(index.image_key("i1"), barrier=9)])

    send(3)
    report = follower.finish(30, work)
    assert (report.accepted, report.visible) == (3, 2)


def test_two_files_of_one_id_are_not_sent_as_one_image(
    follower: BulkIngest, tmp_path: Path, send: Callable[[int], None]
) -> None:
    send(1)
    for image_id in ("i0", "Jose\u0301", "José"):
        if image_id == "Jose\u0301":
            follower.ingest(tmp_path / "image", image_id, "cat", ())
            continue
        with pytest.raises(Rejected, match="another of these files has this id"):
            follower.ingest(tmp_path / "image", image_id, "cat", ())


def test_nothing_sent_is_all_of_it_at_once(follower: BulkIngest) -> None:
    assert follower.finish(0, lambda _merged: None) == IngestReport(
        0, 0, 0, in_time=True, reasons=()
    )


def test_a_long_stream_is_followed_from_its_first_event_to_its_last(
    follower: BulkIngest,
    workers: Workers,
    send: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk_ingest, "IN_FLIGHT", 3)
    send(20)
    assert len(follower._pending) == 3
    report = follower.finish(30, lambda _merged: workers.merge(*workers.sent))
    assert (report.accepted, report.visible, report.in_time) == (20, 20, True)


def test_at_its_end_it_closes_the_client(client: MemoryClient, index: ExactIndex) -> None:
    with BulkIngest(client, index):
        pass
    with pytest.raises(Unavailable, match="closed"):
        client.ingest(b"pixels", id="i", label="cat")
