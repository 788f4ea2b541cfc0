"""Real servers, started only for tests that ask for them."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as redis_py

from memory.redis_index import connect
from tests import servers


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
