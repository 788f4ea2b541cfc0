"""The composition root: the only place that builds adapters and wires them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import faust
import redis

from memory.claims import AddressRules, ClaimFetcher
from memory.embedders import load_embedder
from memory.errors import Misconfigured
from memory.facts import EveryGeneration, Take
from memory.images import ImageLimits
from memory.model.forgetting import FenceFact
from memory.model.reliability import Pruning
from memory.model.times import microseconds
from memory.ports import Embedder, FenceLog, MemoryIndex
from memory.redis.connection import check_durability
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from memory.replica.index import ReplicatedIndex
from memory.service import VisualMemory
from streams.client import MemoryClient
from streams.config import connections, memory_topics
from streams.config.roles import ROLES
from streams.config.settings import Settings, prepare_process
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.fence_log import KafkaFenceLog, read_facts
from streams.kafka.log_witness import LogWitness
from streams.workers import faust_app, handlers, probes, worker_process
from streams.workers.attempts import RecordAttempts
from streams.workers.batch_delivery import BatchDelivery
from streams.workers.delivery import Source
from streams.workers.metrics import Counted, ReplicaMetrics, begin_at_zero, observe_stage
from streams.workers.monitor import Monitor
from streams.workers.readiness import Readiness, beside
from streams.workers.task_delivery import TaskDelivery

PATIENCE_SECONDS = 300.0
"""No embedder takes as long for a batch; one that hangs is ended."""
PROMISES_WATCH_SECONDS = 15.0


def redis_client(settings: Settings) -> redis.Redis:
    """A client that has logged in. Raises `Misconfigured`, `Unavailable`."""
    return connections.connect_redis(settings)


def embedder(settings: Settings) -> Embedder:
    # Of its name only the kind: the rest may be a folder.
    return Counted(
        load_embedder(settings.embedder, device=settings.device),
        settings.embedder.partition(":")[0],
    )


def open_index(
    settings: Settings,
    client: redis.Redis,
    made_for: Embedder | None = None,
    *,
    replicated: bool = False,
) -> RedisIndex:
    """The memory's index, made if `made_for` tells an embedder; `replicated`: with its own copy."""
    named: dict[str, Any] = {
        "namespace": settings.namespace,
        "hmac_key": settings.secret_key(),
        "embedder": made_for,
        "algorithm": settings.index_algorithm,
        "dtype": settings.index_dtype,
    }
    if not replicated:
        return RedisIndex.open(client, **named)
    replica = ReplicatedIndex.open(client, **named)
    replica.start(settings.replica_bytes, ReplicaMetrics(), counts_wrong=settings.reliability)
    return replica


def open_counting_index(settings: Settings, client: redis.Redis) -> ReplicatedIndex:
    """The memory in a copy of its own, whatever it takes, with wrong counts, until its `stop`."""
    key = settings.secret_key()
    index = ReplicatedIndex.open(client, namespace=settings.namespace, hmac_key=key)
    index.start(sys.maxsize, counts_wrong=True)
    return index


def generations(settings: Settings, client: redis.Redis, index: RedisIndex) -> Generations:
    """The generations of the memory that `index` is of."""
    return Generations(client, settings.namespace, index)


def client(settings: Settings, source: str) -> MemoryClient:
    cluster = connections.kafka_cluster(settings)
    return MemoryClient(
        cluster.bootstrap,
        source=source,
        prefix=cluster.prefix,
        max_record_bytes=settings.max_image_bytes,
        request_key=settings.desk_key(),
        **cluster.security,
    )


def claim_fetcher(settings: Settings) -> ClaimFetcher | None:
    """None where no prefix is allowed. `Misconfigured` when one is malformed."""
    if not settings.claim_prefixes:
        return None
    return ClaimFetcher(
        settings.claim_prefixes,
        max_bytes=settings.max_image_bytes,
        timeout=settings.claim_timeout,
        private_addresses=settings.claim_private_addresses,
        concurrency=settings.claim_concurrency,
        rules=AddressRules(settings.claim_address_length, settings.claim_encoded_slashes),
    )


def open_memory(
    settings: Settings,
    index: MemoryIndex,
    made_for: Embedder | None,
    topic_ids: Mapping[str, str],
    others: Callable[[], Sequence[Take]] | None = None,
) -> VisualMemory:
    """`others`, of who forgets, tells the other generations of the memory, which do the same."""
    cluster = connections.kafka_cluster(settings)
    names = [cluster.full_name(role.topic) for role in ROLES.values() if role.writes]
    logs = {topic_ids[name]: name for name in names}
    fences = KafkaFenceLog(cluster, topic_ids[cluster.full_name(Topic.FENCES)], index)
    if others is not None:
        fences.connect()
    fence_log = EveryGeneration(fences, others or tuple)
    return memory_of(settings, index, made_for, fence_log, logs)


def memory_of(
    settings: Settings,
    index: MemoryIndex,
    made_for: Embedder | None,
    fence_log: FenceLog | None = None,
    logs: Mapping[str, str] | None = None,
) -> VisualMemory:
    """As `open_memory`; what is forgotten is in no log unless `fence_log` is given."""
    return VisualMemory(
        index,
        made_for,
        fence_log=fence_log,
        limits=ImageLimits(
            max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels
        ),
        fetch=claim_fetcher(settings),
        clock_skew=microseconds(settings.clock_skew),
        logs=logs,
        partitions=settings.partitions,
        pruning=Pruning(settings.pruning),
        min_share=settings.min_share,
        observe=observe_stage,
    )


