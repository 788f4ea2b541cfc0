"""Who may do what: the least rights in Kafka and Redis under which each part does its work.

Pure data and its printing; nothing here talks to a server. In Kafka, Read and Write include
Describe, AlterConfigs includes DescribeConfigs, and Write on any topic includes an idempotent
producer. In Redis a function runs with the rights of its caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from memory.errors import Misconfigured
from streams.config.roles import ROLES
from streams.contract.topics import Topic


class Principal(StrEnum):
    """A part of a deployment that logs in under a name of its own."""

    INGEST = "ingest"
    CORRECT = "correct"
    FORGET = "forget"
    QUERY = "query"
    ERASER = "eraser"
    MONITOR = "monitor"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    REBUILDER = "rebuilder"
    PRODUCER = "producer"
    REVIEWER = "reviewer"
    ASKER = "asker"
    PRIVACY_DESK = "privacy-desk"


WORKERS: Mapping[Principal, Topic] = {Principal(name): role.topic for name, role in ROLES.items()}
"""Each reads one topic, with a consumer group of its own."""

READS: Mapping[Principal, Sequence[Topic]] = {
    **{role: (topic, Topic.FENCES) for role, topic in WORKERS.items()},
    Principal.ERASER: (
        *(Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST),
        Topic.FORGET_RECEIPT,
    ),
    Principal.REBUILDER: (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FENCES),
    Principal.PRODUCER: (Topic.FORGOTTEN_CLAIM, Topic.REJECTED),
    Principal.REVIEWER: (Topic.REJECTED,),
    Principal.ASKER: (Topic.PREDICTION,),
    Principal.PRIVACY_DESK: (Topic.FORGET_RECEIPT, Topic.REJECTED),
}
WRITES: Mapping[Principal, Sequence[Topic]] = {
    # What a refused image bore is a fact of forgetting too.
    Principal.INGEST: (Topic.FENCES, Topic.REJECTED),
    Principal.CORRECT: (Topic.REJECTED,),
    Principal.FORGET: (Topic.FENCES, Topic.FORGET_RECEIPT, Topic.REJECTED),
    Principal.QUERY: (Topic.PREDICTION, Topic.REJECTED),
    # Tombstones, and heartbeats.
    Principal.ERASER: (
        *(Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST),
        *(Topic.FORGET_RECEIPT, Topic.FORGOTTEN_CLAIM),
    ),
    Principal.PRODUCER: (Topic.IMAGE_INGEST,),
    Principal.REVIEWER: (Topic.LABEL_CORRECTION,),
    Principal.ASKER: (Topic.QUERY,),
    Principal.PRIVACY_DESK: (Topic.FORGET_REQUEST,),
}
EVERY_TOPIC: Mapping[Principal, Sequence[str]] = {
    # A worker compares all topics with their promises before it starts.
    **dict.fromkeys(
        (*WORKERS, Principal.ERASER, Principal.REBUILDER, Principal.AUDITOR),
        ("Describe", "DescribeConfigs"),
    ),
    Principal.MONITOR: ("Describe",),
    Principal.OPERATOR: ("AlterConfigs", "Create", "Describe"),
}


CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class KafkaRight:
    """Operations (Kafka's names) on topics, a consumer group, a transactional id or the cluster."""

    kind: str
    names: tuple[str, ...]
    operations: tuple[str, ...]


def receipts_writer(prefix: str, namespace: str) -> str:
    """The transactional id of who writes the chain of receipts."""
    return f"{prefix}{namespace}-receipts"


def kafka_rights(principal: Principal, prefix: str, namespace: str) -> list[KafkaRight]:
    """What a principal needs in Kafka; `prefix` is of the topics."""
    operations: dict[Topic, set[str]] = {
        topic: set(EVERY_TOPIC.get(principal, ())) for topic in Topic
    }
    for topic in READS.get(principal, ()):
        operations[topic].add("Read")
    for topic in WRITES.get(principal, ()):
        operations[topic].add("Write")
    together: dict[tuple[str, ...], list[str]] = {}
    for topic, needed in operations.items():
        if needed & {"Read", "Write"}:
            needed -= {"Describe"}
        if needed:
            together.setdefault(tuple(sorted(needed)), []).append(prefix + topic)
    rights = [KafkaRight("topic", tuple(names), needed) for needed, names in together.items()]
    if principal in WORKERS:
        rights.append(KafkaRight("group", (f"{prefix}{namespace}-{principal}",), ("Read",)))
    if principal is Principal.ERASER:
        chain = (receipts_writer(prefix, namespace),)
        rights.append(KafkaRight("transactional-id", chain, ("Describe", "Write")))
    if principal in (Principal.ERASER, Principal.AUDITOR):
        # How long erasing takes at worst is told by the brokers' settings and by how large the log is.
        rights.append(KafkaRight(CLUSTER, (), ("Describe", "DescribeConfigs")))
    return rights


@dataclass(frozen=True, slots=True)
class RedisRights:
    """Commands, and kinds of keys as they stand behind the namespace."""

    commands: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


LOGIN = ("client|setinfo", "ping", "select")
OPEN_COMMANDS = (
    *LOGIN,
    "fcall_ro",
    "ft._list",
    "ft.config|get",
    "ft.info",
    "function|list",
    "hgetall",
)
"""To find the memory and see that its functions and its index are there."""
WORKER_COMMANDS = (*OPEN_COMMANDS, "config|get", "fcall", "hdel", "hget", "hincrby", "hset", "time")
"""To check durability, and to note positions, starts and attempts."""
MERGE = (
    *WORKER_COMMANDS,
    *("del", "exists", "get", "hexists", "hkeys", "hmget", "hsetnx", "hstrlen"),
    *("sadd", "scard", "set", "srem", "sscan", "xadd", "zrem"),
)
ASK = ("exists", "ft.search", "get", "sismember", "smembers", "sscan")
REPLICATE = ("hmget", "scan", "xinfo|stream", "xrange", "xrevrange")
"""To keep a copy of what the memory shows."""
COUNT_USE = ("zcard", "zincrby", "zrevrange", "zscore")
"""To add to how often items are neighbours, and to say it."""
GENERATIONS = "[0-9]*"
"""Of a memory's keys, as a pattern: a rebuild makes the next one."""
INDEX = f"{GENERATIONS}:index"
"""Search takes its index's name for a key that it may change, whatever it does."""
INFLUENCE = (f"{GENERATIONS}:neighbors", f"{GENERATIONS}:decided")
MEMORY = (
    f"{GENERATIONS}:item:*",
    f"{GENERATIONS}:wait:*",
    f"{GENERATIONS}:outbox:*",
    f"{GENERATIONS}:outboxes",
    f"{GENERATIONS}:posting:*",
    f"{GENERATIONS}:until:*",
    f"{GENERATIONS}:changes",
    f"{GENERATIONS}:pruned",
    *INFLUENCE,
)
FORGETTING = (
    f"{GENERATIONS}:request:*",
    f"{GENERATIONS}:expansion:*",
    f"{GENERATIONS}:erased:*",
    f"{GENERATIONS}:open_requests",
)
READ_KEYS = (
    f"{GENERATIONS}:item:*",
    f"{GENERATIONS}:wait:*",
    f"{GENERATIONS}:posting:*",
    f"{GENERATIONS}:until:*",
    f"{GENERATIONS}:request:*",
    f"{GENERATIONS}:changes",
    f"{GENERATIONS}:pruned",
)


def _own(role: Principal) -> tuple[str, ...]:
    return (
        INDEX,
        f"{GENERATIONS}:pos",
        f"{GENERATIONS}:marks",
        f"starts:{role}",
        f"attempts:{role}",
    )


REDIS: Mapping[Principal, RedisRights] = {
    Principal.INGEST: RedisRights(
        MERGE, ("meta",), (*_own(Principal.INGEST), *MEMORY, *FORGETTING)
    ),
    Principal.CORRECT: RedisRights(
        MERGE, ("meta",), (*_own(Principal.CORRECT), *MEMORY, *FORGETTING)
    ),
    Principal.FORGET: RedisRights(
        (*MERGE, "ft.aggregate", "ft.cursor", "smembers"),
        ("meta",),
        (*_own(Principal.FORGET), *MEMORY, *FORGETTING),
    ),
    Principal.QUERY: RedisRights(
        # Query workers only read fences; forget workers write them.
        (*WORKER_COMMANDS, *ASK, *REPLICATE, *COUNT_USE, "set"),
        ("meta", *READ_KEYS),
        (*_own(Principal.QUERY), *INFLUENCE, "copy:*"),
    ),
    Principal.ERASER: RedisRights(
        (
            *(*OPEN_COMMANDS, "bgrewriteaof", "bgsave", "config|get", "del", "exists", "fcall"),
            *("get", "hget", "info", "mget", "sadd", "scan", "set", "slowlog|reset", "smembers"),
            *("srem", "sscan"),
        ),
        (
            "meta",
            f"{GENERATIONS}:item:*",
            f"{GENERATIONS}:wait:*",
            f"{GENERATIONS}:until:*",
            f"{GENERATIONS}:pos",
            "copy:*",
        ),
        (INDEX, f"{GENERATIONS}:outbox:*", f"{GENERATIONS}:outboxes", "eraser"),
    ),
    Principal.MONITOR: RedisRights(
        (
            *OPEN_COMMANDS,
            *("ft.aggregate", "ft.cursor", "ft.search", "hget", "hmget", "info", "mget"),
            *("scan", "scard", "smembers"),
        ),
        (
            "meta",
            f"{GENERATIONS}:item:*",
            f"{GENERATIONS}:wait:*",
            f"{GENERATIONS}:until:*",
            f"{GENERATIONS}:pos",
            f"{GENERATIONS}:marks",
            f"{GENERATIONS}:open_requests",
            f"{GENERATIONS}:request:*",
            f"{GENERATIONS}:pruned",
        ),
        (INDEX,),
    ),
    Principal.AUDITOR: RedisRights((*LOGIN, "config|get", "exists", "info"), ("eraser",)),
    Principal.OPERATOR: RedisRights(
        (
            *OPEN_COMMANDS,
            *("config|get", "fcall", "ft.config", "ft.create", "function|load", "hsetnx"),
        ),
        (),
        ("meta", INDEX),
    ),
    Principal.REBUILDER: RedisRights(
        (
            *MERGE,
            *("bgrewriteaof", "ft.create", "ft.dropindex", "mget", "scan", "type"),
        ),
        (),
        ("meta", f"{GENERATIONS}:*"),
    ),
}
"""Nobody else logs in to Redis."""


def redis_rules(principal: Principal, namespace: str) -> list[str]:
    """The rules of a principal for ``ACL SETUSER``, without its password. None if it has none."""
    rights = REDIS.get(principal)
    if rights is None:
        return []
    return [
        *("on", "resetkeys", "resetchannels", "-@all"),
        *(f"+{command}" for command in sorted(rights.commands)),
        *(f"%R~{namespace}:{keys}" for keys in rights.reads),
        *(f"~{namespace}:{keys}" for keys in rights.writes),
    ]


def default_names(namespace: str) -> dict[Principal, str]:
    """What each principal is called where nobody says otherwise: ``vm-ingest``, ..."""
    return {principal: f"{namespace}-{principal}" for principal in Principal}


def parse_names(given: Sequence[str], namespace: str) -> dict[Principal, str]:
    """Names of principals, those given as ``PRINCIPAL=NAME`` in place of the usual ones."""
    names = default_names(namespace)
    for pair in given:
        principal, equals, name = pair.partition("=")
        if not equals or not name or principal not in set(Principal):
            raise Misconfigured(
                f"{pair!r} is not PRINCIPAL=NAME; principals are {', '.join(Principal)}"
            )
        names[Principal(principal)] = name
    return names
