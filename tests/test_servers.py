"""Where the servers of the tests come from; with Docker: tests/docker/check_servers.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis as redis_py

from streams.kafka.admin import topic_ids
from streams.kafka.cluster import KafkaCluster
from tests import servers


@pytest.fixture
def _without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")


def test_addresses_in_the_environment_are_taken_as_they_are(tmp_path: Path) -> None:
    given = {"VISUAL_MEMORY_TEST_KAFKA": "example:9092", "VISUAL_MEMORY_TEST_REDIS": "redis://e/0"}
    with servers.kafka(tmp_path, given) as bootstrap, servers.redis(tmp_path, given) as url:
        assert (bootstrap, url) == ("example:9092", "redis://e/0")
    assert not list(tmp_path.iterdir())


@pytest.mark.servers
@pytest.mark.usefixtures("_without_docker")
def test_without_docker_kafka_is_embedded(tmp_path: Path) -> None:
    with servers.kafka(tmp_path, {}) as bootstrap:
        assert topic_ids(KafkaCluster(bootstrap), []) == {}
    assert (tmp_path / "kafka" / "server.log").exists()


@pytest.mark.servers
@pytest.mark.usefixtures("_without_docker")
def test_without_docker_redis_is_embedded(tmp_path: Path) -> None:
    with servers.redis(tmp_path, {}) as url, redis_py.Redis.from_url(url) as client:
        assert client.ping()
    assert (tmp_path / "redis" / "server.log").exists()
