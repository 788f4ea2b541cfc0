"""Who may do what: as commands that give the rights, and as it stands in the documents."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from streams.config.permissions import (
    CLUSTER,
    REDIS,
    KafkaRight,
    Principal,
    RedisRights,
    kafka_rights,
    redis_rules,
)
from streams.contract.topics import Topic


def kafka_commands(
    names: Mapping[Principal, str], *, bootstrap: str, prefix: str, namespace: str
) -> Iterator[str]:
    """``kafka-acls.sh`` commands that give the principals their rights."""
    for principal, name in names.items():
        for right in kafka_rights(principal, prefix, namespace):
            yield shlex.join(
                [
                    *("kafka-acls.sh", "--bootstrap-server", bootstrap),
                    *("--command-config", "admin.properties", "--add"),
                    *("--allow-principal", f"User:{name}"),
                    *(part for o in right.operations for part in ("--operation", o)),
                    *(part for n in right.names for part in (f"--{right.kind}", n)),
                    *(["--cluster"] if right.kind == CLUSTER else []),
                ]
            )


def redis_commands(names: Mapping[Principal, str], *, namespace: str) -> Iterator[str]:
    """``ACL SETUSER`` lines that give the principals their rights and keep their passwords."""
    for principal, name in names.items():
        if rules := redis_rules(principal, namespace):
            yield " ".join(["ACL", "SETUSER", name, *rules])


def table() -> str:
    """Who may do what, as Markdown with topics without prefix and the namespace ``vm``."""
    rows = ["| principal | Kafka | Redis keys | Redis commands |", "|---|---|---|---|"]
    for principal in Principal:
        kafka = "; ".join(
            f"{', '.join(right.operations)}: {_topics(right)}"
            for right in kafka_rights(principal, "", "vm")
        )
        rights = REDIS.get(principal, RedisRights(()))
        keys = [f"reads `vm:{name}`" for name in rights.reads]
        keys += [f"writes `vm:{name}`" for name in rights.writes]
        commands = " ".join(f"`{command}`" for command in sorted(rights.commands))
        cells = (f"`{principal}`", kafka, ", ".join(keys) or "none", commands or "none")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _topics(right: KafkaRight) -> str:
    if right.kind == CLUSTER:
        return "the cluster"
    if len(right.names) == len(Topic):
        return "every topic"
    kind = "" if right.kind == "topic" else f"{right.kind.replace('-', ' ')} "
    return " ".join(f"{kind}`{name}`" for name in right.names)
