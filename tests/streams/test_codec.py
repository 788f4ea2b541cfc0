"""Records to events and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from cloudevents.core.bindings.kafka import to_binary_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import Reason, Rejected
from memory.model.answers import Position
from memory.model.events import (
    MAX_ID,
    MAX_LABEL,
    Correction,
    Forget,
    ImagePayload,
    Ingest,
    LogAddress,
    Prune,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.questions import (
    MAX_LEAST,
    MAX_LISTED,
    NOTHING_SUPPOSED,
    About,
    Factors,
    ItemRef,
    Query,
    Review,
    Rule,
    WhatIf,
)
from memory.model.reliability import Pruning
from memory.model.text import canonical_name
from memory.model.times import make_stamp
from streams.contract import cloudevents, decoding, encoding, forgetting, questions
from streams.contract.forgetting import Cancel, Scheduled
from streams.contract.messages import QueryEvent
from streams.contract.records import VECTOR, Headers, Marker, OutgoingRecord, Record, record_key
from streams.contract.topics import Topic, event_type

NOW = 1_750_000_000_123_456
SKEW = 300_000_000
PARTITIONS = 8

Decode = Callable[[Record], object]


def ingest(record: Record) -> Ingest | Marker:
    return decoding.decode_ingest(record, "topic-id", clock_skew=SKEW)


def correction(record: Record) -> Correction | Prune | Marker:
    return decoding.decode_correction(record, "topic-id", clock_skew=SKEW)


def forget(record: Record) -> Forget | Scheduled | Cancel | Marker:
    return forgetting.decode_forget(record, clock_skew=SKEW)


def query(record: Record) -> QueryEvent | Marker:
    return questions.decode_query(record, partitions=PARTITIONS)


DECODERS: Mapping[Topic, Decode] = {
    Topic.IMAGE_INGEST: ingest,
    Topic.LABEL_CORRECTION: correction,
    Topic.FORGET_REQUEST: forget,
    Topic.QUERY: query,
    Topic.PREDICTION: decoding.decode_prediction,
    Topic.FORGET_RECEIPT: decoding.decode_receipt,
    Topic.FORGOTTEN_CLAIM: decoding.decode_forgotten_claim,
    Topic.REJECTED: decoding.decode_rejection,
}


def received(outgoing: OutgoingRecord, timestamp: int = NOW) -> Record:
    return Record(
        str(outgoing.topic), 3, 42, outgoing.key, outgoing.value, outgoing.headers, timestamp
    )


def image(**changes: Any) -> Record:
    """The record of a valid image; None takes a header away."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "camera",
        "ce_type": "visual-memory.image-ingest.v1",
        "ce_time": "2025-06-15T15:06:40.123456Z",
        "content-type": "image/png",
        "ce_subject": "img-1",
        "ce_label": "cat",
    }
    return _record(Topic.IMAGE_INGEST, headers, b"png", changes)


def asked(**changes: Any) -> Record:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "q-1",
        "ce_source": "app",
        "ce_type": "visual-memory.query.v1",
        "ce_time": "2025-06-15T15:06:40Z",
        "content-type": "image/png",
        "ce_replypartition": "2",
    }
    return _record(Topic.QUERY, headers, b"png", changes)


def _record(
    topic: Topic, headers: dict[str, str], value: bytes | None, changes: dict[str, Any]
) -> Record:
    value = changes.pop("value", value)
    named = {n.replace("content_type", "content-type"): v for n, v in changes.items()}
    merged = {n: v for n, v in (headers | named).items() if v is not None}
    raw = tuple((n, v if isinstance(v, bytes) else v.encode()) for n, v in merged.items())
    key = record_key(merged.get("ce_source", ""), merged.get("ce_id", ""))
    return Record(str(topic), 3, 42, key, value, raw, NOW)


def body(topic: Topic, value: object, **headers: str) -> Record:
    """The record of a JSON event; a value that is bytes is taken as it is."""
    base = {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "desk",
        "ce_type": event_type(topic),
        "ce_time": "2025-06-15T15:06:40Z",
        "content-type": "application/json",
    }
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return _record(topic, base | headers, data, {})


def refused(decode: Decode, record: Record) -> Reason:
    with pytest.raises(Rejected) as caught:
        decode(record)
    assert caught.value.detail
    return caught.value.reason


# --- ingest


def test_an_image_is_read_with_all_it_says() -> None:
    record = image(ce_subjects='["ann","bob"]', ce_site="hall 2", traceparent="00-x")
    digest = hashlib.sha256(b"png").hexdigest()
    assert ingest(record) == Ingest(
        stamp=make_stamp(
            1_750_000_000_123_456,
            "camera",
            "e-1",
            "visual-memory.image-ingest.v1",
            "img-1",
            "cat",
            '["ann","bob"]',
            digest,
        ),
        image_id="img-1",
        label="cat",
        source="camera",
        payload=ImagePayload(b"png"),
        payload_digest=digest,
        subjects=("ann", "bob"),
        attributes={"site": "hall 2"},
        address=LogAddress(NOW, "topic-id", 3, record_key("camera", "e-1").decode()),
    )


