"""What must hold of a memory after a fuzz: each record told once, nobody ended, memory given back."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from streams.config.connections import kafka_cluster
from streams.config.roles import ROLES
from streams.contract.records import OutgoingRecord
from streams.local.state import read_state
from tests.fuzz.records import Fuzz, fuzzed_records
from tests.integration.events import rejected
from tests.integration.running import Running
from tests.integration.test_bad_input import png

WARM_UP = 256
MEGABYTES_MORE = 150
"""A worker's memory after a fuzz, over what it was when it was warm."""


@dataclass(frozen=True, slots=True)
class Result:
    """By role: records sent, rejected, and MB more than before."""

    sent: dict[str, int]
    rejected: dict[str, int]
    grown: dict[str, int]
    reasons: dict[str, int]


def warm_up(memory: Running) -> None:
    """Good images, enough for full batches, and a question: models, threads and buffers are there."""
    client = memory.client()
    for n in range(WARM_UP):
        written = client.ingest(png(), id=f"warm-{n}", label="warm")
    client.query(png(), after=[written.position()])
    memory.wait_until_merged()


def fuzz_memory(memory: Running, seed: int, count: int, images: int) -> Result:
    """Send, wait until all is carried out, and compare. Raises `AssertionError`."""
    index = memory.index()
    before_told = outcomes(memory)
    warm = resident(memory)
    told_before = len(rejected(memory))
    now = time.time_ns() // 1000
    fuzz = Fuzz(seed, count, images, index.embedder, index.dim, now)
    places = _send(memory, fuzzed_records(fuzz))
    memory.wait_until_merged(600)
    rejections = rejected(memory)[told_before:]
    told = Counter(
        (str(one["topic"]), int(str(one["partition"])), int(str(one["offset"])))
        for one in rejections
    )
    assert not [place for place, times in told.items() if times > 1], "rejected twice"
    assert not told.keys() - places.keys(), "rejected, and never sent"
    sent = Counter(places.values())
    refused = Counter(places[place] for place in told)
    found = outcomes(memory)
    for role in ROLES:
        of_role = {o: n - before_told[role].get(o, 0) for o, n in found[role].items()}
        assert sum(of_role.values()) == sent[role], (role, of_role, sent[role])
        assert of_role.get("rejected", 0) == refused[role], (role, of_role, refused[role])
        assert memory.restarts(role) == 0
    grown = {role: size - warm[role] for role, size in resident(memory).items()}
    assert all(more < MEGABYTES_MORE for more in grown.values()), grown
    reasons = Counter(str(one["reason"]) for one in rejections)
    return Result(dict(sent), dict(refused), grown, dict(reasons))


def _send(memory: Running, records: Iterable[OutgoingRecord]) -> dict[tuple[str, int, int], str]:
    """The role that each record is for, by where the log has it."""
    cluster = kafka_cluster(memory.settings)
    roles = {cluster.full_name(role.topic): name for name, role in ROLES.items()}
    with closing(KafkaProducer(bootstrap_servers=memory.settings.kafka, linger_ms=5)) as producer:
        sent = [
            producer.send(
                cluster.full_name(record.topic),
                record.value,
                record.key,
                headers=list(record.headers),
                partition=record.partition,
            )
            for record in records
        ]
        told = [each.get(60) for each in sent]
    return {(one.topic, one.partition, one.offset): roles[one.topic] for one in told}


def outcomes(memory: Running) -> dict[str, dict[str, int]]:
    """Records by role and outcome, as the workers count them."""
    found: dict[str, dict[str, int]] = {}
    for role in ROLES:
        with urllib.request.urlopen(f"http://127.0.0.1:{memory.ports[role]}/metrics") as answer:
            text = answer.read().decode()
        found[role] = {
            sample.labels["outcome"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "visual_memory_events_total" and sample.labels["role"] == role
        }
    return found


def resident(memory: Running) -> dict[str, int]:
    """Memory of each worker, MB."""
    state = read_state(memory.folder)
    assert state is not None
    sizes = {}
    for role in ROLES:
        status = Path(f"/proc/{state['children'][role]['pid']}/status").read_text()
        sizes[role] = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    return sizes
