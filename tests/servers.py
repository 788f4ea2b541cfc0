"""Where integration tests find Kafka and Redis: the environment, Docker, or embedded servers.

In this order: the URLs in VISUAL_MEMORY_TEST_KAFKA and VISUAL_MEMORY_TEST_REDIS; containers,
where a Docker engine answers and has the images (VISUAL_MEMORY_TEST_KAFKA_IMAGE and
VISUAL_MEMORY_TEST_REDIS_IMAGE name others than the official ones); servers that this process
starts. Nothing skips: what cannot be had fails with its reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from streams.local import KafkaServer, RedisServer
from streams.settings import CACHE

KAFKA_IMAGE = "apache/kafka:4.1.0"
REDIS_IMAGE = "redis:8"


def docker_has(image: str) -> bool:
    """Whether a Docker engine answers and holds the image."""
    import docker
    from docker.errors import DockerException

    # docker-py leaves its socket open when nobody answers there.
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").is_socket():
        return False
    try:
        client = docker.from_env()
    except DockerException:
        return False
    try:
        client.images.get(image)
    except DockerException:
        return False
    finally:
        client.close()
    return True


@contextmanager
def kafka(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Bootstrap servers of a real Kafka."""
    if given := environment.get("VISUAL_MEMORY_TEST_KAFKA"):
        yield given
    elif docker_has(image := environment.get("VISUAL_MEMORY_TEST_KAFKA_IMAGE", KAFKA_IMAGE)):
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer(image).with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        with KafkaServer(folder / "kafka", CACHE) as server:
            yield server.bootstrap


@contextmanager
def redis(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """URL of a real Redis with search, durable as the memory wants it."""
    if given := environment.get("VISUAL_MEMORY_TEST_REDIS"):
        yield given
    elif docker_has(image := environment.get("VISUAL_MEMORY_TEST_REDIS_IMAGE", REDIS_IMAGE)):
        from testcontainers.redis import RedisContainer

        container = RedisContainer(image).with_command(
            "redis-server --appendonly yes --appendfsync always --save ''"
        )
        with container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"
    else:
        with RedisServer(folder / "redis", CACHE) as server:
            yield server.url