def test_a_vector_is_read_as_little_endian_float32() -> None:
    value = np.array([1, -2, 0.5], "<f4").tobytes()
    event = ingest(image(value=value, content_type=VECTOR, ce_embedder="lite0-digest"))
    assert isinstance(event, Ingest)
    assert isinstance(event.payload, VectorPayload)
    assert event.payload.embedder == "lite0-digest"
    assert event.payload.vector.dtype == np.float32
    assert event.payload.vector.tolist() == [1, -2, 0.5]
    assert event.payload_digest == hashlib.sha256(value).hexdigest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": b""}, Reason.EMPTY_PAYLOAD),
        ({"ce_id": None}, Reason.MISSING_HEADER),
        ({"ce_source": None}, Reason.MISSING_HEADER),
        ({"ce_type": None}, Reason.MISSING_HEADER),
        ({"ce_time": None}, Reason.MISSING_HEADER),
        ({"ce_specversion": None}, Reason.MISSING_HEADER),
        ({"ce_subject": None}, Reason.MISSING_HEADER),
        ({"ce_label": None}, Reason.MISSING_HEADER),
        ({"content_type": None}, Reason.MISSING_HEADER),
        ({"ce_specversion": "0.3"}, Reason.UNKNOWN_VERSION),
        ({"ce_type": "visual-memory.image-ingest.v2"}, Reason.UNKNOWN_VERSION),
        ({"ce_type": "visual-memory.query.v1"}, Reason.UNKNOWN_TYPE),
        ({"ce_type": "com.example.thing"}, Reason.UNKNOWN_TYPE),
        ({"content_type": "text/plain"}, Reason.UNKNOWN_CONTENT_TYPE),
        ({"content_type": "application/cloudevents+json"}, Reason.UNKNOWN_CONTENT_TYPE),
        ({"ce_id": " x"}, Reason.INVALID_ID),
        ({"ce_id": "x" * (MAX_ID + 1)}, Reason.INVALID_ID),
        ({"ce_source": "a\0b"}, Reason.INVALID_SOURCE),
        ({"ce_subject": ""}, Reason.INVALID_ID),
        ({"ce_label": "x" * (MAX_LABEL + 1)}, Reason.INVALID_LABEL),
        ({"ce_label": "a\nb"}, Reason.INVALID_LABEL),
        ({"ce_label": b"\xff"}, Reason.INVALID_HEADER),
        ({"ce_site": b"\xff"}, Reason.INVALID_HEADER),
        ({"ce_Site": "x"}, Reason.INVALID_HEADER),
        ({"ce_": "x"}, Reason.INVALID_HEADER),
        ({"ce_site": "x" * 1025}, Reason.INVALID_HEADER),
        ({f"ce_a{i}": "x" for i in range(65)}, Reason.INVALID_HEADER),
        ({"ce_subjects": "ann"}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": '{"a":1}'}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": "[1]"}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": '[""]'}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": r'["\ud800"]'}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": "[" * 100_000}, Reason.INVALID_SUBJECT),
        ({"ce_subjects": json.dumps(["s"] * 65)}, Reason.INVALID_SUBJECT),
    ],
)
def test_an_image_with_a_fault_is_rejected_for_it(changes: dict[str, Any], reason: Reason) -> None:
    assert refused(ingest, image(**changes)) == reason


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"])
def test_which_header_is_missing_is_said(name: str) -> None:
    with pytest.raises(Rejected, match=f"the header {name} is missing"):
        ingest(image(**{name: None}))


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (b"12345", Reason.INVALID_VECTOR),
        (b"", Reason.EMPTY_PAYLOAD),
        (np.array([1, np.nan], "<f4").tobytes(), Reason.NOT_FINITE),
        (np.array([np.inf], "<f4").tobytes(), Reason.NOT_FINITE),
        (np.array([0, -0.0], "<f4").tobytes(), Reason.ZERO_VECTOR),
    ],
)
def test_a_vector_without_direction_is_rejected(elements: bytes, reason: Reason) -> None:
    record = image(value=elements, content_type=VECTOR, ce_embedder="e")
    assert refused(ingest, record) == reason


def test_a_vector_must_name_its_embedder() -> None:
    assert refused(ingest, image(value=b"1234", content_type=VECTOR)) == Reason.MISSING_HEADER


@pytest.mark.parametrize("name", ["ce_label", "ce_id", "content-type", "ce_site"])
def test_a_header_that_is_there_twice_is_rejected(name: str) -> None:
    record = image(ce_site="x")
    twice = (*record.headers, (name, b"other"))
    assert refused(ingest, replace(record, headers=twice)) == Reason.REPEATED_HEADER


def test_repeated_headers_of_others_are_ignored() -> None:
    record = image()
    others: Headers = (("trace", b"\xff"), ("trace", None))
    assert isinstance(ingest(replace(record, headers=(*record.headers, *others))), Ingest)


