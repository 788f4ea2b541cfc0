"""Erasing step by step: the log, Redis' files, the chain of receipts; on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock, patch

import numpy as np
import pytest
import redis
from kafka import TopicPartition
from msgspec.structs import replace

from memory.embedders import VectorsOnly
from memory.errors import Misconfigured, Unavailable
from memory.model.events import (
    ClaimPayload,
    ImagePayload,
    LogAddress,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.keys import ImageKey, SelectorKey
from memory.model.state import Put, Trace, TraceWrite
from memory.model.times import make_stamp, now_us
from memory.redis.connection import RedisFiles, connect
from memory.redis.index import RedisIndex
from memory.redis.lease import EraserLease
from memory.redis.reports import Leftovers
from streams.config.settings import CACHE, load
from streams.contract import decoding, encoding
from streams.contract.messages import Receipt, SelectorDigest
from streams.contract.records import OutgoingRecord, Record
from streams.contract.signing import Chain, SigningKey
from streams.contract.topics import Topic, declare
from streams.erasure import eraser as eraser_module
from streams.erasure import wiring
from streams.erasure.chain import ReceiptChain, read_chain
from streams.erasure.eraser import Eraser
from streams.erasure.log import ErasureLog, Scan
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from streams.kafka.reading import Tail, decode_known
from streams.local.redis_server import RedisServer
from tests.waiting import until

KEY, OTHER = (SigningKey(bytes(range(n, n + 32))) for n in (0, 1))
VECTOR = VectorPayload(np.ones(3, np.float32), "test")


@pytest.fixture
def cluster(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaCluster:
    made = KafkaCluster(kafka_bootstrap, unique("erase"))
    admin.create(made, declare(made.prefix, partitions=2))
    return made


@pytest.fixture
def log(cluster: KafkaCluster) -> Iterator[ErasureLog]:
    names = [cluster.full_name(topic) for topic in Topic]
    with closing(ErasureLog(cluster, admin.topic_ids(cluster, names), "vm")) as made:
        yield made


@pytest.fixture
def index(redis_client: redis.Redis, unique: Callable[[str], str]) -> RedisIndex:
    return RedisIndex.open(
        redis_client,
        namespace=unique("erase"),
        hmac_key=bytes(32),
        embedder=VectorsOnly("test", 3),
    )


def send(cluster: KafkaCluster, *records: OutgoingRecord) -> list[Any]:
    with closing(cluster.producer()) as producer:
        sent = [
            producer.send(
                cluster.full_name(record.topic),
                record.value,
                record.key,
                list(record.headers),
                record.partition,
            )
            for record in records
        ]
        return [each.get(30) for each in sent]


def image(event: str, *, id: str = "i0", subject: str = "ann", time: int = 5) -> OutgoingRecord:  # noqa: A002
    return encoding.encode_ingest(
        source="camera",
        event_id=event,
        time=time,
        image_id=id,
        label="cat",
        payload=ImagePayload(b"image"),
        subjects=[subject],
    )


def altered(record: OutgoingRecord, **headers: bytes) -> OutgoingRecord:
    changed = tuple((name, headers.get(name, value)) for name, value in record.headers)
    return OutgoingRecord(record.topic, record.key, record.value, changed, record.partition)


class Fenced:
    """Nobody is forgotten but those of one subject, and one image."""

    def __init__(self, index: RedisIndex, *, subject: str = "ann", until: int = 10) -> None:
        self._subject = index.selector_key(Selector(SelectorKind.SUBJECT, subject))
        self._image = index.image_key("gone")
        self._until = until

    def __call__(self, borne: Sequence[tuple[ImageKey, Sequence[SelectorKey]]]) -> list[int]:
        return [
            self._until if self._subject in selectors or image == self._image else -1
            for image, selectors in borne
        ]


def found(scan: Scan) -> set[tuple[str, int, int]]:
    return {
        (p.topic, p.partition, offset) for p, offsets in scan.dead.items() for offset in offsets
    }


def placed(sent: Sequence[Any]) -> set[tuple[str, int, int]]:
    return {(one.topic, one.partition, one.offset) for one in sent}


def test_a_scan_finds_all_that_names_the_forgotten_and_nothing_else(
    cluster: KafkaCluster, log: ErasureLog, index: RedisIndex
) -> None:
    garbled = altered(image("garbled"), ce_time=b"yesterday")
    dead = send(
        cluster,
        image("e1"),
        image("e2", id="i1", time=10),
        altered(image("e3"), ce_label=b"\xff"),  # rejected, and names her all the same
        altered(image("e4"), ce_subjects=b'["bob", "ann"]'),
        encoding.encode_correction(
            source="desk", event_id="c1", time=5, image_id="gone", label="dog"
        ),
        encoding.encode_forget(
            source="desk", event_id="f1", time=5, selector=Selector(SelectorKind.SUBJECT, "ann")
        ),
    )
    send(
        cluster,
        image("l1", subject="bob"),
        image("l2", time=11),
        altered(image("l3"), ce_subjects=b"no list"),
        garbled,  # its time is the log's
        encoding.encode_heartbeat(Topic.IMAGE_INGEST, 0),
        # What a reviewer says is no ingest of that source.
        encoding.encode_correction(source="ann", event_id="c2", time=5, image_id="i0", label="x"),
        encoding.encode_forget(
            source="desk", event_id="f2", time=5, selector=Selector(SelectorKind.IMAGE, "i9")
        ),
    )
    request = dead[-1]
    erased = {
        encoding.encode_forget(
            source="desk", event_id="f1", time=5, selector=Selector(SelectorKind.LABEL, "x")
        ).key.decode()
    }
    assert request.topic.endswith("forget-request")
    scan = log.scan(index, Fenced(index), erased)
    assert found(scan) == placed(dead)
    assert (scan.records, scan.unreadable) == (13, 0)
    assert log.still_there(scan.dead)
    again = log.scan(index, Fenced(index), erased)
    assert found(again) == placed(dead)
    assert again.without_tombstone() == []  # the first one wrote their tombstones
    assert again.records == 13 + 6


@pytest.mark.parametrize(
    ("offset", "value", "there"), [(5, b"v", True), (5, None, False), (6, b"v", False)]
)
def test_only_the_dead_themselves_are_still_there(
    *, offset: int, value: bytes | None, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither what lives between them nor their tombstones."""
    place = TopicPartition("vm.image-ingest", 0)
    left = Record(place.topic, 0, offset, b"k", value, (), 1)
    log = object.__new__(ErasureLog)
    asked = Mock(return_value=[[left]])
    monkeypatch.setattr(log, "_read", asked)
    assert log.still_there({place: [5, 7]}) is there
    asked.assert_called_once_with({place: 5}, {place: 8})


