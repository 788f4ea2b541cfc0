"""Where integration tests find Kafka and Redis: the environment, Docker, or embedded servers.

In this order: the addresses in VISUAL_MEMORY_TEST_KAFKA and VISUAL_MEMORY_TEST_REDIS;
containers, where a Docker engine answers and has the images (VISUAL_MEMORY_TEST_KAFKA_IMAGE and
VISUAL_MEMORY_TEST_REDIS_IMAGE name others than the official ones; `make test-docker` pulls or makes
them); servers that this process starts. Nothing skips: what cannot be had fails with its reason.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kafka.errors import KafkaError

from streams.config.settings import CACHE
from streams.local.kafka_probe import identify
from streams.local.kafka_server import KafkaServer
from streams.local.process import LocalServerError
from streams.local.redis_server import RedisServer
from streams.local.server import PROBE_TIMEOUT, free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

ADDRESSES = ("VISUAL_MEMORY_TEST_KAFKA", "VISUAL_MEMORY_TEST_REDIS")
KAFKA_IMAGE = "apache/kafka:4.1.0"
REDIS_IMAGE = "redis:8.2.1"

KAFKA_SETTINGS = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_LOG_CLEANER_BACKOFF_MS": "5000",
    "KAFKA_HEAP_OPTS": "-Xmx512m",
}
START_SECONDS = 90.0


def docker_has(image: str) -> bool:
    """Whether a Docker engine answers and holds the image."""
    import docker
    from docker.errors import DockerException

    # docker-py leaves its socket open when nobody answers there.
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).is_socket():
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
    if given := environment.get(ADDRESSES[0]):
        yield given
    elif docker_has(image := environment.get("VISUAL_MEMORY_TEST_KAFKA_IMAGE", KAFKA_IMAGE)):
        container, address = _kafka_container(image)
        try:
            yield address
        finally:
            container.stop()
    else:
        with KafkaServer(folder / "kafka", CACHE) as server:
            yield server.bootstrap


def _kafka_container(image: str) -> tuple[DockerContainer, str]:
    """A broker that answers in a container that runs, and its address.

    A first one that never answered has been seen once, so a second is tried, on another port.
    Raises LocalServerError, with what both said, when neither answers.
    """
    from testcontainers.core.container import DockerContainer

    silent = []
    for _ in range(2):
        # A broker tells its address to clients, so its port outside is chosen before it starts.
        container = DockerContainer(image).with_bind_ports(9092, port := free_port())
        address = f"{container.get_docker_client().host()}:{port}"
        advertised = {"KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{address}"}
        with ExitStack() as started:
            started.enter_context(container.with_envs(**KAFKA_SETTINGS, **advertised))
            try:
                _wait_for_kafka(address, container)
            except LocalServerError as error:
                silent.append(str(error))
            else:
                started.pop_all()
                return container, address
    raise LocalServerError("\n".join(silent))


def _wait_for_kafka(address: str, container: DockerContainer) -> None:
    deadline, (host, port) = time.monotonic() + START_SECONDS, address.split(":")
    while True:
        try:
            # kafka-python's own clients try less and less often, and leave sockets open.
            with socket.create_connection((host, int(port)), PROBE_TIMEOUT) as connection:
                identify(connection, None)
        except (OSError, ValueError, struct.error, KafkaError) as error:
            container.reload()
            if container.status == "running" and time.monotonic() < deadline:
                time.sleep(0.5)
                continue
            said = b"".join(container.get_logs()).decode(errors="replace")[-4000:]
            raise LocalServerError(
                f"the Kafka of {container.image} does not answer at {address}; its container is "
                f"{container.status} and said:\n{said}"
            ) from error
        else:
            return


@contextmanager
def redis(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """URL of a real Redis with search, durable as the memory wants it."""
    if given := environment.get(ADDRESSES[1]):
        yield given
    elif docker_has(image := environment.get("VISUAL_MEMORY_TEST_REDIS_IMAGE", REDIS_IMAGE)):
        from testcontainers.community.redis import RedisContainer

        container = RedisContainer(image).with_command(
            "redis-server --appendonly yes --appendfsync always --save ''"
        )
        with container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"
    else:
        with RedisServer(folder / "redis", CACHE) as server:
            yield server.url