def test_a_header_without_value_is_rejected() -> None:
    record = image()
    headers = (*record.headers, ("ce_site", None))
    assert refused(ingest, replace(record, headers=headers)) == Reason.INVALID_HEADER


@pytest.mark.parametrize("key", [None, b"", b"img-1", record_key("camera", "e-2")])
def test_another_key_is_rejected(key: bytes | None) -> None:
    assert refused(ingest, replace(image(), key=key)) == Reason.WRONG_KEY


def test_a_content_type_may_have_parameters_and_capitals() -> None:
    assert isinstance(ingest(image(content_type="Image/PNG; q=1")), Ingest)


@pytest.mark.parametrize("text", ["a, b; c", "Kätzchen 猫 🐈", "CAT", "cat", "é"])
def test_labels_and_ids_are_kept_exactly(text: str) -> None:
    event = ingest(image(ce_label=text, ce_subject=text))
    assert isinstance(event, Ingest)
    assert (event.label, event.image_id) == (text, text)


def test_no_detail_quotes_the_event() -> None:
    secret = "Jane-Doe"
    records = [
        image(ce_label=secret + "\n"),
        image(ce_subject=" " + secret),
        image(ce_subjects=f'["{secret}\\n"]'),
        image(**{f"ce_{secret}": "x"}),
        image(ce_type=secret),
        image(ce_time=secret),
        image(content_type=secret),
    ]
    for record in records:
        with pytest.raises(Rejected) as caught:
            ingest(record)
        assert secret not in str(caught.value)


# --- time


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.1z", 100_000),
        ("1970-01-01t01:30:00+01:30", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("2286-11-20T17:46:39.999998Z", 9_999_999_999_999_998),
    ],
)
def test_a_time_is_rfc_3339_with_its_offset(text: str, micros: int) -> None:
    assert cloudevents.parse_time(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1750000000",
        "2025-06-15",
        "2025-06-15T15:06:40",
        "2025-06-15 15:06:40Z",
        "2025-06-15T15:06Z",
        "2025-06-15T15:06:40.Z",
        "2025-06-15T15:06:40,5Z",
        "2025-06-15T15:06:40+0100",
        "2025-06-15T15:06:40+01:60",
        "2025-06-15T15:06:40+24:00",
        "2025-02-29T15:06:40Z",
        "2025-06-15T24:00:00Z",
        "2025-06-15T15:06:40Z\n",
        "\uff12025-06-15T15:06:40Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "2286-11-20T17:46:39.999999Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_a_time_that_is_none_is_rejected(text: str) -> None:
    assert refused(ingest, image(ce_time=text)) == Reason.INVALID_TIME


@given(st.integers(0, 9_999_999_999_999_998))
def test_every_time_survives_its_text(time: int) -> None:
    assert cloudevents.parse_time(cloudevents.format_time(time)) == time


@pytest.mark.parametrize(
    ("topic", "value"),
    [
        (Topic.LABEL_CORRECTION, {"label": "dog"}),
        (Topic.FORGET_REQUEST, {"selector": {"image": "i"}}),
    ],
)
def test_a_time_may_be_ahead_of_the_log_by_the_skew_only(topic: Topic, value: object) -> None:
    moment = cloudevents.parse_time("2025-06-15T15:06:40Z")
    record = body(topic, value, ce_subject="img-1")
    decode = DECODERS[topic]
    assert not isinstance(decode(replace(record, timestamp=moment - SKEW)), Marker)
    assert refused(decode, replace(record, timestamp=moment - SKEW - 1)) == Reason.TIME_AHEAD


def test_an_image_from_the_future_is_rejected() -> None:
    assert refused(ingest, image(ce_time="2025-06-15T15:11:40.123457Z")) == Reason.TIME_AHEAD


# --- correction and forget


@pytest.mark.parametrize("label", ["dog", "a, b", None])
def test_a_correction_gives_or_withdraws_a_label(label: str | None) -> None:
    event = correction(body(Topic.LABEL_CORRECTION, {"label": label}, ce_subject="img-1"))
    moment = cloudevents.parse_time("2025-06-15T15:06:40Z")
    assert event == Correction(
        stamp=make_stamp(
            moment, "desk", "e-1", "visual-memory.label-correction.v1", "img-1", label, None, None
        ),
        image_id="img-1",
        label=label,
        address=LogAddress(moment, "topic-id", 3, record_key("desk", "e-1").decode()),
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, Reason.INVALID_PAYLOAD),
        ([], Reason.INVALID_PAYLOAD),
        ({"label": "x", "lable": "y"}, Reason.INVALID_PAYLOAD),
        ({"label": "x", "pruned": True}, Reason.INVALID_PAYLOAD),
        ({"pruned": "yes"}, Reason.INVALID_PAYLOAD),
        ({"pruned": None}, Reason.INVALID_PAYLOAD),
        (b'{"label":"x","label":"y"}', Reason.INVALID_PAYLOAD),
        (b'{"label":NaN}', Reason.INVALID_PAYLOAD),
        (b"\xff", Reason.INVALID_PAYLOAD),
        (b"{", Reason.INVALID_PAYLOAD),
        (b"[" * 100_000, Reason.INVALID_PAYLOAD),
        (b"", Reason.EMPTY_PAYLOAD),
        ({"label": 1}, Reason.INVALID_LABEL),
        ({"label": ""}, Reason.INVALID_LABEL),
        (b'{"label":"\\ud800"}', Reason.INVALID_PAYLOAD),
    ],
)
def test_a_correction_with_a_fault_is_rejected_for_it(value: object, reason: Reason) -> None:
    record = body(Topic.LABEL_CORRECTION, value, ce_subject="img-1")
    assert refused(correction, record) == reason