def claim(event: str, uri: str, *, subject: str = "ann") -> OutgoingRecord:
    return encoding.encode_ingest(
        source="camera",
        event_id=event,
        time=5,
        image_id=event,
        label="cat",
        payload=ClaimPayload(uri, "0f" * 32),
        subjects=[subject],
    )


def test_owners_of_forgotten_claims_are_told_before_the_events_get_their_tombstones(
    cluster: KafkaCluster, log: ErasureLog, index: RedisIndex
) -> None:
    send(
        cluster,
        claim("c1", "https://a.example/1"),
        altered(claim("c2", "https://a.example/2"), ce_label=b"\xff"),  # rejected
        replace_value(claim("c3", "https://a.example/3"), b"no claim"),
        claim("c4", "https://a.example/4", subject="bob"),
        image("e1"),
    )
    for _ in range(2):  # those that have a tombstone are not told again
        log.scan(index, Fenced(index), ())
    with closing(Tail(cluster, [cluster.full_name(Topic.FORGOTTEN_CLAIM)], {})) as tail:
        told = list(decode_known(tail.poll(10.0), decoding.decode_forgotten_claim))
    assert sorted(one.uri for one in told) == ["https://a.example/1", "https://a.example/2"]
    assert {(one.sha256, one.source, one.memory) for one in told} == {("0f" * 32, "camera", "vm")}


def replace_value(record: OutgoingRecord, value: bytes) -> OutgoingRecord:
    return OutgoingRecord(record.topic, record.key, value, record.headers)


def test_what_a_transaction_took_back_is_found_too(
    cluster: KafkaCluster, log: ErasureLog, index: RedisIndex, unique: Callable[[str], str]
) -> None:
    record = image("e1")
    with closing(cluster.producer(transactional_id=unique("tx"))) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        sent = producer.send(
            cluster.full_name(record.topic), record.value, record.key, list(record.headers)
        )
        producer.flush()
        producer.abort_transaction()
    place = sent.get(10)
    assert found(log.scan(index, Fenced(index), ())) == placed([place])


