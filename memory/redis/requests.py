"""Forget-requests in Redis: when each was first seen, what it expands into, what it erased."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from memory.model.forgetting import RequestCounts
from memory.model.keys import ImageKey, RequestKey
from memory.model.state import OpenedRequest
from memory.redis.connection import Call, map_redis_errors, several
from memory.redis.hashes import decode_put_result, decode_time, encode_time
from memory.redis.names import KeyNames


def open_request(
    client: Any, names: KeyNames, request: RequestKey, time: int, puts: Iterable[Call]
) -> OpenedRequest:
    key, seen = names.request(request)[0], encode_time(time)
    pipeline = client.pipeline(transaction=False)
    pipeline.fcall("vm1_grow", 1, names.open_requests, request)
    pipeline.fcall("vm1_open_request", 1, key, seen)
    for keys, arguments in several(puts):
        pipeline.fcall("vm1_erase_opened", 1 + len(keys), key, *keys, seen, *arguments)
    with map_redis_errors():
        _, (first_seen, closed), *replies = pipeline.execute()
        if closed == b"1":
            client.srem(names.open_requests, request)
    is_put = closed != b"1" and first_seen.decode() == seen and all(replies)
    results = [decode_put_result(reply) for each in replies for reply in each] if is_put else None
    return OpenedRequest(int(first_seen), closed == b"1", results)


def expansion(
    client: Any, names: KeyNames, request: RequestKey, images: Iterable[ImageKey]
) -> frozenset[ImageKey]:
    key = names.request(request)[1]
    with map_redis_errors():
        _grow(client, key, images)
        return frozenset(ImageKey(image.decode()) for image in client.smembers(key))


def _grow(client: Any, key: str, images: Iterable[ImageKey]) -> None:
    if given := list(images):
        client.fcall("vm1_grow", 1, key, *given)


def dying(client: Any, names: KeyNames, images: Sequence[ImageKey], until: int) -> list[bool]:
    pipeline = client.pipeline(transaction=False)
    for image in images:
        for key in names.item(image)[:2]:
            pipeline.hmget(key, "ts", "cs", "ps")
    with map_redis_errors():
        replies = iter(pipeline.execute())
    barrier = encode_time(until).encode()
    return [
        any(
            stamp and stamp[: len(barrier)] <= barrier for stamp in (*next(replies), *next(replies))
        )
        for _ in images
    ]


def note_dying(
    client: Any, names: KeyNames, request: RequestKey, images: Iterable[ImageKey]
) -> int:
    key = names.request(request)[2]
    pipeline = client.pipeline(transaction=False)
    _grow(pipeline, key, images)
    pipeline.scard(key)
    with map_redis_errors():
        return int(pipeline.execute()[-1])


def note_counts(client: Any, names: KeyNames, request: RequestKey, matched: int) -> RequestCounts:
    with map_redis_errors():
        erased = client.fcall("vm1_count_found", 3, *names.request(request), matched)
    return RequestCounts(erased, matched)


def close_request(client: Any, names: KeyNames, request: RequestKey, until: int) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.fcall("vm1_close_request", 3, *names.request(request), encode_time(until))
    pipeline.srem(names.open_requests, request)
    with map_redis_errors():
        pipeline.execute()


def counts_of(client: Any, names: KeyNames, request: RequestKey) -> RequestCounts | None:
    with map_redis_errors():
        erased, matched = client.hmget(names.request(request)[0], "erased", "matched")
    return RequestCounts(int(erased), int(matched)) if erased and matched else None


def open_requests(client: Any, names: KeyNames) -> int:
    with map_redis_errors():
        return int(client.scard(names.open_requests))


def oldest_request(client: Any, names: KeyNames) -> int | None:
    with map_redis_errors():
        pipeline = client.pipeline(transaction=False)
        for request in client.smembers(names.open_requests):
            key, *_ = names.request(RequestKey(request.decode()))
            pipeline.hmget(key, "time", "closed")
        found = pipeline.execute()
    # One may have been closed since its name was read.
    return min((decode_time(time) for time, closed in found if time and not closed), default=None)
