"""The facts of forgetting in the log."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions

from memory.errors import Misconfigured, Unavailable
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.times import FOREVER
from streams.cli import cli
from streams.contract import encoding, topics
from streams.contract.facts import decode_fact, encode_fact, key_of_fact
from streams.contract.records import Marker, OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.kafka import admin, reading
from streams.kafka.cluster import KafkaCluster
from streams.kafka.fence_log import KafkaFenceLog, find_garbage, give_up, replay

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
UNTIL = st.integers(0, FOREVER)
FACTS = st.one_of(
    st.builds(Fence, TEXT, UNTIL),
    st.builds(Barrier, TEXT, UNTIL),
    st.builds(Posting, TEXT, TEXT),
    st.builds(ClosedRequest, TEXT, UNTIL),
)
SOME: list[FenceFact] = [
    Fence(SelectorKey("subject:ab"), 5),
    Barrier(ImageKey("cd"), FOREVER),
    Posting(SelectorKey("source:ef"), ImageKey("cd")),
    ClosedRequest(RequestKey("01"), 7),
]


def received(outgoing: OutgoingRecord) -> Record:
    return Record("fences", 0, 3, outgoing.key, outgoing.value, outgoing.headers, 0)


@pytest.fixture
def prefix(kafka_bootstrap: str, unique: Callable[[str], str]) -> str:
    prefix = unique("fences")
    admin.create(KafkaCluster(kafka_bootstrap), topics.declare(prefix, partitions=1))
    return prefix


@pytest.fixture
def fence_log(kafka_bootstrap: str, prefix: str) -> Iterator[KafkaFenceLog]:
    log = KafkaFenceLog(KafkaCluster(kafka_bootstrap, prefix))
    yield log
    log.close()


@pytest.fixture
def write(kafka_bootstrap: str, prefix: str) -> Iterator[Callable[[OutgoingRecord], None]]:
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    yield lambda record: producer.send(
        prefix + record.topic, record.value, record.key, list(record.headers), record.partition
    ).get(30)
    producer.close()


def all_facts(
    bootstrap: str, prefix: str, positions: dict[int, int] | None = None
) -> list[FenceFact]:
    seen: list[FenceFact] = []
    replay(KafkaCluster(bootstrap, prefix), seen.extend, positions or {})
    return seen


@given(FACTS)
def test_a_fact_survives_its_record(fact: FenceFact) -> None:
    assert decode_fact(received(encode_fact(fact))) == fact


@given(FACTS, FACTS)
def test_facts_share_a_key_only_when_they_are_the_same(one: FenceFact, other: FenceFact) -> None:
    assert (encode_fact(one).key == encode_fact(other).key) == (one == other)


GOOD = received(encode_fact(SOME[0]))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"kind":"wish","image":"a"}',
        b'{"kind":["fence"]}',
        b'{"kind":"fence","selector":"s"}',
        b'{"kind":"fence","selector":"s","until":-1}',
        b'{"kind":"fence","selector":"s","until":true}',
        b'{"kind":"fence","selector":"","until":1}',
        b'{"kind":"fence","selector":"s","until":1,"image":"i"}',
        b'{"kind":"fence","selector":"s","until":1,"until":2}',
    ],
)
def test_garbage_is_an_error(value: bytes) -> None:
    import hashlib

    key = hashlib.sha256(value).hexdigest().encode()
    with pytest.raises(ValueError, match=r"it |its "):
        decode_fact(replace(GOOD, key=key, value=value))


@pytest.mark.parametrize(
    "record",
    [replace(GOOD, key=b"other"), replace(GOOD, key=None), replace(GOOD, headers=())],
)
def test_a_fact_with_another_key_or_type_is_an_error(record: Record) -> None:
    with pytest.raises(ValueError, match="its "):
        decode_fact(record)


def test_tombstones_and_heartbeats_are_no_facts() -> None:
    assert decode_fact(replace(GOOD, value=None)) is Marker.TOMBSTONE
    heartbeat = received(encoding.encode_heartbeat(Topic.FENCES, 0))
    assert decode_fact(heartbeat) is Marker.HEARTBEAT


def test_what_is_appended_is_replayed(
    kafka_bootstrap: str, prefix: str, fence_log: KafkaFenceLog
) -> None:
    fence_log.append(SOME[:2])
    fence_log.append(SOME[2:])
    assert all_facts(kafka_bootstrap, prefix) == SOME


def test_facts_keep_their_order_however_many_partitions_the_topic_has(
    kafka_bootstrap: str, prefix: str, fence_log: KafkaFenceLog
) -> None:
    """Who reads that a request is closed has read what it erased."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as client:
        client.create_partitions({prefix + Topic.FENCES: NewPartitions(3)})
    facts = [Barrier(ImageKey(f"{i:032x}"), i) for i in range(30)]
    fence_log.append(facts)
    assert all_facts(kafka_bootstrap, prefix) == facts


def test_no_number_of_facts_is_too_many_for_the_time_an_append_may_take(
    kafka_bootstrap: str, prefix: str
) -> None:
    log = KafkaFenceLog(KafkaCluster(kafka_bootstrap, prefix), timeout=2)
    many = [Posting(SelectorKey(f"subject:{n}"), ImageKey("cd")) for n in range(60_000)]
    with closing(log):
        log.append(many)
    assert len(all_facts(kafka_bootstrap, prefix)) == len(many)


def test_an_append_is_durable_when_it_returns(
    kafka_bootstrap: str, prefix: str, fence_log: KafkaFenceLog
) -> None:
    facts = [Barrier(ImageKey(f"{i:032x}"), i) for i in range(3000)]
    fence_log.append(facts)
    assert all_facts(kafka_bootstrap, prefix) == facts