def test_a_tombstone_before_the_event_buries_nothing(
    cluster: KafkaCluster, log: ErasureLog, index: RedisIndex
) -> None:
    record = image("e1")
    place = TopicPartition(cluster.full_name(record.topic), 1)
    tombstone = OutgoingRecord(record.topic, record.key, None, (), 1)
    again = OutgoingRecord(record.topic, record.key, record.value, record.headers, 1)
    send(cluster, tombstone, again)
    scan = log.scan(index, Fenced(index), ())
    assert scan.without_tombstone() == [(place, record.key)]
    assert log.ends([Topic.IMAGE_INGEST])[place] == 3


def test_events_are_buried_in_their_partition_and_others_logs_are_let_be(
    cluster: KafkaCluster, log: ErasureLog
) -> None:
    name = cluster.full_name(Topic.LABEL_CORRECTION)
    topic_id = admin.topic_ids(cluster, [name])[name]
    log.bury([LogAddress(5, topic_id, 1, "k"), LogAddress(5, "of a log that is gone", 0, "k")])
    ends = log.ends(Topic)
    assert {place: end for place, end in ends.items() if end} == {TopicPartition(name, 1): 1}


def test_every_partition_that_is_compacted_gets_a_heartbeat(
    cluster: KafkaCluster, log: ErasureLog
) -> None:
    log.beat()
    naming = ("image-ingest", "label-correction", "forget-request")
    beaten = {place for place, end in log.ends(Topic).items() if end == 1}
    assert beaten == {TopicPartition(cluster.prefix + name, p) for name in naming for p in (0, 1)}


# The chain


def receipt(request: str) -> Receipt:
    return Receipt(
        request, "erased", {"erased": 5}, SelectorDigest("subject", "d"), 9, 4, memory="vm"
    )


def in_the_log(cluster: KafkaCluster) -> list[bytes]:
    with closing(Tail(cluster, [cluster.full_name(Topic.FORGET_RECEIPT)], {})) as tail:
        values: list[bytes] = []
        while records := tail.poll(1.0):
            values += [record.value for record in records if record.value]
    return values


def test_who_takes_over_goes_on_with_the_chain_and_the_former_cannot(
    cluster: KafkaCluster, unique: Callable[[str], str]
) -> None:
    name = unique("chain")
    with closing(ReceiptChain(cluster, name, "vm", KEY)) as first:
        assert first.open() == []
        (one,) = first.append([receipt("a")])
        assert (one.sequence, one.key) == (1, KEY.id)
        with closing(ReceiptChain(cluster, name, "vm", KEY)) as second:
            assert [each.request for each in second.open()] == ["a"]
            assert [each.sequence for each in second.append([receipt("b"), receipt("c")])] == [2, 3]
            with pytest.raises((Misconfigured, Unavailable)):
                first.append([receipt("d")])
            assert [each.request for each in second.poll(2.0)] == ["b", "c"]
    chain = Chain([KEY.public])
    assert [chain.check(value) for value in in_the_log(cluster)] == [None] * 3


def test_a_key_is_changed_by_the_former_alone(
    cluster: KafkaCluster, unique: Callable[[str], str]
) -> None:
    name = unique("chain")
    with closing(ReceiptChain(cluster, name, "vm", KEY)) as first:
        first.open()
        first.append([receipt("a")])
    with (
        closing(ReceiptChain(cluster, name, "vm", OTHER)) as stranger,
        pytest.raises(Misconfigured, match="VISUAL_MEMORY_SIGNING_KEY_BEFORE"),
    ):
        stranger.open()
    for _ in range(2):  # a start later it is done already
        with closing(ReceiptChain(cluster, name, "vm", OTHER, KEY)) as second:
            second.open()
            second.append([receipt("b")])
    chain = Chain([KEY.public])
    assert [chain.check(value) for value in in_the_log(cluster)] == [None] * 4


def test_others_receipts_are_read_and_not_part_of_the_chain(
    cluster: KafkaCluster, unique: Callable[[str], str]
) -> None:
    send(cluster, encoding.encode_receipt(receipt("a")))
    with closing(ReceiptChain(cluster, unique("chain"), "vm", KEY)) as chain:
        assert [each.request for each in chain.open()] == ["a"]
        assert chain.append([receipt("a")])[0].sequence == 1


