"""The systems that are compared: how each is started, and how it is spoken to."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks import service
from benchmarks.peers.driver import Dialect, Sent
from benchmarks.service import DIM, EMBEDDER, Servers
from memory.model.events import Selector, SelectorKind, VectorPayload
from memory.model.questions import Query
from memory.model.times import now_us
from memory.model.vectors import Vector
from streams.config.connections import kafka_cluster
from streams.config.settings import Settings
from streams.contract.cloudevents import Header
from streams.contract.encoding import encode_correction, encode_forget, encode_ingest, encode_query
from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster

SYSTEMS = Path(__file__).parent / "systems"
PEERS_PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
OWN_PYTHON = Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Running:
    """A system that is up, and the processes that are its own."""

    dialect: Dialect
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PeerDialect:
    """What the scripts under ``systems`` read and write."""

    prefix: str

    @property
    def answers(self) -> str:
        return self.prefix + "answers"

    def _event(self, image: str, label: str | None, vector: Vector | None) -> Sent:
        event = {
            "id": image,
            "label": label,
            "vector": None if vector is None else vector.tobytes(),
            "deleted": vector is None,
        }
        return Sent(self.prefix + "events", image.encode(), msgspec.msgpack.encode(event))

    def ingest(self, image: str, label: str, vector: Vector) -> Sent:
        return self._event(image, label, vector)

    def relabel(self, image: str, label: str, vector: Vector) -> Sent:
        return self._event(image, label, vector)

    def delete(self, image: str) -> Sent:
        return self._event(image, None, None)

    def ask(self, question: str, vector: Vector, k: int) -> Sent:
        asked = {"id": question, "vector": vector.tobytes(), "k": k}
        return Sent(self.prefix + "questions", question.encode(), msgspec.msgpack.encode(asked))

    def question_of(self, record: Any) -> str:
        return str(record.key.decode())

    def neighbours(self, record: Any) -> list[tuple[str, str]]:
        return [(found[0], found[1]) for found in json.loads(record.value)["neighbors"]]


@dataclass(slots=True)
class ServiceDialect:
    """The event contract of this service."""

    cluster: KafkaCluster
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def answers(self) -> str:
        return self.cluster.full_name(Topic.PREDICTION)

    def _said(self) -> dict[str, Any]:
        return {"source": "bench", "event_id": f"e{next(self._numbers)}", "time": now_us()}

    def _sent(self, record: OutgoingRecord) -> Sent:
        topic = self.cluster.full_name(record.topic)
        return Sent(topic, record.key, record.value or b"", record.headers)

    def ingest(self, image: str, label: str, vector: Vector) -> Sent:
        payload = VectorPayload(vector, EMBEDDER)
        said = self._said()
        return self._sent(encode_ingest(**said, image_id=image, label=label, payload=payload))

    def relabel(self, image: str, label: str, vector: Vector) -> Sent:  # noqa: ARG002 - others want it
        return self._sent(encode_correction(**self._said(), image_id=image, label=label))

    def delete(self, image: str) -> Sent:
        selector = Selector(SelectorKind.IMAGE, image)
        return self._sent(encode_forget(**self._said(), selector=selector))

    def ask(self, question: str, vector: Vector, k: int) -> Sent:
        query = Query(VectorPayload(vector, EMBEDDER), k=k)
        said = {**self._said(), "event_id": question}
        return self._sent(encode_query(**said, query=query, reply_partition=0))

    def question_of(self, record: Any) -> str:
        return str(dict(record.headers)[Header.QUERY_ID].decode())

    def neighbours(self, record: Any) -> list[tuple[str, str]]:
        return [(found["id"], found["label"]) for found in json.loads(record.value)["neighbors"]]


@contextlib.contextmanager
def peer(
    at: Servers,
    name: str,
    script: str,
    algorithm: str = "",
    python: Path = PEERS_PYTHON,
    roles: Sequence[str] = ("",),
) -> Iterator[Running]:
    """A script under ``systems``, a process for each of its roles, with topics of one partition of its own."""
    prefix = f"{name}-"
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=at.kafka)) as admin:
        topics = [prefix + topic for topic in ("events", "questions", "answers")]
        admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
    environment = {
        **os.environ,
        "KAFKA": at.kafka,
        "REDIS_URL": at.redis,
        "PREFIX": prefix,
        "DIM": str(DIM),
        "DATADIR": str(at.folder),
        **({"ALGORITHM": algorithm} if algorithm else {}),
    }
    with (at.folder / f"{name}.log").open("w") as log:
        processes = [
            subprocess.Popen(
                [str(python), str(SYSTEMS / script)],
                env={**environment, "ROLE": role},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for role in roles
        ]
        try:
            yield Running(PeerDialect(prefix), tuple(process.pid for process in processes))
        except Exception:
            print(Path(log.name).read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            for process in processes:
                os.killpg(process.pid, 9)
                process.wait()


@contextlib.contextmanager
def this_service(at: Servers, name: str) -> Iterator[Running]:
    """A worker of each role, in the default configuration with one partition."""
    roles = ("ingest", "correct", "forget", "query")
    with service.running(at, name, roles, partitions=1) as memory:
        settings: Settings = memory.settings
        yield Running(
            ServiceDialect(kafka_cluster(settings)),
            tuple(found.pid for found in service.workers().values()),
        )