@pytest.mark.parametrize("kind", list(SelectorKind))
def test_a_forget_request_counts_from_when_the_log_received_it(kind: SelectorKind) -> None:
    record = body(Topic.FORGET_REQUEST, {"selector": {kind: "a, b"}, "permanent": True})
    assert forget(record) == Forget(
        record_key("desk", "e-1").decode(), Selector(kind, "a, b"), NOW, permanent=True
    )


def test_a_forget_request_is_not_permanent_unless_it_says_so() -> None:
    event = forget(body(Topic.FORGET_REQUEST, {"selector": {"image": "i"}}))
    assert isinstance(event, Forget)
    assert not event.permanent


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, Reason.INVALID_PAYLOAD),
        ({"selector": {"image": "i"}, "permenant": True}, Reason.INVALID_PAYLOAD),
        ({"selector": {"image": "i"}, "permanent": 1}, Reason.INVALID_PAYLOAD),
        ({"selector": {}}, Reason.INVALID_SELECTOR),
        ({"selector": "i"}, Reason.INVALID_SELECTOR),
        ({"selector": {"image": "i", "label": "l"}}, Reason.INVALID_SELECTOR),
        ({"selector": {"owner": "i"}}, Reason.INVALID_SELECTOR),
        ({"selector": {"image": 1}}, Reason.INVALID_SELECTOR),
        ({"selector": {"image": ""}}, Reason.INVALID_SELECTOR),
    ],
)
def test_a_forget_request_with_a_fault_is_rejected_for_it(value: object, reason: Reason) -> None:
    assert refused(forget, body(Topic.FORGET_REQUEST, value)) == reason


# --- query


SOMEWHERE = Position("t", "i", 0, 1)


def test_a_question_may_name_256_positions_and_weigh_a_label_a_million_times() -> None:
    said = {"ce_whatif": '{"weights": {"labels": {"a": 1000000}}}'}
    found = query(asked(ce_after=json.dumps(256 * [SOMEWHERE.to_json()]), **said))
    assert isinstance(found, QueryEvent)
    assert found.after == 256 * (SOMEWHERE,)
    assert isinstance(found.query, Query)
    assert found.query.what_if.weights.labels == {"a": 1e6}


def test_a_question_is_read_with_its_defaults() -> None:
    assert query(asked()) == QueryEvent(
        source="app",
        query=Query(ImagePayload(b"png"), k=10, rule=Rule.RANK),
        query_id="q-1",
        reply_partition=2,
        after=(),
        deadline=NOW + 30_000_000,
    )


