"""Where Docker has the images, tests run on containers of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis as redis_py

from streams.kafka.admin import topic_ids
from streams.kafka.cluster import KafkaCluster
from streams.local.process import LocalServerError
from tests import servers
from tests.docker.engine import docker as command
from tests.docker.images import SERVICE


def images_of_containers() -> list[str]:
    return command("ps", "--format", "{{.Image}}").splitlines()


def test_kafka_is_a_container_of_the_image_that_a_setting_names(tmp_path: Path) -> None:
    image = os.environ["VISUAL_MEMORY_TEST_KAFKA_IMAGE"]
    with servers.kafka(tmp_path) as bootstrap:
        assert image in images_of_containers()
        assert topic_ids(KafkaCluster(bootstrap), []) == {}
    assert not list(tmp_path.iterdir()), "an embedded server was started beside it"


def test_a_container_in_which_no_kafka_comes_up_is_told_with_what_it_said(tmp_path: Path) -> None:
    ends_at_once = {"VISUAL_MEMORY_TEST_KAFKA_IMAGE": SERVICE}
    before = images_of_containers()
    with (
        pytest.raises(LocalServerError, match=r"(?s)(exited and said:\nUsage.*){2}"),
        servers.kafka(tmp_path, ends_at_once),
    ):
        pass
    assert images_of_containers() == before


def test_redis_is_a_container_of_the_image_that_a_setting_names(tmp_path: Path) -> None:
    image = os.environ["VISUAL_MEMORY_TEST_REDIS_IMAGE"]
    with servers.redis(tmp_path) as url:
        assert image in images_of_containers()
        with redis_py.Redis.from_url(url) as client:
            assert client.ping()
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
    assert not list(tmp_path.iterdir()), "an embedded server was started beside it"


def test_an_address_in_the_environment_goes_before_docker(tmp_path: Path) -> None:
    given = {"VISUAL_MEMORY_TEST_KAFKA": "example:9092", "VISUAL_MEMORY_TEST_REDIS": "redis://e/0"}
    before = images_of_containers()
    with servers.kafka(tmp_path, given) as bootstrap, servers.redis(tmp_path, given) as url:
        assert (bootstrap, url) == ("example:9092", "redis://e/0")
        assert images_of_containers() == before


def test_an_image_that_cannot_be_had_leaves_the_embedded_servers(tmp_path: Path) -> None:
    missing = {"VISUAL_MEMORY_TEST_REDIS_IMAGE": "visual-memory-standin/missing:0"}
    before = images_of_containers()
    with servers.redis(tmp_path, missing) as url:
        assert images_of_containers() == before
        with redis_py.Redis.from_url(url) as client:
            assert client.ping()
    assert (tmp_path / "redis").is_dir()
