"""Requests that are to be carried out later: sent again once they are due and nobody stopped them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kafka import TopicPartition

from memory.model.events import LogPartition
from memory.model.times import now_us
from streams.contract.messages import Receipt
from streams.contract.topics import Topic
from streams.erasure.chain import ReceiptChain
from streams.erasure.ledger import Ledger
from streams.erasure.log import ErasureLog


class Schedule:
    """Sends again what is due, at each step. For one thread. All methods raise `Unavailable`.

    The log's own time decides who was first. A request may go once each partition of the requests has
    a record of after its time, and all before that is read and told: no earlier cancel can come any more.
    """

    def __init__(
        self,
        ledger: Ledger,
        log: ErasureLog,
        chain: ReceiptChain,
        topic_ids: Mapping[str, str],
        *,
        topic: str,
        due_key: Callable[[str], str],
    ) -> None:
        """`topic` is the full name of that of the requests, `due_key` what says that one is due."""
        self._ledger, self._log, self._chain = ledger, log, chain
        self._topic, self._topic_id, self._due_key = topic, topic_ids[topic], due_key
        self._mark: Mapping[TopicPartition, tuple[int, int]] = {}
        self._sent: dict[str, tuple[int, int]] = {}

    def step(self, positions: Callable[[], Mapping[LogPartition, int]]) -> None:
        """`positions` tells up to where requests are read."""
        now = now_us()
        if not any(self._waits(plan, now) for plan in self._ledger.plans()):
            return
        if not self._mark:
            self._mark = self._log.mark(Topic.FORGET_REQUEST)
        read = positions()
        if any(
            read.get(LogPartition(self._topic_id, place.partition), 0) <= offset
            for place, (offset, _) in self._mark.items()
        ):
            return
        marked = min(time for _, time in self._mark.values())
        self._mark = {}
        self._ledger.note(self._chain.read_on(), now_us())
        stopped = {receipt.request for receipt in self._ledger.stops(now)}
        for plan in self._ledger.plans():
            if self._waits(plan, marked) and plan.request not in stopped:
                place, offset = self._place_of(plan)
                # Where it is gone, it was sent again, and where that one stands is told soon.
                self._log.send_again(place, offset, due=self._due_key(plan.request))
                self._sent[plan.request] = (place.partition, offset)

    def _waits(self, plan: Receipt, now: int) -> bool:
        place, offset = self._place_of(plan)
        is_due = (plan.not_before or 0) <= now
        return is_due and self._sent.get(plan.request) != (place.partition, offset)

    def _place_of(self, plan: Receipt) -> tuple[TopicPartition, int]:
        said = plan.evidence or {}
        return TopicPartition(self._topic, int(said["partition"])), int(said["offset"])
