"""The composition root passes on what the settings say: each reaches the part that it is about."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import ANY, AsyncMock, MagicMock, Mock, call, create_autospec, patch

import pytest

from memory.claims import AddressRules
from memory.embedders import VectorsOnly
from memory.errors import Misconfigured, Reason
from memory.exact.index import ExactIndex
from memory.images import ImageLimits
from memory.model.events import LogPartition
from memory.model.forgetting import Fence, FenceFact
from memory.model.keys import SelectorKey
from memory.model.logs import Witness
from memory.model.reliability import Pruning
from memory.redis.connection import check_durability
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams import bootstrap
from streams.config import connections, memory_topics
from streams.config.roles import ROLES
from streams.config.settings import Settings, load
from streams.contract import decoding, forgetting, questions
from streams.contract.cloudevents import Header
from streams.contract.records import Record
from streams.contract.topics import HEADROOM, Topic
from streams.kafka import admin, fence_log
from streams.kafka.cluster import KafkaCluster
from streams.workers import faust_app, probes, worker_process
from streams.workers.agents import ForgetAgent, QueryAgent, WritingAgent
from streams.workers.delivery import Source
from streams.workers.metrics import observe_stage
from streams.workers.readiness import beside

Test = TypeVar("Test", bound=Callable[..., None])

SETTINGS = load(
    kafka="one:1,two:2",
    kafka_security_protocol="SASL_PLAINTEXT",
    kafka_username="ann",
    kafka_password="correct horse",
    topic_prefix="p-",
    partitions=3,
    replication=2,
    compaction_lag=77,
    answers_kept=88,
    signing_key=bytes(range(32)).hex(),
    signing_key_before=bytes(range(1, 33)).hex(),
    request_keys="aa, bb",
    request_key=bytes(range(2, 34)).hex(),
    erasure_pause=12,
    erasure_limit=99,
    redis="redis://there:1/0",
    namespace="n",
    hmac_key=bytes(range(32)).hex(),
    embedder="transformers:some/folder",
    device="cpu:7",
    index_algorithm="HNSW",
    index_dtype="FLOAT32",
    clock_skew=9,
    max_image_bytes=3_000_000,
    max_image_pixels=1234,
    claim_prefixes="https://images.example/a/, https://images.example/b/",
    claim_timeout=3.5,
    claim_private_addresses=True,
    claim_concurrency=5,
    claim_encoded_slashes=True,
    claim_address_length=4000,
    batch=11,
    image_batch=7,
    questions_in_flight=13,
    replica_bytes=12345,
    reliability=False,
    pruning="soft",
    min_share=0.25,
    instance="me",
    web_host="127.0.0.9",
    web_port=1234,
    metric_labels="cat, dog",
    log_level="WARNING",
)
"""None of them is the default, so that one that is dropped shows."""
CLUSTER = connections.kafka_cluster(SETTINGS)
IDS = {f"p-{topic}": f"id-{topic}" for topic in Topic}
SKEW = 9_000_000

HELD: dict[str, str] = {
    # These are read by one module each, whose own tests hold them.
    "kafka_sasl_mechanism": "test_wires.py",
    "kafka_ca_file": "test_wires.py",
    "kafka_certificate_file": "test_wires.py",
    "kafka_key_file": "test_wires.py",
    "kafka_key_password": "test_wires.py",
    "redis_username": "test_wires.py",
    "redis_password": "test_wires.py",
    "redis_ca_file": "test_wires.py",
    "redis_certificate_file": "test_wires.py",
    "redis_key_file": "test_wires.py",
    "redis_key_password": "test_wires.py",
    "signing_key": "test_eraser.py",
    "signing_key_before": "test_eraser.py",
    "erasure_pause": "test_eraser.py",
    "erasure_limit": "test_eraser.py",
}
"""By setting, what holds it."""


def holds(*names: str) -> Callable[[Test], Test]:
    """Note that a test fails when one of these settings is dropped."""

    def noted(test: Test) -> Test:
        HELD.update(dict.fromkeys(names, test.__name__))
        return test

    return noted


def test_every_setting_is_held_by_a_test() -> None:
    assert set(HELD) == set(Settings.model_fields)


def test_none_of_the_settings_here_is_its_default() -> None:
    same = [
        name
        for name, field in Settings.model_fields.items()
        if getattr(SETTINGS, name) == field.default and HELD[name] != "test_wires.py"
    ]
    assert same == []


@pytest.fixture(autouse=True)
def _topics_there() -> Iterator[None]:
    with (
        patch.object(admin, "topic_ids", autospec=True, return_value=IDS),
        patch.object(admin, "partition_count", autospec=True, return_value=5),
    ):
        yield


def exact() -> ExactIndex:
    return ExactIndex(embedder="some/folder", dim=8)


def replaced(name: str, **more: Any) -> Any:
    """A part that the composition root builds, replaced by one that notes what it is given."""
    return patch.object(bootstrap, name, autospec=True, **more)


# Kafka


@holds(
    "topic_prefix", "partitions", "replication", "compaction_lag", "answers_kept", "max_image_bytes"
)
def test_topics_are_declared_as_the_settings_say() -> None:
    specs = {spec.topic: spec for spec in memory_topics.topic_specs(SETTINGS)}
    assert [spec.name for spec in specs.values()] == [f"p-{topic}" for topic in specs]
    ingest = specs[Topic.IMAGE_INGEST]
    assert (ingest.partitions, ingest.replication) == (3, 2)
    assert ingest.settings["max.compaction.lag.ms"].value == "77000"
    assert ingest.settings["max.message.bytes"].value == str(3_000_000 + HEADROOM)


@holds("kafka", "kafka_security_protocol", "kafka_username", "kafka_password")
def test_kafka_is_called_by_its_address_with_the_login() -> None:
    specs = memory_topics.topic_specs(SETTINGS)
    with (
        patch.object(admin, "create", autospec=True) as create,
        patch.object(admin, "check_or_refuse", autospec=True) as check,
    ):
        memory_topics.create_topics(SETTINGS)
    create.assert_called_once_with(CLUSTER, specs)
    check.assert_called_once_with(CLUSTER, specs)
    assert memory_topics.known_topic_ids(SETTINGS) == IDS
    admin.topic_ids.assert_called_once_with(  # type: ignore[attr-defined]  # the fixture's
        CLUSTER, list(IDS)
    )


@holds("request_key")
def test_a_client_gets_the_address_the_prefix_the_limit_and_the_login() -> None:
    with replaced("MemoryClient") as client:
        bootstrap.client(SETTINGS, "app")
    client.assert_called_once_with(
        "one:1,two:2",
        source="app",
        prefix="p-",
        max_record_bytes=3_000_000,
        request_key=bytes(range(2, 34)),
        **CLUSTER.security,
    )


@holds("metric_labels")
def test_a_monitor_watches_what_the_roles_read_and_the_labels_that_are_set() -> None:
    store, index = object(), object()
    with (
        replaced("Monitor") as monitor,
        replaced("redis_client", return_value=store) as redis,
        replaced("open_index", return_value=index) as opened,
    ):
        bootstrap.monitor(SETTINGS)
    redis.assert_called_once_with(SETTINGS)
    opened.assert_called_once_with(SETTINGS, store)
    monitor.assert_called_once_with(
        index,
        CLUSTER,
        {f"p-{role.topic}": f"id-{role.topic}" for role in ROLES.values()},
        ("cat", "dog"),
        forgets="p-forget-request",
    )


# The memory


@holds("redis", "namespace", "hmac_key", "index_algorithm", "index_dtype")
def test_an_index_is_opened_as_the_settings_say() -> None:
    store, embedder = Mock(), VectorsOnly("some/folder", 8)
    with patch.object(connections, "connect", autospec=True) as connect:
        bootstrap.redis_client(SETTINGS)
    connect.assert_called_once_with("redis://there:1/0")
    with patch.object(RedisIndex, "open") as opened:
        found = bootstrap.open_index(SETTINGS, store, embedder)
        assert bootstrap.open_index(SETTINGS, store) is found
    made, looked = opened.call_args_list
    assert made == call(
        store,
        namespace="n",
        hmac_key=bytes(range(32)),
        embedder=embedder,
        algorithm="HNSW",
        dtype="FLOAT32",
    )
    assert looked.kwargs["embedder"] is None
    with replaced("Generations") as generations:
        bootstrap.generations(SETTINGS, store, found)
    generations.assert_called_once_with(store, "n", found)


@holds("replica_bytes", "reliability")
def test_a_replica_is_kept_within_the_budget_of_the_settings_and_counted() -> None:
    store, embedder = Mock(), VectorsOnly("some/folder", 8)
    with (
        replaced("ReplicatedIndex") as replicated,
        replaced("RedisIndex") as plain,
        replaced("ReplicaMetrics") as metrics,
    ):
        found = bootstrap.open_index(SETTINGS, store, embedder, replicated=True)
    assert found is replicated.open.return_value
    assert replicated.open.call_args == call(
        store,
        namespace="n",
        hmac_key=bytes(range(32)),
        embedder=embedder,
        algorithm="HNSW",
        dtype="FLOAT32",
    )
    replica: Any = found
    replica.start.assert_called_once_with(12345, metrics.return_value, counts_wrong=False)
    plain.open.assert_not_called()


def test_an_index_for_review_counts_and_has_no_budget() -> None:
    client = Mock()
    with replaced("ReplicatedIndex") as replicated:
        found = bootstrap.open_counting_index(SETTINGS, client)
    assert found is replicated.open.return_value
    expected = call(client, namespace="n", hmac_key=bytes(range(32)))
    assert replicated.open.call_args == expected
    replica: Any = found
    replica.start.assert_called_once_with(sys.maxsize, counts_wrong=True)


@pytest.mark.parametrize(("budget", "replicated"), [(1, True), (0, False)])
def test_without_a_budget_there_is_no_replica(budget: int, *, replicated: bool) -> None:
    settings = load(**{**SETTINGS.model_dump(), "replica_bytes": budget})
    with (
        patch.object(admin, "check_or_refuse", autospec=True),
        replaced("redis_client"),
        replaced("embedder"),
        replaced("open_index") as opened,
        replaced("open_memory"),
        replaced("catch_up_on_fences"),
        replaced("wire"),
    ):
        bootstrap.worker(settings, "query")
    assert opened.call_args.kwargs == {"replicated": replicated}


@holds("embedder", "device")
def test_an_embedder_is_loaded_for_the_device_and_counted_by_its_kind_alone() -> None:
    with replaced("load_embedder") as loaded, replaced("Counted") as counted:
        assert bootstrap.embedder(SETTINGS) is counted.return_value
    loaded.assert_called_once_with("transformers:some/folder", device="cpu:7")
    counted.assert_called_once_with(loaded.return_value, "transformers")


@holds(
    *("claim_prefixes", "claim_timeout", "claim_private_addresses", "claim_concurrency"),
    *("claim_encoded_slashes", "claim_address_length"),
)
def test_claims_are_fetched_as_the_settings_say() -> None:
    with replaced("ClaimFetcher") as fetcher:
        assert bootstrap.claim_fetcher(SETTINGS) is fetcher.return_value
        assert bootstrap.claim_fetcher(load()) is None
    fetcher.assert_called_once_with(
        ("https://images.example/a/", "https://images.example/b/"),
        max_bytes=3_000_000,
        timeout=3.5,
        private_addresses=True,
        concurrency=5,
        rules=AddressRules(4000, encoded_slashes=True),
    )


@holds("max_image_pixels", "clock_skew", "pruning", "min_share")
def test_a_memory_has_the_limits_the_fetcher_and_the_clock_of_the_settings() -> None:
    index, embedder, log, logs = exact(), VectorsOnly("some/folder", 8), Mock(), {"id": "topic"}
    with replaced("VisualMemory") as memory, replaced("claim_fetcher") as fetcher:
        bootstrap.memory_of(SETTINGS, index, embedder, log, logs)
    fetcher.assert_called_once_with(SETTINGS)
    memory.assert_called_once_with(
        index,
        embedder,
        fence_log=log,
        limits=ImageLimits(max_bytes=3_000_000, max_pixels=1234),
        fetch=fetcher.return_value,
        clock_skew=SKEW,
        logs=logs,
        partitions=3,
        pruning=Pruning.SOFT,
        min_share=0.25,
        observe=observe_stage,
    )


def test_an_open_memory_answers_with_positions_in_the_writing_topics_and_tells_all_generations() -> (
    None
):
    index, embedder, others = exact(), VectorsOnly("some/folder", 8), Mock()
    with (
        replaced("KafkaFenceLog") as log,
        replaced("EveryGeneration") as every,
        replaced("memory_of") as memory,
    ):
        bootstrap.open_memory(SETTINGS, index, embedder, IDS, others)
    log.assert_called_once_with(CLUSTER, "id-fences", index)
    log.return_value.connect.assert_called_once_with()
    every.assert_called_once_with(log.return_value, others)
    written = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST)
    names = {f"id-{topic}": f"p-{topic}" for topic in written}
    memory.assert_called_once_with(SETTINGS, index, embedder, every.return_value, names)


WITNESS = Witness(5, 7)
FACT = Fence(SelectorKey("subject:x"), 5)


def caught_up(memory: VisualMemory, **more: Any) -> Any:
    """`replay` as it is called, after it has handed over one fact."""

    def hand_over(
        _cluster: KafkaCluster, apply: Callable[[Sequence[FenceFact]], None], *_: object
    ) -> dict[int, int]:
        apply([FACT])
        return {0: 8, 1: 9}

    with patch.object(fence_log, "replay", autospec=True, side_effect=hand_over) as replay:
        bootstrap.catch_up_on_fences(SETTINGS, memory, IDS, **more)
    return replay


def memory_at(positions: Mapping[LogPartition, int]) -> Any:
    memory: Any = create_autospec(VisualMemory, instance=True)
    memory.index = create_autospec(ExactIndex, instance=True)
    memory.index.positions.return_value = positions
    memory.index.witnesses.return_value = {place: [WITNESS] for place in positions}
    return memory


def test_facts_of_forgetting_are_read_on_from_where_this_memory_has_them() -> None:
    memory = memory_at({LogPartition("id-fences", 0): 5, LogPartition("id-image-ingest", 0): 7})
    replay = caught_up(memory)
    replay.assert_called_once_with(CLUSTER, ANY, {0: 5}, {0: [WITNESS]}, ANY)
    memory.apply.assert_called_once_with([FACT])
    memory.index.advance.assert_called_once_with({("id-fences", 0): 8, ("id-fences", 1): 9})


def test_who_only_reads_applies_what_is_missing_and_says_who_can_where_that_is_refused() -> None:
    memory = memory_at({})
    caught_up(memory, missing_of=lambda _facts: [])
    memory.apply.assert_called_once_with([])
    memory.apply.side_effect = Misconfigured("Redis refuses")
    with pytest.raises(Misconfigured, match=r"1 facts .*Redis refuses.*start a forget worker"):
        caught_up(memory, missing_of=lambda facts: facts)
    with pytest.raises(Misconfigured, match=r"^Redis refuses$"):
        caught_up(memory)


def test_a_topic_that_was_made_anew_is_named() -> None:
    memory_topics.check_same_topics(SETTINGS, IDS)
    with pytest.raises(Misconfigured, match=r"made anew .*: p-query$"):
        memory_topics.check_same_topics(SETTINGS, IDS | {"p-query": "before"})


# Workers


@pytest.mark.parametrize("role", ROLES)
def test_a_worker_is_checked_before_it_is_wired(role: str) -> None:
    """What it refuses on real servers: tests/integration/test_refusals.py."""
    steps = Mock()
    index = create_autospec(RedisIndex, instance=True)
    wrapped = object()
    with (
        patch.object(admin, "check_or_refuse", autospec=True) as checked,
        replaced("redis_client") as redis,
        replaced("embedder") as embedder,
        replaced("open_index", return_value=index) as opened,
        replaced("generations") as generations,
        replaced("open_memory") as memory,
        replaced("catch_up_on_fences") as caught_up,
        replaced("wire") as wire,
    ):
        for name, part in (("topics", checked), ("durable", index.check_durability)):
            steps.attach_mock(part, name)
        for name, part in (("fences", caught_up), ("wire", wire)):
            steps.attach_mock(part, name)
        app = bootstrap.worker(SETTINGS, role, lambda given: wrapped if given is index else given)  # type: ignore[arg-type,return-value]  # a stand-in
    assert app is wire.return_value
    assert [step[0] for step in steps.mock_calls] == ["topics", "durable", "fences", "wire"]
    checked.assert_called_once_with(CLUSTER, memory_topics.topic_specs(SETTINGS))
    embeds = role in ("ingest", "query")
    made_for = embedder.return_value if embeds else None
    assert embedder.call_args_list == ([call(SETTINGS)] if embeds else [])
    opened.assert_called_once_with(
        SETTINGS, redis.return_value, made_for, replicated=role == "query"
    )
    forgets = role == "forget"
    assert generations.call_args_list == (
        [call(SETTINGS, redis.return_value, index)] if forgets else []
    )
    others = generations.return_value.others if forgets else None
    memory.assert_called_once_with(SETTINGS, wrapped, made_for, IDS, others)
    missing_of = index.missing_facts if role == "query" else None
    caught_up.assert_called_once_with(SETTINGS, memory.return_value, IDS, missing_of)
    wire.assert_called_once_with(SETTINGS, role, memory.return_value, redis.return_value, IDS)


class Wired:
    """A worker as `wire` puts it together, every part of it a note of what it was given."""

    def __init__(self, role: str, settings: Settings = SETTINGS) -> None:
        self.memory = VisualMemory(exact(), None)
        self.store = object()
        self.tasks: list[Callable[[], Any]] = []
        app: Any = SimpleNamespace(task=self.tasks.append)
        store: Any = self.store
        with (
            patch.object(faust_app, "make_app", autospec=True, return_value=app) as self.make_app,
            replaced("TaskDelivery" if role == "query" else "BatchDelivery") as self.delivery,
            replaced("LogWitness") as self.witness,
            replaced("RecordAttempts") as self.attempts,
            replaced("Readiness") as self.readiness,
            replaced("begin_at_zero") as self.begin,
            patch.object(faust_app, "log_ends", autospec=True) as self.log_ends,
        ):
            self.app: Any = bootstrap.wire(settings, role, self.memory, store, IDS)
        assert self.app is app
        self.carrier: Any = self.delivery.return_value
        self.source: Any = self.delivery.call_args.args[1]
        self.ends: Any = self.readiness.call_args.args[0]

    @property
    def agent(self) -> Any:
        ((agent,), _) = self.carrier.start.call_args
        return agent


@holds("instance", "batch", "image_batch")
@pytest.mark.parametrize(
    ("role", "batch", "at_once", "gather", "patience"),
    [
        ("ingest", 7, 2, 0.01, 300.0),
        ("correct", 11, 2, 0.01, None),
        ("forget", 11, 1, 0.0, None),
        ("query", 11, 1, 0.0, 300.0),
    ],
)
def test_delivery_reads_the_roles_topic_in_batches_of_the_settings(
    role: str, batch: int, at_once: int, gather: float, patience: float | None
) -> None:
    worker = Wired(role)
    topic = ROLES[role].topic
    worker.begin.assert_called_once_with(role)
    worker.make_app.assert_called_once_with(
        f"p-n-{role}",
        "one:1,two:2",
        instance=f"me.id-{topic}.5",
        max_record_bytes=3_000_000,
        batch=batch,
        credentials=ANY,
    )
    assert worker.make_app.call_args.kwargs["credentials"].username == "ann"
    topic_id = f"id-{topic}"
    assert worker.source == Source(role, f"p-{topic}", topic_id, batch, at_once, gather, patience)
    assert worker.delivery.call_args.args == (worker.app, worker.source)
    parts = worker.delivery.call_args.kwargs
    assert parts["positions"] is worker.memory.index
    assert parts["known_log"] is worker.witness.return_value
    worker.witness.assert_called_once_with(
        CLUSTER, f"p-{topic}", f"id-{topic}", worker.memory.index
    )
    assert parts["attempts"] is worker.attempts.return_value
    worker.attempts.assert_called_once_with(worker.store, "n", role)
    assert parts["full_name"](Topic.REJECTED) == "p-rejected"
    (told, *answer) = parts["reject"](Record(f"p-{topic}", 2, 5, b"k", b"", (), 0))
    assert told.topic is Topic.REJECTED
    assert answer == []
    watched = [args for args, _ in worker.carrier.watch.call_args_list]
    if role == "query":
        watched.pop(0)  # writes down who was used
    assert {seconds for seconds, _ in watched} == {bootstrap.PROMISES_WATCH_SECONDS}
    assert [(check.func, check.args) for _, check in watched] == [
        (check_durability, (worker.store,)),
        (memory_topics.check_topics, (SETTINGS, IDS)),
    ]


def test_a_worker_is_known_to_its_group_by_its_name_and_what_it_reads() -> None:
    assert memory_topics.group_instance(SETTINGS, "p-query", "id-query") == "me.id-query.5"
    counted: Any = admin.partition_count
    counted.assert_called_once_with(CLUSTER, "p-query")
    assert memory_topics.group_instance(load(), "query", "id-query") is None


def test_ready_vectors_come_in_larger_batches_than_images() -> None:
    settings = load(**{**SETTINGS.model_dump(), "embedder": "vectors:test:8"})
    assert Wired("ingest", settings).source.batch == 11


@holds("request_keys")
@pytest.mark.parametrize("role", ["ingest", "correct", "forget"])
def test_a_writing_role_decodes_its_events_and_hands_them_to_the_memory(role: str) -> None:
    worker = Wired(role)
    agent = worker.agent
    expected: dict[str, tuple[Any, dict[str, Any]]] = {
        "ingest": (decoding.decode_ingest, {"topic_id": "id-image-ingest"}),
        "correct": (decoding.decode_correction, {"topic_id": "id-label-correction"}),
        "forget": (forgetting.decode_forget, {"keys": ("aa", "bb")}),
    }
    decode, located = expected[role]
    assert isinstance(agent._decode, partial)
    assert agent._decode.func is decode
    assert agent._decode.keywords == {"clock_skew": SKEW, **located}
    if isinstance(agent, ForgetAgent):
        assert agent._memory is worker.memory
        assert agent._name == "n"
    else:
        assert isinstance(agent, WritingAgent)
        assert agent._role == role
        memory = worker.memory
        assert agent._merge == (memory.remember if role == "ingest" else memory.correct)


@holds("questions_in_flight")
def test_the_query_role_answers_as_many_questions_at_once_as_the_settings_say() -> None:
    worker = Wired("query")
    agent, at_once = worker.carrier.start.call_args.args
    assert at_once == 13
    assert isinstance(agent, QueryAgent)
    for decode, function in (
        (agent._decode, questions.decode_query),
        (agent._reply_address, questions.reply_address),
    ):
        assert isinstance(decode, partial)
        assert (decode.func, decode.keywords) == (function, {"partitions": 3})
    assert agent._place_free is worker.carrier.place_free
    in_thread = worker.carrier.in_thread
    in_thread.return_value = {("id", 0): 5}
    positions: Any = agent._watch._positions()
    assert asyncio.run(positions) == {("id", 0): 5}
    in_thread.return_value = ["answer"]
    asked: Any = "question"
    answer: Any = asyncio.run(agent._recall.submit(asked))
    assert answer == "answer"
    memory = worker.memory
    assert in_thread.mock_calls == [call(memory.index.positions), call(memory.recall, [asked])]
    ((seconds, write), _) = worker.carrier.watch.call_args_list[0]
    assert seconds == 10.0
    with patch.object(memory, "write_influence") as written:
        write()
    written.assert_called_once_with()


def test_an_asker_is_told_when_its_question_is_given_up() -> None:
    headers = tuple(
        (str(name), value) for name, value in ((Header.ID, b"q"), (Header.REPLY_PARTITION, b"2"))
    )
    question = Record("p-query", 1, 5, b"k", b"", headers, 0)
    told, answer = Wired("query").delivery.call_args.kwargs["reject"](question)
    assert (told.topic, answer.topic) == (Topic.REJECTED, Topic.PREDICTION)
    assert answer.partition == 2
    assert str(Reason.INTERNAL).encode() in answer.value
    beyond = Record("p-query", 1, 5, b"k", b"", (headers[0], (headers[1][0], b"3")), 0)
    assert len(Wired("query").delivery.call_args.kwargs["reject"](beyond)) == 1


@holds("web_host", "web_port")
def test_probes_listen_where_the_settings_say_and_watch_the_workers_lag() -> None:
    worker = Wired("correct")
    worker.readiness.assert_called_once_with(
        ANY, "id-label-correction", worker.carrier, worker.memory.index
    )
    assert (worker.ends.func, worker.ends.args) == (worker.log_ends, (worker.app,))
    (serve_probes,) = worker.tasks
    with patch.object(probes, "serve", autospec=True) as serve:
        asyncio.run(serve_probes())
    readiness = worker.readiness.return_value
    serve.assert_awaited_once_with("127.0.0.9", 1234, readiness, ANY)
    told: Any = serve.await_args_list[0].args[3]
    assert (told.func, told.args) == (beside, (worker.memory.index,))
    readiness.watch.assert_awaited_once_with()


@holds("log_level")
@pytest.mark.parametrize("role", ["correct", "query"])
def test_a_worker_runs_at_the_level_of_the_settings_in_a_prepared_process(role: str) -> None:
    order = Mock()
    with (
        replaced("prepare_process") as prepare,
        replaced("worker") as worker,
        patch.object(worker_process, "run_app", autospec=True) as run,
    ):
        for name, part in (("prepare", prepare), ("worker", worker), ("run", run)):
            order.attach_mock(part, name)
        run_worker: Callable[..., object] = bootstrap.run_worker
        run_worker(SETTINGS, role)
    assert order.mock_calls == [
        call.prepare(),
        call.worker(SETTINGS, role),
        call.run(worker.return_value, "WARNING", gives_way=role == "correct"),
    ]


def test_a_monitor_listens_where_the_settings_say() -> None:
    watching = MagicMock(run=AsyncMock())
    with (
        replaced("monitor", return_value=watching) as monitor,
        patch.object(probes, "serve", autospec=True) as serve,
    ):
        bootstrap.run_monitor(SETTINGS)
    monitor.assert_called_once_with(SETTINGS)
    serve.assert_awaited_once_with("127.0.0.9", 1234, watching.ready)
    watching.run.assert_awaited_once_with()


def test_an_app_has_what_delivery_relies_on() -> None:
    app = faust_app.make_app(
        "group",
        "one:1,two:2",
        instance="me",
        max_record_bytes=3_000_000,
        batch=11,
        credentials=faust_app.credentials(CLUSTER.security),
    )
    conf: Any = app.conf
    assert conf.id == "group"
    assert [str(url) for url in conf.broker] == ["kafka://one:1", "kafka://two:2"]
    assert conf.broker_credentials.username == "ann"
    assert conf.consumer_group_instance_id == "me"
    assert conf.broker_max_poll_records == 11
    assert conf.producer_acks == -1
    assert conf.consumer_max_fetch_size == conf.producer_max_request_size == 6_000_000
    assert conf.consumer_auto_offset_reset == "earliest"
    assert not conf.topic_allow_declare
    assert not conf.web_enabled
    # As the guide says: partitions of a nameless worker that dies stand still for this long.
    assert conf.broker_session_timeout == 8
