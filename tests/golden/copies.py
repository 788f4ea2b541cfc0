"""What others have stored or typed: copies of it, which a change of the code's shape must not touch.

`python -m tests.golden` writes them anew, after a change that is meant.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import redis
from click.testing import CliRunner
from msgspec.structs import replace
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import REGISTRY

from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.model.answers import (
    Contribution,
    Findings,
    Flip,
    Influence,
    LabelEffect,
    Neighbor,
    Position,
    Suspect,
    Why,
)
from memory.model.events import (
    ClaimPayload,
    Correction,
    Forget,
    ImagePayload,
    Ingest,
    LogAddress,
    LogPartition,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.questions import About, Factors, ItemRef, Query, Review, Rule, WhatIf
from memory.model.reliability import Pruning
from memory.model.times import make_stamp
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.cli import cli
from streams.contract import decoding, encoding, forgetting, topics
from streams.contract.facts import encode_fact
from streams.contract.messages import Answer, Receipt, SelectorDigest
from streams.contract.records import OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.erasure import metrics as erasure_metrics
from streams.workers import metrics
from streams.workers.attempts import RecordAttempts

FOLDER = Path(__file__).parent
NAMESPACE = "golden"
KEY = bytes(range(32))
NOW = 1_790_000_000_123_456
"""When all of it happens, µs: a day of September 2026."""
VECTOR = np.array([0.5, -0.25, 0.125, 2], np.float32)
EMBEDDER = "golden-4"


def shown(record: OutgoingRecord) -> dict[str, Any]:
    return {
        "topic": str(record.topic),
        "key": record.key.decode(),
        "value": None if record.value is None else record.value.decode("latin-1"),
        "headers": [[name, value.decode()] for name, value in record.headers],
        "partition": record.partition,
    }


def supposing() -> Query:
    what_if = WhatIf(
        without=tuple(Selector(kind, f"{kind}-ü") for kind in SelectorKind),
        weights=Factors({"bild-ü": 0.5}, {"Hund": 2.0}),
        plus=("b",),
        minus=("c", "d"),
    )
    return Query(ItemRef("bild-ü"), what_if=what_if, why=True, pruning=Pruning.SOFT, min_share=0.6)


def reviewed() -> Findings:
    return Findings(
        "suspects",
        1,
        0.25,
        suspects=(Suspect("bild-ü", "Katze 🐈", "Hund", 0.75, 0.25, 7),),
        images=("bild-ü",),
        labels={"Hund": LabelEffect(1, 2, 1, 2)},
        influence=(Influence("bild-ü", 3, 1),),
    )


def explained(answer: Answer) -> Answer:
    why = Why(
        contributions=(Contribution("bild-ü", "Katze 🐈", 0.125, 0.75, 1.0, 0.625),),
        flip=Flip(("bild-ü", "c"), "Hund"),
        more_than=None,
        survives=1,
    )
    return replace(answer, why=why, supposed=True, pruning="soft", reliability_age=0.25)


def outgoing() -> dict[str, OutgoingRecord]:
    """A record of every kind."""
    common: dict[str, Any] = {"source": "app/1", "time": NOW}
    images: dict[str, Any] = {"image_id": "bild-ü", "label": "Katze 🐈"}
    position = Position("x-image-ingest", "AAAAAAAAAAAAAAAAAAAAAA", 3, 17)
    neighbor = Neighbor("bild-ü", "Katze 🐈", 0.125, 0, 0.5)
    record = Record("x-image-ingest", 3, 17, b"key", b"value", (), NOW)
    answer = Answer(
        query="q1",
        status="answered",
        label="Katze 🐈",
        shares={"Katze 🐈": 0.75, "Hund": 0.25},
        neighbors=(neighbor, Neighbor("b", "Hund", 0.5, 1, 1 / 3)),
        rule="rank",
        k=10,
        exact=True,
        embedder="e" * 64,
        as_of=(position,),
        timings={"embed": 0.01, "search": 0.002, "vote": 0.0001},
    )
    receipt = Receipt(
        request="r1",
        stage="erased",
        stages={"received": NOW, "fenced": NOW + 1, "erased": NOW + 2},
        selector=SelectorDigest("subject", "subject:" + "0" * 32),
        until=NOW + 300_000_000,
        images=2,
        matched=3,
    )
    refused = Rejected(Reason.FORGOTTEN, "what this event is about is forgotten")
    return {
        "image": encoding.encode_ingest(
            **common,
            **images,
            event_id="e1",
            payload=ImagePayload(b"\x89PNG\r\n"),
            subjects=["anna", "ben"],
            attributes={"camera": "3", "place": "Köln"},
            content_type="image/png",
        ),
        "vector": encoding.encode_ingest(
            **common, **images, event_id="e2", payload=VectorPayload(VECTOR, EMBEDDER)
        ),
        "claim": encoding.encode_ingest(
            **common,
            **images,
            event_id="e3",
            payload=ClaimPayload("https://host/folder/a%20b.png?x=1", "0" * 64),
        ),
        "correction": encoding.encode_correction(
            **common, event_id="e4", image_id="bild-ü", label="Hund"
        ),
        "withdrawal": encoding.encode_correction(
            **common, event_id="e5", image_id="bild-ü", label=None
        ),
        **{
            f"forget of one {kind}": encoding.encode_forget(
                **common, event_id=f"f-{kind}", selector=Selector(kind, "name"), permanent=permanent
            )
            for kind, permanent in zip(SelectorKind, (False, True, False, True), strict=True)
        },
        "question by image": encoding.encode_query(
            **common, event_id="q1", query=Query(ImagePayload(b"image")), reply_partition=5
        ),
        "question by item": encoding.encode_query(
            **common,
            event_id="q2",
            query=Query(ItemRef("bild-ü"), k=3, rule=Rule.SOFTMAX),
            reply_partition=0,
            after=[position],
            timeout=2.5,
        ),
        "what-if": encoding.encode_query(
            **common, event_id="q3", query=supposing(), reply_partition=1
        ),
        "request for review": encoding.encode_query(
            **common,
            event_id="q4",
            query=Review(About.INFLUENCE, 7, 9, "bild-ü"),
            reply_partition=1,
        ),
        "answer": encoding.encode_prediction(answer, 5),
        "review": encoding.encode_prediction(Answer("q4", "answered", review=reviewed()), 1),
        "answer with its reasons": encoding.encode_prediction(explained(answer), 5),
        "answer of an empty memory": encoding.encode_prediction(
            Answer(query="q3", status="empty", rule="rank", k=1, exact=True, embedder="e"), 1
        ),
        "refused question": encoding.encode_prediction(
            Answer(query="q2", status="rejected", reason="invalid-k", detail="k must be 1"), 0
        ),
        "receipt": encoding.encode_receipt(receipt),
        "rejection": encoding.encode_rejection(record, refused, admitted_after=NOW),
        "rejection of another kind": encoding.encode_rejection(
            record, Rejected(Reason.NOT_FINITE, "the vector has NaN")
        ),
        "heartbeat": encoding.encode_heartbeat(Topic.FENCES, 2),
        "fence": encode_fact(Fence(SelectorKey("source:" + "1" * 32), NOW)),
        "barrier": encode_fact(Barrier(ImageKey("2" * 32), NOW)),
        "posting": encode_fact(Posting(SelectorKey("source:3"), ImageKey("4" * 32))),
        "closed request": encode_fact(ClosedRequest(RequestKey("5" * 32), NOW)),
    }


def records() -> object:
    """Every kind of record, byte for byte, and what a reader makes of those it orders by."""
    with mock.patch.object(time, "time_ns", return_value=NOW * 1000):
        made = outgoing()
    read: dict[str, Any] = {}
    for name, record in made.items():
        came = Record(f"x-{record.topic}", 3, 17, record.key, record.value, record.headers, NOW)
        match record.topic:
            case Topic.IMAGE_INGEST:
                ingest = decoding.decode_ingest(came, "topic-id", clock_skew=0)
                assert isinstance(ingest, Ingest)
                assert ingest.address is not None
                read[name] = [ingest.stamp, ingest.payload_digest, ingest.address.encode()]
            case Topic.LABEL_CORRECTION:
                correction = decoding.decode_correction(came, "topic-id", clock_skew=0)
                assert isinstance(correction, Correction)
                assert correction.address is not None
                read[name] = [correction.stamp, correction.address.encode()]
            case Topic.FORGET_REQUEST:
                request = forgetting.decode_forget(came, clock_skew=0)
                assert isinstance(request, Forget)
                read[name] = [request.request_id, request.time, request.permanent]
    return {"records": {name: shown(record) for name, record in made.items()}, "read": read}


def declared_topics() -> object:
    """Names, partitions and configuration of the topics."""
    return {
        spec.name: {
            "partitions": spec.partitions,
            "replication": spec.replication,
            "configuration": {
                name: f"{setting.relation} {setting.value}"
                for name, setting in spec.settings.items()
            },
        }
        for spec in topics.declare("x-")
    }


def metric_names() -> object:
    """Names, types, labels and buckets of the metrics."""
    # The registry of a process of tests has series that tests made; its collectors are the same.
    assert {metrics.EVENTS, erasure_metrics.ERASURES} <= REGISTRY._collector_to_names.keys()
    return {
        collector._name: {
            "type": type(collector).__name__,
            "help": collector._documentation,
            "labels": list(collector._labelnames),
            "buckets": list(getattr(collector, "_kwargs", {}).get("buckets", ())),
        }
        for collector in list(REGISTRY._collector_to_names)
        if isinstance(collector, MetricWrapperBase)
        if collector._name.startswith("visual_memory_")
    }


def help_pages() -> object:
    """What ``--help`` prints, of the command and of all its commands."""
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"})

    def page(words: tuple[str, ...]) -> str:
        done = runner.invoke(cli, [*words, "--help"], prog_name="visual-memory")
        assert done.exit_code == 0, done.output
        return done.output

    assert isinstance(cli, click.Group)
    return {" ".join(words): page(words) for words in ((), *((name,) for name in cli.commands))}


class Telling:
    """A fence log that keeps facts in a list."""

    def __init__(self) -> None:
        self.facts: list[FenceFact] = []

    def append(self, facts: Any) -> None:
        self.facts += facts


def stored(client: redis.Redis, namespace: str) -> object:
    """The keys and values of a small memory, and the functions beside it."""
    index = RedisIndex.open(
        client, namespace=namespace, hmac_key=KEY, embedder=VectorsOnly(EMBEDDER, 4)
    )
    log = Telling()
    memory = VisualMemory(index, None, fence_log=log, clock_skew=0)

    def ingest(name: str, time: int, **more: Any) -> Ingest:
        return Ingest(
            stamp=make_stamp(time, name),
            image_id=name,
            label="Katze 🐈",
            source="app/1",
            payload=VectorPayload(VECTOR, index.embedder),
            payload_digest=name.rjust(64, "0"),
            address=LogAddress(time, "topic-id", 3, name.rjust(64, "0")),
            **more,
        )

    with mock.patch.object(time, "time_ns", return_value=NOW * 1000):
        outcomes = memory.remember(
            [
                ingest("seen", NOW, subjects=("anna", "ben"), attributes={"camera": "3"}),
                ingest("corrected", NOW),
                ingest("forgotten", NOW, subjects=("carl",)),
            ]
        )
        address = LogAddress(NOW, "corrections-id", 0, "c" * 64)
        memory.correct(
            [
                Correction(make_stamp(NOW, "c"), "corrected", "Hund", address),
                Correction(make_stamp(NOW, "w"), "waits", "Hund"),
            ]
        )
        subject = Selector(SelectorKind.SUBJECT, "carl")
        memory.forget(Forget("request-1", subject, NOW + 1))
        memory.forget(Forget("request-2", Selector(SelectorKind.LABEL, "nobody"), NOW + 1))
        index.open_request(index.request_key("request-3"), NOW)
        index.expansion(index.request_key("request-3"), [index.image_key("seen")])
        index.advance({LogPartition("topic-id", 3): 17, LogPartition("corrections-id", 0): 5})
        attempts = RecordAttempts(client, namespace, "ingest")
        attempts.count_start("topic-id", 3, 17)
        attempts.count_attempt("topic-id", 3, 17)
        outcomes += memory.remember([ingest("late", NOW, subjects=("carl",))])
    assert len(outcomes) == 4
    digests = index.digests()
    # The namespace of a test is its own: what is compared has the same one every time.
    names = sorted(client.scan_iter(f"{namespace}*", count=1000))
    return _renamed(
        {
            "keys": {_text(name): _value(client, name) for name in names},
            "facts": [shown(encode_fact(fact))["value"] for fact in log.facts],
            "functions": _functions(client),
            "index": _index(client, f"{namespace}:1:index"),
            "digests": [digests.visible, digests.full],
        },
        lambda text: text.replace(namespace, NAMESPACE),
    )


def _text(value: bytes) -> str:
    return value.decode("latin-1") if any(byte >= 0x80 for byte in value) else value.decode()


def _value(client: redis.Redis, name: bytes) -> object:
    raw: Any = client
    match raw.type(name):
        case b"hash":
            return {_text(k): _text(v) for k, v in sorted(raw.hgetall(name).items())}
        case b"set":
            return sorted(map(_text, raw.smembers(name)))
        case b"string":
            return _text(raw.get(name))
        case b"stream":
            return [  # ids are times
                {_text(k): _text(v) for k, v in fields.items()} for _, fields in raw.xrange(name)
            ]
        case other:
            raise AssertionError(f"a key of another type: {other}")


def _functions(client: redis.Redis) -> object:
    raw: Any = client
    libraries = [dict(zip(one[::2], one[1::2], strict=True)) for one in raw.function_list()]
    return {
        _text(library[b"library_name"]): sorted(
            _text(dict(zip(f[::2], f[1::2], strict=True))[b"name"]) for f in library[b"functions"]
        )
        for library in libraries
    }


def _index(client: redis.Redis, name: str) -> object:
    raw: Any = client
    reply = raw.execute_command("FT.INFO", name)
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    return json.loads(json.dumps([found[b"index_definition"], found[b"attributes"]], default=_text))


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, Mapping):
        return {rename(k): _renamed(v, rename) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(one, rename) for one in value]
    return value


COPIES: Mapping[str, Callable[[], object]] = {
    "records": records,
    "topics": declared_topics,
    "metrics": metric_names,
    "help": help_pages,
}
"""What needs no server, by the name of its file."""


def write(name: str, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
