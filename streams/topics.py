"""The topics and the promises their configuration keeps (see the event contract)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from memory.errors import Misconfigured, Unavailable
from streams.events import Topic

HEADER_ROOM = 64 << 10
"""Bytes of a record beside its value: key, headers, framing."""
DAY_MS = 86_400_000
HOUR_MS = 3_600_000

COMPACTED = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST, Topic.FENCES)
RETENTION_MS: Mapping[Topic, int] = {
    Topic.QUERY: HOUR_MS,
    Topic.PREDICTION: HOUR_MS,
    Topic.REJECTED: 7 * DAY_MS,
}
SINGLE = (Topic.FENCES, Topic.FORGET_RECEIPT, Topic.REJECTED)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it must be. Every entry of `config` is a promise."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


def declare(
    *,
    prefix: str = "",
    partitions: int = 8,
    replication: int = 1,
    compaction_lag: float = 7 * 86400,
    max_record_bytes: int = 1 << 20,
) -> list[TopicSpec]:
    """All topics. `compaction_lag` is in seconds: how long a record outlives its tombstone."""
    specs = []
    for topic in Topic:
        config = {"max.message.bytes": str(max_record_bytes + HEADER_ROOM)}
        if topic in COMPACTED:
            config |= {
                "cleanup.policy": "compact",
                # The log's clock decides admission and what a forget-request reaches.
                "message.timestamp.type": "LogAppendTime",
                "max.compaction.lag.ms": str(round(compaction_lag * 1000)),
            }
        elif topic in RETENTION_MS:
            config |= {
                "cleanup.policy": "delete",
                "message.timestamp.type": "LogAppendTime",
                "retention.ms": str(RETENTION_MS[topic]),
                # A segment is deleted whole, so it must not be older than what it holds may be.
                "segment.ms": str(RETENTION_MS[topic]),
            }
        else:
            config |= {"cleanup.policy": "delete", "retention.ms": "-1"}
        count = 1 if topic in SINGLE else partitions
        specs.append(TopicSpec(prefix + topic, count, replication, config))
    return specs


@contextmanager
def _admin(bootstrap: str) -> Iterator[KafkaAdminClient]:
    """An admin client, its errors mapped."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
        try:
            yield admin
        finally:
            admin.close()
    except KafkaError as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error


def create(bootstrap: str, specs: Sequence[TopicSpec]) -> None:
    """Create the topics that are not there. What is there stays as it is: see `check`."""
    with _admin(bootstrap) as admin:
        there = set(admin.list_topics())
        for spec in specs:
            if spec.name in there:
                continue
            new = NewTopic(
                spec.name, spec.partitions, spec.replication, topic_configs=dict(spec.config)
            )
            try:
                admin.create_topics([new], wait_for_metadata=True)
            except TopicAlreadyExistsError:
                continue


def check(bootstrap: str, specs: Sequence[TopicSpec]) -> list[str]:
    """What differs from the declaration: topic, setting, found, wanted, what to do."""
    problems = []
    with _admin(bootstrap) as admin:
        there = set(admin.list_topics())
        present = [spec for spec in specs if spec.name in there]
        problems += [
            f"topic {spec.name} is missing; create it: visual-memory topics"
            for spec in specs
            if spec.name not in there
        ]
        if not present:
            return problems
        described = {
            topic["name"]: len(topic["partitions"])
            for topic in admin.describe_topics([spec.name for spec in present])
        }
        resources = [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in present]
        configs = admin.describe_configs(resources, config_filter="all")["topic"]
    for spec in present:
        if described[spec.name] < spec.partitions:
            problems.append(
                f"topic {spec.name}: {described[spec.name]} partitions, wanted "
                f"{spec.partitions}; add some, or set partitions to what is there"
            )
        for setting, wanted in spec.config.items():
            found = configs[spec.name][setting]["value"]
            if not _keeps(setting, found, wanted):
                problems.append(
                    f"topic {spec.name}: {setting} is {found}, wanted {wanted}; set it with "
                    f"kafka-configs --alter --entity-type topics --entity-name {spec.name} "
                    f"--add-config {setting}={wanted}"
                )
    return problems


def _keeps(setting: str, found: str, wanted: str) -> bool:
    """Whether a live value keeps the promise; being stricter than promised is fine."""
    if setting == "max.message.bytes":
        return int(found) >= int(wanted)
    if setting in ("max.compaction.lag.ms", "segment.ms"):
        return int(found) <= int(wanted)
    return found == wanted


def check_or_refuse(bootstrap: str, specs: Sequence[TopicSpec]) -> None:
    """Raise `Misconfigured` naming every topic that is missing or breaks a promise."""
    if problems := check(bootstrap, specs):
        raise Misconfigured("; ".join(problems))


def topic_ids(bootstrap: str, names: Sequence[str]) -> dict[str, str]:
    """Topic ids (KIP-516) by name: a topic that is deleted and made anew gets another."""
    with _admin(bootstrap) as admin:
        try:
            described = admin.describe_topics(list(names))
        except UnknownTopicOrPartitionError:
            described = []
        found = {topic["name"]: str(topic["topic_id"]) for topic in described}
    if missing := [name for name in names if name not in found]:
        raise Misconfigured(
            f"missing topics: {', '.join(missing)}; create them: visual-memory topics"
        )
    return found
