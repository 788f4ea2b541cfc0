"""Batches of the log as other people's producers write them: compressed, swollen, transactional."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from memory.model.events import ImagePayload, VectorPayload
from memory.model.times import now_us
from streams.config import memory_topics
from streams.config.connections import kafka_cluster
from streams.config.settings import load
from streams.contract.encoding import encode_ingest
from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.kafka.decompression import MAX_DECOMPRESSED_BYTES
from streams.kafka.log_witness import LogWitness
from streams.local.kafka_server import KafkaServer
from tests.integration.events import EMBEDDER, rejected, unit
from tests.integration.running import KEY, Running, running
from tests.integration.test_rebuild import rebuild

pytestmark = pytest.mark.servers

CODECS = ("gzip", "snappy", "lz4", "zstd")


@pytest.fixture(scope="module")
def memory(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("batches"),
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"batches-{time.time_ns()}-",
        workers={"ingest": 1, "query": 1},
        embedder=EMBEDDER,
        partitions=2,
    ) as found:
        yield found


def event(name: str, seed: int) -> OutgoingRecord:
    return encode_ingest(
        source="test",
        event_id=name,
        time=now_us(),
        image_id=name,
        label=name.partition("-")[0],
        payload=VectorPayload(unit(seed), "test"),
    )


def write(memory: Running, records: list[OutgoingRecord], **producer: object) -> None:
    made = KafkaProducer(
        bootstrap_servers=memory.settings.kafka, linger_ms=200, batch_size=1 << 20, **producer
    )
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    sent = [made.send(topic, r.value, r.key, headers=list(r.headers), partition=0) for r in records]
    for one in sent:
        one.get(30)
    made.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_batch_is_read(memory: Running, codec: str) -> None:
    write(memory, [event(f"{codec}-{n}", n) for n in range(40)], compression_type=codec)
    memory.wait_until_merged()
    assert memory.index().label_counts()[codec] == 40
    assert memory.restarts("ingest") == 0


@pytest.mark.parametrize("codec", CODECS)
def test_a_topic_that_compresses_by_itself_is_read(memory: Running, codec: str) -> None:
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    with kafka_cluster(memory.settings).administration() as admin:
        settings = {"compression.type": codec}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
    time.sleep(1)
    write(memory, [event(f"broker{codec}-{n}", n) for n in range(40)])
    memory.wait_until_merged()
    assert memory.index().label_counts()[f"broker{codec}"] == 40


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])  # snappy makes too little of zeros
def test_a_batch_that_swells_is_rejected_record_by_record_and_the_next_is_taken(
    memory: Running, codec: str
) -> None:
    swollen = encode_ingest(
        source="test",
        event_id=f"swollen-{codec}",
        time=now_us(),
        image_id="swollen",
        label="swollen",
        payload=ImagePayload(bytes(MAX_DECOMPRESSED_BYTES + 1)),
    )
    before = len(rejected(memory))
    write(memory, [swollen], compression_type=codec, max_request_size=4 * MAX_DECOMPRESSED_BYTES)
    write(memory, [event(f"after{codec}-0", 1)])
    memory.wait_until_merged()
    (why,) = rejected(memory)[before:]
    assert why["reason"] == "image-too-large"
    assert "decompressed" in str(why["detail"])
    assert memory.index().label_counts()[f"after{codec}"] == 1
    assert memory.restarts("ingest") == 0


def test_an_aborted_transaction_is_not_learnt_and_leaves_no_lag(memory: Running) -> None:
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    producer = KafkaProducer(
        bootstrap_servers=memory.settings.kafka, transactional_id=f"t-{time.time_ns()}"
    )
    producer.init_transactions()
    for name, end in (
        ("committed", producer.commit_transaction),
        ("aborted", producer.abort_transaction),
    ):
        producer.begin_transaction()
        for n in range(3):
            record = event(f"{name}-{n}", n)
            producer.send(
                topic, record.value, record.key, headers=list(record.headers), partition=0
            )
        producer.flush()
        end()
    producer.close()
    memory.wait_until_merged()
    index = memory.index()
    counts = index.label_counts()
    assert counts["committed"] == 3
    assert "aborted" not in counts
    cluster = kafka_cluster(memory.settings)
    with closing(LogWitness(cluster, topic, memory.topic_ids()[topic], index)) as witness:
        assert witness.check(range(memory.settings.partitions)), "markers are part of the log"


def test_what_is_not_committed_yet_is_learnt_when_it_is(memory: Running) -> None:
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    producer = KafkaProducer(
        bootstrap_servers=memory.settings.kafka, transactional_id=f"t-{time.time_ns()}"
    )
    producer.init_transactions()
    producer.begin_transaction()
    record = event("open-0", 1)
    producer.send(topic, record.value, record.key, headers=list(record.headers), partition=0)
    producer.flush()
    time.sleep(2)
    assert "open" not in memory.index().label_counts()
    producer.commit_transaction()
    producer.close()
    memory.wait_until_merged()
    assert memory.index().label_counts()["open"] == 1


def damage(folder: Path, marked: bytes) -> None:
    """Change a byte behind a mark in the log's files."""
    (segment,) = [path for path in folder.rglob("*.log") if marked in path.read_bytes()]
    at = segment.read_bytes().index(marked) + len(marked)
    with segment.open("r+b") as log:
        log.seek(at)
        byte = log.read(1)
        log.seek(at)
        log.write(bytes([byte[0] ^ 0xFF]))


