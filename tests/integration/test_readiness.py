"""/readyz of real workers: false while there is nothing to serve with, and when lag only grows."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.config.settings import CACHE, ENVIRONMENT_PREFIX
from streams.local.process import ChildSpec, Process
from streams.local.redis_server import RedisServer
from streams.local.server import free_port
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import KEY, ROOT, Running, running
from tests.waiting import until

ENTRY = str(Path(__file__).parent / "stalling_worker.py")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), CACHE) as server:
        yield server


@pytest.fixture
def stalled(tmp_path: Path) -> Path:
    return tmp_path / "stalled"


@pytest.fixture
def memory(
    kafka_bootstrap: str,
    redis_server: RedisServer,
    tmp_path: Path,
    stalled: Path,
    unique: Callable[[str], str],
) -> Iterator[Running]:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_server.url,
        name=unique("ready"),
        workers={"ingest": 1},
        entry=(ENTRY,),
        environment={"STALLED_FILE": str(stalled)},
        embedder=EMBEDDER,
        partitions=1,
    ) as made:
        yield made


def reasons(port: int) -> list[str]:
    """Why the worker on this port is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            assert answer.status == 200
            return []
    except urllib.error.HTTPError as answer:
        found: list[str] = json.loads(answer.read())["reasons"]
        return found


def test_a_worker_is_unready_while_redis_is_away_and_ready_again_after(
    memory: Running, redis_server: RedisServer
) -> None:
    port = memory.ports["ingest"]
    assert reasons(port) == []
    redis_server.kill()
    try:
        until(lambda: "Redis is away" in reasons(port))
    finally:
        redis_server.start()
    until(lambda: reasons(port) == [])


def test_a_worker_whose_lag_only_grows_is_unready_until_it_gets_on(
    memory: Running, stalled: Path
) -> None:
    port, client = memory.ports["ingest"], memory.client()
    stalled.touch()
    for number in range(3):
        client.ingest(unit(number), id=f"i{number}", label="a", embedder="test").position()
        time.sleep(0.5)
    until(lambda: any("lag grows" in reason for reason in reasons(port)))
    stalled.unlink()
    until(lambda: reasons(port) == [])
    assert memory.restarts("ingest") == 0


def test_a_worker_that_nobody_gives_a_partition_is_unready(
    memory: Running, redis_server: RedisServer, tmp_path: Path, stalled: Path
) -> None:
    """As a spare one is, where there are fewer partitions than workers."""
    settings, port = memory.settings, free_port()
    values = {
        "KAFKA": settings.kafka,
        "REDIS": redis_server.url,
        "TOPIC_PREFIX": settings.topic_prefix,
        "NAMESPACE": settings.namespace,
        "HMAC_KEY": KEY,
        "EMBEDDER": EMBEDDER,
        "PARTITIONS": "1",
        "WEB_PORT": str(port),
    }
    environment = {f"{ENVIRONMENT_PREFIX}{name}": value for name, value in values.items()}
    spare = ChildSpec(
        "spare",
        (sys.executable, ENTRY, "ingest"),
        tmp_path / "spare.log",
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "STALLED_FILE": str(stalled)},
        ready=lambda: sorted([reasons(port), reasons(memory.ports["ingest"])]) == [[], [NONE]],
    )
    with Process(spare) as worker:
        assert worker.alive


NONE = "the consumer group has given this worker no partition"
