"""Who may do what: the rights as data, the commands that print them, the table in the guide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import cli
from streams.config.permissions import (
    REDIS,
    WORKERS,
    WRITES,
    Principal,
    kafka_rights,
    redis_rules,
)
from streams.config.permissions_page import table
from streams.config.roles import ROLES
from streams.config.settings import Settings
from streams.contract.topics import Topic

GUIDE = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")


def printed(*arguments: str, **settings: str) -> str:
    environment = {f"VISUAL_MEMORY_{name.upper()}": value for name, value in settings.items()}
    done = CliRunner().invoke(cli, ["permissions", *arguments], env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_the_table_in_the_guide_is_what_the_command_prints() -> None:
    """If not: put what `visual-memory permissions --table` prints between the two marks."""
    found = re.search(r"<!-- permissions -->\n(.*)<!-- /permissions -->", GUIDE, re.DOTALL)
    assert found is not None
    assert found[1] == printed("--table") == table()


def test_every_setting_that_the_guide_names_is_one() -> None:
    named = set(re.findall(r"VISUAL_MEMORY_([A-Z_]+)", GUIDE)) - {"SECRETS_DIR"}
    assert named <= {name.upper() for name in Settings.model_fields}
    wires = {name.upper() for name in Settings.model_fields if re.match(r"(kafka|redis)_", name)}
    assert wires <= named


def test_the_workers_are_the_roles() -> None:
    assert {str(role): topic for role, topic in WORKERS.items()} == {
        name: role.topic for name, role in ROLES.items()
    }


def test_only_the_privacy_desk_may_ask_to_forget() -> None:
    # Who erases writes tombstones there, for which a topic has no right of their own.
    assert [who for who, topics in WRITES.items() if Topic.FORGET_REQUEST in topics] == [
        Principal.ERASER,
        Principal.PRIVACY_DESK,
    ]
    assert [who for who, topics in WRITES.items() if Topic.FENCES in topics] == [
        Principal.INGEST,
        Principal.FORGET,
    ]


def test_only_workers_and_who_operates_and_audits_log_in_to_redis() -> None:
    operating = {
        *(Principal.ERASER, Principal.MONITOR, Principal.AUDITOR, Principal.OPERATOR),
        Principal.REBUILDER,
    }
    assert set(REDIS) == {*WORKERS, *operating}


@pytest.mark.parametrize("principal", REDIS)
def test_nobody_may_empty_redis_or_give_rights(principal: Principal) -> None:
    commands = set(REDIS[principal].commands)
    assert not commands & {"flushall", "flushdb", "keys", "acl", "config", "config|set", "shutdown"}
    assert all(re.fullmatch(r"[a-z_.|]+", command) for command in commands), "no categories"


def test_who_only_reads_has_no_command_that_deletes_and_no_memory_to_write() -> None:
    assert "del" not in REDIS[Principal.QUERY].commands
    for principal in (Principal.QUERY, Principal.MONITOR):
        written = " ".join(REDIS[principal].writes)
        assert not re.search(r"item|wait|posting|until|request|meta|outbox", written)


def test_topics_groups_and_keys_have_the_prefix_and_the_namespace() -> None:
    said = printed(topic_prefix="shop-", namespace="pictures", kafka="broker:9093")
    kafka = [line for line in said.splitlines() if line.startswith("kafka-acls.sh")]
    assert all("--bootstrap-server broker:9093" in line for line in kafka)
    topics = re.findall(r"--topic (\S+)", said)
    assert set(topics) == {f"shop-{topic}" for topic in Topic}
    assert set(re.findall(r"--group (\S+)", said)) == {f"shop-pictures-{role}" for role in WORKERS}
    keys = re.findall(r"~(\S+)", said)
    assert keys
    assert all(key.startswith("pictures:") for key in keys)


def test_principals_are_called_as_they_are_told() -> None:
    said = printed("--kafka-user", "ingest=CN=in gest", "--redis-user", "query=asks")
    assert "--allow-principal 'User:CN=in gest' --operation DescribeConfigs" in said
    assert "ACL SETUSER asks on resetkeys" in said
    assert "User:vm-ingest" not in said
    assert "SETUSER vm-query" not in said


@pytest.mark.parametrize("wrong", ["ingest", "ingest=", "king=x"])
def test_who_is_no_principal_is_refused(wrong: str) -> None:
    done = CliRunner().invoke(cli, ["permissions", "--kafka-user", wrong])
    assert "is not PRINCIPAL=NAME; principals are ingest, correct" in str(done.exception)


@pytest.mark.parametrize("only", ["kafka", "redis"])
def test_the_commands_of_one_server_can_be_printed_alone(only: str) -> None:
    start = {"kafka": "kafka-acls.sh ", "redis": "ACL SETUSER "}[only]
    assert all(line.startswith(start) for line in printed("--only", only).splitlines())


def test_no_right_is_a_pattern_of_topics_and_of_the_cluster_one_may_only_read() -> None:
    for principal in Principal:
        for right in kafka_rights(principal, "", "vm"):
            assert right.kind in ("topic", "group", "transactional-id", "cluster")
            if right.kind == "cluster":
                assert set(right.operations) == {"Describe", "DescribeConfigs"}
                assert principal in (Principal.ERASER, Principal.AUDITOR)
            assert not [name for name in right.names if "*" in name]
            assert "All" not in right.operations


def test_rights_in_redis_are_set_and_passwords_left() -> None:
    """`reset` would take the passwords too."""
    rules = redis_rules(Principal.FORGET, "vm")
    assert rules[:4] == ["on", "resetkeys", "resetchannels", "-@all"]
    assert not [rule for rule in rules if rule[0] in "><#!" or rule in ("reset", "nopass")]
    assert redis_rules(Principal.PRODUCER, "vm") == []