def reasons(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_a_batch_that_cannot_be_read_holds_up_its_partition_alone_and_is_named(
    tmp_path: Path, redis_url: str, unique: Callable[[str], str]
) -> None:
    name = unique("broken")
    with KafkaServer(tmp_path / "kafka") as server, ExitStack() as opened:
        settings = load(
            kafka=server.bootstrap,
            redis=redis_url,
            topic_prefix=name,
            namespace=name,
            hmac_key=KEY,
            embedder=EMBEDDER,
            partitions=2,
        )
        memory_topics.create_topics(settings)
        topic = kafka_cluster(settings).full_name(Topic.IMAGE_INGEST)
        producer = KafkaProducer(bootstrap_servers=server.bootstrap)
        opened.callback(producer.close)

        def put(image: str, partition: int) -> None:
            record = event(image, 1)
            sent = (topic, record.value, record.key, list(record.headers), partition)
            producer.send(*sent).get(30)

        put("good-0", 0)
        put("broken-marked-image", 0)
        put("behind-0", 0)
        put("good-1", 1)
        damage(tmp_path / "kafka", b"broken-marked-image")
        with running(
            tmp_path / "workers",
            kafka=server.bootstrap,
            redis_url=redis_url,
            name=name,
            workers={"ingest": 1},
            embedder=EMBEDDER,
            partitions=2,
        ) as memory:
            deadline = time.monotonic() + 30
            while "cannot be read" not in (said := reasons(memory.ports["ingest"])):
                assert time.monotonic() < deadline, said + memory.logs()
                time.sleep(0.2)
            assert f"{topic}[0]: the batch at offset 1 cannot be read" in said
            put("good-2", 1)
            while memory.index().label_counts().get("good") != 3:
                assert time.monotonic() < deadline, memory.logs()
                time.sleep(0.2)
            assert "behind" not in memory.index().label_counts()
            assert f"{topic}[0]: the batch at offset 1 cannot be read" in memory.logs()
            assert memory.restarts("ingest") == 0


class Latin(str):
    """A header's name in another encoding than UTF-8."""

    __slots__ = ()

    def encode(self, *_: object, **__: object) -> bytes:
        return super().encode("latin-1")


def test_a_rebuild_reads_what_the_workers_read_and_rejects_what_they_reject(
    memory: Running,
) -> None:
    large = encode_ingest(
        source="test",
        event_id="large",
        time=now_us(),
        image_id="large",
        label="large",
        payload=VectorPayload(unit(5), "test"),
    )
    padded = replace(large, headers=(*large.headers, ("pad", bytes(MAX_DECOMPRESSED_BYTES))))
    named = event("latin-1", 6)
    named = replace(named, headers=(*named.headers, (Latin("caf\xe9"), b"1")))
    write(memory, [padded], compression_type="zstd", max_request_size=4 * MAX_DECOMPRESSED_BYTES)
    write(memory, [named, event("rebuilt-1", 7)])
    memory.wait_until_merged()
    counts, digests = memory.index().label_counts(), memory.index().digests()
    assert counts["latin"] == counts["rebuilt"] == 1
    assert "large" not in counts
    done = rebuild(memory)
    assert done.returncode == 0, done.stderr
    assert memory.index().label_counts() == counts
    assert memory.index().digests() == digests