def test_a_question_is_read_with_all_it_asks() -> None:
    position = Position("image-ingest", "id", 1, 5)
    record = asked(
        value=b"",
        content_type=None,
        ce_item="img, 1",
        ce_k="100",
        ce_rule="softmax",
        ce_after=json.dumps([position.to_json()]),
        ce_timeout="0.5",
    )
    assert query(record) == QueryEvent(
        source="app",
        query=Query(ItemRef("img, 1"), k=100, rule=Rule.SOFTMAX),
        query_id="q-1",
        reply_partition=2,
        after=(position,),
        deadline=NOW + 500_000,
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": b""}, Reason.EMPTY_PAYLOAD),
        ({"ce_item": "i"}, Reason.INVALID_PAYLOAD),
        ({"value": b"", "ce_item": ""}, Reason.INVALID_ID),
        ({"ce_replypartition": None}, Reason.MISSING_HEADER),
        ({"ce_Site": "x"}, Reason.INVALID_HEADER),
        ({"ce_replypartition": "8"}, Reason.INVALID_HEADER),
        ({"ce_replypartition": "-1"}, Reason.INVALID_HEADER),
        ({"ce_replypartition": "9" * 5000}, Reason.INVALID_HEADER),
        ({"ce_replypartition": "²"}, Reason.INVALID_HEADER),
        ({"ce_k": "0"}, Reason.INVALID_K),
        ({"ce_k": "101"}, Reason.INVALID_K),
        ({"ce_k": "ten"}, Reason.INVALID_K),
        ({"ce_k": "9" * 5000}, Reason.INVALID_K),
        ({"ce_rule": "best"}, Reason.UNKNOWN_RULE),
        ({"ce_timeout": "0"}, Reason.INVALID_HEADER),
        ({"ce_timeout": "301"}, Reason.INVALID_HEADER),
        ({"ce_timeout": "inf"}, Reason.INVALID_HEADER),
        ({"ce_timeout": ""}, Reason.INVALID_HEADER),
        ({"ce_why": "yes"}, Reason.INVALID_HEADER),
        ({"ce_why": ""}, Reason.INVALID_HEADER),
        ({"ce_pruning": "strong"}, Reason.UNKNOWN_PRUNING),
        ({"ce_pruning": ""}, Reason.UNKNOWN_PRUNING),
        ({"ce_minshare": "1.1"}, Reason.INVALID_THRESHOLD),
        ({"ce_minshare": "-0.1"}, Reason.INVALID_THRESHOLD),
        ({"ce_minshare": "nan"}, Reason.INVALID_THRESHOLD),
        ({"ce_minshare": ""}, Reason.INVALID_THRESHOLD),
        ({"ce_minshare": "0." + "1" * 900}, Reason.INVALID_THRESHOLD),
        ({"ce_review": "everything"}, Reason.INVALID_HEADER),
        ({"ce_review": ""}, Reason.INVALID_HEADER),
        ({"ce_review": "suspects"}, Reason.INVALID_PAYLOAD),
        ({"ce_whatif": ""}, Reason.INVALID_HEADER),
        ({"ce_whatif": "[]"}, Reason.INVALID_HEADER),
        ({"ce_whatif": "[" * 100_000}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"with": []}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"plus": "a"}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"plus": ["a"], "plus": ["b"]}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"without": [{}]}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"without": [{"person": "a"}]}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"without": [{"label": "a", "image": "b"}]}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"without": [{"label": " "}]}'}, Reason.INVALID_SELECTOR),
        ({"ce_whatif": '{"weights": {"subjects": {"a": 1}}}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"weights": {"labels": {"a": "1"}}}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"weights": {"labels": {"a": NaN}}}'}, Reason.INVALID_HEADER),
        ({"ce_whatif": '{"weights": {"labels": {"a": -1}}}'}, Reason.INVALID_WEIGHT),
        ({"ce_whatif": '{"weights": {"labels": {"a": 1e400}}}'}, Reason.INVALID_WEIGHT),
        ({"ce_whatif": '{"weights": {"labels": {"a": 1000000.1}}}'}, Reason.INVALID_WEIGHT),
        ({"ce_whatif": '{"weights": {"images": {"": 1}}}'}, Reason.INVALID_WEIGHT),
        ({"ce_whatif": '{"minus": [""]}'}, Reason.INVALID_ID),
        ({"ce_after": "{}"}, Reason.INVALID_HEADER),
        ({"ce_after": "[1]"}, Reason.INVALID_HEADER),
        ({"ce_after": json.dumps(257 * [SOMEWHERE.to_json()])}, Reason.INVALID_HEADER),
        ({"ce_after": '[{"topic":"t"}]'}, Reason.INVALID_HEADER),
        (
            {"ce_after": '[{"topic":"t","topic_id":"i","partition":0,"offset":true}]'},
            Reason.INVALID_HEADER,
        ),
    ],
)
def test_a_question_with_a_fault_is_rejected_for_it(
    changes: dict[str, Any], reason: Reason
) -> None:
    assert refused(query, asked(**changes)) == reason


def test_the_asker_of_a_rejected_question_is_known() -> None:
    assert questions.reply_address(asked(ce_k="x"), partitions=PARTITIONS) == ("q-1", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"ce_replypartition": "8"},
        {"ce_replypartition": None},
        {"ce_replypartition": b"\xff"},
        {"ce_id": None},
        {"ce_id": "\n"},
    ],
)
def test_no_answer_goes_where_nobody_can_await_it(changes: dict[str, Any]) -> None:
    assert questions.reply_address(asked(**changes), partitions=PARTITIONS) is None


# --- markers and robustness


@pytest.mark.parametrize("topic", list(DECODERS))
def test_tombstones_and_heartbeats_are_markers_on_every_topic(topic: Topic) -> None:
    decode = DECODERS[topic]
    assert decode(Record(str(topic), 0, 0, b"any", None, (), NOW)) is Marker.TOMBSTONE
    assert decode(received(encoding.encode_heartbeat(topic, 0))) is Marker.HEARTBEAT


NAMES = st.sampled_from(sorted({n for n, _ in (*image().headers, *asked().headers)}))
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.text(max_size=30).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"1.0", b"application/json", VECTOR.encode(), b"[]", b'{"selector":{}}']),
    st.sampled_from([event_type(topic).encode() for topic in Topic]),
)


