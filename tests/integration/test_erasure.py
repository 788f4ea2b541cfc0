"""Forgetting down to the bytes: on real servers, whose files are searched."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from memory.embedders import VectorsOnly
from memory.embedders.lite0 import Lite0Embedder
from memory.errors import Unavailable
from memory.model.events import ClaimPayload, ImagePayload, VectorPayload
from memory.model.times import SECOND, now_us
from memory.model.vectors import Vector
from streams.cli import cli
from streams.client import MemoryClient, Receipt
from streams.config.connections import kafka_cluster
from streams.config.settings import CACHE, ENVIRONMENT_PREFIX
from streams.contract import encoding
from streams.contract.records import OutgoingRecord
from streams.contract.signing import Chain, SigningKey
from streams.contract.topics import Topic
from streams.erasure.wiring import NICENESS
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from streams.local.state import read_state
from tests.integration.events import read_all
from tests.integration.running import KEY, SIGNING_KEY, Running, running
from tests.integration.searching import found_in, read_files
from tests.streams.test_topics import alter
from tests.waiting import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

DIM = 24

QUICK_KAFKA = {
    "log.cleaner.backoff.ms": "500",
    "log.retention.check.interval.ms": "500",
    "log.initial.task.delay.ms": "500",
    "log.segment.delete.delay.ms": "500",
}
QUICK: dict[str, Any] = {
    "partitions": 2,
    "clock_skew": 0.2,
    "compaction_lag": 2.0,
    "answers_kept": 6.0,
    "erasure_pause": 0.2,
    "signing_key": SIGNING_KEY,
}
COMPLETED_SECONDS = 120.0
"""What the audit may say at most of these settings."""
PATIENCE_SECONDS = 300.0
"""For `completed`: what embeds and answers goes before the erase worker where all cores are busy."""


@dataclass
class Erasing:
    """A memory whose servers' files are known."""

    memory: Running
    client: MemoryClient
    folder: Path
    redis: RedisServer

    @contextmanager
    def life_goes_on(self) -> Iterator[None]:
        """Others are learned and asked for; Redis restarts, and workers are killed, which rebalances."""
        ended, failures = threading.Event(), list[Exception]()

        def live() -> None:
            client = self.memory.client("life")
            for n in itertools.count():
                if ended.wait(0.05):
                    return
                try:
                    vector = np.random.default_rng(n).normal(size=DIM).astype("<f4")
                    client.ingest(
                        vector, id=f"life-{n % 50}", label="x", embedder="test"
                    ).position()
                    client.query(vector, embedder="test", timeout=20)
                except Unavailable:
                    continue  # Redis is away for a while
                except Exception as error:  # noqa: BLE001 - told to the test
                    failures.append(error)
                    return

        thread = threading.Thread(target=live, name="life")
        thread.start()
        self.redis.stop()
        self.redis.start()
        for role in ("ingest", "erase", "forget"):
            os.kill(self.memory.pid_of(role), signal.SIGKILL)
        try:
            yield
        finally:
            ended.set()
            thread.join(60)
        assert failures == []

    def holding(self, *needles: bytes) -> list[str]:
        """Files of the servers and of the workers that hold one of these bytes."""
        return [
            str(file.relative_to(self.folder))
            for file, data in read_files(self.folder)
            if found_in([data], needles)
        ]

    def held(self, needles: Mapping[bytes, str]) -> dict[bytes, str]:
        """Those of many that a file holds."""
        datas = (data for _, data in read_files(self.folder))
        return {needle: needles[needle] for needle in found_in(datas, needles)}

    def readable(self, *needles: bytes) -> list[str]:
        """Topics in which a record holds one of these bytes, once decompressed."""
        return [
            topic
            for topic in Topic
            for record in read_all(self.memory, topic)
            if any(
                needle in part
                for needle in needles
                for part in (record.key, record.value, *(v for _, v in record.headers))
                if part
            )
        ]


