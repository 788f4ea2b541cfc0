"""The value types of the event contract."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from memory.errors import Reason, Rejected
from memory.model.answers import Findings, Flip, Neighbor, Position, Prediction, Vote, Why
from memory.model.questions import Rule
from memory.model.reliability import Pruning
from streams.contract import decoding, encoding
from streams.contract.messages import (
    Answer,
    ForgottenClaim,
    Outside,
    Receipt,
    Rejection,
    SelectorDigest,
    json_schemas,
)
from streams.contract.records import Marker, OutgoingRecord, Record, record_key
from streams.contract.signing import FIRST, SigningKey
from streams.contract.topics import Topic, event_type


def received(outgoing: OutgoingRecord) -> Record:
    return Record(
        str(outgoing.topic), 0, 0, outgoing.key, outgoing.value, outgoing.headers, 1_000_000
    )


def test_a_key_is_the_hex_digest_of_source_nul_and_id() -> None:
    expected = hashlib.sha256(b"camera-7\0event-1").hexdigest().encode()
    assert record_key("camera-7", "event-1") == expected


def test_source_and_id_cannot_run_into_each_other() -> None:
    assert record_key("ab", "c") != record_key("a", "bc")


def test_a_record_of_kafka_python_has_its_time_in_microseconds() -> None:
    fields = dict.fromkeys(ConsumerRecord._fields)
    fields |= {"topic": "query", "partition": 3, "offset": 7, "timestamp": 1_700_000_000_123}
    fields |= {"key": b"k", "value": b"v", "headers": [("ce_id", b"1")]}
    record = Record.of(ConsumerRecord(**fields))
    assert record == Record("query", 3, 7, b"k", b"v", (("ce_id", b"1"),), 1_700_000_000_123_000)


def test_types_name_their_topic_and_version() -> None:
    assert event_type(Topic.FORGET_RECEIPT) == "visual-memory.forget-receipt.v1"


def test_the_names_of_topics_are_the_contract() -> None:
    assert set(map(str, Topic)) == {
        "image-ingest",
        "label-correction",
        "forget-request",
        "query",
        "prediction",
        "forget-receipt",
        "forgotten-claim",
        "rejected",
        "fences",
    }


PREDICTION = Prediction(
    vote=Vote(
        "gatto, nero", {"gatto, nero": 0.75, "犬": 0.25}, (Neighbor("a", "犬", 0.5, 0, 0.5),)
    ),
    rule=Rule.RANK,
    k=10,
    exact=True,
    embedder="e" * 64,
    as_of=(Position("image-ingest", "id", 0, 17),),
    timings={"search": 0.001},
)


def test_an_answer_survives_its_record() -> None:
    answer = Answer.of("q-1", PREDICTION)
    outgoing = encoding.encode_prediction(answer, 5)
    assert outgoing.partition == 5
    assert decoding.decode_prediction(received(outgoing)) == answer


def test_an_answer_without_neighbours_is_empty() -> None:
    nothing = Prediction(Vote(None, {}, ()), Rule.RANK, 10, True, "e", (), {})
    assert Answer.of("q", nothing).status == "empty"


def test_an_answer_in_json_has_the_contracts_fields() -> None:
    shown = Answer.of("q-1", PREDICTION).to_json()
    assert set(shown) == {
        "query",
        "status",
        "label",
        "shares",
        "neighbors",
        "rule",
        "k",
        "exact",
        "embedder",
        "as_of",
        "timings",
    }
    assert shown["neighbors"][0] == {
        "id": "a",
        "label": "犬",
        "distance": 0.5,
        "rank": 0,
        "weight": 0.5,
    }


def test_a_refused_answer_survives_its_record() -> None:
    answer = Answer("q", "rejected", reason="invalid-k", detail="k must be 1 to 100")
    assert decoding.decode_prediction(received(encoding.encode_prediction(answer, 0))) == answer


def test_a_receipt_survives_its_record() -> None:
    receipt = Receipt(
        "r" * 64, "erased", {"fenced": 1, "erased": 2}, SelectorDigest("subject", "d"), 99, 3, True
    )
    assert decoding.decode_receipt(received(encoding.encode_receipt(receipt))) == receipt


def test_a_rejection_survives_its_record() -> None:
    record = Record("p-image-ingest", 2, 9, b"k", b"v", (), 0)
    outgoing = encoding.encode_rejection(
        record, Rejected(Reason.FORGOTTEN, "it is forgotten"), admitted_after=5
    )
    assert decoding.decode_rejection(received(outgoing)) == Rejection(
        "forgotten", "it is forgotten", "p-image-ingest", 2, 9, 5
    )


def test_a_rejection_holds_nothing_of_the_record() -> None:
    record = Record("t", 0, 0, b"secret-key", b"secret", (("ce_subject", b"secret-id"),), 0)
    outgoing = encoding.encode_rejection(record, Rejected(Reason.INTERNAL, "why"))
    assert b"secret" not in (outgoing.value or b"")
    assert all(b"secret" not in value for _, value in outgoing.headers)


def test_a_heartbeat_has_one_key_and_is_a_marker() -> None:
    one = encoding.encode_heartbeat(Topic.IMAGE_INGEST, 0)
    other = encoding.encode_heartbeat(Topic.FENCES, 7)
    assert one.key == other.key
    assert (one.partition, other.partition) == (0, 7)
    assert decoding.decode_prediction(received(one)) is Marker.HEARTBEAT


def test_the_size_of_a_record_counts_key_value_and_headers() -> None:
    record = OutgoingRecord(Topic.QUERY, b"kk", b"vvv", (("é", b"12345"),))
    assert record.size == 2 + 3 + 2 + 5


def test_the_schemas_name_each_field_that_is_written_and_no_other() -> None:
    schemas = json_schemas()
    titles = {each["title"]: each["$ref"].rpartition("/")[2] for each in schemas["anyOf"]}
    assert titles == {
        "prediction": "Answer",
        "forget-receipt": "Receipt",
        "forgotten-claim": "ForgottenClaim",
        "rejected": "Rejection",
    }
    receipt = Receipt("r", "erased", {"fenced": 1}, SelectorDigest("subject", "d"), 99, 3)
    outside = (Outside("a", "b", "c"),)
    said: dict[str, Any] = {
        "memory": "vm",
        "more": (receipt.selector,),
        "regulation": "gdpr",
        "submitted": 1,
        "not_before": 1,
        "due": 2,
    }
    proven = msgspec.structs.replace(receipt, evidence={"a": 1}, outside=outside, **said)
    linked = SigningKey(bytes(32)).link(proven, 1, FIRST)
    refused = Answer("q", "rejected", reason="invalid-k", detail="why")
    why = Why((), Flip(("a",), "dog"), None, 0)
    more = replace(PREDICTION, why=why, supposed=True, pruning=Pruning.SOFT, reliability_age=1.0)
    review = Findings("suspects", 0, 1.0)
    written = [
        msgspec.structs.replace(Answer.of("q", more), review=review),
        linked,
        ForgottenClaim("https://a.example/1", "0f" * 32, "camera", "vm"),
        Rejection("why", "text", "t", 0, 1, 2),
    ]
    for message in written:
        shape = schemas["$defs"][type(message).__name__]["properties"]
        optional = {"reason", "detail"} if isinstance(message, Answer) else set()
        assert set(message.to_json()) | optional == set(shape)
    assert {"reason", "detail"} <= set(refused.to_json())
    assert schemas["$defs"]["Neighbor"]["required"] == ["id", "label", "distance", "rank", "weight"]


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b'{"query": "q", "status": "unknown"}',
        b'{"query": 1, "status": "empty"}',
        b'{"query": "q", "status": "empty", "k": "ten"}',
        b'{"query": "q", "status": "empty", "as_of": [{"topic": "t"}]}',
        b'{"query": "q", "status": "empty", "neighbors": [1]}',
        b'{"query": "\\ud800", "status": "empty"}',
        b'{"query": "q", "status": "empty", "shares": {"a": NaN}}',
        b"\xff",
        b'{"query": "q", "status": "empty", "more": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_rejected(value: bytes) -> None:
    record = received(encoding.encode_prediction(Answer("q", "empty"), 0))
    with pytest.raises(Rejected, match="no prediction"):
        decoding.decode_prediction(replace(record, value=value))


def test_fields_of_a_later_version_are_passed_by() -> None:
    record = received(encoding.encode_prediction(Answer("q", "empty"), 0))
    later = b'{"more": [1], ' + (record.value or b"")[1:]
    assert decoding.decode_prediction(replace(record, value=later)) == Answer("q", "empty")
