"""The memory's state and search in Redis with RediSearch.

The law runs in Redis functions (memory/law.lua), one call an item, pipelined: a round trip a
batch and step. Search is memory/redis_search.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from memory import law
from memory.errors import Misconfigured
from memory.model import (
    NEVER,
    Digests,
    Item,
    LogAddress,
    Put,
    PutResult,
    SearchResult,
    Selector,
    SelectorKind,
    Stats,
    Trace,
    Vector,
)
from memory.ports import Embedder
from memory.redis_errors import mapped_errors
from memory.redis_search import Schema, Search

LAW_VERSION = "1"
LIBRARY = "visual_memory_v1"
PAGE = 1000
BUCKETS = {SelectorKind.SOURCE: 16, SelectorKind.SUBJECT: 1}
"""A large selector's postings are split, so that no key grows with the memory."""


def connect(url: str, **options: Any) -> redis.Redis:
    """A client for RedisIndex. `options` are redis-py's (TLS, ACL user, ...)."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=30,
        socket_connect_timeout=5,
        # Callers repeat with back-off and say so; a hidden retry would only delay that.
        retry=Retry(NoBackoff(), 0),
        **options,
    )


def _encode_time(time: int) -> str:
    return "" if time == NEVER else f"{time:016d}"


def _decode_time(text: bytes | None) -> int:
    return int(text) if text else NEVER


class RedisIndex:
    """`memory.ports.MemoryIndex` on Redis. Open one with `open`."""

    def __init__(
        self, client: redis.Redis, namespace: str, hmac_key: bytes, schema: Schema
    ) -> None:
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._prefix = f"{namespace}:{schema.generation}"
        self._hmac_key = hmac_key
        self._schema = schema
        self._search = Search(client, self._prefix, schema)

    @classmethod
    def open(
        cls,
        client: redis.Redis,
        *,
        namespace: str,
        hmac_key: bytes,
        embedder: Embedder | None = None,
        algorithm: str = "FLAT",
        dtype: str = "FLOAT16",
        exact_hnsw: bool = False,
    ) -> Self:
        """Open the memory of a namespace; make it if there is none and `embedder` is given.

        Raises `Misconfigured` when it was made with another embedder, dimension, algorithm,
        element type, HMAC key or law, and when there is none and no embedder to make it for.
        """
        with mapped_errors():
            _load_law(client)
            meta = f"{namespace}:meta"
            if embedder is not None:
                made = {
                    "law": LAW_VERSION,
                    "hmac_key_id": key_id(hmac_key),
                    "embedder": embedder.digest,
                    "embedder_name": embedder.name,
                    "dim": str(embedder.dim),
                    "algorithm": algorithm,
                    "dtype": dtype,
                    "generation": "1",
                }
                # Whoever is first decides each field; all others compare.
                pipeline = client.pipeline(transaction=False)
                for name, value in made.items():
                    pipeline.hsetnx(meta, name, value)
                pipeline.execute()
                wanted = made
            else:
                wanted = {"law": LAW_VERSION, "hmac_key_id": key_id(hmac_key)}
            raw: Any = client.hgetall(meta)
            found = {k.decode(): v.decode() for k, v in raw.items()}
            if not found:
                raise Misconfigured(
                    f"there is no memory under the namespace {namespace!r}; start an ingest "
                    "worker first, it makes one"
                )
            for name, value in wanted.items():
                if name != "embedder_name" and found.get(name) != value:
                    raise Misconfigured(
                        f"this memory was made with {name} = {found.get(name)}, the settings "
                        f"say {value}; use the former or another namespace"
                    )
            schema = Schema(
                embedder=found["embedder"],
                dim=int(found["dim"]),
                algorithm=found["algorithm"],
                dtype=found["dtype"],
                generation=found["generation"],
                exact_hnsw=exact_hnsw,
            )
            index = cls(client, namespace, hmac_key, schema)
            index._search.create()
        return index

    @property
    def embedder(self) -> str:
        return self._schema.embedder

    @property
    def dim(self) -> int:
        return self._schema.dim

    def check_durability(self) -> None:
        """Refuse a Redis that could lose what it confirmed, or evict items. `Misconfigured`.

        WAITAOF confirms writes that are not on the disk under `appendfsync everysec` of 7.4
        (redis PR 13793), so only `always` will do.
        """
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        with mapped_errors():
            found = self._client.config_get(*wanted)
        for name, value in wanted.items():
            got = found[name]
            if got != value:
                raise Misconfigured(
                    f"Redis has {name} {got}, which can lose what it confirmed; "
                    f"set it: CONFIG SET {name} {value}"
                )

    def ping(self) -> None:
        """Raises `Unavailable` when Redis does not answer."""
        with mapped_errors():
            self._client.ping()

    def _digest(self, kind: str, name: str) -> str:
        message = f"{kind}\0{name}".encode()
        return hmac.new(self._hmac_key, message, hashlib.sha256).hexdigest()[:32]

    def image_key(self, image_id: str) -> str:
        return self._digest("image", image_id)

    def selector_key(self, selector: Selector) -> str:
        return f"{selector.kind}:{self._digest(selector.kind, selector.value)}"

    def request_key(self, request_id: str) -> str:
        return self._digest("request", request_id)

    def _item_keys(self, image: str) -> tuple[str, str, str]:
        p = self._prefix
        return f"{p}:item:{{{image}}}", f"{p}:wait:{{{image}}}", f"{p}:outbox:{{{image}}}"

    def _selector_keys(self, selector: str, bucket: int) -> tuple[str, str]:
        tag = f"{{{selector}.{bucket}}}"
        return f"{self._prefix}:posting:{tag}", f"{self._prefix}:until:{tag}"

    @staticmethod
    def _buckets(selector: str) -> int:
        return BUCKETS[SelectorKind(selector.partition(":")[0])]

    def enlist(self, listings: Sequence[tuple[tuple[str, ...], str]]) -> list[int]:
        pipeline = self._client.pipeline(transaction=False)
        for selectors, image in listings:
            item, wait, _ = self._item_keys(image)
            pipeline.fcall_ro("vm1_barrier", 2, item, wait)
            for selector in selectors:
                bucket = int(image[:8], 16) % self._buckets(selector)
                keys = self._selector_keys(selector, bucket)
                pipeline.fcall("vm1_enlist", 2, *keys, image)
        with mapped_errors():
            replies = iter(pipeline.execute())
        return [
            max(_decode_time(next(replies)) for _ in range(1 + len(selectors)))
            for selectors, _ in listings
        ]

    def put(self, puts: Sequence[Put]) -> list[PutResult]:
        pipeline = self._client.pipeline(transaction=False)
        for put in puts:
            register: list[str | bytes] = ["", ""]
            if put.trace is not None:
                register = ["t", str(put.stamp), *self._encode(put.trace)]
            elif put.correction:
                corrected = put.corrected
                register = ["c", str(put.stamp), "0" if corrected is None else "1", corrected or ""]
            pipeline.fcall(
                "vm1_put" if put.trace is not None else "vm1_erase",
                3,
                *self._item_keys(put.image),
                _encode_time(put.barrier),
                put.address.encode() if put.address else "",
                " ".join(put.selectors),
                *register,
            )
        with mapped_errors():
            replies = pipeline.execute()
        return [
            PutResult(
                barrier=_decode_time(barrier),
                won=bool(won),
                erased=bool(erased),
                visible=bool(visible),
                selectors=frozenset(selectors.decode().split()),
                outbox=outbox,
            )
            for barrier, won, erased, visible, selectors, outbox in replies
        ]

    def _encode(self, trace: Trace) -> list[str | bytes]:
        law.check_trace(trace, self.embedder, self.dim)
        return [
            trace.image_id,
            trace.image_digest,
            trace.label,
            trace.source,
            json.dumps(trace.subjects, ensure_ascii=False),
            json.dumps(dict(trace.attributes), ensure_ascii=False),
            trace.embedder,
            self._schema.quantised(trace.vector).tobytes(),
        ]

    def fence(self, selector: str, until: int) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for bucket in range(self._buckets(selector)):
            _, key = self._selector_keys(selector, bucket)
            pipeline.fcall("vm1_fence", 1, key, _encode_time(until))
        with mapped_errors():
            pipeline.execute()

    def listed(self, selector: str) -> Iterator[Sequence[str]]:
        for bucket in range(self._buckets(selector)):
            key, _ = self._selector_keys(selector, bucket)
            cursor = 0
            while True:
                with mapped_errors():
                    cursor, members = self._client.sscan(key, cursor, count=PAGE)
                if members:
                    yield [member.decode() for member in members]
                if cursor == 0:
                    break

    def relist(self, selector: str, image: str) -> None:
        self.enlist([((selector,), image)])
        # The item lists what it ever bore, so that a later erasure can tell the log again.
        self.put([Put(image=image, selectors=(selector,))])

    def labelled(self, label: str) -> Iterator[Sequence[str]]:
        images = self._search.labelled(label)
        for start in range(0, len(images), PAGE):
            yield images[start : start + PAGE]

    def _request_key(self, request: str) -> tuple[str, str]:
        tag = f"{{{request}}}"
        return f"{self._prefix}:request:{tag}", f"{self._prefix}:expansion:{tag}"

    def open_request(self, request: str, time: int) -> tuple[int, bool]:
        key, _ = self._request_key(request)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.fcall("vm1_open_request", 1, key, _encode_time(time))
        with mapped_errors():
            ((first_seen, closed),) = pipeline.execute()
            if closed != b"1":
                self._client.sadd(f"{self._prefix}:open_requests", request)
        return int(first_seen), closed == b"1"

    def expansion(self, request: str, images: Iterable[str]) -> frozenset[str]:
        _, key = self._request_key(request)
        given = list(images)
        with mapped_errors():
            if given:
                self._client.sadd(key, *given)
            return frozenset(image.decode() for image in self._client.smembers(key))

    def close_request(self, request: str, until: int) -> None:
        key, expansion = self._request_key(request)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hsetnx(key, "time", _encode_time(until))
        pipeline.hset(key, "closed", "1")
        pipeline.delete(expansion)
        pipeline.srem(f"{self._prefix}:open_requests", request)
        with mapped_errors():
            pipeline.execute()

    def open_requests(self) -> int:
        with mapped_errors():
            return int(self._client.scard(f"{self._prefix}:open_requests"))

    def search(
        self,
        vectors: Sequence[Vector],
        ks: Sequence[int],
        excluded: Sequence[str | None] | None = None,
    ) -> list[SearchResult]:
        return self._search.nearest(vectors, ks, excluded or [None] * len(vectors))

    def vectors_of(self, image_ids: Sequence[str]) -> list[Vector | None]:
        pipeline = self._client.pipeline(transaction=False)
        for image_id in image_ids:
            item, _, _ = self._item_keys(self.image_key(image_id))
            pipeline.hget(item, "vector")
        with mapped_errors():
            return [
                None if blob is None else self._schema.decoded(blob) for blob in pipeline.execute()
            ]

    def item(self, image: str) -> Item | None:
        item, wait, outbox = self._item_keys(image)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(item)
        pipeline.hgetall(wait)
        pipeline.smembers(outbox)
        with mapped_errors():
            live, waiting, sent = pipeline.execute()
        fields = live or waiting
        if not fields and not sent:
            return None
        return self._decode_item(fields, sent)

    def _decode_item(self, fields: Mapping[bytes, bytes], outbox: Iterable[bytes]) -> Item:
        def text(name: bytes) -> str:
            return fields.get(name, b"").decode()

        trace = None
        if b"ts" in fields:
            trace = Trace(
                image_id=text(b"id"),
                image_digest=text(b"image"),
                label=text(b"asserted"),
                source=text(b"source"),
                subjects=tuple(json.loads(text(b"subjects"))),
                attributes=json.loads(text(b"attributes")),
                embedder=text(b"embedder"),
                vector=self._schema.decoded(fields[b"vector"]),
            )
        return Item(
            barrier=_decode_time(fields.get(b"b")),
            trace_stamp=text(b"ts"),
            trace=trace,
            corrected_stamp=text(b"cs"),
            corrected=text(b"corrected") if b"corrected" in fields else None,
            selectors=frozenset(text(b"sel").split()),
            log=frozenset(
                LogAddress.decode(name[1:].decode()) for name in fields if name.startswith(b">")
            ),
            outbox=frozenset(LogAddress.decode(address.decode()) for address in outbox),
        )

    def positions(self) -> Mapping[tuple[str, int], int]:
        with mapped_errors():
            held = self._client.hgetall(f"{self._prefix}:pos")
        positions = {}
        for place, offset in held.items():
            topic_id, _, partition = place.decode().rpartition(":")
            positions[topic_id, int(partition)] = int(offset)
        return positions

    def advance(self, positions: Mapping[tuple[str, int], int]) -> None:
        if not positions:
            return
        arguments = []
        for (topic_id, partition), offset in positions.items():
            arguments += [f"{topic_id}:{partition}", str(offset)]
        with mapped_errors():
            self._client.fcall("vm1_advance", 1, f"{self._prefix}:pos", *arguments)

    def _keys(self, kind: str) -> Iterator[list[bytes]]:
        page: list[bytes] = []
        for key in self._client.scan_iter(f"{self._prefix}:{kind}:*", count=PAGE):
            page.append(key)
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    def digests(self) -> Digests:
        items: dict[str, Item] = {}
        fences: dict[str, int] = {}
        with mapped_errors():
            for kind in ("item", "wait"):
                for page in self._keys(kind):
                    pipeline = self._client.pipeline(transaction=False)
                    for key in page:
                        pipeline.hgetall(key)
                    for key, fields in zip(page, pipeline.execute(), strict=True):
                        image = key.decode().rpartition("{")[2].rstrip("}")
                        items[image] = self._decode_item(fields, ())
            for page in self._keys("until"):
                for key, until in zip(page, self._client.mget(page), strict=True):
                    selector = key.decode().rpartition("{")[2].rpartition(".")[0]
                    fences[selector] = max(fences.get(selector, NEVER), _decode_time(until))
        return law.digests(items, fences)

    def stats(self) -> Stats:
        with mapped_errors():
            waiting = barriers = 0
            for page in self._keys("wait"):
                pipeline = self._client.pipeline(transaction=False)
                for key in page:
                    pipeline.hmget(key, "cs", "b")
                for correction, barrier in pipeline.execute():
                    waiting += correction is not None
                    barriers += bool(barrier)
            used = int(self._client.info("memory")["used_memory"])
            return Stats(self._search.count(), waiting, barriers, used)

    def label_counts(self, labels: Sequence[str] | None = None) -> Mapping[str, int]:
        return self._search.label_counts(labels)


def key_id(hmac_key: bytes) -> str:
    """Names an HMAC key without telling it."""
    return hashlib.sha256(b"visual-memory key id\0" + hmac_key).hexdigest()[:16]


def _load_law(client: redis.Redis) -> None:
    source = files("memory").joinpath("law.lua").read_text("utf-8")
    loaded = client.function_list(LIBRARY, withcode=True)
    if (
        not loaded
        or dict(zip(loaded[0][::2], loaded[0][1::2], strict=True))[b"library_code"]
        != source.encode()
    ):
        client.function_load(source, replace=True)


__all__ = ["RedisIndex", "connect", "key_id", "mapped_errors"]