@pytest.fixture(scope="module")
def erasing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Erasing]:
    folder = tmp_path_factory.mktemp("erasing")
    kafka = KafkaServer(folder / "kafka", CACHE, extra_config=QUICK_KAFKA)
    redis = RedisServer(folder / "redis", CACHE)
    kafka.start()
    try:
        redis.start()
        try:
            with running(
                folder / "workers",
                kafka=kafka.bootstrap,
                redis_url=redis.url,
                name="erasing-",
                workers=dict.fromkeys(("ingest", "correct", "forget", "query", "erase"), 1),
                embedder=f"vectors:test:{DIM}",
                claim_prefixes="https://images.invalid/",
                **QUICK,
            ) as memory:
                yield Erasing(memory, memory.client("camera"), folder, redis)
                memory.close()
        finally:
            redis.stop()
    finally:
        kafka.stop()


def marked() -> tuple[str, Vector, tuple[bytes, ...]]:
    """A text and a vector that nobody else has, and their bytes as they may be stored."""
    text, vector = secrets.token_hex(32), np.random.default_rng().normal(size=DIM).astype("<f4")
    unit = vector / np.linalg.norm(vector)
    stored = [part.astype(kind).tobytes() for part in (vector, unit) for kind in ("<f4", "<f2")]
    return text, vector, (text.encode(), *stored)


def test_after_completed_nothing_of_the_forgotten_is_in_any_file(erasing: Erasing) -> None:
    (ann, ann_vector, anns), (bob, bob_vector, bobs) = marked(), marked()
    for name, text, vector in (("ann", ann, ann_vector), ("bob", bob, bob_vector)):
        for n in range(5):
            erasing.client.ingest(
                vector,
                id=f"{name}-{n}",
                label=f"label {text}",
                subjects=[name],
                attributes={"note": text},
                embedder="test",
            ).position()
        erasing.client.correct(f"{name}-0", f"other {text}").position()
    erasing.memory.wait_until_merged()
    for vector in (ann_vector, bob_vector):
        answer = erasing.client.query(vector, embedder="test")
        assert len(answer.neighbors) == 10
    before = erasing.readable(*anns)
    assert {Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.PREDICTION} <= set(before)
    assert erasing.holding(*anns)

    request = erasing.client.forget(subject="ann")
    with erasing.life_goes_on():
        receipt = erasing.client.receipt(request, "completed", PATIENCE_SECONDS)

    assert erasing.holding(*anns) == []
    assert erasing.readable(*anns) == []
    assert any("kafka" in file for file in erasing.holding(*bobs))
    assert any("redis" in file for file in erasing.holding(*bobs))
    assert receipt.images == 5
    stages = ["received", "fenced", "erased", "redis_purged", "log_compacted", "answers_expired"]
    times = [receipt.stages[stage] for stage in ("received", "fenced", "erased")]
    assert times == sorted(times)
    assert receipt.stages["completed"] == max(receipt.stages.values())
    assert receipt.stages.keys() == {*stages, "repaired", "completed"}


CODECS = (None, "gzip", "snappy", "lz4", "zstd")
VECTORS = 1000


@dataclass
class Album:
    """What one person sent: vectors, and photographs with a text that nobody else has."""

    person: str
    dim: int
    text: str = field(default_factory=lambda: secrets.token_hex(32))
    vectors: dict[str, Vector] = field(default_factory=dict)

    def send(self, memory: Running, embedder: str, *, photographs: int) -> None:
        """Compressed in every way, a part each."""
        cluster = kafka_cluster(memory.settings)
        rng = np.random.default_rng()
        for number, codec in enumerate(CODECS):
            records = []
            for n in range(number, VECTORS, len(CODECS)):
                vector = self.vectors[f"{self.person}-{n}"] = rng.normal(size=self.dim).astype(
                    "<f4"
                )
                records.append(self._event(f"{self.person}-{n}", VectorPayload(vector, embedder)))
            for n in range(number, photographs, len(CODECS)):
                photograph = ImagePayload(self._png(rng))
                records.append(self._event(f"{self.person}-photograph-{n}", photograph))
            with closing(cluster.producer(compression_type=codec, linger_ms=20)) as producer:
                for one in records:
                    producer.send(
                        cluster.full_name(one.topic), one.value, one.key, list(one.headers)
                    )
                producer.flush(60)

    def _event(self, image: str, payload: VectorPayload | ImagePayload) -> OutgoingRecord:
        return encoding.encode_ingest(
            source="camera",
            event_id=image,
            time=now_us(),
            image_id=image,
            label=f"label {self.text}",
            payload=payload,
            subjects=[self.person],
            attributes={"note": self.text},
        )

    def _png(self, rng: np.random.Generator) -> bytes:
        said = PngInfo()
        said.add_text("Comment", self.text)
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG", pnginfo=said)
        return file.getvalue()

    def bytes_of(self, memory: Running) -> dict[bytes, str]:
        """Each vector's, as it was sent and as the memory has it, in every element type."""
        stored = memory.index().vectors_of(list(self.vectors))
        return {
            part.astype(kind).tobytes(): name
            for (name, vector), held in zip(self.vectors.items(), stored, strict=True)
            for part in (vector, vector / np.linalg.norm(vector), held)
            if part is not None
            for kind in ("<f4", "<f2")
        }


