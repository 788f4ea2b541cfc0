"""Bad input: a clear reason on `rejected`, a counter, and nobody else held up."""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kafka import KafkaProducer
from PIL import Image

from memory.errors import Reason, Rejected
from memory.model.events import (
    MAX_SELECTORS,
    MAX_SUBJECTS,
    ImagePayload,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.forgetting import FenceFact, Posting
from memory.model.questions import Query
from streams.config.connections import kafka_cluster
from streams.contract import encoding
from streams.contract.records import HEARTBEAT, OutgoingRecord, record_key
from streams.contract.topics import Topic
from streams.kafka.fence_log import replay
from tests.integration.events import DIM, EMBEDDER, rejected, unit
from tests.integration.running import Running, running

NOW = time.time_ns() // 1000
PNG_HEADER = b"\x89PNG\r\n\x1a\n"


def png() -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


def png_bomb() -> bytes:
    """20,000 x 20,000 grey pixels in a few kilobytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return PNG_HEADER + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image(data: bytes = b"", **more: Any) -> OutgoingRecord:
    made = encoding.encode_ingest(
        source="bad",
        event_id=f"i-{time.monotonic_ns()}",
        time=more.pop("time", NOW),
        image_id="bad-image",
        label="bad",
        payload=ImagePayload(b"x"),
        **more,
    )
    return replace(made, value=data)


def vector(value: bytes, embedder: str = "test") -> OutgoingRecord:
    made = encoding.encode_ingest(
        source="bad",
        event_id=f"v-{time.monotonic_ns()}",
        time=NOW,
        image_id="bad-vector",
        label="bad",
        payload=VectorPayload(unit(1), embedder),
    )
    return replace(made, value=value)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def header(record: OutgoingRecord, name: str, value: str | bytes | None) -> OutgoingRecord:
    """The record with a header set, or dropped for None."""
    encoded = value.encode() if isinstance(value, str) else value
    kept = [(n, v) for n, v in record.headers if n != name]
    return replace(record, headers=tuple(kept if encoded is None else [*kept, (name, encoded)]))


def good() -> OutgoingRecord:
    return vector(unit(2).tobytes())


def correction(body: bytes) -> OutgoingRecord:
    made = encoding.encode_correction(
        source="bad", event_id=f"c-{time.monotonic_ns()}", time=NOW, image_id="x", label="y"
    )
    return replace(made, value=body)


def forget(body: bytes) -> OutgoingRecord:
    made = encoding.encode_forget(
        source="bad",
        event_id=f"f-{time.monotonic_ns()}",
        time=NOW,
        selector=Selector(SelectorKind.IMAGE, "x"),
    )
    return replace(made, value=body)


def question(**headers: str | None) -> OutgoingRecord:
    made = encoding.encode_query(
        source="bad",
        event_id=f"q-{time.monotonic_ns()}",
        time=NOW,
        query=Query(VectorPayload(unit(1), "test")),
        reply_partition=0,
    )
    for name, value in headers.items():
        made = header(made, f"ce_{name}", value)
    return made


def unkeyed() -> OutgoingRecord:
    return replace(good(), key=b"another key")


class GarbledName(str):
    """A header's name that goes into the log as bytes that are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xff\xfe"


BAD: dict[str, tuple[Callable[[], OutgoingRecord], Reason]] = {
    "not an image": (lambda: image(b"<html></html>"), Reason.NOT_AN_IMAGE),
    "truncated": (lambda: image(png()[:200]), Reason.TRUNCATED_IMAGE),
    "zero bytes": (lambda: image(b""), Reason.EMPTY_PAYLOAD),
    "a bomb": (lambda: image(png_bomb()), Reason.IMAGE_TOO_LARGE),
    "an image where there is no embedder": (lambda: image(png()), Reason.NO_EMBEDDER),
    "wrong dimension": (lambda: vector(floats(*[1.0] * (DIM + 1))), Reason.WRONG_DIMENSION),
    "NaN": (lambda: vector(floats(*[float("nan")] * DIM)), Reason.NOT_FINITE),
    "infinite": (lambda: vector(floats(*[float("inf")] * DIM)), Reason.NOT_FINITE),
    "zero": (lambda: vector(floats(*[0.0] * DIM)), Reason.ZERO_VECTOR),
    "half a float": (lambda: vector(b"abc"), Reason.INVALID_VECTOR),
    "another embedder": (lambda: vector(unit(1).tobytes(), "other"), Reason.OTHER_EMBEDDER),
    "no id": (lambda: header(good(), "ce_id", None), Reason.MISSING_HEADER),
    "no time": (lambda: header(good(), "ce_time", None), Reason.MISSING_HEADER),
    "no label": (lambda: header(good(), "ce_label", None), Reason.MISSING_HEADER),
    "no image id": (lambda: header(good(), "ce_subject", None), Reason.MISSING_HEADER),
    "a repeated header": (
        lambda: replace(r := good(), headers=(*r.headers, ("ce_label", b"again"))),
        Reason.REPEATED_HEADER,
    ),
    "an unknown version": (
        lambda: header(good(), "ce_type", "visual-memory.image-ingest.v9"),
        Reason.UNKNOWN_VERSION,
    ),
    "an unknown type": (lambda: header(good(), "ce_type", "com.example.x"), Reason.UNKNOWN_TYPE),
    "an empty label": (lambda: header(good(), "ce_label", " "), Reason.INVALID_LABEL),
    "an over-long label": (lambda: header(good(), "ce_label", "x" * 257), Reason.INVALID_LABEL),
    "a control character in a label": (
        lambda: header(good(), "ce_label", "a\x00b"),
        Reason.INVALID_LABEL,
    ),
    "an empty image id": (lambda: header(good(), "ce_subject", ""), Reason.INVALID_ID),
    "an over-long image id": (lambda: header(good(), "ce_subject", "x" * 513), Reason.INVALID_ID),
    "a control character in an image id": (
        lambda: header(good(), "ce_subject", "a\nb"),
        Reason.INVALID_ID,
    ),
    "a time far ahead": (lambda: image(png(), time=NOW + 3_600_000_000), Reason.TIME_AHEAD),
    "no time at all": (lambda: header(good(), "ce_time", "yesterday"), Reason.INVALID_TIME),
    "a header that is not UTF-8": (
        lambda: header(good(), "ce_label", b"\xff\xfe"),
        Reason.INVALID_HEADER,
    ),
    "another key": (unkeyed, Reason.WRONG_KEY),
    "garbage without headers": (
        lambda: OutgoingRecord(Topic.IMAGE_INGEST, b"k", bytes(range(256)), ()),
        Reason.MISSING_HEADER,
    ),
    "a header's name that is not UTF-8": (
        lambda: OutgoingRecord(Topic.IMAGE_INGEST, b"k", b"v", ((GarbledName("x"), b"y"),)),
        Reason.MISSING_HEADER,
    ),
    "garbage in a correction": (lambda: correction(b"\x00\xff"), Reason.INVALID_PAYLOAD),
    "a correction without a label": (lambda: correction(b"{}"), Reason.INVALID_PAYLOAD),
    "a number for a label": (lambda: correction(b'{"label": 7}'), Reason.INVALID_LABEL),
    "garbage in a forget-request": (lambda: forget(b"["), Reason.INVALID_PAYLOAD),
    "two selectors": (
        lambda: forget(b'{"selector": {"image": "a", "label": "b"}}'),
        Reason.INVALID_SELECTOR,
    ),
    "an unknown selector": (lambda: forget(b'{"selector": {"all": "*"}}'), Reason.INVALID_SELECTOR),
    "k = 0": (lambda: question(k="0"), Reason.INVALID_K),
    "k > 100": (lambda: question(k="101"), Reason.INVALID_K),
    "an unknown rule": (lambda: question(rule="majority"), Reason.UNKNOWN_RULE),
    "an unknown item": (
        lambda: replace(question(item="nobody", embedder=None), value=b""),
        Reason.UNKNOWN_ITEM,
    ),
}


@pytest.fixture(scope="module")
def memory(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("bad"),
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"bad-{time.time_ns()}-",
        workers={"ingest": 1, "correct": 1, "forget": 1, "query": 1},
        embedder=EMBEDDER,
    ) as found:
        yield found


@pytest.fixture(scope="module")
def reasons(memory: Running) -> dict[str, list[dict[str, object]]]:
    """Rejections of all the bad records, sent with good ones between them."""
    producer = KafkaProducer(bootstrap_servers=memory.settings.kafka)
    client = memory.client()
    places = {}
    for n, (name, (make, _)) in enumerate(BAD.items()):
        record = make()
        sent = producer.send(
            kafka_cluster(memory.settings).full_name(record.topic),
            record.value,
            record.key,
            headers=list(record.headers),
            partition=0,
        ).get(10)
        places[sent.topic, sent.partition, sent.offset] = name
        client.ingest(unit(n), id=f"good-{n}", label="good", embedder="test")
    for value, headers in ((None, []), (b"", [("ce_type", HEARTBEAT.encode())])):
        topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
        producer.send(topic, value, record_key("a", "b"), headers=headers).get(10)
    producer.close()
    client.flush()
    memory.wait_until_merged()
    found: dict[str, list[dict[str, object]]] = {name: [] for name in BAD}
    for rejection in rejected(memory):
        place = (rejection["topic"], rejection["partition"], rejection["offset"])
        found[places[place]].append(rejection)
    return found


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_rejected_once_with_its_reason_and_no_word_of_its_content(
    name: str, reasons: dict[str, list[dict[str, object]]]
) -> None:
    (rejection,) = reasons[name]
    assert rejection["reason"] == BAD[name][1]
    assert rejection["detail"]
    assert "bad-image" not in json.dumps(rejection)


def test_nothing_good_is_lost_between_the_bad(
    memory: Running, reasons: dict[str, list[dict[str, object]]]
) -> None:
    assert memory.index().stats().items == len(BAD)
    assert memory.index().label_counts() == {"good": len(BAD)}


def test_rejections_are_counted_by_reason(
    memory: Running, reasons: dict[str, list[dict[str, object]]]
) -> None:
    port = memory.ports["ingest"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'visual_memory_rejected_total{reason="not-an-image",role="ingest"} 1.0' in text
    assert 'visual_memory_events_total{outcome="tombstone",role="ingest"} 1.0' in text
    assert 'visual_memory_events_total{outcome="heartbeat",role="ingest"} 1.0' in text
    assert "bad-image" not in text


def test_an_asker_whose_question_is_bad_is_told_so(memory: Running) -> None:
    client = memory.client()
    answer = client.query(item="nobody")
    assert (answer.status, answer.reason) == ("rejected", Reason.UNKNOWN_ITEM)


def test_a_question_that_cannot_see_its_write_in_time_is_answered_stale(memory: Running) -> None:
    client = memory.client()
    written = client.ingest(unit(1), id="late", label="late", embedder="test").position()
    never = msgspec.structs.replace(written, offset=written.offset + 1_000_000)
    answer = client.query(unit(1), embedder="test", after=[never], timeout=1)
    assert answer.status == "stale"


def test_an_event_over_the_size_limit_fails_in_the_client(memory: Running) -> None:
    client = memory.client()
    with pytest.raises(Rejected, match="limit") as caught:
        client.ingest(bytes((1 << 20) + 1), id="large", label="large")
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_an_image_with_ever_more_subjects_holds_nobody_up_and_is_told_once(
    memory: Running,
) -> None:
    client = memory.client()

    def everyone(part: int) -> None:
        subjects = [f"{part}-{n}" for n in range(MAX_SUBJECTS)]
        client.ingest(unit(1), id="crowd", label="good", embedder="test", subjects=subjects)

    before = len(rejected(memory))
    taken = MAX_SELECTORS // MAX_SUBJECTS
    for parts in (range(taken), range(taken, taken + 4)):
        for part in parts:
            everyone(part)
        client.flush()
        memory.wait_until_merged()
    client.receipt(client.forget(subject="3-0"))
    for part in range(12):
        everyone(part)
    client.flush()
    memory.wait_until_merged()
    reasons = [rejection["reason"] for rejection in rejected(memory)[before:]]
    assert reasons == ["too-many-subjects"] * 4 + ["forgotten"] * 12
    facts: list[FenceFact] = []
    replay(kafka_cluster(memory.settings), facts.extend)
    image = memory.index().image_key("crowd")
    told = [fact for fact in facts if isinstance(fact, Posting) and fact.image == image]
    assert len(told) == len(set(told)) == taken * MAX_SUBJECTS + 1, "the source is one"
    assert memory.restarts("ingest") == 0


def test_an_empty_memory_answers_that_it_is_empty(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("empty"),
        workers={"query": 1},
        embedder=EMBEDDER,
    ) as memory:
        answer = memory.client().query(unit(1), embedder="test")
        assert answer.status == "empty"
        assert answer.label is None
