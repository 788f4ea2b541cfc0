"""Facts of forgetting: taken by an index, and told to every generation of a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from memory.model.state import Put
from memory.ports import FenceFact, FenceLog, MemoryIndex

Take = Callable[[Sequence[FenceFact]], None]


def take(index: MemoryIndex, facts: Iterable[FenceFact]) -> None:
    """Do what the facts say to an index that may be new, or older than they are."""
    for kind, group in groupby(facts, key=lambda fact: fact.kind):
        match kind:
            case "fence":
                for fact in group:
                    index.fence(fact.selector, fact.until)
                    for page in index.listed(fact.selector):
                        index.put([Put(image=image, barrier=fact.until) for image in page])
            case "barrier":
                index.put([Put(image=fact.image, barrier=fact.until) for fact in group])
            case "posting":
                for fact in group:
                    index.relist(fact.selector, fact.image)
            case "request":
                for fact in group:
                    index.close_request(fact.request, fact.until)
            case unknown:
                raise ValueError(f"unknown fact of forgetting: {unknown}")


class EveryGeneration:
    """A fence log that returns when the other generations of the memory have taken the facts too.

    `others` tells them, by what each takes facts with. They are asked for after the log has the
    facts: a generation that is begun later reads them there.
    """

    def __init__(self, log: FenceLog, others: Callable[[], Sequence[Take]]) -> None:
        self._log = log
        self._others = others

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Return once every fact is durable and taken; `Unavailable` otherwise."""
        if not facts:
            return
        self._log.append(facts)
        for other in self._others():
            other(facts)