@pytest.mark.parametrize(("dtype", "photographs"), [("FLOAT16", 0), ("FLOAT32", 25)])
def test_of_a_thousand_vectors_none_is_recovered_and_all_of_the_control(
    erasing: Erasing, tmp_path: Path, dtype: str, photographs: int
) -> None:
    """As one who has the files would read them back; photographs are really embedded."""
    made = erasing.memory.settings
    embedder = Lite0Embedder() if photographs else VectorsOnly("test", 48)
    with running(
        erasing.folder / dtype,
        kafka=made.kafka,
        redis_url=made.redis.get_secret_value(),
        name=f"{dtype}-",
        workers=dict.fromkeys(("ingest", "correct", "forget", "query", "erase"), 1),
        embedder="lite0" if photographs else "vectors:test:48",
        dtype=dtype,
        **QUICK,
    ) as memory:
        ann, bob = (Album(name, embedder.dim) for name in ("ann", "bob"))
        for album in (ann, bob):
            album.send(memory, embedder.digest, photographs=photographs)
        memory.wait_until_merged()
        count = VECTORS + photographs
        assert memory.index().stats().items == 2 * count
        client = memory.client("asker")
        for album in (ann, bob):
            vector = album.vectors[f"{album.person}-7"]
            assert (
                client.query(vector, embedder=embedder.digest, k=1).label == f"label {album.text}"
            )
        anns, bobs = ann.bytes_of(memory), bob.bytes_of(memory)
        assert set(erasing.held(anns | bobs).values()) == {*ann.vectors, *bob.vectors}
        assert len(erasing.held({one.text.encode(): one.person for one in (ann, bob)})) == 2

        receipt = client.receipt(client.forget(subject="ann"), "completed", PATIENCE_SECONDS)

        assert receipt.images == count
        held = erasing.held({**anns, ann.text.encode(): "ann", **bobs})
        assert set(held.values()) == set(bob.vectors)
        for topic in Topic:
            for record in read_all(memory, topic):
                parts = [record.key, record.value, *(value for _, value in record.headers)]
                assert not any(ann.text.encode() in part for part in parts if part), topic
        memory.close()


def test_a_fresh_memory_made_from_the_erased_log_is_the_same(
    erasing: Erasing, tmp_path: Path
) -> None:
    """The forgotten, the requests that named them and their tombstones are gone by then; fences are not."""
    for n in range(4):
        vector = marked()[1]
        said: dict[str, Any] = {"label": "cat", "subjects": [f"person-{n}"], "embedder": "test"}
        erasing.client.ingest(vector, id=f"shared-{n % 2}", **said).position()
    requests = [erasing.client.forget(subject="person-0"), erasing.client.forget(label="none")]
    erasing.client.correct("shared-0", "dog").position()
    for request in requests:
        erasing.client.receipt(request, "completed", PATIENCE_SECONDS)
    held = {record.key for record in read_all(erasing.memory, Topic.FORGET_REQUEST) if record.value}
    assert not held & {request.request_id.encode() for request in requests}
    erasing.memory.wait_until_merged()
    made = erasing.memory.settings
    with running(
        tmp_path,
        kafka=made.kafka,
        redis_url=made.redis.get_secret_value(),
        name="erasing-",
        namespace="fresh",
        workers=dict.fromkeys(("ingest", "correct", "forget"), 1),
        embedder=f"vectors:test:{DIM}",
        **QUICK,
    ) as fresh:
        one, other = fresh.index(), erasing.memory.index()
        until(lambda: one.digests() == other.digests(), what=lambda: (one.stats(), other.stats()))
        assert one.stats().items > 0
        fresh.close()