@given(
    topic=st.sampled_from(list(DECODERS)),
    value=st.one_of(st.none(), st.binary(max_size=50), VALUES),
    headers=st.lists(st.tuples(st.one_of(NAMES, st.text(max_size=10)), VALUES), max_size=12),
    key=st.one_of(st.none(), st.binary(max_size=64)),
    timestamp=st.integers(-1, 1 << 62),
)
def test_any_record_gives_an_event_or_a_rejection(
    topic: Topic, value: bytes | None, headers: Headers, key: bytes | None, timestamp: int
) -> None:
    record = Record(str(topic), 0, 0, key, value, headers, timestamp)
    try:
        DECODERS[topic](record)
    except Rejected as why:
        assert why.detail  # noqa: PT017 - most inputs are rejected, some are not
    questions.reply_address(record, partitions=PARTITIONS)


@given(
    base=st.sampled_from([image(), asked(), image(content_type=VECTOR, ce_embedder="e")]),
    changes=st.dictionaries(NAMES, VALUES, max_size=3),
    value=st.one_of(st.none(), st.binary(max_size=50), st.just(b"png")),
)
def test_a_valid_record_with_other_headers_gives_an_event_or_a_rejection(
    base: Record, changes: dict[str, bytes | None], value: bytes | None
) -> None:
    headers = tuple((n, changes.get(n, v)) for n, v in base.headers)
    named = dict(headers)
    key = hashlib.sha256((named["ce_source"] or b"") + b"\0" + (named["ce_id"] or b"")).hexdigest()
    record = replace(base, headers=headers, key=key.encode(), value=value)
    for decode in (ingest, query):
        try:
            decode(record)
        except Rejected as why:
            assert why.detail  # noqa: PT017 - as above


@given(
    value=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["label", "selector", "permanent", "image", "query", "shares"]),
                inner,
                max_size=3,
            ),
        ),
    )
)
def test_any_json_gives_an_event_or_a_rejection(value: object) -> None:
    for topic in (
        Topic.LABEL_CORRECTION,
        Topic.FORGET_REQUEST,
        Topic.PREDICTION,
        Topic.FORGET_RECEIPT,
        Topic.FORGOTTEN_CLAIM,
        Topic.REJECTED,
    ):
        try:
            DECODERS[topic](body(topic, value, ce_subject="img"))
        except Rejected as why:
            assert why.detail  # noqa: PT017 - as above


# --- round trips


def texts(limit: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cc", "Cs"])
    return st.text(characters, max_size=limit).map(str.strip).filter(bool)


def spelt(text: str) -> str:
    """The spelling of a name, or nothing."""
    try:
        return canonical_name(text, what="", reason=Reason.INVALID_ID, limit=MAX_LABEL)
    except Rejected:
        return ""


def names(limit: int) -> st.SearchStrategy[str]:
    return texts(limit).map(spelt).filter(bool)


TIMES = st.integers(0, NOW)
IDS = texts(40)
NAMES_SPELT = names(40)
ATTRIBUTES = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
        lambda n: n not in cloudevents.RESERVED
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    max_size=5,
)


@given(
    source=NAMES_SPELT,
    event_id=IDS,
    time=TIMES,
    image_id=NAMES_SPELT,
    label=names(30),
    data=st.binary(min_size=1, max_size=50),
    subjects=st.lists(NAMES_SPELT, max_size=4),
    attributes=ATTRIBUTES,
)
def test_an_image_survives_its_record(
    source: str,
    event_id: str,
    time: int,
    image_id: str,
    label: str,
    data: bytes,
    subjects: list[str],
    attributes: dict[str, str],
) -> None:
    outgoing = encoding.encode_ingest(
        source=source,
        event_id=event_id,
        time=time,
        image_id=image_id,
        label=label,
        payload=ImagePayload(data),
        subjects=subjects,
        attributes=attributes,
    )
    event = ingest(received(outgoing))
    assert isinstance(event, Ingest)
    assert event.time == time
    assert (event.source, event.image_id, event.label) == (source, image_id, label)
    assert event.payload == ImagePayload(data)
    assert event.subjects == tuple(subjects)
    assert event.attributes == attributes
    assert event.address == LogAddress(time, "topic-id", 3, record_key(source, event_id).decode())


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20).filter(any))
def test_a_vector_survives_its_record(elements: list[float]) -> None:
    outgoing = encoding.encode_ingest(
        source="s",
        event_id="e",
        time=NOW,
        image_id="i",
        label="l",
        payload=VectorPayload(np.array(elements, np.float32), "embedder"),
    )
    event = ingest(received(outgoing))
    assert isinstance(event, Ingest)
    assert isinstance(event.payload, VectorPayload)
    assert event.payload.vector.tolist() == elements
    assert event.payload.embedder == "embedder"


@given(event_id=IDS, time=TIMES, image_id=NAMES_SPELT, label=st.one_of(st.none(), names(30)))
def test_a_correction_survives_its_record(
    event_id: str, time: int, image_id: str, label: str | None
) -> None:
    outgoing = encoding.encode_correction(
        source="desk", event_id=event_id, time=time, image_id=image_id, label=label
    )
    event = correction(received(outgoing))
    assert isinstance(event, Correction)
    assert (event.time, event.image_id, event.label) == (time, image_id, label)


