"""Generations of a memory in Redis: one answers, a rebuild fills the next and puts it in place.

What is in use stands in one hash, `meta`, so that each step is one function of law.lua.
Who does not hold the lease (lease.py) changes nothing.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from memory.errors import Misconfigured, Moved
from memory.facts import Take, take
from memory.model.forgetting import Barrier, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, SelectorKey
from memory.model.times import NEVER, Stamp, stamp_time
from memory.ports import Embedder
from memory.redis import scan
from memory.redis.connection import map_redis_errors
from memory.redis.hashes import decode_time
from memory.redis.index import RedisIndex
from memory.redis.lease import RebuildLease
from memory.redis.names import KeyNames
from memory.redis.schema import Schema, made_with, read_meta, schema_of

SEAL_SECONDS = 5.0
KEYS_A_STEP = 1000
KEY_KINDS = (
    *("item", "wait", "outbox", "posting", "until", "request", "expansion"),
    *("open_requests", "pos", "marks", "changes", "pruned", "unembeddable"),
    *("neighbors", "decided", "outboxes"),
)
"""What the keys of a generation hold."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a generation holds of an image: the stamps of what it shows, and its barrier (µs)."""

    trace_stamp: str
    corrected_stamp: str
    barrier: int
    selectors: frozenset[SelectorKey]

    def covers(self, other: Held) -> bool:
        """Whether nothing that `other` holds is missing here."""
        return (
            self.barrier >= other.barrier
            and self.selectors >= other.selectors
            and all(
                here >= there or stamp_time(Stamp(there)) <= self.barrier
                for here, there in (
                    (self.trace_stamp, other.trace_stamp),
                    (self.corrected_stamp, other.corrected_stamp),
                )
            )
        )


