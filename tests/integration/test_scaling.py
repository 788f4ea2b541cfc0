"""More workers of a role share its partitions, named or not."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.running import running

PARTITIONS = 4


def assigned(port: int) -> float:
    """Partitions that the worker on this port reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        if family.name == "visual_memory_assigned_partitions"
        for sample in family.samples
    )


def test_two_nameless_workers_of_a_role_share_its_partitions_and_keep_them(
    tmp_path: Path, kafka_bootstrap: str, redis_url: str, unique: Callable[[str], str]
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("scaling"),
        workers={"ingest": 1, "correct": 2},
        embedder="vectors:test:8",
        partitions=PARTITIONS,
        instances=False,
    ) as memory:
        ports = [port for name, port in memory.ports.items() if name.startswith("correct")]
        assert len(ports) == 2
        deadline = time.monotonic() + 30
        settled: list[list[float]] = []
        # Longer than a heartbeat, at which a worker that another has pushed out learns of it.
        while len(settled) < 10:
            assert time.monotonic() < deadline, settled
            time.sleep(0.5)
            now = [assigned(port) for port in ports]
            settled = [*settled, now] if now == [PARTITIONS / 2] * 2 else []