@given(event_id=IDS, time=TIMES, image_id=NAMES_SPELT, pruned=st.booleans())
def test_a_pruning_survives_its_record(
    event_id: str,
    time: int,
    image_id: str,
    pruned: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    outgoing = encoding.encode_pruning(
        source="desk", event_id=event_id, time=time, image_id=image_id, pruned=pruned
    )
    event = correction(received(outgoing))
    assert isinstance(event, Prune)
    assert (event.time, event.image_id, event.pruned) == (time, image_id, pruned)


def test_a_pruning_that_the_memory_would_reject_is_not_sent() -> None:
    with pytest.raises(Rejected) as caught:
        encoding.encode_pruning(source="desk", event_id="e", time=NOW, image_id=" i", pruned=True)
    assert caught.value.reason is Reason.INVALID_ID


def test_two_prunings_of_one_time_have_two_stamps() -> None:
    stamps = set()
    for pruned in (True, False):
        outgoing = encoding.encode_pruning(
            source="desk", event_id="e", time=NOW, image_id="i", pruned=pruned
        )
        event = correction(received(outgoing))
        assert isinstance(event, Prune)
        stamps.add(event.stamp)
    assert len(stamps) == 2


@given(kind=st.sampled_from(list(SelectorKind)), value=NAMES_SPELT, permanent=st.booleans())
def test_a_forget_request_survives_its_record(
    kind: SelectorKind,
    value: str,
    permanent: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    outgoing = encoding.encode_forget(
        source="desk", event_id="e", time=NOW, selector=Selector(kind, value), permanent=permanent
    )
    assert forget(received(outgoing)) == Forget(
        outgoing.key.decode(), Selector(kind, value), NOW, permanent=permanent
    )


FACTORS = st.dictionaries(NAMES_SPELT, st.floats(0, 1e6), max_size=3)
ITEMS = st.lists(NAMES_SPELT, max_size=3).map(tuple)
SUPPOSED = st.builds(
    WhatIf,
    without=st.lists(
        st.builds(Selector, st.sampled_from(SelectorKind), NAMES_SPELT), max_size=3
    ).map(tuple),
    weights=st.builds(Factors, FACTORS, FACTORS),
    plus=ITEMS,
    minus=ITEMS,
)


@given(
    payload=st.one_of(
        NAMES_SPELT.map(ItemRef), st.binary(min_size=1, max_size=20).map(ImagePayload)
    ),
    k=st.integers(1, 100),
    rule=st.sampled_from(list(Rule)),
    after=st.lists(
        st.builds(Position, IDS, IDS, st.integers(0, 100), st.integers(0, 1 << 62)), max_size=3
    ),
    timeout=st.integers(1, 300_000_000),
    what_if=st.just(NOTHING_SUPPOSED) | SUPPOSED,
    why=st.booleans(),
    pruning=st.sampled_from([None, *Pruning]),
    min_share=st.none() | st.floats(0, 1),
)
def test_a_question_survives_its_record(
    payload: ItemRef | ImagePayload,
    k: int,
    rule: Rule,
    after: list[Position],
    timeout: int,
    what_if: WhatIf,
    why: bool,  # noqa: FBT001 - drawn by hypothesis
    pruning: Pruning | None,
    min_share: float | None,
) -> None:
    asked = Query(payload, k, rule, what_if, why, pruning, min_share)
    outgoing = encoding.encode_query(
        source="app",
        event_id="q",
        time=NOW,
        query=asked,
        reply_partition=7,
        after=after,
        timeout=timeout / 1_000_000,
    )
    assert query(received(outgoing)) == QueryEvent(
        "app", asked, "q", 7, tuple(after), NOW + timeout
    )


@given(
    about=st.sampled_from(About),
    count=st.integers(1, MAX_LISTED),
    least=st.integers(1, MAX_LEAST),
    image_id=st.none() | NAMES_SPELT,
)
def test_a_request_for_review_survives_its_record(
    about: About, count: int, least: int, image_id: str | None
) -> None:
    asked = Review(about, count, least, image_id)
    outgoing = encoding.encode_query(
        source="app", event_id="q", time=NOW, query=asked, reply_partition=7
    )
    found = query(received(outgoing))
    assert isinstance(found, QueryEvent)
    assert found.query == asked


def test_a_request_for_review_has_defaults_and_limits() -> None:
    def review(**headers: str) -> Query | Review:
        found = query(asked(value=b"", ce_review="pruning", **headers))
        assert isinstance(found, QueryEvent)
        return found.query

    assert review() == Review(About.PRUNING, count=20)
    for headers, reason in (
        ({"ce_k": "1001"}, Reason.INVALID_K),
        ({"ce_least": "0"}, Reason.INVALID_THRESHOLD),
        ({"ce_least": "many"}, Reason.INVALID_THRESHOLD),
        ({"ce_item": " "}, Reason.INVALID_ID),
    ):
        with pytest.raises(Rejected) as why:
            review(**headers)
        assert why.value.reason is reason


# --- encoders refuse what decoders would

VALID: dict[str, Any] = {
    "source": "s",
    "event_id": "e",
    "time": NOW,
    "image_id": "i",
    "label": "l",
    "payload": ImagePayload(b"x"),
}


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("source", "the source"),
        ("event_id", "the event's id"),
        ("image_id", "the image id"),
        ("label", "the label"),
    ],
)
def test_what_is_refused_is_named(part: str, named: str) -> None:
    correction = {name: value for name, value in VALID.items() if name != "payload"}
    for encode, valid in (
        (encoding.encode_ingest, VALID),
        (encoding.encode_correction, correction),
    ):
        with pytest.raises(Rejected) as caught:
            encode(**(valid | {part: ""}))
        assert caught.value.detail == f"{named} is empty"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": ""}, Reason.INVALID_ID),
        ({"event_id": "a\nb"}, Reason.INVALID_ID),
        ({"label": " x"}, Reason.INVALID_LABEL),
        ({"source": ""}, Reason.INVALID_SOURCE),
        ({"time": -1}, Reason.INVALID_TIME),
        ({"time": 10**16}, Reason.INVALID_TIME),
        ({"payload": ImagePayload(b"")}, Reason.EMPTY_PAYLOAD),
        ({"payload": VectorPayload(np.zeros(3, np.float32), "e")}, Reason.ZERO_VECTOR),
        ({"payload": VectorPayload(np.ones((1, 3), np.float32), "e")}, Reason.INVALID_VECTOR),
        ({"payload": VectorPayload(np.full(3, 1e300), "e")}, Reason.NOT_FINITE),
        ({"attributes": {"label": "x"}}, Reason.INVALID_HEADER),
        ({"attributes": {"a_b": "x"}}, Reason.INVALID_HEADER),
        ({"attributes": {"a": "\ud800"}}, Reason.INVALID_HEADER),
        ({"content_type": "text/plain"}, Reason.UNKNOWN_CONTENT_TYPE),
        ({"subjects": ["a"] * 65}, Reason.INVALID_SUBJECT),
    ],
)
def test_an_encoder_refuses_what_its_decoder_would(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        encoding.encode_ingest(**(VALID | changes))
    assert caught.value.reason == reason


@pytest.mark.parametrize("timeout", [0, -1, 300.1, float("nan")])
def test_a_question_waits_for_a_bounded_time(timeout: float) -> None:
    with pytest.raises(Rejected, match="timeout"):
        encoding.encode_query(
            source="s",
            event_id="e",
            time=NOW,
            query=Query(ItemRef("i")),
            reply_partition=0,
            timeout=timeout,
        )


# --- others' events


def test_an_event_of_the_cloudevents_sdk_is_read() -> None:
    made = CloudEvent(
        attributes={
            "id": "e-1",
            "source": "/cameras/7",
            "type": "visual-memory.image-ingest.v1",
            "time": datetime(2025, 6, 15, 15, 6, 40, 123456, tzinfo=UTC),
            "subject": "img-1",
            "datacontenttype": "image/png",
            "label": "Katze, schwarz",
            "subjects": json.dumps(["ann"]),
            "site": "Flur",
        },
        data=b"\x89PNG",
    )
    message = to_binary_event(
        made, key_mapper=lambda event: record_key(event.get_source(), event.get_id())
    )
    assert isinstance(message.key, bytes)
    headers = tuple(message.headers.items())
    event = ingest(Record("image-ingest", 0, 0, message.key, message.value, headers, NOW))
    assert isinstance(event, Ingest)
    assert event.payload == ImagePayload(b"\x89PNG")
    assert (event.image_id, event.label, event.source) == ("img-1", "Katze, schwarz", "/cameras/7")
    assert (event.subjects, event.attributes) == (("ann",), {"site": "Flur"})
    assert event.time == (made.get_time() - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(  # type: ignore[operator]  # it has a time
        microseconds=1
    )


def test_a_json_event_of_the_cloudevents_sdk_is_read() -> None:
    made = CloudEvent(
        attributes={
            "id": "r-1",
            "source": "desk",
            "type": "visual-memory.forget-request.v1",
            "time": datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC),
            "datacontenttype": "application/json",
        },
        data={"selector": {"subject": "ann"}},
    )
    message = to_binary_event(
        made, key_mapper=lambda event: record_key(event.get_source(), event.get_id())
    )
    assert isinstance(message.key, bytes)
    headers = tuple(message.headers.items())
    event = forget(Record("forget-request", 0, 0, message.key, message.value, headers, NOW))
    assert isinstance(event, Forget)
    assert event.selector == Selector(SelectorKind.SUBJECT, "ann")
