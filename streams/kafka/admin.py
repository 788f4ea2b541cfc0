"""Creating the topics, comparing them with what is promised, and asking for their ids."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType

from memory.errors import Misconfigured
from streams.contract.topics import Topic, TopicSpec
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import as_memory_error

KNOWN_SECONDS = 10.0
KNOWN_LOOK_SECONDS = 0.05


def create(cluster: KafkaCluster, specs: Sequence[TopicSpec]) -> None:
    """Create the topics that are missing; one that is there is left as it is (see `check`).

    Returns when all can be used. Raises `Misconfigured` naming a topic that cannot be created,
    `Unavailable`.
    """
    with cluster.administration() as admin:
        missing = {
            spec.name: {
                "num_partitions": spec.partitions,
                "replication_factor": spec.replication,
                "configs": {name: setting.value for name, setting in spec.settings.items()},
            }
            for spec, found in zip(specs, _described(admin, specs), strict=True)
            if found is None
        }
        if missing:
            done = admin.create_topics(missing, raise_errors=False)
            for topic in done["topics"]:
                error = errors.for_code(topic["error_code"])
                if error not in (errors.NoError, errors.TopicAlreadyExistsError):
                    kind = as_memory_error(error())
                    why = topic.get("error_message") or error.__name__
                    raise type(kind)(f"{topic['name']}: cannot be created: {why}")
        admin.wait_for_topics([spec.name for spec in specs])


def configure(cluster: KafkaCluster, specs: Sequence[TopicSpec]) -> list[str]:
    """Give existing topics the settings they break; all their other settings stay.

    Partitions and replication stay too. Returns what changed, a line each, once that can be read. Raises `Misconfigured`,
    `Unavailable`.
    """
    changes: list[str] = []
    with cluster.administration() as admin:
        resources = []
        for spec, broken in zip(specs, _broken(admin, specs), strict=True):
            wanted = {name: spec.settings[name].value for name in broken}
            if wanted:
                resources.append(ConfigResource(ConfigResourceType.TOPIC, spec.name, wanted))
            changes += [
                f"{spec.name}: {name} was {broken[name]}, is {value}"
                for name, value in wanted.items()
            ]
        if resources:
            for name, result in admin.alter_configs(resources)["topic"].items():
                if result != "OK":
                    raise Misconfigured(f"{name}: cannot be configured: {result}")
        # Brokers learn it one by one, a moment later.
        deadline = time.monotonic() + KNOWN_SECONDS
        while any(_broken(admin, specs)) and time.monotonic() < deadline:
            time.sleep(KNOWN_LOOK_SECONDS)
    return changes


def check(cluster: KafkaCluster, specs: Sequence[TopicSpec], *, shape: bool = True) -> list[str]:
    """What breaks a promise, a line each: topic, setting, found, wanted, what to do.

    Without `shape` partitions and replicas may be what they are, as while a topic grows.
    """
    problems = []
    with cluster.administration() as admin:
        described = _described(admin, specs)
        for spec, found, broken in zip(specs, described, _broken(admin, specs), strict=True):
            if found is None:
                problems.append(
                    f"{spec.name}: the topic is missing; create it with `visual-memory topics`"
                )
                continue
            if shape:
                problems.extend(_shape_problems(spec, found["partitions"]))
            problems.extend(
                f"{spec.name}: {name} is {value}, wanted {spec.settings[name].relation} "
                f"{spec.settings[name].value}; set it with `visual-memory topics --configure` or kafka-configs.sh "
                f"--alter --entity-type topics --entity-name {spec.name} "
                f"--add-config {name}={spec.settings[name].value}"
                for name, value in broken.items()
            )
    return problems


def check_or_refuse(
    cluster: KafkaCluster, specs: Sequence[TopicSpec], *, shape: bool = True
) -> None:
    """Raise `Misconfigured` with all that `check` finds."""
    if problems := check(cluster, specs, shape=shape):
        raise Misconfigured("\n".join(["topics break promises:", *problems]))


def topic_ids(cluster: KafkaCluster, names: Sequence[str]) -> dict[str, str]:
    """Each topic's id (KIP-516) as Kafka's tools write it; it changes when one is recreated.

    Raises `Misconfigured` naming the topics that are missing, `Unavailable`.
    """
    with cluster.administration() as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics(list(names))}
        missing = [name for name in names if name not in found or not _exists(found[name])]
    if missing:
        raise Misconfigured(
            f"topics are missing: {', '.join(missing)}; create them with `visual-memory topics`"
        )
    return {name: _id_text(found[name]["topic_id"]) for name in names}


def partition_count(cluster: KafkaCluster, name: str) -> int:
    """How many partitions a topic has now. Raises `Misconfigured` when it is missing, `Unavailable`."""
    with cluster.administration() as admin:
        (found,) = admin.describe_topics([name])
        if not _exists(found):
            raise Misconfigured(
                f"topics are missing: {name}; create them with `visual-memory topics`"
            )
        return len(found["partitions"])


def _id_text(topic_id: UUID) -> str:
    return base64.urlsafe_b64encode(UUID(str(topic_id)).bytes).decode().rstrip("=")


def _exists(described: Mapping[str, Any]) -> bool:
    error = errors.for_code(described["error_code"])
    if error is errors.UnknownTopicOrPartitionError:
        return False
    if error is not errors.NoError:
        raise error(described["name"])
    return True


def _described(
    admin: KafkaAdminClient, specs: Sequence[TopicSpec]
) -> list[Mapping[str, Any] | None]:
    found = {topic["name"]: topic for topic in admin.describe_topics([s.name for s in specs])}
    return [
        found[spec.name] if spec.name in found and _exists(found[spec.name]) else None
        for spec in specs
    ]


def _broken(admin: KafkaAdminClient, specs: Sequence[TopicSpec]) -> list[dict[str, str]]:
    """For each topic, the settings that break a promise and what they are."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in specs]
    live = admin.describe_configs(resources, config_filter="all").get("topic", {})
    return [
        {
            name: found["value"]
            for name, setting in spec.settings.items()
            if (found := live.get(spec.name, {}).get(name)) and not setting.holds(found["value"])
        }
        for spec in specs
    ]


def _shape_problems(spec: TopicSpec, partitions: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    count = len(partitions)
    if count < spec.partitions:
        problems.append(
            f"{spec.name}: partitions are {count}, wanted at least {spec.partitions}; add some "
            f"with kafka-topics.sh --alter --topic {spec.name} --partitions {spec.partitions}"
        )
    elif count > spec.partitions and spec.topic is Topic.PREDICTION:
        # Askers choose among all of them, and workers answer to those they know.
        problems.append(
            f"{spec.name}: partitions are {count}, wanted {spec.partitions}; "
            f"set VISUAL_MEMORY_PARTITIONS to {count}"
        )
    replicas = min(len(partition["replica_nodes"]) for partition in partitions)
    if replicas < spec.replication:
        problems.append(
            f"{spec.name}: replication is {replicas}, wanted at least {spec.replication}; raise "
            "it with kafka-reassign-partitions.sh"
        )
    return problems
