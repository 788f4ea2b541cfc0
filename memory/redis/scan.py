"""Looking through all keys of a memory in Redis: its digests, and what waits in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import redis

from memory.model import merge
from memory.model.events import LogPartition
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.state import Digests, Item
from memory.model.times import NEVER
from memory.model.vectors import Vector, distances_to_nearest
from memory.redis.connection import map_redis_errors
from memory.redis.hashes import DIGESTED, decode_item, decode_time
from memory.redis.names import KeyNames, named_partition
from memory.redis.schema import Schema

KEYS_A_PAGE = 1000


def pages(client: redis.Redis, prefix: str, kind: str) -> Iterator[list[bytes]]:
    """The keys of a kind (item, wait, until, ...), in pages."""
    page: list[bytes] = []
    for key in client.scan_iter(f"{prefix}:{kind}:*", count=KEYS_A_PAGE):
        page.append(key)
        if len(page) == KEYS_A_PAGE:
            yield page
            page = []
    if page:
        yield page


def image_of(key: bytes) -> ImageKey:
    """The image of an item's key."""
    return ImageKey(_tag_of(key))


def _tag_of(key: bytes) -> str:
    return key.decode().rpartition("{")[2].rstrip("}")


def fences(client: redis.Redis, prefix: str) -> dict[SelectorKey, int]:
    """Until when each selector is fenced, µs."""
    found: dict[SelectorKey, int] = {}
    raw: Any = client
    with map_redis_errors():
        for page in pages(client, prefix, "until"):
            for key, until in zip(page, raw.mget(page), strict=True):
                selector = SelectorKey(_tag_of(key).rpartition(".")[0])
                found[selector] = max(found.get(selector, NEVER), decode_time(until))
    return found


def scan_digests(client: redis.Redis, prefix: str, schema: Schema) -> Digests:
    items: dict[ImageKey, Item] = {}
    with map_redis_errors():
        for kind in ("item", "wait"):
            for page in pages(client, prefix, kind):
                pipeline: Any = client.pipeline(transaction=False)
                for key in page:
                    pipeline.hmget(key, *DIGESTED)
                for key, values in zip(page, pipeline.execute(), strict=True):
                    fields = {n: v for n, v in zip(DIGESTED, values, strict=True) if v}
                    items[image_of(key)] = decode_item(fields, (), schema)
    return merge.digests(items, fences(client, prefix))


def waiting(client: redis.Redis, prefix: str) -> tuple[int, int]:
    """Corrections that wait for their image, and images of which only a barrier is held."""
    corrections = barriers = 0
    with map_redis_errors():
        for page in pages(client, prefix, "wait"):
            pipeline: Any = client.pipeline(transaction=False)
            for key in page:
                pipeline.hmget(key, "ts", "cs", "b")
            for trace, correction, barrier in pipeline.execute():
                corrections += trace is None and correction is not None
                barriers += trace is None and bool(barrier)
    return corrections, barriers


def holds(client: redis.Redis, names: KeyNames, images: Sequence[ImageKey]) -> list[bool]:
    """Of each image whether there is a visible item."""
    found: list[bool] = []
    with map_redis_errors():
        for start in range(0, len(images), KEYS_A_PAGE):
            pipeline: Any = client.pipeline(transaction=False)
            for image in images[start : start + KEYS_A_PAGE]:
                pipeline.exists(names.item(image)[0])
            found += map(bool, pipeline.execute())
    return found


def images_near(
    client: Any, names: KeyNames, schema: Schema, images: Sequence[ImageKey], distance: float
) -> Iterator[list[ImageKey]]:
    """See `memory.ports.StateStore.images_near`."""
    keys = [key for image in images for key in names.item(image)[:2]]
    given = _vectors_at(client, schema, keys)
    if not given:
        return
    yield [image_of(key.encode()) for key in given]
    for kind in ("item", "wait"):
        for page in pages(client, names.prefix, kind):
            held = _vectors_at(client, schema, page)
            if not held:
                continue
            nearest = distances_to_nearest(list(given.values()), np.stack(list(held.values())))
            if found := [
                image_of(key) for key, d in zip(held, nearest, strict=True) if d <= distance
            ]:
                yield found