def test_two_memories_on_the_same_topics_have_a_chain_each(
    cluster: KafkaCluster, unique: Callable[[str], str]
) -> None:
    with (
        closing(ReceiptChain(cluster, unique("chain"), "vm", KEY)) as ours,
        closing(ReceiptChain(cluster, unique("chain"), "other", OTHER)) as theirs,
    ):
        ours.open()
        ours.append([receipt("a")])
        theirs.open()
        theirs.append([replace(receipt("a"), memory="other")])
        ours.poll(2.0)
        assert ours.append([receipt("b")])[0].sequence == 2
    for memory, key, count in (("vm", KEY, 2), ("other", OTHER, 1)):
        chain = Chain([key.public])
        values = list(read_chain(cluster, memory))
        assert [chain.check(value) for value in values] == [None] * count


# Redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", CACHE)
    server.start()
    yield server
    server.stop()


def held_in(server_folder: Path, text: bytes) -> list[str]:
    return [
        file.name
        for file in server_folder.rglob("*")
        if file.is_file() and text in file.read_bytes()
    ]


@pytest.mark.servers
@pytest.mark.parametrize("snapshots", ["", "3600 1"])
def test_files_are_written_anew_until_nothing_deleted_is_in_them(
    own_redis: RedisServer, tmp_path: Path, snapshots: str
) -> None:
    client = connect(own_redis.url)
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("save", snapshots)
    client.set("key", "personal data")
    if snapshots:
        client.bgsave()
        deadline = time.monotonic() + 10
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    client.delete("key")
    assert len(held_in(tmp_path, b"personal data")) == 1 + bool(snapshots)
    files, before = RedisFiles(client), now_us()
    assert [files.as_of] == [None]
    deadline = time.monotonic() + 30
    while not files.rewrite():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert files.as_of is not None
    assert before <= files.as_of <= now_us()
    assert held_in(tmp_path, b"personal data") == []
    assert not any(b"personal data" in one["command"] for one in client.slowlog_get())
    assert files.replicas() == 0
    client.close()


@pytest.mark.servers
def test_a_rewrite_that_redis_did_not_live_to_end_is_begun_anew(own_redis: RedisServer) -> None:
    client = connect(own_redis.url)
    files = RedisFiles(client)
    assert not files.rewrite()
    own_redis.stop()
    own_redis.start()
    client = connect(own_redis.url)
    files._client = client
    began, deadline = now_us(), time.monotonic() + 30
    while not files.rewrite():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert files.as_of is not None
    assert files.as_of >= began
    client.close()


def test_files_that_redis_could_not_write_are_begun_anew_and_told() -> None:
    told: dict[str, Any] = {
        **dict.fromkeys(("aof_rewrite_in_progress", "aof_rewrite_scheduled", "loading"), 0),
        "rdb_bgsave_in_progress": 0,
        "aof_rewrites": 0,
        "rdb_saves": 0,
        "run_id": "one",
        "aof_last_bgrewrite_status": "ok",
        "rdb_last_bgsave_status": "ok",
    }
    client = MagicMock(**{"info.side_effect": lambda _section: told})
    files = RedisFiles(client)
    assert not files.rewrite()
    told |= {"aof_last_bgrewrite_status": "err", "aof_rewrites": 1}
    with pytest.raises(Unavailable, match="could not write its files"):
        files.rewrite()
    assert files.as_of is None
    assert not files.rewrite()
    assert client.bgrewriteaof.call_count == 2


def remember(index: RedisIndex, name: str, *, at: int) -> LogAddress:
    address = LogAddress(at, "topic", 0, f"key-{name}-{at}")
    trace = Trace(
        image_id=name,
        image_digest="0" * 64,
        label="cat",
        source="camera",
        subjects=(),
        attributes={},
        embedder="test",
        vector=np.ones(3, np.float32),
    )
    write = TraceWrite(make_stamp(at, name), trace)
    index.put([Put(index.image_key(name), address=address, write=write)])
    return address