def catch_up_on_fences(
    settings: Settings,
    memory: VisualMemory,
    topic_ids: Mapping[str, str],
    missing_of: Callable[[Sequence[FenceFact]], Sequence[FenceFact]] | None = None,
) -> None:
    """Apply the facts of forgetting this memory has not seen, up to the log's present end.

    With `missing_of` only those that it finds missing, so that who may only read can start.
    """
    cluster = connections.kafka_cluster(settings)

    def apply(facts: Sequence[FenceFact]) -> None:
        missing = facts if missing_of is None else missing_of(facts)
        try:
            memory.apply(missing)
        except Misconfigured as error:
            if missing_of is None:
                raise
            raise Misconfigured(
                f"{len(missing)} facts of forgetting are not in Redis, and this user may not put "
                f"them there ({error}); start a forget worker first"
            ) from None

    read_facts(cluster, topic_ids[cluster.full_name(Topic.FENCES)], memory.index, apply)


def worker(
    settings: Settings,
    role: str,
    wrap_index: Callable[[MemoryIndex], MemoryIndex] = lambda index: index,
) -> faust.App:
    """A worker of one role, checked and wired, ready for `worker_process.run_app`.

    `wrap_index` may put something before the index, as tests of rare failures do.
    Raises `Misconfigured` when a topic or a server breaks a promise, `Unavailable` when one
    is away.
    """
    admin.check_or_refuse(connections.kafka_cluster(settings), memory_topics.topic_specs(settings))
    topic_ids = memory_topics.known_topic_ids(settings)
    store = redis_client(settings)
    made_for = embedder(settings) if ROLES[role].embeds else None
    replicated = role == "query" and settings.replica_bytes > 0
    index = open_index(settings, store, made_for, replicated=replicated)
    index.check_durability()
    others = generations(settings, store, index).others if role == "forget" else None
    memory = open_memory(settings, wrap_index(index), made_for, topic_ids, others)
    missing_of = None if ROLES[role].writes else index.missing_facts
    catch_up_on_fences(settings, memory, topic_ids, missing_of)
    return wire(settings, role, memory, store, topic_ids)


def wire(
    settings: Settings,
    role: str,
    memory: VisualMemory,
    store: redis.Redis,
    topic_ids: Mapping[str, str],
) -> faust.App:
    """A Faust app that carries the role's topic to its agent."""
    begin_at_zero(role)
    cluster, does = connections.kafka_cluster(settings), ROLES[role]
    topic, batch = cluster.full_name(does.topic), settings.batch_of(role)
    topic_id = topic_ids[topic]
    app = faust_app.make_app(
        f"{settings.topic_prefix}{settings.namespace}-{role}",
        cluster.bootstrap,
        instance=memory_topics.group_instance(settings, topic, topic_id),
        max_record_bytes=settings.max_image_bytes,
        batch=batch,
        credentials=faust_app.credentials(cluster.security),
    )
    patience = PATIENCE_SECONDS if does.embeds else None
    at_once, gather_seconds = does.batches_at_once, does.gather_seconds
    source = Source(role, topic, topic_id, batch, at_once, gather_seconds, patience)
    parts: dict[str, Any] = {
        "positions": memory.index,
        "known_log": LogWitness(cluster, topic, topic_id, memory.index),
        "attempts": RecordAttempts(store, settings.namespace, role),
        "full_name": cluster.full_name,
        "reject": partial(handlers.rejection_of, role, settings.partitions),
    }
    carrier: BatchDelivery | TaskDelivery
    if role == "query":
        carrier = tasks = TaskDelivery(app, source, **parts)
        agent = handlers.query_agent(memory, tasks, settings.partitions)
        tasks.start(agent, settings.questions_in_flight)
        tasks.watch(handlers.INFLUENCE_SECONDS, handlers.influence_writer(memory))
    else:
        carrier = batches = BatchDelivery(app, source, **parts)
        told = microseconds(settings.clock_skew), settings.request_keys, settings.namespace
        batches.start(handlers.writing_agent(role, memory, topic_id, *told))
    carrier.watch(PROMISES_WATCH_SECONDS, partial(check_durability, store))
    carrier.watch(PROMISES_WATCH_SECONDS, partial(memory_topics.check_topics, settings, topic_ids))
    readiness = Readiness(partial(faust_app.log_ends, app), topic_id, carrier, memory.index)

    @app.task  # type: ignore[untyped-decorator]  # Faust is untyped here
    async def serve_probes() -> None:
        with worker_process.refusing():
            told = partial(beside, memory.index)
            await probes.serve(settings.web_host, settings.web_port, readiness, told)
        await readiness.watch()

    return app


def run_worker(settings: Settings, role: str) -> NoReturn:
    """Run one role until a signal ends it."""
    prepare_process()
    worker_process.run_app(worker(settings, role), settings.log_level, gives_way=ROLES[role].writes)


def run_monitor(settings: Settings) -> None:
    """Export sizes and lag until a signal ends it."""

    async def serve() -> None:
        watching = monitor(settings)
        await probes.serve(settings.web_host, settings.web_port, watching.ready)
        await watching.run()

    asyncio.run(serve())


def monitor(settings: Settings) -> Monitor:
    """The process that exports what no single worker knows: sizes and lag."""
    cluster, ids = connections.kafka_cluster(settings), memory_topics.known_topic_ids(settings)
    names = [cluster.full_name(role.topic) for role in ROLES.values()]
    return Monitor(
        open_index(settings, redis_client(settings)),
        cluster,
        {name: ids[name] for name in names},
        settings.metric_labels,
        forgets=cluster.full_name(Topic.FORGET_REQUEST),
    )
