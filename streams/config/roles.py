"""The roles of workers: what each reads, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.contract.topics import Topic


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker does: the topic it reads, whether it changes the memory, whether it embeds.

    With more than one of its batches under way, one uses the CPU while another waits for Redis. Records that
    come one by one are read at most once in `gather_seconds`: what a batch costs, others do not have.
    """

    name: str
    topic: Topic
    writes: bool = False
    embeds: bool = False
    batches_at_once: int = 1
    gather_seconds: float = 0.0


ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(
            "ingest",
            Topic.IMAGE_INGEST,
            writes=True,
            embeds=True,
            batches_at_once=2,
            gather_seconds=0.01,
        ),
        Role(
            "correct", Topic.LABEL_CORRECTION, writes=True, batches_at_once=2, gather_seconds=0.01
        ),
        Role("forget", Topic.FORGET_REQUEST, writes=True),
        Role("query", Topic.QUERY, embeds=True),
    )
}
"""By name."""
