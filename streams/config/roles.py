"""The roles of workers: what each reads, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.contract.topics import Topic


@dataclass(frozen=True, slots=True)
class Role:
    """What a worker does: the topic it reads, whether it changes the memory, whether it embeds."""

    name: str
    topic: Topic
    writes: bool = False
    embeds: bool = False


ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role("ingest", Topic.IMAGE_INGEST, writes=True, embeds=True),
        Role("correct", Topic.LABEL_CORRECTION, writes=True),
        Role("forget", Topic.FORGET_REQUEST, writes=True),
        Role("query", Topic.QUERY, embeds=True),
    )
}
"""By name."""
