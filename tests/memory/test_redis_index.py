"""What only the memory in Redis promises: refusing, erasing, a full server, a new index."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.embedders import VectorsOnly
from memory.errors import Misconfigured, Unavailable
from memory.model.events import (
    MAX_LABEL,
    Forget,
    Ingest,
    LogAddress,
    LogPartition,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.keys import ImageKey, SelectorKey
from memory.model.questions import Probe
from memory.model.state import CorrectionWrite, PruningWrite, Put, Trace, TraceWrite
from memory.model.text import checked_text
from memory.model.times import make_stamp
from memory.model.vectors import Vector
from memory.redis import search
from memory.redis.connection import check_durability, connect
from memory.redis.index import RedisIndex
from memory.redis.schema import FUNCTIONS_VERSION
from memory.service import VisualMemory
from streams.config.settings import CACHE
from streams.local.redis_server import RedisServer

DIM = 32
KEY = bytes(range(32))


def opened(client: redis.Redis, namespace: str, dim: int = DIM, **more: Any) -> RedisIndex:
    embedder = VectorsOnly(f"test-{dim}", dim)
    return RedisIndex.open(client, namespace=namespace, hmac_key=KEY, embedder=embedder, **more)


@pytest.fixture
def index(redis_client: redis.Redis, unique: Callable[[str], str]) -> RedisIndex:
    return opened(redis_client, unique("redis"))


def unit_of(index: RedisIndex, seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=index.dim)
    unit: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def seen(index: RedisIndex, image_id: str, seed: int, label: str = "cat", at: int = 5) -> Put:
    trace = Trace(
        image_id=image_id,
        image_digest="digest",
        label=label,
        source="camera",
        subjects=("ada",),
        attributes={},
        embedder=index.embedder,
        vector=unit_of(index, seed),
    )
    return Put(index.image_key(image_id), write=TraceWrite(make_stamp(at, image_id, label), trace))


def said(index: RedisIndex, image_id: str, label: str | None, at: int = 6) -> Put:
    return Put(
        index.image_key(image_id),
        write=CorrectionWrite(make_stamp(at, image_id, label), label),
    )


def keys_of(index: RedisIndex, image_id: str) -> set[str]:
    """Which of its hashes an image has now."""
    image = index.image_key(image_id)
    kinds = ("item", "wait")
    return {k for k in kinds if index._client.exists(f"{index.names.prefix}:{k}:{{{image}}}")}


@contextmanager
def configured(client: redis.Redis, name: str, value: str) -> Iterator[None]:
    before = str(client.config_get(name)[name])
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
    ],
)
def test_a_redis_that_could_lose_what_it_confirmed_is_refused(
    index: RedisIndex, redis_client: redis.Redis, name: str, value: str
) -> None:
    index.check_durability()
    named = pytest.raises(Misconfigured, match=f"{name} {value}.*CONFIG SET {name}")
    with configured(redis_client, name, value), named:
        index.check_durability()


@pytest.mark.servers
def test_a_replica_is_refused(tmp_path: Path) -> None:
    with (
        RedisServer(
            tmp_path / "replica", CACHE, extra_config={"replicaof": "127.0.0.1 9"}
        ) as store,
        closing(connect(store.url)) as client,
        pytest.raises(Misconfigured, match=r"is a replica.*REPLICAOF NO ONE"),
    ):
        check_durability(client)


class WithoutSearch(RedisServer):
    """A Redis that was not given the module."""

    def command(self) -> Any:
        arguments, environment = super().command()
        config = Path(arguments[1])
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if not line.startswith("loadmodule")))
        return arguments, environment


@pytest.mark.servers
def test_a_redis_without_search_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with WithoutSearch(tmp_path, CACHE) as server:
        client = connect(server.url)
        with pytest.raises(Misconfigured, match="no search module; use"):
            opened(client, "vm")
        client.close()


@pytest.mark.parametrize("namespace", ["", "a{b}", "a*", "a b", "a[b]", "ä"])
def test_a_namespace_that_would_match_others_keys_is_refused(
    redis_client: redis.Redis, namespace: str
) -> None:
    with pytest.raises(Misconfigured, match="namespace"):
        opened(redis_client, namespace)


def test_functions_newer_than_the_program_are_refused_and_older_ones_replaced(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    ours = files("memory.redis").joinpath("law.lua").read_text("utf-8")
    version = f"local VERSION = {FUNCTIONS_VERSION}\n"
    assert version in ours
    namespace = unique("version")
    try:
        newer = ours.replace(version, f"local VERSION = {FUNCTIONS_VERSION + 1}\n")
        redis_client.function_load(newer, replace=True)
        with pytest.raises(Misconfigured, match="upgrade the program"):
            opened(redis_client, namespace)
        older = ours.replace(version, f"local VERSION = {FUNCTIONS_VERSION - 1}\n")
        redis_client.function_load(older, replace=True)
        opened(redis_client, namespace)
        assert redis_client.fcall_ro("vm1_version", 0) == FUNCTIONS_VERSION
        other: Any = redis_client
        other.function_load(ours + "-- of another program of this version\n", replace=True)
        opened(redis_client, namespace)
        ((*_, code),) = other.function_list("*", withcode=True)
        assert code.decode() == ours
    finally:
        redis_client.function_load(ours, replace=True)


def test_of_workers_that_make_a_memory_at_once_one_decides_all_of_it(
    redis_url: str, unique: Callable[[str], str]
) -> None:
    namespace = unique("race")
    outcomes: list[tuple[int, str | None]] = []
    barrier = threading.Barrier(6)

    def start(dim: int) -> None:
        client = connect(redis_url)
        barrier.wait()
        try:
            outcomes.append((dim, opened(client, namespace, dim).embedder))
        except Misconfigured:
            outcomes.append((dim, None))
        client.close()

    threads = [threading.Thread(target=start, args=(8 + n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [(dim, embedder) for dim, embedder in outcomes if embedder]
    assert len(outcomes) == 6
    assert made == [(made[0][0], f"test-{made[0][0]}")]


def test_an_image_has_one_hash_and_is_searchable_only_with_a_trace(index: RedisIndex) -> None:
    index.put([said(index, "i", "dog")])
    assert keys_of(index, "i") == {"wait"}
    index.put([seen(index, "i", 1)])
    assert keys_of(index, "i") == {"item"}
    assert index.label_counts() == {"dog": 1}
    index.put([Put(index.image_key("i"), barrier=5)])
    assert keys_of(index, "i") == {"wait"}
    assert index.label_counts() == {}
    item = index.item(index.image_key("i"))
    assert item is not None
    assert item.corrected == "dog"


def documents(index: RedisIndex) -> int:
    """How often the search index has read an item."""
    reply = index._client.execute_command("FT.INFO", f"{index.names.prefix}:index")
    return int(dict(zip(reply[::2], reply[1::2], strict=True))[b"max_doc_id"])


def test_a_repeat_is_not_indexed_again_and_a_change_once(index: RedisIndex) -> None:
    changes = [
        seen(index, "i", 1),
        said(index, "i", "dog"),
        said(index, "i", None, at=7),
        Put(index.image_key("i"), barrier=2, selectors=(SelectorKey("subject:a"),)),
    ]
    for change in changes:
        before = documents(index)
        index.put([change])
        assert documents(index) == before + 1
        index.put(changes[: changes.index(change) + 1])
        assert documents(index) == before + 1


def commands(index: RedisIndex, client: redis.Redis, puts: Sequence[Put]) -> list[str]:
    """What the functions send while these are put."""
    seen_commands: list[str] = []
    untyped: Any = client
    with untyped.monitor() as monitor:
        index.put(puts)
        index._client.echo("done")
        for command in monitor.listen():
            if command["command"] == "ECHO done":
                return seen_commands
            if command["client_type"] == "lua":
                seen_commands.append(command["command"])
    raise AssertionError("the monitor ended")


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "visible"])
def test_what_is_erased_is_overwritten_first(
    index: RedisIndex,
    redis_url: str,
    waiting: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    index.put([said(index, "i", "Ada Lovelace", at=4)])
    if not waiting:
        index.put([seen(index, "i", 1)])
    watcher = connect(redis_url)
    sent = commands(index, watcher, [Put(index.image_key("i"), barrier=9)])
    watcher.close()
    (junk,) = [c for c in sent if c.startswith("HSET") and "xxx" in c]
    erasing = [n for n, c in enumerate(sent) if re.match("DEL|HDEL", c)]
    assert sent.index(junk) < min(erasing)
    fields = dict(zip(junk.split()[2::2], junk.split()[3::2], strict=True))
    assert fields["corrected"] == "x" * len("Ada Lovelace")
    if not waiting:
        assert fields["vector"] == "x" * 2 * DIM
        assert fields["id"] == "x"
        assert fields["label"] == "x" * len("Ada Lovelace")


def test_what_was_pruned_is_overwritten_too_and_leaves_no_name(
    index: RedisIndex, redis_url: str
) -> None:
    pruning = PruningWrite(make_stamp(5, "operator"), pruned=True)
    image = index.image_key("i")
    index.put([said(index, "i", "Ada Lovelace", at=4), seen(index, "i", 1)])
    index.put([Put(image, write=pruning)])
    members = index._client.smembers(index.names.pruned)
    assert (keys_of(index, "i"), members) == ({"wait"}, {image.encode()})
    watcher = connect(redis_url)
    sent = commands(index, watcher, [Put(image, barrier=9)])
    watcher.close()
    junk = [c.split() for c in sent if c.startswith("HSET") and "xxx" in c]
    fields = {n: v for c in junk for n, v in zip(c[2::2], c[3::2], strict=True)}
    assert fields["vector"] == "x" * 2 * DIM
    assert fields["label"] == fields["corrected"] == "x" * len("Ada Lovelace")
    _, wait, _ = index.names.item(image)
    assert set(index._client.hgetall(wait)) <= {b"b", b"sel", b"told"}
    assert index._client.smembers(index.names.pruned) == set()


def test_who_takes_part_again_is_in_no_list_of_the_pruned(index: RedisIndex) -> None:
    index.put([seen(index, "i", 1)])
    for at, pruned in ((5, True), (6, False)):
        write = PruningWrite(make_stamp(at, "operator"), pruned)
        index.put([Put(index.image_key("i"), write=write)])
    assert index._client.smembers(index.names.pruned) == set()
    assert keys_of(index, "i") == {"item"}


def test_an_image_with_thousands_of_events_is_merged_and_erased(index: RedisIndex) -> None:
    image = index.image_key("often")
    events = [Put(image, address=LogAddress(5, "t", 0, str(n))) for n in range(5000)]
    index.put(events)
    index.put([seen(index, "often", 1)])
    assert keys_of(index, "often") == {"item"}
    index.put([Put(image, barrier=4)])
    (erased,) = index.put([Put(image, barrier=5)])
    assert erased.outbox == 5000
    assert keys_of(index, "often") == {"wait"}


@pytest.mark.parametrize("kind", list(SelectorKind))
def test_a_full_redis_still_forgets_and_lets_a_worker_start(
    index: RedisIndex, redis_client: redis.Redis, unique: Callable[[str], str], kind: SelectorKind
) -> None:
    memory = VisualMemory(index, None, clock_skew=0)
    vector = np.ones(DIM, np.float32)
    for n in range(3):
        payload = VectorPayload(vector, index.embedder)
        stamp = make_stamp(5, str(n))
        memory.remember([Ingest(stamp, f"i{n}", "cat", "camera", payload, "digest", ("ada",))])
    value = {"image": "i0", "subject": "ada", "source": "camera", "label": "cat"}[kind]
    with configured(redis_client, "maxmemory", "1"):
        with pytest.raises(Unavailable):
            index.put([seen(index, "another", 1)])
        forgotten = memory.forget(Forget("r", Selector(kind, value), 9))
        assert forgotten.images == (1 if kind is SelectorKind.IMAGE else 3)
        index.relist(index.selector_key(Selector(SelectorKind.SUBJECT, "bob")), ImageKey("0" * 32))
        index.advance({LogPartition("t", 0): 1})
        opened(redis_client, index.names.prefix.rpartition(":")[0])
    assert index.stats().items == 3 - forgotten.images


def test_the_limit_of_redis_is_told_beside_what_it_uses(
    index: RedisIndex, redis_client: redis.Redis
) -> None:
    assert index.stats().bytes_limit == 0
    with configured(redis_client, "maxmemory", str(10**9)):
        stats = index.stats()
    assert stats.bytes_limit == 10**9
    assert 0 < stats.bytes < 10**9


@pytest.mark.parametrize(("algorithm", "exact"), [("FLAT", True), ("HNSW", False)])
def test_only_an_exact_search_is_called_so(
    redis_client: redis.Redis, unique: Callable[[str], str], algorithm: str, *, exact: bool
) -> None:
    index = opened(redis_client, unique("exact"), algorithm=algorithm)
    index.put([seen(index, f"i{n}", n) for n in range(30)])
    query = unit_of(index, 3)
    (result,) = index.search([Probe(query, 1)])
    assert result.hits[0].image_id == "i3"
    assert result.exact is exact


def test_a_search_that_gives_up_on_a_tie_at_the_cut_is_not_called_exact(
    index: RedisIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.put([seen(index, f"i{n:02}", 1) for n in range(60)])
    query = unit_of(index, 1)
    (whole,) = index.search([Probe(query, 5)])
    assert whole.exact
    assert [hit.image_id for hit in whole.hits] == [f"i{n:02}" for n in range(5)]
    monkeypatch.setattr(search, "MAX_CANDIDATES", 40)
    (cut,) = index.search([Probe(query, 5)])
    assert len(cut.hits) == 5
    assert not cut.exact


def test_a_labels_images_are_read_to_the_last_page(
    index: RedisIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.put([seen(index, f"i{n}", n, ("cat", "dog")[n % 2]) for n in range(50)])
    monkeypatch.setattr(search, "ROWS_A_PAGE", 7)
    found = [image for page in index.images_with_label("cat") for image in page]
    assert sorted(found) == sorted(index.image_key(f"i{n}") for n in range(0, 50, 2))
    monkeypatch.setattr(search, "ROWS_A_PAGE", 1)
    assert index.label_counts() == {"cat": 25, "dog": 25}


class Replying:
    """A Redis whose replies to searches are changed: the rows as lists of names and values."""

    def __init__(self, client: redis.Redis, change: Callable[[list[Any]], None]) -> None:
        self._client = client
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pipeline(self, **options: Any) -> Any:
        pipeline: Any = self._client.pipeline(**options)
        execute = pipeline.execute

        def changed() -> list[Any]:
            replies: list[Any] = execute()
            for reply in replies[1:-2]:
                self._change(reply)
            return replies

        pipeline.execute = changed
        return pipeline


def asked(index: RedisIndex, change: Callable[[list[Any]], None]) -> Any:
    """What a search for the three nearest of ten gives when the reply is changed so."""
    index.put([seen(index, f"i{n}", n) for n in range(10)])
    query = unit_of(index, 4)
    index._search._client = Replying(index._client, change)
    return index.search([Probe(query, 3)])[0]


def test_a_search_that_was_cut_short_is_an_error_and_no_answer(index: RedisIndex) -> None:
    def cut(reply: list[Any]) -> None:
        del reply[-2:]

    with pytest.raises(Unavailable, match="cut short"):
        asked(index, cut)


def test_a_row_that_is_being_erased_this_moment_does_no_harm(index: RedisIndex) -> None:
    """The search engine has found it; its fields are gone when they are read."""
    gone: list[bytes] = []

    def erase(reply: list[Any]) -> None:
        row = reply[2]
        gone.append(row[row.index(b"id") + 1])
        row.clear()

    result = asked(index, erase)
    assert gone == [b"i4"], "the nearest"
    assert len(result.hits) == 3
    assert "i4" not in {hit.image_id for hit in result.hits}


def test_a_search_that_runs_out_of_time_is_an_error_on_this_server(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    """By default the engine answers from what it has read so far."""
    redis_client.execute_command("FT.CONFIG", "SET", "ON_TIMEOUT", "RETURN")  # type: ignore[no-untyped-call]  # untyped there
    opened(redis_client, unique("time"))
    ((_, policy),) = redis_client.execute_command("FT.CONFIG", "GET", "ON_TIMEOUT")  # type: ignore[no-untyped-call]  # untyped there
    assert policy.lower() == b"fail"


def test_an_index_made_over_existing_data_never_answers_from_a_part(
    redis_client: redis.Redis, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = unique("again")
    index = opened(redis_client, namespace, algorithm="HNSW")
    index.put([seen(index, f"i{n}", n) for n in range(3000)])
    query = unit_of(index, 2999)
    before = index.search([Probe(query, 1)])
    index._client.execute_command("FT.DROPINDEX", f"{index.names.prefix}:index")
    monkeypatch.setattr(search, "BUILD_SECONDS", 0)
    index = opened(redis_client, namespace, algorithm="HNSW")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert sum(map(len, index.images_with_label("cat"))) == 3000
            assert index.label_counts() == index.label_counts(["cat"]) == {"cat": 3000}
            assert index.search([Probe(query, 1)]) == before
        except Unavailable:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("the index was never built")


def is_label(text: str) -> bool:
    try:
        checked_text(text, what="", reason=None, limit=MAX_LABEL)  # type: ignore[arg-type]  # unused
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        return False
    return True


signs = st.sampled_from("\\\\\\-.*{}|\"' ab")
labels = (st.text(max_size=20) | st.text(signs, max_size=8)).filter(is_label)


def test_any_label_is_counted_and_found_apart_from_all_others(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    numbers = iter(range(10_000))
    index = opened(redis_client, unique("labels"))

    @settings(max_examples=60, derandomize=True, database=None)
    @given(st.lists(labels | labels.map(str.upper).filter(is_label), unique=True, max_size=6))
    def apart(given_labels: list[str]) -> None:
        held = {f"i{next(numbers)}": label for label in given_labels}
        index.put([seen(index, image_id, 1, label) for image_id, label in held.items()])
        expected = dict.fromkeys(given_labels, 1)
        assert index.label_counts() == index.label_counts(given_labels) == expected
        for image_id, label in held.items():
            assert list(index.images_with_label(label)) == [[index.image_key(image_id)]]
        index.put([Put(index.image_key(image_id), barrier=9) for image_id in held])

    apart()