def test_an_append_that_the_log_does_not_take_is_no_success(
    kafka_bootstrap: str, prefix: str, fence_log: KafkaFenceLog
) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    small = {"max.message.bytes": "10"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + Topic.FENCES, small)])
    admin.close()
    with pytest.raises(Misconfigured, match=r"raise its max\.message\.bytes"):
        fence_log.append(SOME[:1])


def test_appending_nothing_needs_no_kafka() -> None:
    KafkaFenceLog(KafkaCluster("nowhere.invalid:1")).append([])


def test_an_empty_log_replays_to_its_end(kafka_bootstrap: str, prefix: str) -> None:
    def apply(facts: Sequence[FenceFact]) -> None:
        raise AssertionError(facts)

    assert replay(KafkaCluster(kafka_bootstrap, prefix), apply) == {0: 0}


def test_replay_goes_on_from_where_it_ended(
    kafka_bootstrap: str, prefix: str, fence_log: KafkaFenceLog
) -> None:
    fence_log.append(SOME[:2])
    ends = replay(KafkaCluster(kafka_bootstrap, prefix), lambda _: None)
    assert ends == {0: 2}
    fence_log.append(SOME[2:])
    assert all_facts(kafka_bootstrap, prefix, ends) == SOME[2:]


def test_markers_are_passed_by(
    kafka_bootstrap: str,
    prefix: str,
    fence_log: KafkaFenceLog,
    write: Callable[[OutgoingRecord], None],
) -> None:
    write(encoding.encode_heartbeat(Topic.FENCES, 0))
    fence_log.append(SOME[:1])
    write(OutgoingRecord(Topic.FENCES, b"gone", None, ()))
    assert all_facts(kafka_bootstrap, prefix) == SOME[:1]


def test_what_cannot_be_understood_refuses_naming_its_offset(
    kafka_bootstrap: str,
    prefix: str,
    fence_log: KafkaFenceLog,
    write: Callable[[OutgoingRecord], None],
) -> None:
    fence_log.append(SOME[:2])
    write(OutgoingRecord(Topic.FENCES, b"k", b"secret", ()))
    with pytest.raises(Misconfigured, match=r"fences\[0\]@2") as caught:
        all_facts(kafka_bootstrap, prefix)
    assert "secret" not in str(caught.value)


def test_garbage_is_shown_with_who_wrote_it_and_passed_over_when_it_is_given_up(
    kafka_bootstrap: str,
    prefix: str,
    fence_log: KafkaFenceLog,
    write: Callable[[OutgoingRecord], None],
) -> None:
    cluster = KafkaCluster(kafka_bootstrap, prefix)
    fence_log.append(SOME[:2])
    write(OutgoingRecord(Topic.FENCES, b"k", b"secret", (("ce_source", b"a script"),)))
    write(OutgoingRecord(Topic.FENCES, encode_fact(SOME[0]).key, b"other", ()))
    write(OutgoingRecord(Topic.FENCES, key_of_fact(b"of its own"), b"of its own", ()))
    fence_log.append(SOME[2:])
    count, (given_up, hiding, own) = find_garbage(cluster)
    assert (count, given_up.offset, given_up.source) == (len(SOME), 2, "a script")
    assert "type" in given_up.why
    assert not given_up.may_hide
    assert (hiding.offset, hiding.source, hiding.may_hide) == (3, None, True)
    assert (own.offset, own.may_hide) == (4, False)
    give_up(cluster, own)
    for place, said in {"0:1": "nothing stands there", "0:3": "that of another fact"}.items():
        refused = CliRunner().invoke(
            cli,
            ["fences", "--give-up", place],
            env={"VISUAL_MEMORY_KAFKA": kafka_bootstrap, "VISUAL_MEMORY_TOPIC_PREFIX": prefix},
        )
        assert isinstance(refused.exception, Misconfigured)
        assert said in str(refused.exception)
        assert place in str(refused.exception)
    give_up(cluster, given_up)
    assert find_garbage(cluster) == (count, [hiding])
    with pytest.raises(Misconfigured, match=r"fences\[0\]@3 .*visual-memory fences"):
        all_facts(kafka_bootstrap, prefix)
    give_up(cluster, hiding)
    assert all_facts(kafka_bootstrap, prefix) == SOME


def test_a_log_from_which_nothing_comes_is_not_waited_for_for_ever(
    kafka_bootstrap: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SILENT_SECONDS", 0.1)
    place = TopicPartition(prefix + Topic.FENCES, 0)
    with (
        closing(KafkaCluster(kafka_bootstrap).consumer()) as consumer,
        pytest.raises(Unavailable, match="no records come from"),
    ):
        list(reading.read_ranges(consumer, {}, {place: 1}))


def test_a_log_shorter_than_what_was_read_refuses(kafka_bootstrap: str, prefix: str) -> None:
    with pytest.raises(Misconfigured, match="facts of forgetting are lost"):
        replay(KafkaCluster(kafka_bootstrap, prefix), lambda _: None, {0: 1})


def test_a_missing_topic_refuses(kafka_bootstrap: str, unique: Callable[[str], str]) -> None:
    with pytest.raises(Misconfigured, match="missing"):
        replay(KafkaCluster(kafka_bootstrap, unique("no-fences")), lambda _: None)


def test_an_append_without_kafka_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        log = KafkaFenceLog(KafkaCluster(address, security={"bootstrap_timeout_ms": 300}))
        with pytest.raises(Unavailable):
            log.append(SOME)
