"""Real servers and workers for the measurements, and what is done with them."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from memory.model.answers import Position
from memory.model.events import LogPartition
from memory.model.questions import NOTHING_SUPPOSED, WhatIf
from memory.model.vectors import Vector
from streams import bootstrap
from streams.client import MemoryClient
from streams.config import memory_topics
from streams.config.connections import kafka_cluster
from streams.config.settings import CACHE, Settings, load, worker_environment
from streams.contract.messages import Answer
from streams.contract.topics import Topic
from streams.local.kafka_server import KafkaServer
from streams.local.process import ChildSpec, Process
from streams.local.redis_server import RedisServer
from streams.local.server import free_port
from streams.local.supervisor import Supervisor
from streams.stack import answers

DIM = 384
EMBEDDER = "bench"


@dataclass(frozen=True, slots=True)
class Servers:
    """One Kafka and one Redis for all measurements."""

    folder: Path
    kafka: str
    redis: str
    kafka_pids: tuple[int, ...]
    redis_pids: tuple[int, ...]


@contextlib.contextmanager
def servers(folder: Path, kafka_settings: Mapping[str, str] | None = None) -> Iterator[Servers]:
    with (
        KafkaServer(folder / "kafka", CACHE, extra_config=kafka_settings) as kafka,
        RedisServer(folder / "redis", CACHE) as store,
    ):
        yield Servers(folder, kafka.bootstrap, store.url, _pids(kafka), _pids(store))


def _pids(server: Process) -> tuple[int, ...]:
    return () if server.pid is None else (server.pid,)


def cpu_seconds(groups: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """That the processes of each group, with their children, have used so far, and this process as ``client``."""
    found = {"client": sum(os.times()[:2])}
    for name, pids in groups.items():
        found[name] = 0.0
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                family = [process, *process.children(recursive=True)]
                found[name] += sum(sum(each.cpu_times()[:2]) for each in family)
    return found


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 99)}


def vectors(count: int, seed: int = 0) -> list[Vector]:
    """Unit vectors, float32, shape (384,) each."""
    drawn = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return list(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Service:
    """A memory with workers up."""

    settings: Settings
    client: MemoryClient
    ports: Mapping[str, int]
    """Of each role's /metrics."""

    def metric(self, role: str, name: str, **labels: str) -> float:
        """What a role's worker says of itself."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[role]}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def teach(self, images: Sequence[Vector | Path], subject: str | None = None) -> None:
        """Send images, all of a subject, and return when all are merged."""
        subjects = [] if subject is None else [subject]
        pending = [
            self.client.ingest(
                image, id=f"s{n}", label=f"l{n % 100}", embedder=EMBEDDER, subjects=subjects
            )
            for n, image in enumerate(images)
        ]
        last: dict[LogPartition, Position] = {}
        for one in pending:
            position = one.position(120)
            last[position.log_partition] = position
        store = bootstrap.redis_client(self.settings)
        index = bootstrap.open_index(self.settings, store)
        while any(index.positions().get(at, 0) <= last[at].offset for at in last):
            time.sleep(0.005)
        store.close()

    def ask(
        self, vector: Vector, k: int, what_if: WhatIf = NOTHING_SUPPOSED, *, why: bool = False
    ) -> Answer:
        answer = self.client.query(vector, embedder=EMBEDDER, k=k, what_if=what_if, why=why)
        if answer.status != "answered":
            raise RuntimeError(f"the memory answered {answer.status}")
        return answer

    def freshness(self, rounds: int) -> list[float]:
        """Seconds from sending an event to an answer that has seen it, one at a time."""
        found = []
        for vector in vectors(rounds, seed=2):
            started = time.perf_counter()
            written = self.client.ingest(vector, id="fresh", label="fresh", embedder=EMBEDDER)
            self.client.query(vector, embedder=EMBEDDER, k=1, after=[written.position()])
            found.append(time.perf_counter() - started)
        return found


@contextlib.contextmanager
def running(
    at: Servers,
    name: str,
    roles: Sequence[str],
    *,
    embedder: str = f"vectors:{EMBEDDER}:{DIM}",
    algorithm: str = "FLAT",
    **changed: Any,
) -> Iterator[Service]:
    """Workers of the roles, on topics and keys of their own; a second one of a role is ``ROLE-1``."""
    values: dict[str, Any] = {
        "kafka": at.kafka,
        "redis": at.redis,
        "topic_prefix": f"{name}-",
        "namespace": name,
        "hmac_key": secrets.token_hex(32),
        "embedder": embedder,
        "index_algorithm": algorithm,
        **changed,
    }
    settings = load(**values)
    memory_topics.create_topics(settings)
    folder = at.folder / name
    ports = {role: free_port() for role in roles}

    def spec(role: str) -> ChildSpec:
        port = ports[role]
        return ChildSpec(
            role,
            (sys.executable, "-m", "streams.cli", "worker", role.partition("-")[0]),
            folder / f"{role}.log",
            env=worker_environment(web_port=port, instance=role, **values),
            ready=lambda: answers(port),
            ready_timeout=90,
            stop_timeout=20,
        )

    up = threading.Event()
    supervisor = Supervisor(folder, [spec(role) for role in roles], on_running=up.set)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        while not up.wait(0.1):
            if not thread.is_alive():
                raise RuntimeError(f"the workers did not start; see {folder}")
        with bootstrap.client(settings, "bench") as client:
            yield Service(settings, client, ports)
    finally:
        supervisor.stop(60)
        thread.join()


def round_trips(service: Service, count: int) -> list[float]:
    """Seconds for a small record to the log and back, with nothing in between."""
    topic = kafka_cluster(service.settings).full_name(Topic.REJECTED)
    producer = KafkaProducer(bootstrap_servers=service.settings.kafka, linger_ms=0, acks="all")
    consumer = KafkaConsumer(bootstrap_servers=service.settings.kafka, enable_auto_commit=False)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek_to_end(tp)
    consumer.position(tp)
    found = []
    for _ in range(count):
        started = time.perf_counter()
        producer.send(topic, b"x", partition=0)
        while not consumer.poll(timeout_ms=1000):
            pass
        found.append(time.perf_counter() - started)
    producer.close()
    consumer.close()
    return found


def workers() -> dict[str, psutil.Process]:
    """The workers of this process, by role."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            arguments = child.cmdline()
            if "worker" in arguments:
                found[arguments[arguments.index("worker") + 1]] = child
    return found


def resident() -> dict[str, float]:
    """MB of memory that each worker of this process holds, by role."""
    return {role: round(each.memory_info().rss / 2**20, 1) for role, each in workers().items()}