def test_what_is_replayed_after_it_was_forgotten_changes_nothing_and_goes_again(
    erasing: Erasing,
) -> None:
    """All that the log had before, twice, the request too; and a repeat of the request alone."""
    text, vector, eves = marked()
    client, memory = erasing.client, erasing.memory
    for n in range(20):
        said: dict[str, Any] = {"label": f"l {text}", "subjects": ["eve"], "embedder": "test"}
        client.ingest(vector, id=f"eve-{n}", **said).position()
    client.correct("eve-3", f"c {text}").position()
    client.prune("eve-4").position()
    topics = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST)
    request = client.forget(subject="eve", event_id="eve")
    client.receipt(request, "erased")
    log = [record for topic in topics for record in read_all(memory, topic) if record.value]
    client.receipt(request, "completed", PATIENCE_SECONDS)
    assert erasing.holding(*eves) == []
    memory.wait_until_merged()
    index = memory.index()
    before, shown = index.digests(), index.stats().items
    with closing(kafka_cluster(memory.settings).producer()) as producer:
        for _ in range(2):
            for record in log:
                headers = [(name, value or b"") for name, value in record.headers]
                producer.send(record.topic, record.value, record.key, headers, record.partition)
        producer.flush(60)
    assert erasing.readable(*eves)
    memory.wait_until_merged()
    assert (index.digests(), index.stats().items) == (before, shown)
    after = client.forget(image="nobody at all")
    client.receipt(after, "completed", PATIENCE_SECONDS)
    assert erasing.holding(*eves) == []
    client.forget(subject="eve", event_id="eve")
    key = request.request_id.encode()

    def is_gone() -> bool:
        held = [one.value for one in read_all(memory, Topic.FORGET_REQUEST) if one.key == key]
        return not any(held)

    until(is_gone, PATIENCE_SECONDS)


def test_owners_are_told_which_claims_are_forgotten(erasing: Erasing) -> None:
    client = erasing.client
    for n, subject in enumerate(("carl", "dora", "carl")):
        claim = ClaimPayload(f"https://images.invalid/{n}.png", "0f" * 32)
        client.ingest(claim, id=f"claim-{n}", label="x", subjects=[subject]).position()
    client.ingest(marked()[1], id="claim-0", label="x", subjects=["carl"], embedder="test")
    erasing.memory.wait_until_merged()
    receipt = client.receipt(client.forget(subject="carl"), "completed", PATIENCE_SECONDS)
    assert any("forgotten-claim" in one.what for one in receipt.outside or ())
    told = [json.loads(one.value or b"") for one in read_all(erasing.memory, Topic.FORGOTTEN_CLAIM)]
    assert sorted(one["uri"] for one in told) == [
        "https://images.invalid/0.png",
        "https://images.invalid/2.png",
    ]
    held = [one.value or b"" for one in read_all(erasing.memory, Topic.IMAGE_INGEST)]
    for n, is_held in enumerate((False, True, False)):
        assert any(f"invalid/{n}.png".encode() in value for value in held) is is_held


def test_receipts_are_signed_and_in_one_chain(erasing: Erasing) -> None:
    request = erasing.client.forget(image="nobody")
    receipt = erasing.client.receipt(request, "completed", PATIENCE_SECONDS)
    assert isinstance(receipt, Receipt)
    values = [
        record.value
        for record in read_all(erasing.memory, Topic.FORGET_RECEIPT)
        if record.value and b'"signature"' in record.value
    ]
    assert values
    chain = Chain([SigningKey(bytes.fromhex(SIGNING_KEY)).public])
    assert [fault for value in values if (fault := chain.check(value))] == []


