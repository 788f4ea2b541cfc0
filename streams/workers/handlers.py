"""What each role does with its records: its agent, with how it decodes and what it calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import Correction, Prune
from memory.service import VisualMemory
from streams.contract import decoding, forgetting, questions
from streams.contract.records import OutgoingRecord, Record
from streams.workers.agents import ForgetAgent, QueryAgent, WritingAgent, refusal, rejection
from streams.workers.batch_delivery import HandleBatch
from streams.workers.task_delivery import TaskDelivery

_log = logging.getLogger(__name__)

INFLUENCE_SECONDS = 10.0
INFLUENCE_SHARE = 0.02
"""Of the time, what it may take at most to write down how often items were used."""


def query_agent(memory: VisualMemory, delivery: TaskDelivery, partitions: int) -> QueryAgent:
    """`partitions` is how many the topic of the answers has."""
    return QueryAgent(
        memory,
        partial(questions.decode_query, partitions=partitions),
        partial(questions.reply_address, partitions=partitions),
        delivery.in_thread,
        lambda: delivery.in_thread(memory.index.positions),
        delivery.place_free,
    )


def writing_agent(
    role: str, memory: VisualMemory, topic_id: str, skew: int, keys: Sequence[str], name: str
) -> HandleBatch:
    """`skew` is how far an event's clock may be ahead of the log, µs; `keys` sign requests to forget.

    `name` is what receipts call the memory.
    """
    if role == "forget":
        decode = partial(forgetting.decode_forget, clock_skew=skew, keys=keys)
        return ForgetAgent(memory, decode, name)
    located: dict[str, Any] = {"topic_id": topic_id, "clock_skew": skew}
    if role == "ingest":
        return WritingAgent(role, partial(decoding.decode_ingest, **located), memory.remember)
    correction = partial(decoding.decode_correction, **located)
    return WritingAgent[Correction | Prune](role, correction, memory.correct)


def influence_writer(memory: VisualMemory) -> Callable[[], None]:
    """Writes down how often items were used. A user without the right to is told once, and asks on."""
    denied = False
    not_before = 0.0

    def write() -> None:
        nonlocal denied, not_before
        if (started := time.monotonic()) < not_before:
            return
        try:
            memory.write_influence()
        except Misconfigured as why:
            if not denied:
                _log.warning("how often items are neighbours is not counted: %s", why)
            denied = True
        not_before = started + (time.monotonic() - started) / INFLUENCE_SHARE

    return write


def rejection_of(role: str, partitions: int, record: Record) -> list[OutgoingRecord]:
    """What is told of a record that ended workers again and again."""
    why = Rejected(Reason.INTERNAL, "workers ended at this record again and again; report it")
    if role == "query":
        return refusal(record, why, questions.reply_address(record, partitions=partitions))
    return [rejection(role, record, why)]
