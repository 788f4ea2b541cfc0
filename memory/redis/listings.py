"""What each image bears, and what of it the log of forgetting has been told (see `memory.ports`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import redis

from memory.errors import Rejected
from memory.model import merge
from memory.model.events import MAX_SELECTORS
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, SelectorKey
from memory.model.times import NEVER
from memory.redis.connection import map_redis_errors
from memory.redis.hashes import decode_time, encode_time
from memory.redis.names import KeyNames

IMAGES_A_PAGE = 1000


def enlist_images(
    client: Any, names: KeyNames, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
) -> list[int | Rejected]:
    barriers, rooms = _look(client, names, listings)
    taken = [rooms[image].take(selectors) for selectors, image in listings]
    pipeline = client.pipeline(transaction=False)
    for (selectors, image), has_room in zip(listings, taken, strict=True):
        for selector in selectors if has_room else ():
            pipeline.fcall("vm1_enlist", 2, *names.bucket(selector, image), image)
    with map_redis_errors():
        fences = iter(pipeline.execute())
    return [
        max([barriers[image], *(decode_time(next(fences)) for _ in selectors)])
        if has_room
        else merge.NO_ROOM
        for (selectors, image), has_room in zip(listings, taken, strict=True)
    ]


def _look(
    client: Any, names: KeyNames, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
) -> tuple[dict[ImageKey, int], dict[ImageKey, merge.Room]]:
    """The barriers of these images, and what each may bear."""
    asked: dict[ImageKey, dict[SelectorKey, None]] = {}
    for selectors, image in listings:
        asked.setdefault(image, {}).update(dict.fromkeys(selectors))
    pipeline = client.pipeline(transaction=False)
    for image, wanted in asked.items():
        keys = names.item(image)[:2]
        pipeline.fcall_ro("vm1_look", 2, *keys, MAX_SELECTORS, " ".join(wanted))
    with map_redis_errors():
        replies = dict(zip(asked, pipeline.execute(), strict=True))
    barriers = {image: decode_time(barrier) for image, (barrier, _, _) in replies.items()}
    rooms = {
        image: merge.Room(bears, set(map(SelectorKey, new.decode().split())))
        for image, (_, bears, new) in replies.items()
    }
    return barriers, rooms


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
