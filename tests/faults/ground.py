"""Where faults happen: servers that may be killed, a seeded load, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaProducer
from PIL import Image
from prometheus_client import CollectorRegistry, multiprocess

from memory.errors import Unavailable
from memory.model.events import (
    Forget,
    ImagePayload,
    LogAddress,
    Payload,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.vectors import Vector
from streams import bootstrap
from streams.config.connections import kafka_cluster
from streams.config.roles import ROLES
from streams.config.settings import CACHE
from streams.contract import encoding
from streams.contract.records import OutgoingRecord
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from streams.local.state import read_state
from tests.faults.breaking_worker import DIM
from tests.integration.events import admitted_events, read_all, rebuilt_digests, rejected
from tests.integration.running import Running, running

ENTRY = str(Path(__file__).parent / "breaking_worker.py")
ALL = {"ingest": 1, "correct": 1, "forget": 1, "query": 1}
IMAGES, SUBJECTS, SOURCES, LABELS = 60, 12, 3, 6
STOP_SECONDS = 20.0


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=DIM)
    found: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def vector_of(seed: int) -> Payload:
    return VectorPayload(unit(seed), "test")


def picture_of(seed: int) -> Payload:
    """A small image of one colour."""
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 256, 3))
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour[0], colour[1], colour[2])).save(file, "PNG")
    return ImagePayload(file.getvalue())


def any_of(seed: int) -> Payload:
    """One in eight an image: a batch is now of ready vectors alone, now not."""
    return vector_of(seed) if seed % 8 else picture_of(seed)


def event(
    name: str, rng: random.Random, payload_of: Callable[[int], Payload] = vector_of
) -> OutgoingRecord:
    """One of the four kinds, about few images, so that events meet."""
    now = time.time_ns() // 1000 - rng.randrange(1_000_000)
    image_id = f"image-{rng.randrange(IMAGES)}"
    label, source = f"label-{rng.randrange(LABELS)}", f"source-{rng.randrange(SOURCES)}"
    subject = f"subject-{rng.randrange(SUBJECTS)}"
    kind = rng.random()
    if kind < 0.6:
        return encoding.encode_ingest(
            source=source,
            event_id=name,
            time=now,
            image_id=image_id,
            label=label,
            payload=payload_of(rng.randrange(1 << 30)),
            subjects=[subject][: rng.randrange(2)],
        )
    if kind < 0.7:
        return encoding.encode_pruning(
            source=source,
            event_id=name,
            time=now,
            image_id=image_id,
            pruned=rng.random() < 0.5,
        )
    if kind < 0.95:
        correction = rng.choice([label, label, None])
        return encoding.encode_correction(
            source=source, event_id=name, time=now, image_id=image_id, label=correction
        )
    return encoding.encode_forget(
        source=source, event_id=name, time=now, selector=_selector(rng, image_id, subject, label)
    )


def _selector(rng: random.Random, image_id: str, subject: str, label: str) -> Selector:
    kind, value = rng.choice(
        [
            (SelectorKind.IMAGE, image_id),
            (SelectorKind.SUBJECT, subject),
            (SelectorKind.LABEL, label),
        ]
    )
    return Selector(kind, value)


@dataclass
class Servers:
    """A Kafka and a Redis of their own, on ports that stay."""

    kafka: KafkaServer
    redis: RedisServer

    @classmethod
    def start(cls, folder: Path) -> Servers:
        made = cls(KafkaServer(folder / "kafka", CACHE), RedisServer(folder / "redis", CACHE))
        made.kafka.start()
        made.redis.start()
        return made

    def stop(self) -> None:
        self.kafka.stop()
        self.redis.stop()


class Load:
    """A seeded mixed load, sent by a thread; every record is acknowledged in the end."""

    def __init__(
        self,
        memory: Running,
        seed: int,
        events: int,
        *,
        rate: float = 400.0,
        payload_of: Callable[[int], Payload] = vector_of,
        only: Container[Topic] = tuple(Topic),
    ) -> None:
        self._memory = memory
        self._rng = random.Random(seed)
        self._name = f"{seed}"
        self._rate = rate
        self._payload_of = payload_of
        self._only = only
        self.wanted = events
        self.sent: list[OutgoingRecord] = []
        self._failure: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            producer = KafkaCluster(self._memory.settings.kafka).producer(linger_ms=5)
            started = time.monotonic()
            futures = []
            for n in range(self.wanted):
                record = event(f"{self._name}-{n}", self._rng, self._payload_of)
                if record.topic in self._only:
                    futures.append(send(producer, self._memory, record))
                    self.sent.append(record)
                time.sleep(max(0.0, started + n / self._rate - time.monotonic()))
            producer.flush(60)
            for future in futures:
                future.get(30)
            producer.close()
        except Exception as error:  # noqa: BLE001 - told to the case's own thread
            self._failure.append(error)

    def wait_for(self, share: float) -> None:
        """Return when this share of the load is sent."""
        while self._thread.is_alive() and len(self.sent) < share * self.wanted:
            time.sleep(0.01)

    def finish(self, timeout: float = 120.0) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the load is not acknowledged"
        if self._failure:
            raise self._failure[0]


def send(
    producer: KafkaProducer, memory: Running, record: OutgoingRecord, partition: int | None = None
) -> Any:
    return producer.send(
        kafka_cluster(memory.settings).full_name(record.topic),
        record.value,
        record.key,
        headers=list(record.headers),
        partition=partition,
    )


@dataclass
class Row:
    """What one case came to."""

    case: str
    events: int
    lost: int
    twice: int
    equal: bool
    recovery: float

    HEAD = f"{'case':<58} events lost twice equal seconds"

    def __str__(self) -> str:
        equal = "yes" if self.equal else "NO"
        return (
            f"{self.case:<58} {self.events:>6} {self.lost:>4} {self.twice:>5} {equal:>5} "
            f"{self.recovery:>7.1f}"
        )


ROWS: list[Row] = []


@dataclass
class Ground:
    """A memory with its workers up, on servers that a case may kill."""

    servers: Servers
    memory: Running
    folder: Path
    poison: set[bytes] = field(default_factory=set)
    """Keys of records that are meant to be rejected."""
    judged: int = 0

    def arm(self, role: str, step: str, call: int = 1) -> Path:
        """Have a worker break after the n-th call of a step from now on, once."""
        file = self.folder / f"armed-{role}"
        unfinished = self.folder / f".armed-{role}"
        unfinished.write_text(f"{step}:{call}")
        unfinished.replace(file)
        return file

    def pid(self, name: str) -> int:
        self.wait_until(lambda: self.child(name)["pid"] is not None, f"{name} runs")
        return int(self.child(name)["pid"])

    def signal(self, name: str, number: int) -> int:
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def stop(self, name: str) -> float:
        """SIGTERM to a worker; the seconds until it has ended, which must be few."""
        started = time.monotonic()
        pid = self.signal(name, signal.SIGTERM)
        while not gone(pid):
            took = time.monotonic() - started
            assert took < STOP_SECONDS, f"{name} lives {took:.0f} s after SIGTERM"
            time.sleep(0.05)
        return time.monotonic() - started

    def wait_until(self, done: Callable[[], bool], what: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{self.text()}"
            time.sleep(0.05)

    def wait_restarted(self, name: str, before: int, timeout: float = 60) -> None:
        """Return when a worker has been started again and serves."""

        def back() -> bool:
            child = self.child(name)
            return bool(child["restarts"] > before and child["ready"])

        self.wait_until(back, f"{name} is back", timeout)

    def child(self, name: str) -> dict[str, Any]:
        state = read_state(self.memory.folder)
        assert state is not None
        found: dict[str, Any] = state["children"][name]
        return found

    def recovery(self) -> Recovery:
        return Recovery(self)

    def judge(self, case: str, load: Load, recovery: Recovery, timeout: float = 90) -> Row:
        """Wait until all is merged; nothing may be lost, and nothing but poison rejected."""
        load.finish()
        self.memory.wait_until_merged(timeout)
        lost = self.lost()
        live, rebuilt = self.memory.index().digests(), rebuilt_digests(self.memory, self.poison)
        taken = self.taken()
        sent = sum(len(read_all(self.memory, role.topic)) for role in ROLES.values() if role.writes)
        row = Row(
            case,
            len(load.sent),
            len(lost),
            max(0, taken - sent - self.judged),
            live == rebuilt,
            recovery.seconds(),
        )
        self.judged = max(self.judged, taken - sent)
        ROWS.append(row)
        print(f"\n{row}")
        assert row.lost == 0, f"lost: {lost[:5]}\n{self.memory.logs()}"
        assert row.equal, f"{live} is not {rebuilt}\n{self.memory.logs()}"
        self.check_rejections()
        return row

    def check_rejections(self) -> None:
        places = self._places_of_poison()
        for why in rejected(self.memory):
            place = (why["topic"], why["partition"], why["offset"])
            assert why["reason"] == "forgotten" or place in places, f"rejected: {why}"

    def _places_of_poison(self) -> set[tuple[Any, ...]]:
        return {
            (record.topic, record.partition, record.offset)
            for role in ROLES.values()
            if self.poison
            for record in read_all(self.memory, role.topic)
            if record.key in self.poison
        }

    def lost(self) -> list[LogAddress | str]:
        """Events of the log that neither live nor erased items know, requests without receipt."""
        index = self.memory.index()
        told = {
            json.loads(record.value or b"{}").get("request")
            for record in read_all(self.memory, Topic.FORGET_RECEIPT)
        }
        known: dict[str, frozenset[LogAddress]] = {}
        found: list[LogAddress | str] = []
        for each in admitted_events(self.memory, self.poison):
            if isinstance(each, Forget):
                if each.request_id not in told:
                    found.append(f"request {each.request_id}")
                continue
            image = index.image_key(each.image_id)
            if image not in known:
                item = index.item(image)
                known[image] = frozenset() if item is None else item.log | item.outbox
            if each.address is not None and each.address not in known[image]:
                found.append(each.address)
        return found

    def taken(self) -> int:
        """Events that workers have merged, refused or carried out so far, repeats included."""
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, str(self.folder / "metrics"))  # type: ignore[no-untyped-call]  # untyped there
        return round(
            sum(
                sample.value
                for metric in registry.collect()
                if metric.name == "visual_memory_events"
                for sample in metric.samples
                if (role := ROLES.get(sample.labels.get("role", ""))) and role.writes
            )
        )

    def text(self) -> str:
        """What all workers have logged."""
        return "\n".join(log.read_text() for log in self.memory.folder.glob("*.log"))


class Recovery:
    """How long until all that the log holds now is merged, looked at beside the case."""

    def __init__(self, ground: Ground) -> None:
        self._monitor = bootstrap.monitor(ground.memory.settings)
        self._ends = {(lag.topic, lag.partition): lag.end for lag in self._monitor.lag()}
        self._started = time.monotonic()
        self._took: Future[float] = Future()
        threading.Thread(target=self._watch, name="recovery", daemon=True).start()

    def _watch(self) -> None:
        deadline = self._started + 200
        try:
            while time.monotonic() < deadline:
                with contextlib.suppress(Unavailable):
                    held = {(lag.topic, lag.partition): lag.position for lag in self._monitor.lag()}
                    if all(held.get(place, 0) >= end for place, end in self._ends.items()):
                        self._took.set_result(time.monotonic() - self._started)
                        return
                time.sleep(0.1)
            raise AssertionError("what the log held at the fault is not merged")
        except Exception as error:  # noqa: BLE001 - told to who asks
            self._took.set_exception(error)
        finally:
            with contextlib.suppress(Exception):
                self._monitor.close()

    def seconds(self) -> float:
        return self._took.result(200)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def ground(
    servers: Servers,
    folder: Path,
    name: str,
    workers: Mapping[str, int] = ALL,
    *,
    armed: Mapping[str, str] | None = None,
    **more: Any,
) -> Iterator[Ground]:
    """A fresh memory with workers that break when they are told to; `armed` before they start."""
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    for role, fault in (armed or {}).items():
        (folder / f"armed-{role}").write_text(fault)
    environment = {
        "FAULTS_FOLDER": str(folder),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    settings = {"batch": 16, "clock_skew": 0.2, "partitions": 4, "embedder": f"vectors:test:{DIM}"}
    with running(
        folder / "workers",
        kafka=servers.kafka.bootstrap,
        redis_url=servers.redis.url,
        name=name,
        workers=workers,
        entry=(ENTRY,),
        environment=environment,
        backoff=(0.2, 1.0),
        **{**settings, **more},
    ) as memory:
        yield Ground(servers, memory, folder)