def test_dead_events_are_listed_until_their_tombstones_are_noted(
    redis_client: redis.Redis, index: RedisIndex
) -> None:
    leftovers = Leftovers(redis_client, lambda: index.names)
    old, new = remember(index, "i0", at=5), remember(index, "i0", at=20)
    other = remember(index, "i1", at=6)
    images = [index.image_key(name) for name in ("i0", "i1")]
    assert list(leftovers.dead_events()) == []
    index.put([Put(image, barrier=10) for image in images])
    (page,) = leftovers.dead_events()
    assert page == {images[0]: [old], images[1]: [other]}
    leftovers.note_tombstones({images[1]: [other]})
    assert list(leftovers.dead_events()) == [{images[0]: [old]}]
    index.put([Put(images[0], barrier=30)])
    assert list(leftovers.dead_events()) == [{images[0]: [old, new]}]
    leftovers.note_tombstones({images[0]: [old]})
    assert list(leftovers.dead_events()) == [{images[0]: [new]}]
    leftovers.note_tombstones({images[0]: [new]})
    assert list(leftovers.dead_events()) == []


def test_outboxes_that_an_older_version_filled_are_found(
    redis_client: redis.Redis, index: RedisIndex
) -> None:
    address = remember(index, "i0", at=5)
    image = index.image_key("i0")
    index.put([Put(image, barrier=10)])
    redis_client.delete(index.names.outboxes)
    leftovers = Leftovers(redis_client, lambda: index.names)
    assert list(leftovers.dead_events()) == []
    leftovers.find_outboxes()
    assert list(leftovers.dead_events()) == [{image: [address]}]


def test_events_are_dead_by_the_greatest_of_barrier_and_fences(
    redis_client: redis.Redis, index: RedisIndex
) -> None:
    subject, source = (
        index.selector_key(Selector(kind, "x"))
        for kind in (SelectorKind.SUBJECT, SelectorKind.SOURCE)
    )
    image = index.image_key("i0")
    index.fence(subject, 30)
    index.fence(source, 20)
    index.put([Put(image, barrier=10)])
    leftovers = Leftovers(redis_client, lambda: index.names)
    asked = [(image, ()), (image, (source,)), (image, (source, subject)), (ImageKey(""), ())]
    assert leftovers.dead_until(asked) == [10, 20, 30, -1]


def is_lost(check_held: Callable[[], None]) -> bool:
    try:
        check_held()
    except Misconfigured:
        return True
    return False


def test_one_erases_at_a_time(redis_client: redis.Redis, unique: Callable[[str], str]) -> None:
    name = unique("lease")
    first, second = (EraserLease(redis_client, name) for _ in range(2))
    with first.hold() as check_held:
        assert not second.take()
        check_held()
        redis_client.set(f"{name}:eraser", "another's")
        until(lambda: is_lost(check_held))
    redis_client.delete(f"{name}:eraser")
    assert second.take()


# From the settings


def test_the_eraser_has_the_keys_and_the_pauses_of_the_settings() -> None:
    settings = load(
        signing_key=bytes(range(32)).hex(),
        signing_key_before=bytes(range(1, 33)).hex(),
        erasure_pause=12,
        erasure_limit=99,
        compaction_lag=100,
        claim_prefixes="https://images.example/",
        topic_prefix="p-",
        namespace="n",
    )
    with (
        patch.object(wiring, "bootstrap") as bootstrap,
        patch.object(wiring, "admin"),
        patch.object(wiring, "memory_topics") as topics,
        patch.object(wiring, "ErasureLog") as log,
        patch.object(wiring, "ReceiptChain") as chain,
        patch.object(wiring, "Eraser") as eraser,
        wiring.open_eraser(settings),
    ):
        pass
    cluster, name, memory, key, before = chain.call_args.args
    assert (name, memory, key.id, before.id) == ("p-n-receipts", "n", KEY.id, OTHER.id)
    log.assert_called_once_with(cluster, topics.known_topic_ids.return_value, "n")
    assert eraser.call_args.kwargs == {
        "name": "n",
        "pause": 12,
        "beat": 25.0,
        "limit": 99,
        "claims": True,
    }
    eraser.return_value.open.assert_called_once_with()
    for part in (chain, log, bootstrap.redis_client):
        part.return_value.close.assert_called_once_with()
    with pytest.raises(Misconfigured, match="SIGNING_KEY must be 64 hex digits"):
        load().signing_keys()


