"""The topics of the memory that the settings say: declared, created, checked, told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from memory.errors import Misconfigured
from streams.config.connections import kafka_cluster
from streams.config.settings import Settings
from streams.contract import topics
from streams.contract.topics import Topic
from streams.kafka import admin


def topic_specs(settings: Settings) -> list[topics.TopicSpec]:
    return topics.declare(
        prefix=settings.topic_prefix,
        partitions=settings.partitions,
        replication=settings.replication,
        compaction_lag=settings.compaction_lag,
        answers_kept=settings.answers_kept,
        max_record_bytes=settings.max_image_bytes,
    )


def create_topics(settings: Settings, changed: Callable[[str], None] | None = None) -> None:
    """Create what is missing; `Misconfigured` when what is there breaks a promise.

    With `changed`, which is told each change, settings that break one are set first.
    """
    cluster, specs = kafka_cluster(settings), topic_specs(settings)
    admin.create(cluster, specs)
    if changed is not None:
        for change in admin.configure(cluster, specs):
            changed(change)
    admin.check_or_refuse(cluster, specs)


def known_topic_ids(settings: Settings) -> Mapping[str, str]:
    """Topic ids by full name. `Misconfigured` when a topic is missing."""
    cluster = kafka_cluster(settings)
    return admin.topic_ids(cluster, [cluster.full_name(topic) for topic in Topic])


def group_instance(settings: Settings, topic: str, topic_id: str) -> str | None:
    """The name of this worker in its consumer group, None where it has none.

    A member that comes back under its name gets the partitions it had, and nobody looks how many
    there are by now. So its name is another one where the topic has grown or was made anew.
    """
    if settings.instance is None:
        return None
    count = admin.partition_count(kafka_cluster(settings), topic)
    return f"{settings.instance}.{topic_id}.{count}"


def check_same_topics(settings: Settings, before: Mapping[str, str]) -> None:
    """`Misconfigured` when a topic is missing or another of its name than before."""
    if changed := sorted(set(known_topic_ids(settings).items()) - set(before.items())):
        names = ", ".join(name for name, _ in changed)
        raise Misconfigured(f"made anew while this worker ran: {names}")


def check_topics(settings: Settings, before: Mapping[str, str]) -> None:
    """`Misconfigured` when a topic is another one than before, or breaks a promise by its settings."""
    check_same_topics(settings, before)
    admin.check_or_refuse(kafka_cluster(settings), topic_specs(settings), shape=False)
