"""Facts of forgetting: taken by an index, and told to every generation of a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.state import Put
from memory.ports import FenceLog, StateStore

Take = Callable[[Sequence[FenceFact]], None]


def take(index: StateStore, facts: Iterable[FenceFact]) -> None:
    """Do what the facts say to an index that may be new, or older than they are."""
    for are_barriers, run in groupby(facts, key=lambda fact: isinstance(fact, Barrier)):
        if are_barriers:
            index.put([Put(b.image, barrier=b.until) for b in run if isinstance(b, Barrier)])
            continue
        for fact in run:
            match fact:
                case Fence(selector, until):
                    index.fence(selector, until)
                    for page in index.images_with_selector(selector):
                        index.put([Put(image, barrier=until) for image in page])
                case Posting(selector, image):
                    index.relist(selector, image)
                case ClosedRequest(request, until):
                    index.close_request(request, until)


class NoFenceLog:
    """For a memory without a log: Redis alone keeps the fences."""

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Keep nothing."""


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