def test_the_erase_worker_stands_back_from_the_others(erasing: Erasing) -> None:
    state = read_state(erasing.memory.folder)
    assert state is not None
    nice = {role: psutil.Process(child["pid"]).nice() for role, child in state["children"].items()}
    own = os.nice(0)
    assert nice == {role: own + (NICENESS if role == "erase" else 0) for role in nice}
    assert len(nice) == 5


def test_those_that_write_preempt_nobody_who_answers(erasing: Erasing) -> None:
    state = read_state(erasing.memory.folder)
    assert state is not None
    of = {role: os.sched_getscheduler(child["pid"]) for role, child in state["children"].items()}
    writes = dict.fromkeys(("ingest", "correct", "forget"), os.SCHED_BATCH)
    assert of == {**writes, "query": os.SCHED_OTHER, "erase": os.SCHED_OTHER}


def test_a_request_for_later_is_carried_out_then_and_one_that_is_stopped_never(
    erasing: Erasing,
) -> None:
    client = erasing.client
    for name in ("early", "later", "kept"):
        client.ingest(
            marked()[1], id=name, label="x", subjects=[f"s-{name}"], embedder="test"
        ).position()
    erasing.memory.wait_until_merged()
    soon, a_year = now_us() + 8 * SECOND, now_us() + 365 * 24 * 3600 * SECOND
    later = client.forget(subject="s-later", not_before=soon)
    client.ingest(marked()[1], id="later", label="y", subjects=["s-later"], embedder="test")
    kept = client.forget(subject="s-kept", not_before=a_year, event_id="kept")
    early = client.forget(subject="s-early", not_before=now_us() - 3600 * SECOND)
    told = client.receipt(kept, "scheduled")
    assert (told.status, told.not_before, told.images) == ("scheduled", a_year, 0)
    assert client.receipt(early, "erased").images == 1, "a time that is past is now"
    assert client.cancel(kept)
    stopped = client.receipt(kept, "cancelled")
    with pytest.raises(Unavailable, match="was cancelled"):
        client.receipt(kept, "erased")
    erased = client.receipt(later, "erased")
    assert erased.images == 1
    assert erased.stages["erased"] >= soon
    assert client.cancel(later) is client.cancel(early) is False
    # A producer that did not see its request acknowledged sends it again.
    again = client.forget(subject="s-kept", not_before=a_year, event_id="kept")
    assert client.receipt(later, "completed", PATIENCE_SECONDS).stages["received"] < soon
    index = erasing.memory.index()
    assert index.holds(["early", "later", "kept"]) == [False, False, True]
    place = again.position()
    until(lambda: index.positions()[place.log_partition] > place.offset)
    assert client.receipt(again.request_id, "cancelled").stages == stopped.stages
    with pytest.raises(Unavailable, match="no request of this id is known yet"):
        client.cancel("00" * 32, timeout=1)
    held = {record.key for record in read_all(erasing.memory, Topic.FORGET_REQUEST) if record.value}
    assert not held & {one.request_id.encode() for one in (later, early)}


def test_what_is_alike_is_counted_and_forgotten_by_command(erasing: Erasing) -> None:
    base = marked()[1]
    for n, share in enumerate((0.0, 0.1, 5.0)):
        vector = (base + share * marked()[1]).astype("<f4")
        erasing.client.ingest(vector, id=f"alike-{n}", label=f"l{n}", embedder="test").position()
    erasing.memory.wait_until_merged()
    around = ("forget", "--near", "alike-0", "--within", "0.1")
    counted = json.loads(command(erasing, *around, "--dry-run", "--json").stdout)
    assert counted == {"images": 2, "listed": 2, "labels": {"l0": 1, "l1": 1}}
    done = json.loads(command(erasing, *around, "--json").stdout)
    assert (done["images"], done["selector"]["kind"]) == (2, "within")
    assert erasing.memory.index().holds([f"alike-{n}" for n in range(3)]) == [False, False, True]
    assert command(erasing, "forget", "--near", "alike-2").exit_code == 2


