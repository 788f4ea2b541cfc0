"""What a client may ask, as keyword arguments, and the question that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict, Unpack

from memory.errors import Reason, Rejected
from memory.model.questions import NOTHING_SUPPOSED, ItemRef, Query, WhatIf
from streams.client.images import Image, payload_of
from streams.contract.messages import DEFAULT_K
from streams.contract.questions import as_pruning, as_rule


class Asked(TypedDict, total=False):
    """`item`: ask with an image that the memory holds, by id, in place of an image.

    `embedder` is the digest that a vector needs. `k` neighbours vote by `rule`: ``rank``,
    ``plurality``, ``distance`` or ``softmax``. The answer is that of a memory as `what_if` supposes it;
    with `why` it comes with what it rests on and what would change it. `pruning` is ``none``, ``soft`` or
    ``hard``; with `min_share` it is ``abstained`` where the leading label has less than that share. None
    leaves either to the memory.
    """

    item: str | None
    embedder: str | None
    k: int
    rule: str
    what_if: WhatIf
    why: bool
    pruning: str | None
    min_share: float | None


def query_of(
    image: Image | None, check_size: Callable[[int], None], **asked: Unpack[Asked]
) -> Query:
    """The question. Raises `Rejected` for what the memory would reject."""
    item = asked.get("item")
    if (image is None) == (item is None):
        raise Rejected(Reason.INVALID_PAYLOAD, "ask either with an image or with an item")
    return Query(
        ItemRef(item) if item is not None else payload_of(image, asked.get("embedder"), check_size),
        asked.get("k", DEFAULT_K),
        as_rule(asked.get("rule", "rank")),
        asked.get("what_if", NOTHING_SUPPOSED),
        asked.get("why", False),
        as_pruning(asked.get("pruning")),
        asked.get("min_share"),
    )
