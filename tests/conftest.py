"""Real servers, started only for tests that ask for them.

What asks for one is marked `servers`, by its fixtures or by hand; `make quick` runs all the rest.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis as redis_py

from memory.redis.connection import connect
from streams.config.settings import prepare_process
from streams.kafka.unused_sockets import close_unused_sockets
from streams.local import server
from streams.local.server import Server
from tests import servers

# Else the others stand idle while the last of these ends; those that compute lie between those that wait.
LONGEST = tuple(
    f"test_{name}.py"
    for name in (
        *("erasure", "accuracy", "local_stack", "delivery", "demo", "life"),
        *("law_properties", "exceptions", "command", "cut_logs", "packaging"),
    )
)
SERVERS = {"kafka_bootstrap", "redis_url"}
# How long an example takes, or its making, says how busy the machine is.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    prepare_process()  # several of them share the cores, as workers do
    close_unused_sockets()  # of clients that a test makes by itself too
    if workerinput := getattr(config, "workerinput", None):
        number = int(workerinput["workerid"].removeprefix("gw"))
        server.part = number, int(workerinput["workercount"])
    named = [name for name in servers.ADDRESSES if os.environ.get(name)]
    if named and hasattr(config, "workerinput"):
        raise pytest.UsageError(
            f"{' and '.join(named)}: tests set such servers up as they want them, so they cannot run "
            "side by side: make test ARGS='-n 0'"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    for item in items:
        if isinstance(item, pytest.Function) and SERVERS & set(item.fixturenames):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(autouse=True, scope="session")
def _no_server_unmarked(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a run of the tests that need no server, nothing starts one."""
    if request.config.getoption("markexpr") != "not servers":
        yield
        return

    def refuse(_: object) -> None:
        raise AssertionError("this test starts a server: mark it with pytest.mark.servers")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "spawn", refuse)
        yield


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def kafka_bootstrap(server_folder: Path) -> Iterator[str]:
    """Bootstrap servers of a real Kafka, one for the session."""
    with servers.kafka(server_folder) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def redis_url(server_folder: Path) -> Iterator[str]:
    """URL of a real Redis with search, one for the session."""
    with servers.redis(server_folder) as url:
        yield url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis_py.Redis]:
    client = connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Names that no other test has: topic prefixes, namespaces."""
    numbers = itertools.count()
    run = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return lambda kind: f"{kind}-{run}-{next(numbers)}-"