def test_a_request_for_later_is_made_and_stopped_by_command(erasing: Erasing) -> None:
    made = command(erasing, "forget", "--image", "kept", "--not-before", "2199-01-01T00:00:00Z")
    assert made.exit_code == 0
    assert "not before 2199-01-01T00:00:00.000000Z" in made.stderr
    (name,) = re.findall("visual-memory cancel ([0-9a-f]{64})", made.stderr)
    assert json.loads(command(erasing, "cancel", name, "--json").stdout)["outcome"] == "cancelled"
    past = command(
        erasing, "forget", "--image", "z", "--not-before", "2001-01-01T00:00:00Z", "--json"
    )
    assert command(erasing, "cancel", json.loads(past.stdout)["request"]).exit_code == 1
    for words, why in (
        (("forget", "--image", "z", "--not-before", "soon"), "--not-before must be an RFC 3339"),
        (("cancel", "that one"), "cancel must be the id of a request"),
    ):
        refused = command(erasing, *words)
        assert refused.exit_code != 0
        assert why in str(refused.exception)


def command(erasing: Erasing, *words: str, **settings: str) -> Result:
    made = erasing.memory.settings
    values = {
        "kafka": made.kafka,
        "redis": made.redis.get_secret_value(),
        "topic_prefix": made.topic_prefix,
        "namespace": made.namespace,
        "hmac_key": KEY,
        "signing_key": SIGNING_KEY,
        "compaction_lag": "2",
        "answers_kept": "6",
        "erasure_pause": "0.2",
        "claim_prefixes": ",".join(made.claim_prefixes),
        **settings,
    }
    environment = {f"{ENVIRONMENT_PREFIX}{name.upper()}": text for name, text in values.items()}
    return CliRunner().invoke(cli, list(words), env=environment)


def test_the_commands_show_and_verify_receipts(erasing: Erasing, tmp_path: Path) -> None:
    done = command(erasing, "forget", "--image", "x", "--wait", "completed", "--timeout", "300")
    assert done.exit_code == 1  # nobody ever heard of it
    assert "nothing matched" in done.stderr
    assert "completed: " in done.stderr
    assert "outside: backups" in done.stderr
    listed = command(erasing, "receipt", "list").stdout
    values = [json.loads(line) for line in listed.splitlines()]
    assert [one["sequence"] for one in values] == list(range(1, len(values) + 1))
    last = values[-1]["request"]
    of_one = command(erasing, "receipt", "list", "--request", last).stdout
    assert {json.loads(line)["request"] for line in of_one.splitlines()} == {last}
    public, key_id = command(erasing, "receipt", "key").stdout.split()
    assert key_id == values[0]["key"]
    file = tmp_path / "receipts.jsonl"
    for text, faults in (
        (listed, 0),
        (listed.replace('"until":', '"until":1', 1), 1),
        ("\n".join(listed.splitlines()[1:]), 1),
        ("", 0),
    ):
        file.write_text(text)
        said = command(erasing, "receipt", "verify", str(file), "--key", public, "--json")
        found = json.loads(said.stdout)
        assert (len(found["faults"]) > 0) == (faults > 0)
        assert said.exit_code == (0 if text and not faults else 1)
    assert command(erasing, "receipt", "verify").exit_code == 0
    assert command(erasing, "receipt", "verify", "--key", "00" * 32).exit_code == 1


def test_erasing_takes_no_longer_than_the_audit_says(erasing: Erasing) -> None:
    told = json.loads(command(erasing, "audit", "--json").stdout)
    assert told["faults"] == []
    request = erasing.client.forget(subject="bob")
    receipt = erasing.client.receipt(request, "completed", PATIENCE_SECONDS)
    took = (receipt.stages["completed"] - receipt.stages["received"]) / SECOND
    assert 0 < took <= told["seconds"] < COMPLETED_SECONDS
    assert receipt.evidence is not None
    assert receipt.evidence["took_ms"] == pytest.approx(1000 * took, abs=50)
    assert receipt.evidence["worst_case_ms"] == pytest.approx(1000 * told["seconds"], rel=0.2)
    broken = command(erasing, "audit", erasure_limit="1")
    assert broken.exit_code == 1
    assert "VISUAL_MEMORY_" in broken.stderr
    topic = kafka_cluster(erasing.memory.settings).full_name(Topic.QUERY)
    alter(erasing.memory.settings.kafka, topic, retention_ms="5000", segment_ms="1400")
    assert command(erasing, "audit").exit_code == 0
