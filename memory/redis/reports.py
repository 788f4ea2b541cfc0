"""How often items were neighbours and decided, in two sorted sets beside the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.model.answers import Influence
from memory.model.keys import ImageKey
from memory.redis.errors import map_redis_errors
from memory.redis.names import KeyNames

IMAGES_A_CALL = 500


def add_influence(client: Any, names: KeyNames, used: Mapping[ImageKey, tuple[int, int]]) -> None:
    pipeline = client.pipeline(transaction=False)
    images = list(used)
    for start in range(0, len(images), IMAGES_A_CALL):
        some = images[start : start + IMAGES_A_CALL]
        keys = [names.neighbors, names.decided, *(names.item(image)[0] for image in some)]
        counts = [count for image in some for count in (image, *used[image])]
        pipeline.fcall("vm1_influence", len(keys), *keys, *counts)
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
