"""Who may do what, as it stands in the documents."""

from __future__ import annotations

from streams.config.permissions import REDIS, KafkaRight, Principal, RedisRights, kafka_rights
from streams.contract.topics import Topic


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
    if len(right.names) == len(Topic):
        return "every topic"
    return " ".join(f"{'group ' if right.kind == 'group' else ''}`{n}`" for n in right.names)
