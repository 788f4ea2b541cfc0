"""What each image bears, and what of it the log of forgetting has been told (see `memory.ports`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from memory.errors import Rejected
from memory.model import merge
from memory.model.events import MAX_SELECTORS
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, SelectorKey
from memory.model.state import Put, PutResult
from memory.model.times import NEVER
from memory.redis.connection import Call, call_several, map_redis_errors
from memory.redis.hashes import decode_put_result, decode_time, encode_time
from memory.redis.names import KeyNames

IMAGES_A_PAGE = 1000


def enlist_images(
    client: Any, names: KeyNames, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
) -> list[int | Rejected]:
    events: dict[ImageKey, list[Sequence[SelectorKey]]] = {}
    for selectors, image in listings:
        events.setdefault(image, []).append(selectors)
    replies = call_several(
        client, "vm1_list_several", (_listing(names, *one) for one in events.items())
    )
    found = {
        image: _barriers(named, *reply)
        for (image, named), reply in zip(events.items(), replies, strict=True)
    }
    return [next(found[image]) for _, image in listings]


def _numbers(events: Sequence[Sequence[SelectorKey]]) -> dict[SelectorKey, int]:
    """All selectors that events of an image name, each once, counted from 1."""
    named = dict.fromkeys(selector for selectors in events for selector in selectors)
    return {selector: number for number, selector in enumerate(named, 1)}


def _listing(names: KeyNames, image: ImageKey, events: Sequence[Sequence[SelectorKey]]) -> Call:
    numbers = _numbers(events)
    named = (" ".join(str(numbers[selector]) for selector in selectors) for selectors in events)
    buckets = (key for selector in numbers for key in names.bucket(selector, image))
    return [*names.item(image)[:2], *buckets], [image, MAX_SELECTORS, *numbers, *named]


def _barriers(
    events: Sequence[Sequence[SelectorKey]],
    barrier: bytes,
    rooms: Sequence[int],
    fences: Sequence[bytes],
) -> Iterator[int | Rejected]:
    """Of each event the barrier of its image, at least, and of what it names."""
    until = dict(zip(_numbers(events), map(decode_time, fences), strict=True))
    for selectors, has_room in zip(events, rooms, strict=True):
        held = [decode_time(barrier), *map(until.__getitem__, selectors)]
        yield max(held) if has_room else merge.NO_ROOM


def admit_images(
    client: Any, names: KeyNames, puts: Sequence[Put], encoded: Iterable[Sequence[str | bytes]]
) -> list[PutResult | Rejected]:
    calls = []
    for put, arguments in zip(puts, encoded, strict=True):
        buckets = (key for selector in put.selectors for key in names.bucket(selector, put.image))
        keys = [*names.item(put.image), *buckets]
        calls.append((keys, [put.image, MAX_SELECTORS, *arguments]))
    replies = call_several(client, "vm1_admit_several", calls)
    return [decode_put_result(reply) if has_room else merge.NO_ROOM for *reply, has_room in replies]


def untold_facts(
    client: Any, names: KeyNames, images: Sequence[ImageKey]
) -> list[Barrier | Posting]:
    pipeline = client.pipeline(transaction=False)
    for image in images:
        pipeline.fcall_ro("vm1_untold", 2, *names.item(image)[:2])
    with map_redis_errors():
        replies = pipeline.execute()
    facts: list[Barrier | Posting] = []
    for image, (barrier, selectors) in zip(images, replies, strict=True):
        if barrier:
            facts.append(Barrier(image, decode_time(barrier)))
        untold = map(SelectorKey, sorted(selectors.decode().split()))
        facts += [Posting(selector, image) for selector in untold]
    return facts


def note_told(client: Any, names: KeyNames, facts: Sequence[Barrier | Posting]) -> None:
    barriers: dict[ImageKey, int] = {}
    selectors: dict[ImageKey, list[SelectorKey]] = {}
    for fact in facts:
        if isinstance(fact, Barrier):
            barriers[fact.image] = fact.until
        else:
            selectors.setdefault(fact.image, []).append(fact.selector)
    pipeline = client.pipeline(transaction=False)
    for image in barriers.keys() | selectors.keys():
        pipeline.fcall(
            "vm1_told",
            2,
            *names.item(image)[:2],
            encode_time(barriers.get(image, NEVER)),
            " ".join(selectors.get(image, ())),
        )
    with map_redis_errors():
        pipeline.execute()


def listed_images(
    client: Any, names: KeyNames, selector: SelectorKey
) -> Iterator[Sequence[ImageKey]]:
    for key, _ in names.buckets(selector):
        cursor = 0
        while True:
            with map_redis_errors():
                cursor, members = client.sscan(key, cursor, count=IMAGES_A_PAGE)
            if members:
                yield [ImageKey(member.decode()) for member in members]
            if cursor == 0:
                break


def in_pages(images: Sequence[ImageKey]) -> Iterator[Sequence[ImageKey]]:
    for start in range(0, len(images), IMAGES_A_PAGE):
        yield images[start : start + IMAGES_A_PAGE]


def pruned_with_label(client: Any, names: KeyNames, label: str) -> list[ImageKey]:
    """The images that are pruned, so in no index, and have this label."""
    return [image for image, held in _of_pruned(client, names, "label") if held == label.encode()]


def pruned_ids(client: Any, names: KeyNames) -> list[str]:
    """Ids of the images that are pruned, sorted."""
    return sorted(held.decode() for _, held in _of_pruned(client, names, "id") if held)


def _of_pruned(client: Any, names: KeyNames, field: str) -> Iterator[tuple[ImageKey, bytes | None]]:
    with map_redis_errors():
        images = [ImageKey(image.decode()) for image in client.smembers(names.pruned)]
        pipeline = client.pipeline(transaction=False)
        for image in images:
            _, wait, _ = names.item(image)
            pipeline.hget(wait, field)
        held = pipeline.execute()
    return zip(images, held, strict=True)


def missing_facts(
    client: redis.Redis, names: KeyNames, facts: Sequence[FenceFact]
) -> list[FenceFact]:
    """Those that `VisualMemory.apply` would still change something for, found by reading alone.

    So a user that may only read can tell that its memory forgets what it must.
    """
    pipeline: Any = client.pipeline(transaction=False)
    for fact in facts:
        keys = names.telling(fact)
        match fact:
            case Fence():
                for key in keys:
                    pipeline.get(key)
            case Barrier():
                for key in keys:
                    pipeline.hget(key, "b")
            case Posting():
                item, wait, posting = keys
                pipeline.hget(item, "sel")
                pipeline.hget(wait, "sel")
                pipeline.sismember(posting, fact.image)
            case ClosedRequest():
                pipeline.hget(keys[0], "closed")
    with map_redis_errors():
        replies = iter(pipeline.execute())
    return [
        fact for fact in facts if not _is_taken(fact, [next(replies) for _ in names.telling(fact)])
    ]


def _is_taken(fact: FenceFact, replies: Sequence[Any]) -> bool:
    match fact:
        case Fence(_, until):
            return all((held or b"") >= encode_time(until).encode() for held in replies)
        case Barrier(_, until):
            return max(held or b"" for held in replies) >= encode_time(until).encode()
        case Posting(selector, _):
            *held_by, listed = replies
            selectors = b" ".join(held or b"" for held in held_by).split()
            return bool(listed) and selector.encode() in selectors
        case ClosedRequest():
            return list(replies) == [b"1"]