def test_an_eraser_ends_when_its_topics_are_others_by_now() -> None:
    """Tombstones for a log that is gone would be taken for written."""
    process = wiring.EraserProcess(load())
    eraser = Mock(topic_ids={"image-ingest": "a"})
    with patch.object(wiring, "memory_topics") as topics, patch.object(wiring, "bound_of") as bound:
        bound.side_effect = Unavailable("away")
        topics.check_topics.side_effect = Misconfigured("made anew")
        with pytest.raises(Misconfigured, match="made anew"):
            process._audit(eraser)
        assert topics.check_topics.call_args.args[1] == {"image-ingest": "a"}
        process._next_audit = 0.0
        topics.check_topics.side_effect = None
        process._audit(eraser)
        process._audit(eraser)  # only now and then
        assert topics.check_topics.call_count == 2


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which erasers wait, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(eraser_module, "time", Mock(monotonic=lambda: now[0]))
    return now


def waiting_eraser(log: Mock, files: Mock, beat: float) -> Eraser:
    """Of a request that is erased, in a log that is not merged yet."""
    chain, index, leftovers = (Mock() for _ in range(3))
    chain.open.return_value = [receipt("r")]
    chain.poll.return_value = chain.append.return_value = []
    leftovers.dead_events.return_value = []
    leftovers.copies_as_of.return_value = None
    log.full_name = str
    log.ends.return_value = {TopicPartition("forget-request", 0): 1}
    log.starts.return_value = {}
    index.positions.return_value = {}
    eraser = Eraser(
        *(index, leftovers, files, log, chain, {"forget-request": "a"}),
        name="vm",
        pause=600,
        beat=beat,
        limit=1e6,
        claims=False,
    )
    eraser.open()
    return eraser


@pytest.mark.parametrize(("beat", "looks"), [(3600.0, [1, 1, 1, 2]), (5.0, [1, 1, 2, 3])])
def test_the_log_is_looked_at_seldom_where_it_takes_long(
    beat: float, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, files = Mock(), Mock()
    files.rewrite.return_value = False
    now = clock(monkeypatch)
    eraser = waiting_eraser(log, files, beat)
    seen = []
    for passed in (0.0, 0.4, 0.2, 14.5):
        now[0] += passed
        eraser.step()
        seen.append(log.starts.call_count)
    assert seen == looks


def test_files_are_not_written_anew_again_before_a_pause_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = Mock(as_of=0)  # never late enough for this request
    now = clock(monkeypatch)
    eraser = waiting_eraser(Mock(), files, 3600)
    seen = []
    for passed, done in ((0, False), (1, True), (1, True), (500, True), (100, True)):
        now[0] += passed
        files.rewrite.return_value = done
        eraser.step()
        seen.append(files.rewrite.call_count)
    assert seen == [1, 2, 2, 2, 3], "one that has begun goes on at once"


# Later


def test_what_is_sent_again_is_the_same_event_and_bears_that_it_is_due(
    cluster: KafkaCluster, log: ErasureLog
) -> None:
    request = encoding.encode_forget(
        source="desk", event_id="e", time=5, selector=Selector(SelectorKind.IMAGE, "i0")
    )
    (sent,) = send(cluster, request)
    place = TopicPartition(sent.topic, sent.partition)
    for due in ("said", "said again"):
        assert log.send_again(place, sent.offset, due=due)
    with closing(Tail(cluster, [sent.topic], {})) as tail:
        first, *others = tail.poll(10.0)
    for other, bears in zip(others, (b"said", b"said again"), strict=True):
        assert (other.key, other.value) == (first.key, first.value)
        assert other.headers == (*first.headers, ("ce_due", bears))
    log.bury([LogAddress(5, log_ids(log)[sent.topic], sent.partition, request.key.decode())])
    marks = log.mark(Topic.FORGET_REQUEST)
    assert set(marks) == set(log.partitions([Topic.FORGET_REQUEST]))
    assert marks[place][0] == sent.offset + 4
    assert all(abs(appended - now_us()) < 60_000_000 for _, appended in marks.values())
    assert not log.send_again(place, sent.offset + 3, due="said"), "a tombstone is no event"
    assert log.ends([Topic.FORGET_REQUEST])[place] == sent.offset + 5


def log_ids(log: ErasureLog) -> dict[str, str]:
    return {name: topic_id for topic_id, name in log._names.items()}
