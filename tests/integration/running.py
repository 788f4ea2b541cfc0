"""Real workers as processes for one test module: own topics, own namespace, shared servers."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from memory.redis.index import RedisIndex
from streams import bootstrap
from streams.client import MemoryClient
from streams.config import memory_topics
from streams.config.settings import ENVIRONMENT_PREFIX, Settings, load
from streams.local.process import ChildSpec
from streams.local.server import free_port
from streams.local.state import read_state
from streams.local.supervisor import Supervisor
from streams.stack import answers
from streams.workers.monitor import Monitor
from tests.integration.zygote import ForkedProcess, Zygote

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32)).hex()
ZYGOTE = Zygote()
SIGNING_KEY = bytes(range(32, 64)).hex()


@dataclass
class Running:
    """A memory with its workers up."""

    settings: Settings
    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    clients: list[MemoryClient] = field(default_factory=list)
    stores: list[redis.Redis] = field(default_factory=list)

    def client(self, source: str = "test") -> MemoryClient:
        client = bootstrap.client(self.settings, source)
        self.clients.append(client)
        return client

    def index(self) -> RedisIndex:
        store = bootstrap.redis_client(self.settings)
        self.stores.append(store)
        return bootstrap.open_index(self.settings, store)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for store in self.stores:
            store.close()

    def topic_ids(self) -> Mapping[str, str]:
        return memory_topics.known_topic_ids(self.settings)

    def restarts(self, worker: str) -> int:
        return int(self._state_of(worker)["restarts"])

    def pid_of(self, worker: str) -> int:
        return int(self._state_of(worker)["pid"])

    def _state_of(self, worker: str) -> dict[str, Any]:
        state = read_state(self.folder)
        assert state is not None
        found: dict[str, Any] = state["children"][worker]
        return found

    def wait_until_merged(self, timeout: float = 240) -> None:
        """Return when no role is behind its log."""
        monitor = bootstrap.monitor(self.settings)
        try:
            self._wait_until_merged(monitor, timeout)
        finally:
            monitor.close()

    def _wait_until_merged(self, monitor: Monitor, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            behind = [lag for lag in monitor.lag() if lag.records]
            if not behind:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"still behind after {timeout} s: {behind}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.folder.glob("*.log")
        )


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    kafka: str,
    redis_url: str,
    name: str,
    workers: Mapping[str, int],
    entry: tuple[str, ...] = ("-m", "streams.cli", "worker"),
    environment: Mapping[str, str] | None = None,
    role_environments: Mapping[str, Mapping[str, str]] | None = None,
    instances: bool = True,
    backoff: tuple[float, float] = (0.5, 10.0),
    **settings: object,
) -> Iterator[Running]:
    """Start `workers` (how many of each role), wait until they serve, and end them.

    `entry` is what Python runs, with the role as its argument. Without `instances` the workers
    are nameless in their consumer group. `backoff` is the supervisor's, before restarts.
    """
    values = {
        "kafka": kafka,
        "redis": redis_url,
        "topic_prefix": name,
        "namespace": name,
        "hmac_key": KEY,
        **settings,
    }
    made = load(**values)
    memory_topics.create_topics(made)
    env = {
        **os.environ,
        **{f"{ENVIRONMENT_PREFIX}{n.upper()}": str(value) for n, value in values.items()},
        **(environment or {}),
        "PYTHONPATH": str(ROOT),
    }

    found = Running(made, folder)

    def spec(role: str, number: int) -> ChildSpec:
        name = role if number == 0 else f"{role}-{number}"
        found.ports[name] = port = free_port()
        instance = {f"{ENVIRONMENT_PREFIX}INSTANCE": f"{role}-{number}"} if instances else {}
        return ChildSpec(
            name,
            (sys.executable, *entry, role),
            folder / f"{role}-{number}.log",
            env={
                **env,
                **instance,
                **(role_environments or {}).get(role, {}),
                f"{ENVIRONMENT_PREFIX}WEB_PORT": str(port),
            },
            ready=lambda: answers(port),
            ready_timeout=90,
            stop_timeout=20,
        )

    # The first makes the memory that the others want to find.
    first, *others = (
        ForkedProcess(spec(role, n), ZYGOTE)
        for role, count in workers.items()
        for n in range(count)
    )
    up = threading.Event()
    failure: list[Exception] = []
    supervisor = Supervisor(folder, [first, tuple(others)], backoff=backoff, on_running=up.set)

    def run() -> None:
        try:
            supervisor.run()
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            failure.append(error)
            up.set()

    thread = threading.Thread(target=run, name="workers")
    thread.start()
    try:
        up.wait()
        if failure:
            raise failure[0]
        yield found
    finally:
        found.close()
        supervisor.stop(120)
        thread.join()
