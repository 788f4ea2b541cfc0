"""A memory from a backup: forgets again what was forgotten since, and shows that nothing came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory.facts import take
from memory.model.forgetting import Barrier, Fence, FenceFact
from memory.model.keys import ImageKey, SelectorKey
from memory.model.times import NEVER
from memory.redis import scan
from memory.redis.index import RedisIndex
from streams.kafka.cluster import KafkaCluster
from streams.kafka.fence_log import replay


@dataclass(frozen=True, slots=True)
class RestoreCheck:
    """Of how many facts of forgetting in the log how many the memory lacked, and how many items it
    shows, of all that it does, which by those facts are forgotten.
    """

    facts: int
    missing: int
    items: int
    revived: int


def forget_again(
    cluster: KafkaCluster, client: Any, index: RedisIndex, *, apply: bool
) -> RestoreCheck:
    """Read the facts of forgetting from their start, let the memory take them where `apply`, and compare
    what it shows with them, item by item. Raises `Misconfigured` as `fence_log.replay`.
    """
    fences: dict[SelectorKey, int] = {}
    barriers: dict[ImageKey, int] = {}
    count = missing = 0

    def see(facts: Sequence[FenceFact]) -> None:
        nonlocal count, missing
        lacking = index.missing_facts(facts)
        count, missing = count + len(facts), missing + len(lacking)
        for fact in facts:
            if isinstance(fact, Fence):
                fences[fact.selector] = max(fences.get(fact.selector, NEVER), fact.until)
            elif isinstance(fact, Barrier):
                barriers[fact.image] = max(barriers.get(fact.image, NEVER), fact.until)
        if apply:
            take(index, lacking)

    replay(cluster, see)
    items = revived = 0
    for image, selectors, time in scan.shown_traces(client, index.names.prefix):
        items += 1
        until = max(
            barriers.get(image, NEVER), *(fences.get(one, NEVER) for one in selectors), NEVER
        )
        revived += time <= until
    return RestoreCheck(count, missing, items, revived)