class Generations:
    """The generations of one memory. Raises `Unavailable`, `Misconfigured`.

    `index` is an index of that memory, in whichever generation.
    """

    def __init__(self, client: redis.Redis, namespace: str, index: RedisIndex) -> None:
        self._client: Any = client  # redis-py's types assume replies decoded to text
        self._namespace = namespace
        self._meta = f"{namespace}:meta"
        self._index = index
        self._token = secrets.token_hex(8)
        self.lease = RebuildLease(self._call)

    def _read(self) -> dict[str, str]:
        with map_redis_errors():
            return read_meta(self._client, self._namespace)

    def _call(self, function: str, *arguments: str | int) -> Any:
        with map_redis_errors():
            return self._client.fcall(function, 1, self._meta, self._token, *arguments)

    def current(self) -> Schema:
        return schema_of(self._read())

    def following(self) -> Schema | None:
        """The generation being rebuilt, if there is one."""
        meta = self._read()
        return schema_of(meta, "next_") if "next_generation" in meta else None

    def dropping(self) -> str:
        """The number of a generation that is to be dropped, or nothing."""
        return self._read().get("dropping", "")

    def others(self) -> list[Take]:
        """What takes facts of forgetting in each generation but the one `index` uses.

        Also in one that is being dropped: what is forgotten must not wait there for its end.
        """
        meta = self._read()
        used = self._index.schema.generation
        found: list[Take] = [
            _Taking(self._index.at(schema_of(meta, prefix)))
            for prefix in ("", "next_")
            if meta.get(f"{prefix}generation", used) != used
        ]
        if meta.get("dropping", used) != used:
            schema = Schema("", 0, "FLAT", "FLOAT16", meta["dropping"])
            found.append(_Dropping(self, self._index.at(schema)))
        return found

    def begin(self, embedder: Embedder, algorithm: str, dtype: str) -> RedisIndex:
        """Begin the next generation, or take up an unfinished one that is made so."""
        wanted = made_with(embedder, algorithm, dtype)
        pairs = [part for pair in wanted.items() for part in pair]
        reply = [part.decode() for part in self._call("vm1_begin", *pairs)]
        meta = dict(zip(reply[::2], reply[1::2], strict=True))
        for name, value in wanted.items():
            if name != "embedder_name" and meta[f"next_{name}"] != value:
                raise Misconfigured(
                    f"a rebuild is unfinished that makes the memory with {name} = "
                    f"{meta[f'next_{name}']}, the settings say {value}; use the former, or give it "
                    "up with `visual-memory rebuild --abandon`"
                )
        index = self._index.at(schema_of(meta, "next_"))
        index.create()
        return index

    def seal(self, topic_ids: Sequence[str]) -> None:
        """Let the positions in these topics stand still, for a few seconds at most."""
        self._call("vm1_seal", int(SEAL_SECONDS * 1000), *topic_ids)

    def unseal(self) -> None:
        self._call("vm1_seal", 0)

    def switch(self, following: RedisIndex, anew: Sequence[str], fences: str) -> list[str]:
        """Put the next generation in place, in one step, unless it is behind.

        `anew` are the ids of the topics it has read, `fences` that of the facts of forgetting.
        Returns the places ("topic id:partition") in which it is behind; none: it answers now.
        """
        held = KeyNames(f"{self._namespace}:{self.current().generation}")
        keys = [self._meta, held.positions, following.names.positions]
        keys += [held.marks, following.names.marks]
        with map_redis_errors():
            reply = self._client.fcall("vm1_switch", 5, *keys, self._token, fences, *anew)
        behind: list[bytes] = reply
        return [place.decode() for place in behind]

    def abandon(self) -> bool:
        """Give the next generation up; it is to be dropped then. False where there is none."""
        return bool(self._call("vm1_abandon"))

    def drop(self) -> Iterator[int]:
        """Drop what is to be dropped, in steps; yields how many keys each took.

        Vectors and ids are overwritten before they go. May be ended and repeated at any point.
        """
        number = self.dropping()
        if not number:
            return
        prefix = f"{self._namespace}:{number}"
        # A namespace may begin with another one and a number.
        ours = re.compile(f"{re.escape(prefix)}:({'|'.join(KEY_KINDS)})(:|$)".encode())
        with map_redis_errors():
            if f"{prefix}:index".encode() in self._client.execute_command("FT._LIST"):
                self._client.execute_command("FT.DROPINDEX", f"{prefix}:index")
        found = True
        while found:
            found = False
            cursor = 0
            while True:
                with map_redis_errors():
                    cursor, page = self._client.scan(cursor, match=f"{prefix}:*", count=KEYS_A_STEP)
                if keys := [key for key in page if ours.match(key)]:
                    self.drop_keys(keys)
                    found = True
                    yield len(keys)
                if not cursor:
                    break
        with map_redis_errors():
            self._client.fcall("vm1_dropped", 1, self._meta, number)
            # The append-only file keeps all of it until then. Where one is being rewritten this
            # one follows it.
            with contextlib.suppress(redis.ResponseError):
                self._client.bgrewriteaof()

    def drop_keys(self, keys: Sequence[bytes | str]) -> None:
        """Drop these keys; `Moved` unless their generation is being dropped."""
        with map_redis_errors():
            if keys:
                self._client.fcall("vm1_drop", len(keys), *keys)

    def held(self, index: RedisIndex, images: Sequence[ImageKey]) -> list[Held]:
        """What a generation holds of each image."""
        pipeline = self._client.pipeline(transaction=False)
        for image in images:
            for key in index.names.item(image)[:2]:
                pipeline.hmget(key, "ts", "cs", "b", "sel")
        with map_redis_errors():
            replies = iter(pipeline.execute())
        found = []
        for item, wait in zip(replies, replies, strict=True):
            ts, cs, barrier, selectors = (
                (here or there or b"").decode() for here, there in zip(item, wait, strict=True)
            )
            known = frozenset(map(SelectorKey, selectors.split()))
            found.append(Held(ts, cs, decode_time(barrier.encode()), known))
        return found

    def lacking(self, held: RedisIndex, following: RedisIndex) -> Iterator[ImageKey]:
        """Images of which `following` lacks something that `held` holds."""
        for kind in ("item", "wait"):
            with map_redis_errors():
                for page in scan.pages(self._client, held.names.prefix, kind):
                    images = [scan.image_of(key) for key in page]
                    yield from self.still_lacking(held, following, images)

    def still_lacking(
        self, held: RedisIndex, following: RedisIndex, images: Sequence[ImageKey]
    ) -> list[ImageKey]:
        """Those of the images of which `following` lacks something that `held` holds."""
        pairs = zip(images, self.held(following, images), self.held(held, images), strict=True)
        return [image for image, new, old in pairs if not new.covers(old)]

    def forgotten(
        self, held: RedisIndex, following: RedisIndex, images: Sequence[ImageKey]
    ) -> list[FenceFact]:
        """What `held` has forgotten: fences that `following` lacks, and what of these images."""
        known = scan.fences(self._client, following.names.prefix)
        facts: list[FenceFact] = [
            Fence(selector, until)
            for selector, until in scan.fences(self._client, held.names.prefix).items()
            if known.get(selector, NEVER) < until
        ]
        for image, item in zip(images, self.held(held, images), strict=True):
            if item.barrier != NEVER:
                facts.append(Barrier(image, item.barrier))
                facts += [Posting(selector, image) for selector in item.selectors]
        return facts

    def note_lost(self, following: RedisIndex, lost: Mapping[str, str]) -> None:
        """Keep what cannot be made anew with the generation: by place, any text."""
        with map_redis_errors():
            if lost:
                self._client.hset(following.names.unembeddable, mapping=dict(lost))

    def lost(self, following: RedisIndex) -> dict[str, str]:
        """What was noted, by place."""
        with map_redis_errors():
            found = self._client.hgetall(following.names.unembeddable)
        return {place.decode(): text.decode() for place, text in found.items()}

    def found_again(self, following: RedisIndex, places: Sequence[str]) -> None:
        """Strike these places from what was noted."""
        with map_redis_errors():
            if places:
                self._client.hdel(following.names.unembeddable, *places)


class _Taking:
    """Facts of forgetting, taken by a generation that answers or is being rebuilt."""

    def __init__(self, index: RedisIndex) -> None:
        self._index = index

    def __call__(self, facts: Sequence[FenceFact]) -> None:
        with contextlib.suppress(Moved):  # given up or replaced: nothing of it will answer
            take(self._index, facts)


class _Dropping:
    """Facts of forgetting, carried out in a generation that is being dropped."""

    def __init__(self, generations: Generations, index: RedisIndex) -> None:
        self._generations = generations
        self._index = index

    def __call__(self, facts: Sequence[FenceFact]) -> None:
        with contextlib.suppress(Moved):  # all of it is gone
            for fact in facts:
                match fact:
                    case Fence(selector, _):
                        for page in self._index.images_with_selector(selector):
                            self._drop(page)
                    case Barrier(image, _):
                        self._drop([image])

    def _drop(self, images: Sequence[ImageKey]) -> None:
        keys = [key for image in images for key in self._index.names.item(image)]
        self._generations.drop_keys(keys)