_Key = TypeVar("_Key", str, bytes)


def _vectors_at(client: Any, schema: Schema, keys: Sequence[_Key]) -> dict[_Key, Vector]:
    """The vectors of those keys that hold one."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hget(key, "vector")
    with map_redis_errors():
        blobs = pipeline.execute()
    return {
        key: schema.decode_vector(blob)
        for key, blob in zip(keys, blobs, strict=True)
        if blob is not None
    }


def positions(
    client: redis.Redis, namespace: str, prefix: str, *, follow: bool
) -> dict[LogPartition, int]:
    """Those of a generation; with `follow` of the one that answers, whichever that is.

    Positions only rise, also from one generation to the next.
    """
    while True:
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.hgetall(f"{prefix}:pos")
        pipeline.hget(f"{namespace}:meta", "generation")
        with map_redis_errors():
            held, generation = pipeline.execute()
        answering = prefix if generation is None else f"{namespace}:{generation.decode()}"
        if not follow or answering == prefix:
            break
        prefix = answering
    return {named_partition(place.decode()): int(offset) for place, offset in held.items()}


def facts_of_forgetting(client: redis.Redis, prefix: str) -> Iterator[list[FenceFact]]:
    """Every fact of forgetting that a generation has taken, in pages."""
    raw: Any = client
    held = fences(client, prefix)
    yield [Fence(selector, until) for selector, until in held.items()]
    with map_redis_errors():
        for kind in ("item", "wait"):
            for page in pages(client, prefix, kind):
                pipeline: Any = client.pipeline(transaction=False)
                for key in page:
                    pipeline.hmget(key, "b", "told", "sel")
                facts: list[FenceFact] = []
                for key, (barrier, told, selectors) in zip(page, pipeline.execute(), strict=True):
                    if barrier:
                        facts.append(Barrier(image_of(key), decode_time(barrier)))
                    if barrier or told:
                        names = (selectors or b"").decode().split()
                        facts += [Posting(SelectorKey(name), image_of(key)) for name in names]
                yield facts
        for page in pages(client, prefix, "request"):
            pipeline = raw.pipeline(transaction=False)
            for key in page:
                pipeline.hmget(key, "time", "closed")
            yield [
                ClosedRequest(RequestKey(_tag_of(key)), decode_time(time))
                for key, (time, closed) in zip(page, pipeline.execute(), strict=True)
                if closed == b"1"
            ]


def item(client: Any, names: KeyNames, schema: Schema, image: ImageKey) -> Item | None:
    """All that is held of one image."""
    shown, wait, outbox = names.item(image)
    pipeline = client.pipeline(transaction=False)
    pipeline.hgetall(shown)
    pipeline.hgetall(wait)
    pipeline.smembers(outbox)
    with map_redis_errors():
        live, waiting, sent = pipeline.execute()
    fields = live or waiting
    if not fields and not sent:
        return None
    return decode_item(fields, sent, schema)


def labels_of(client: Any, names: KeyNames, images: Sequence[ImageKey]) -> list[str | None]:
    """The label that counts of each image that is there, also of those that are pruned."""
    pipeline = client.pipeline(transaction=False)
    for image in images:
        shown, wait, _ = names.item(image)
        pipeline.hget(shown, "label")
        pipeline.hget(wait, "label")
    with map_redis_errors():
        held = iter(pipeline.execute())
    found = [shown or waiting for shown, waiting in zip(held, held, strict=True)]
    return [None if label is None else label.decode() for label in found]


def shown_traces(
    client: redis.Redis, prefix: str
) -> Iterator[tuple[ImageKey, Sequence[SelectorKey], int]]:
    """Of each item that is shown its image, the selectors that it ever bore, and its trace's time, µs."""
    raw: Any = client
    with map_redis_errors():
        for page in pages(client, prefix, "item"):
            pipeline = raw.pipeline(transaction=False)
            for key in page:
                pipeline.hmget(key, "sel", "ts")
            for key, (selectors, stamp) in zip(page, pipeline.execute(), strict=True):
                if stamp:  # it may be erased meanwhile
                    borne = list(map(SelectorKey, (selectors or b"").decode().split()))
                    yield image_of(key), borne, decode_time(stamp[:16])
