"""Topics and the configuration on which promises rest."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

import pytest
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType

from memory.errors import Misconfigured, Rejected, Unavailable
from streams.contract import topics
from streams.contract.topics import HEADROOM, Relation, Setting, Topic, TopicSpec
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import as_memory_error, map_kafka_errors
from tests.waiting import until

Names = Callable[[str], str]


def spec(specs: list[TopicSpec], topic: Topic) -> TopicSpec:
    return next(s for s in specs if s.topic is topic)


def alter(bootstrap: str, name: str, **settings: str) -> None:
    """Change settings; returns when the broker, which learns of it a little later, tells them."""
    broker = KafkaAdminClient(bootstrap_servers=bootstrap)
    dotted = {key.replace("_", "."): value for key, value in settings.items()}
    broker.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dotted)])

    def told() -> bool:
        asked = [ConfigResource(ConfigResourceType.TOPIC, name)]
        live = broker.describe_configs(asked)["topic"][name]
        return all(live[key]["value"] == value for key, value in dotted.items())

    until(told)
    broker.close()


@pytest.fixture
def created(kafka_bootstrap: str, unique: Names) -> list[TopicSpec]:
    specs = topics.declare(unique("topics"), partitions=2)
    admin.create(KafkaCluster(kafka_bootstrap), specs)
    return specs


def test_every_role_has_a_topic_with_the_prefix() -> None:
    assert {s.name for s in topics.declare("acme.")} == {f"acme.{t}" for t in Topic}


def test_what_must_be_erasable_is_compacted_within_the_lag() -> None:
    specs = topics.declare(compaction_lag=60)
    for topic in (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST, Topic.FENCES):
        settings = spec(specs, topic).settings
        assert settings["cleanup.policy"] == Setting("compact")
        assert settings["max.compaction.lag.ms"] == Setting("60000", Relation.AT_MOST)


def test_what_answers_say_expires_with_its_segments() -> None:
    for topic in (Topic.QUERY, Topic.PREDICTION, Topic.REJECTED, Topic.FORGOTTEN_CLAIM):
        settings = spec(topics.declare(), topic).settings
        assert settings["cleanup.policy"] == Setting("delete")
        assert int(settings["segment.ms"].value) <= int(settings["retention.ms"].value)
        assert settings["segment.ms"].relation is Relation.AT_MOST


def test_rejections_are_kept_for_a_week_and_what_owners_are_told_for_three_days() -> None:
    kept = {Topic.REJECTED: timedelta(days=7), Topic.FORGOTTEN_CLAIM: timedelta(days=3)}
    for topic, time in kept.items():
        settings = spec(topics.declare(), topic).settings
        assert int(settings["retention.ms"].value) == time / timedelta(milliseconds=1)


def test_receipts_are_kept() -> None:
    settings = spec(topics.declare(), Topic.FORGET_RECEIPT).settings
    assert settings["retention.ms"] == Setting("-1")


def test_records_may_be_as_large_as_images_with_their_headers() -> None:
    for topic in (Topic.IMAGE_INGEST, Topic.QUERY):
        settings = spec(topics.declare(max_record_bytes=5_000_000), topic).settings
        assert settings["max.message.bytes"].value == str(5_000_000 + HEADROOM)


@pytest.mark.parametrize("prefix", ["a b", "ü", "x" * 250, "a/"])
def test_a_prefix_that_cannot_be_in_a_topics_name_is_refused(prefix: str) -> None:
    with pytest.raises(Misconfigured, match="prefix"):
        topics.declare(prefix)


@pytest.mark.parametrize(
    ("setting", "found", "holds"),
    [
        (Setting("compact"), "compact", True),
        (Setting("compact"), "compact,delete", False),
        (Setting("10", Relation.AT_MOST), "10", True),
        (Setting("10", Relation.AT_MOST), "9", True),
        (Setting("10", Relation.AT_MOST), "11", False),
        (Setting("10", Relation.AT_MOST), "-1", False),
        (Setting("10", Relation.AT_LEAST), "9", False),
        (Setting("10", Relation.AT_LEAST), "11", True),
    ],
)
def test_a_setting_holds_by_its_relation(setting: Setting, found: str, *, holds: bool) -> None:
    assert setting.holds(found) is holds


def test_created_topics_have_no_problems(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    assert admin.check(KafkaCluster(kafka_bootstrap), created) == []
    admin.check_or_refuse(KafkaCluster(kafka_bootstrap), created)


def test_creating_again_changes_nothing(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    names = [s.name for s in created]
    before = admin.topic_ids(KafkaCluster(kafka_bootstrap), names)
    admin.create(KafkaCluster(kafka_bootstrap), created)
    assert admin.topic_ids(KafkaCluster(kafka_bootstrap), names) == before


def test_a_missing_topic_is_named(kafka_bootstrap: str, unique: Names) -> None:
    specs = topics.declare(unique("missing"))
    problems = admin.check(KafkaCluster(kafka_bootstrap), specs)
    assert len(problems) == len(specs)
    assert all(s.name in p and "missing" in p for s, p in zip(specs, problems, strict=True))


def test_a_changed_setting_is_named_with_what_was_found_and_wanted(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    name = spec(created, Topic.IMAGE_INGEST).name
    alter(kafka_bootstrap, name, cleanup_policy="delete", max_compaction_lag_ms="99999999999")
    problems = "\n".join(admin.check(KafkaCluster(kafka_bootstrap), created))
    assert f"{name}: cleanup.policy is delete, wanted is compact" in problems
    assert f"{name}: max.compaction.lag.ms is 99999999999, wanted at most 86400000" in problems
    assert f"--entity-name {name} --add-config cleanup.policy=compact" in problems
    with pytest.raises(Misconfigured, match=name):
        admin.check_or_refuse(KafkaCluster(kafka_bootstrap), created)


def test_a_stricter_setting_is_no_problem(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    alter(kafka_bootstrap, spec(created, Topic.PREDICTION).name, retention_ms="60000")
    problems = admin.check(KafkaCluster(kafka_bootstrap), created)
    assert problems == []


def test_configuring_repairs_what_is_broken_and_keeps_the_rest(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    name = spec(created, Topic.QUERY).name
    alter(kafka_bootstrap, name, retention_ms="-1", flush_messages="1000")
    assert len(admin.check(KafkaCluster(kafka_bootstrap), created)) == 1
    admin.configure(KafkaCluster(kafka_bootstrap), created)
    assert admin.check(KafkaCluster(kafka_bootstrap), created) == []
    broker = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    live = broker.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    broker.close()
    assert live["topic"][name]["flush.messages"]["value"] == "1000"


def test_what_was_configured_is_waited_for_until_it_can_be_read(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    name = spec(created, Topic.QUERY).name
    alter(kafka_bootstrap, name, retention_ms="-1")
    read, looks = admin._broken, list[object]()

    def late(client: KafkaAdminClient, specs: list[TopicSpec]) -> list[dict[str, str]]:
        """A broker that has not heard of it yet, the first three times."""
        found = read(client, specs)
        looks.append(found)
        stale = [{"retention.ms": "-1"} if one.name == name else {} for one in specs]
        return stale if len(looks) <= 3 else found

    with patch.object(admin, "_broken", side_effect=late):
        admin.configure(KafkaCluster(kafka_bootstrap), created)
    assert len(looks) >= 4
    assert admin.check(KafkaCluster(kafka_bootstrap), created) == []


def test_a_setting_that_kafka_refuses_is_named_with_its_reason(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    query = spec(created, Topic.QUERY)
    never = {"retention.ms": replace(query.settings["retention.ms"], value="-5")}
    with pytest.raises(Misconfigured, match=f"{query.name}: cannot be configured: .*retention.ms"):
        admin.configure(KafkaCluster(kafka_bootstrap), [replace(query, settings=never)])


def test_too_few_partitions_are_named(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    wanted = [replace(s, partitions=3) for s in created if s.topic is Topic.QUERY]
    (problem,) = admin.check(KafkaCluster(kafka_bootstrap), wanted)
    assert "partitions are 2, wanted at least 3" in problem


def test_a_partition_that_workers_do_not_know_is_a_problem_for_answers_only(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    fewer = [replace(s, partitions=1) for s in created]
    (problem,) = admin.check(KafkaCluster(kafka_bootstrap), fewer)
    assert spec(created, Topic.PREDICTION).name in problem
    assert "VISUAL_MEMORY_PARTITIONS" in problem


def test_too_few_replicas_are_named(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    (problem,) = admin.check(KafkaCluster(kafka_bootstrap), [replace(created[0], replication=3)])
    assert "replication is 1, wanted at least 3" in problem


def test_a_topic_that_cannot_be_created_is_named(kafka_bootstrap: str, unique: Names) -> None:
    specs = topics.declare(unique("replicas"), replication=9)
    with pytest.raises(Misconfigured, match=r"replicas.*cannot be created"):
        admin.create(KafkaCluster(kafka_bootstrap), specs)


def test_an_id_is_a_topics_own(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    names = [s.name for s in created]
    ids = admin.topic_ids(KafkaCluster(kafka_bootstrap), names)
    assert list(ids) == names
    assert len(set(ids.values())) == len(names)
    assert all(len(topic_id) == 22 for topic_id in ids.values())


def test_a_recreated_topic_has_another_id(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    name = created[0].name
    before = admin.topic_ids(KafkaCluster(kafka_bootstrap), [name])
    broker = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    broker.delete_topics([name])
    broker.close()
    until(lambda: admin.check(KafkaCluster(kafka_bootstrap), created[:1]) != [])
    admin.create(KafkaCluster(kafka_bootstrap), created[:1])
    assert admin.topic_ids(KafkaCluster(kafka_bootstrap), [name]) != before


def test_ids_of_missing_topics_are_refused_naming_them(
    kafka_bootstrap: str, created: list[TopicSpec]
) -> None:
    with pytest.raises(Misconfigured, match="nowhere, neither"):
        admin.topic_ids(KafkaCluster(kafka_bootstrap), [created[0].name, "nowhere", "neither"])


def test_partitions_are_counted(kafka_bootstrap: str, created: list[TopicSpec]) -> None:
    assert (
        admin.partition_count(KafkaCluster(kafka_bootstrap), spec(created, Topic.QUERY).name) == 2
    )
    with pytest.raises(Misconfigured, match="missing: nowhere"):
        admin.partition_count(KafkaCluster(kafka_bootstrap), "nowhere")


def test_kafka_away_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        impatient = KafkaCluster(address, security={"bootstrap_timeout_ms": 300})
        with pytest.raises(Unavailable):
            admin.check(impatient, topics.declare())


def kinds_of_error() -> list[type[kafka_errors.KafkaError]]:
    kinds = [kafka_errors.KafkaError]
    for kind in kinds:
        kinds.extend(k for k in kind.__subclasses__() if k not in kinds)
    return kinds


@pytest.mark.parametrize("kind", kinds_of_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_kafka_python_is_mapped(kind: type[kafka_errors.KafkaError]) -> None:
    arguments: list[object] = [{}] if kind is kafka_errors.LogTruncationError else []
    with pytest.raises((Unavailable, Misconfigured)), map_kafka_errors():
        raise kind(*arguments)


def test_what_an_operator_must_change_is_told_from_what_may_pass() -> None:
    assert isinstance(as_memory_error(kafka_errors.TopicAuthorizationFailedError()), Misconfigured)
    assert isinstance(as_memory_error(kafka_errors.SaslAuthenticationFailedError()), Misconfigured)
    assert isinstance(as_memory_error(kafka_errors.NotEnoughReplicasError()), Unavailable)
    assert isinstance(as_memory_error(ConnectionResetError()), Unavailable)


def test_a_mapped_error_quotes_nothing() -> None:
    assert "secret" not in str(as_memory_error(kafka_errors.KafkaTimeoutError("secret")))


def test_other_errors_pass_through() -> None:
    from memory.errors import Reason

    with pytest.raises(Rejected), map_kafka_errors():
        raise Rejected(Reason.INTERNAL, "mine")
