"""A memory of images made anew by another embedder, without workers: what cannot be read is told."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from PIL import Image

from memory.errors import Misconfigured
from memory.model.events import ClaimPayload, LogPartition
from memory.model.questions import Probe
from streams import bootstrap
from streams.config import memory_topics
from streams.config.connections import kafka_cluster
from streams.config.settings import load
from streams.contract import decoding
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.rebuild.rebuild import Loss, Result
from streams.rebuild.wiring import open_rebuild
from tests.integration.events import read_all
from tests.integration.running import KEY, Running


@dataclass(frozen=True)
class Colours:
    """An embedder that sees the mean colour, and something of its own."""

    name: str
    own: float
    dim: int = 4

    @property
    def digest(self) -> str:
        return f"{self.name}:{self.dim}"

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        means = [[*np.asarray(image).mean((0, 1)) / 255, self.own] for image in images]
        found = np.array(means, np.float32)
        unit: npt.NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit


def png(seed: int) -> bytes:
    out = io.BytesIO()
    colour = np.random.default_rng(seed).integers(0, 255, 3).tolist()
    Image.new("RGB", (8, 8), tuple(colour)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def memory(
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    images: Path,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Running]:
    """Three images in the log, the last of them by its address, all merged."""
    name = unique("images")
    settings = load(
        kafka=kafka_bootstrap,
        redis=redis_url,
        topic_prefix=name,
        namespace=name,
        hmac_key=KEY,
        partitions=1,
        claim_prefixes=f"{images.as_uri()}/",
    )
    memory_topics.create_topics(settings)
    found = Running(settings, tmp_path)
    client = found.client()
    (images / "claimed.png").write_bytes(png(3))
    digest = hashlib.sha256(png(3)).hexdigest()
    client.ingest(png(1), id="one", label="a").position()
    client.ingest(png(2), id="two", label="b").position()
    address = f"{images.as_uri()}/claimed.png"
    client.ingest(ClaimPayload(address, digest), id="claimed", label="c").position()
    first = Colours("first", 0.5)
    monkeypatch.setattr(bootstrap, "embedder", lambda _settings: first)
    store = bootstrap.redis_client(settings)
    found.stores.append(store)
    index = bootstrap.open_index(settings, store, first)
    ids = memory_topics.known_topic_ids(settings)
    topic_id = ids[kafka_cluster(settings).full_name(Topic.IMAGE_INGEST)]
    skew = round(settings.clock_skew * 1_000_000)
    events: list[Any] = [
        decoding.decode_ingest(record, topic_id, clock_skew=skew)
        for record in read_all(found, Topic.IMAGE_INGEST)
    ]
    bootstrap.memory_of(settings, index, first).remember(events)
    index.advance({LogPartition(topic_id, 0): len(events)})
    assert index.stats().items == 3
    yield found
    found.close()


def rebuilt(memory: Running, *, drop: bool = False) -> Result:
    with open_rebuild(memory.settings, print) as work:
        return work.run(drop_unembeddable=drop)


def test_a_log_that_lost_what_the_memory_has_read_is_not_rebuilt_from(memory: Running) -> None:
    ids = memory.topic_ids()
    topic_id = ids[kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)]
    memory.index().advance({LogPartition(topic_id, 0): 4})
    with pytest.raises(Misconfigured, match="ends at 3, but this memory has read up to 4"):
        rebuilt(memory)


def test_another_embedder_sees_all_images_anew(
    memory: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Colours("second", 0.1)
    monkeypatch.setattr(bootstrap, "embedder", lambda _settings: second)
    assert rebuilt(memory) == Result(switched=True)
    index = memory.index()
    assert index.embedder == second.digest
    (seen,) = second.embed([Image.open(io.BytesIO(png(2)))])
    (stored,) = index.vectors_of(["two"])
    assert stored is not None
    assert np.allclose(stored, seen, atol=1e-3)
    assert [hit.image_id for hit in index.search([Probe(seen, 1)])[0].hits] == ["two"]


def test_a_claim_that_leads_nowhere_is_told_and_read_when_it_is_back(
    memory: Running, images: Path
) -> None:
    (images / "claimed.png").unlink()
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    refused = rebuilt(memory)
    assert refused == Result(switched=False, losses=(Loss(topic, 0, 2, "claim-missing"),))
    assert memory.index().stats().items == 3
    (images / "claimed.png").write_bytes(png(3))
    assert rebuilt(memory) == Result(switched=True)
    assert memory.index().stats().items == 3


def test_images_whose_records_were_deleted_are_not_lost_silently(
    memory: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    with KafkaCluster(memory.settings.kafka).administration() as admin:
        for policy in ("compact,delete", "compact"):
            change = ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": policy})
            admin.alter_configs([change])
            deadline = time.monotonic() + 10
            while policy != "compact" and time.monotonic() < deadline:
                try:
                    admin.delete_records({TopicPartition(topic, 0): 2})
                    break
                except KafkaError:  # the broker has not taken the policy yet
                    time.sleep(0.1)
    refused = rebuilt(memory)
    assert refused == Result(switched=False, gone=2)
    assert f"{topic}[0] begins at 2: records were deleted" in capsys.readouterr().out
    assert memory.index().stats().items == 3
    assert rebuilt(memory, drop=True) == Result(switched=True, gone=2)
    assert memory.index().stats().items == 1
