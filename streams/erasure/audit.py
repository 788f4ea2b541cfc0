"""What is configured in the live servers, read for the bound of erasing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

from memory.errors import Misconfigured
from memory.redis.connection import RedisFiles, map_redis_errors
from streams.erasure.bound import Configuration
from streams.erasure.log import ANSWERING, NAMING
from streams.kafka.cluster import KafkaCluster

DENIED = (
    "this user may not read the brokers' configuration and files; give it the operations Describe and "
    "DescribeConfigs on the cluster, as visual-memory permissions prints for the auditor"
)
BROKER_SETTINGS = ("log.cleaner.backoff.ms", "log.retention.check.interval.ms")


def read_configuration(
    cluster: KafkaCluster,
    client: Any,
    namespace: str,
    *,
    pause: float,
    beat: float,
    claims: bool = False,
) -> Configuration:
    """Raises `Unavailable`, and `Misconfigured` where this user may not read it."""
    compacted, expiring = (tuple(map(cluster.full_name, topics)) for topics in (NAMING, ANSWERING))
    with cluster.administration() as admin:
        topics = _topics(admin, (*compacted, *expiring))
        brokers = _brokers(admin)
        log_bytes = _log_bytes(admin, compacted)
    with map_redis_errors():
        settings = client.config_get("appendonly")
        memory = int(client.info("memory")["used_memory"])
        erases = bool(client.exists(f"{namespace}:eraser"))
    return Configuration(
        topics,
        compacted,
        expiring,
        brokers,
        log_bytes,
        settings,
        memory,
        RedisFiles(client).replicas(),
        pause,
        beat,
        erases,
        claims,
    )


def _topics(admin: Any, names: Sequence[str]) -> dict[str, Mapping[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = admin.describe_configs(resources, config_filter="all")["topic"]
    return {name: {setting: one["value"] for setting, one in found[name].items()} for name in names}


def _brokers(admin: Any) -> dict[str, float]:
    """Of each setting the greatest value that a broker has."""
    ids = [str(broker["broker_id"]) for broker in admin.describe_cluster()["brokers"]]
    resources = [ConfigResource(ConfigResourceType.BROKER, one) for one in ids]
    found = admin.describe_configs(resources, config_filter="all").get("broker", {})
    if not all(setting in found.get(one, {}) for one in ids for setting in BROKER_SETTINGS):
        raise Misconfigured(DENIED)
    return {
        setting: max(float(found[one][setting]["value"]) for one in ids)
        for setting in BROKER_SETTINGS
    }


def _log_bytes(admin: Any, topics: Sequence[str]) -> int:
    """What the largest broker's part of these takes."""
    brokers = admin.describe_log_dirs(list(topics))
    folders = [folder for broker in brokers for folder in broker["log_dirs"]]
    if not folders or any(folder["error_code"] for folder in folders):
        raise Misconfigured(DENIED)
    return max(
        sum(
            int(partition["partition_size"])
            for folder in broker["log_dirs"]
            for topic in folder["topics"]
            for partition in topic["partitions"]
        )
        for broker in brokers
    )
