"""What the keys of one generation of a memory are called in Redis."""

from __future__ import annotations

from memory.model.events import LogPartition, SelectorKind
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.keys import ImageKey, RequestKey, SelectorKey

BUCKETS = {SelectorKind.SOURCE: 16, SelectorKind.SUBJECT: 1}
"""A large selector's postings are split, so that no key grows with the memory."""


class KeyNames:
    """Of a generation. Keys that one function touches share a hash tag, the text in braces."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.positions = f"{prefix}:pos"
        self.marks = f"{prefix}:marks"
        self.open_requests = f"{prefix}:open_requests"
        self.changes = f"{prefix}:changes"
        self.pruned = f"{prefix}:pruned"
        self.neighbors = f"{prefix}:neighbors"
        self.decided = f"{prefix}:decided"
        self.outboxes = f"{prefix}:outboxes"
        self.unembeddable = f"{prefix}:unembeddable"

    def item(self, image: ImageKey) -> tuple[str, str, str]:
        """Of an image: its hash with a trace, its hash without one, and its outbox."""
        p = self.prefix
        return f"{p}:item:{{{image}}}", f"{p}:wait:{{{image}}}", f"{p}:outbox:{{{image}}}"

    def copy(self, name: str) -> str:
        """Of a process that keeps a copy, of whichever generation: as of when it is what Redis shows."""
        return f"{self.prefix.rpartition(':')[0]}:copy:{name}"

    def request(self, request: RequestKey) -> tuple[str, str, str]:
        """Of a forget-request: its hash, the images that it expands into, and those it erases."""
        p, tag = self.prefix, f"{{{request}}}"
        return f"{p}:request:{tag}", f"{p}:expansion:{tag}", f"{p}:erased:{tag}"

    def buckets(self, selector: SelectorKey) -> list[tuple[str, str]]:
        """Of a selector: the keys of its postings and of its fence, by bucket."""
        return [self._bucket(selector, number) for number in range(_count(selector))]

    def fence(self, selector: SelectorKey) -> str:
        """Of a selector: the key of its fence, which each bucket has."""
        return self._bucket(selector, 0)[1]

    def bucket(self, selector: SelectorKey, image: ImageKey) -> tuple[str, str]:
        """The keys of the bucket that an image is in."""
        return self._bucket(selector, int(image[:8], 16) % _count(selector))

    def _bucket(self, selector: SelectorKey, number: int) -> tuple[str, str]:
        tag = f"{{{selector}.{number}}}"
        return f"{self.prefix}:posting:{tag}", f"{self.prefix}:until:{tag}"

    def telling(self, fact: FenceFact) -> list[str]:
        """The keys that tell whether a fact of forgetting is taken.

        Of a fence every bucket's, of a barrier the image's two hashes, of a posting those and
        the bucket's postings, of a request its hash.
        """
        match fact:
            case ClosedRequest(request, _):
                return [self.request(request)[0]]
            case Fence(selector, _):
                return [until for _, until in self.buckets(selector)]
            case Barrier(image, _):
                return list(self.item(image)[:2])
            case Posting(selector, image):
                return [*self.item(image)[:2], self.bucket(selector, image)[0]]


def _count(selector: SelectorKey) -> int:
    return BUCKETS[SelectorKind(selector.partition(":")[0])]


def place_name(partition: LogPartition) -> str:
    """What a partition of the log is called in a hash of positions or marks."""
    return f"{partition.topic_id}:{partition.partition}"


def named_partition(place: str) -> LogPartition:
    """The partition of such a name."""
    topic_id, _, partition = place.rpartition(":")
    return LogPartition(topic_id, int(partition))
