"""What stands beside the items: how often these were used, how current copies are, which events are dead.

How often items were neighbours and decided stands in two sorted sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from memory.model.answers import Influence
from memory.model.events import LogAddress
from memory.model.keys import ImageKey, SelectorKey
from memory.redis.connection import map_redis_errors
from memory.redis.hashes import decode_time
from memory.redis.names import KeyNames

IMAGES_A_CALL = 500
OUTBOXES_A_PAGE = 500
COPY_SECONDS = 60
"""A process that reported no later has ended, or reads all changes before it answers again."""


def add_influence(client: Any, names: KeyNames, used: Mapping[ImageKey, tuple[int, int]]) -> None:
    pipeline = client.pipeline(transaction=False)
    images = list(used)
    for start in range(0, len(images), IMAGES_A_CALL):
        some = images[start : start + IMAGES_A_CALL]
        counts = [count for image in some for count in (image, *used[image])]
        pipeline.fcall("vm1_influence", 2, names.neighbors, names.decided, *counts)
    with map_redis_errors():
        pipeline.execute()


def influence_of(
    client: Any, names: KeyNames, count: int, image: ImageKey | None
) -> tuple[int, Sequence[Influence]]:
    with map_redis_errors():
        total = int(client.zcard(names.neighbors))
        if image is None:
            most = client.zrevrange(names.decided, 0, count - 1)
            most += client.zrevrange(names.neighbors, 0, count - 1)
            images = [ImageKey(one.decode()) for one in dict.fromkeys(most)][:count]
        else:
            images = [image]
        pipeline = client.pipeline(transaction=False)
        for one in images:
            item, wait, _ = names.item(one)
            pipeline.hget(item, "id")
            pipeline.hget(wait, "id")
            pipeline.zscore(names.neighbors, one)
            pipeline.zscore(names.decided, one)
        replies = iter(pipeline.execute())
    found = [
        Influence((shown or waiting).decode(), int(neighbor or 0), int(decided or 0))
        for shown, waiting, neighbor, decided in zip(*[replies] * 4, strict=True)
        if shown or waiting  # it may be erased meanwhile
    ]
    return total, sorted(found, key=Influence.order)


def report_copy(client: Any, names: KeyNames, name: str, as_of: int) -> None:
    """A process, by any name of its own, says as of when, µs, its copy is what Redis shows."""
    with map_redis_errors():
        client.set(names.copy(name), as_of, ex=COPY_SECONDS)


def copies_as_of(client: Any, names: KeyNames) -> int | None:
    """As of when, µs, all copies are what Redis shows; None where there are none."""
    with map_redis_errors():
        keys = list(client.scan_iter(names.copy("*"), count=1000))
        held = client.mget(keys) if keys else []
    return min((int(time) for time in held if time is not None), default=None)


class Leftovers:
    """What erasing leaves to do: events in the log that are dead. All methods raise `Unavailable`."""

    def __init__(self, client: Any, names: Callable[[], KeyNames]) -> None:
        """`names` are those of the generation that answers now."""
        self._client = client
        self._names = names

    def dead_events(self) -> Iterator[Mapping[ImageKey, Sequence[LogAddress]]]:
        """Events whose tombstones are not in the log, by image, in pages."""
        names = self._names()
        cursor = 0
        while True:
            with map_redis_errors():
                cursor, members = self._client.sscan(names.outboxes, cursor, count=OUTBOXES_A_PAGE)
                images = [ImageKey(member.decode()) for member in members]
                pipeline = self._client.pipeline(transaction=False)
                for image in images:
                    pipeline.smembers(names.item(image)[2])
                held = pipeline.execute()
            if images:
                yield {
                    image: [LogAddress.decode(one.decode()) for one in sorted(addresses)]
                    for image, addresses in zip(images, held, strict=True)
                }
            if cursor == 0:
                return

    def note_tombstones(self, events: Mapping[ImageKey, Sequence[LogAddress]]) -> None:
        """The log has the tombstones of these."""
        names = self._names()
        pipeline = self._client.pipeline(transaction=False)
        for image, addresses in events.items():
            keys = names.item(image)[2], names.outboxes
            pipeline.fcall("vm1_sent", 2, *keys, image, *(one.encode() for one in addresses))
        with map_redis_errors():
            pipeline.execute()

    def find_outboxes(self) -> None:
        """List those that a version filled which did not list them."""
        names = self._names()
        start = len(f"{names.prefix}:outbox:{{")
        with map_redis_errors():
            keys = list(self._client.scan_iter(f"{names.prefix}:outbox:*", count=1000))
            for first in range(0, len(keys), OUTBOXES_A_PAGE):
                some = keys[first : first + OUTBOXES_A_PAGE]
                images = [key[start:-1].decode() for key in some]
                self._client.fcall("vm1_grow", 1, names.outboxes, *images)

    def dead_until(self, listings: Sequence[tuple[ImageKey, Sequence[SelectorKey]]]) -> list[int]:
        """Of each image with what an event says that it bears: up to when such an event is dead, µs."""
        names = self._names()
        pipeline = self._client.pipeline(transaction=False)
        images = dict.fromkeys(image for image, _ in listings)
        borne = dict.fromkeys(selector for _, selectors in listings for selector in selectors)
        for image in images:
            pipeline.fcall_ro("vm1_barrier", 2, *names.item(image)[:2])
        for selector in borne:
            pipeline.get(names.fence(selector))
        with map_redis_errors():
            told = list(map(decode_time, pipeline.execute()))
        barriers = dict(zip(images, told[: len(images)], strict=True))
        fences = dict(zip(borne, told[len(images) :], strict=True))
        return [
            max([barriers[image], *map(fences.__getitem__, selectors)])
            for image, selectors in listings
        ]

    def copies_as_of(self) -> int | None:
        """See `reports`: of processes that keep a copy of what Redis shows."""
        return copies_as_of(self._client, self._names())
