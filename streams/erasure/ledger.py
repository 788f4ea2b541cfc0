"""Which forget-requests are on their way, and which stages each has come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from streams.contract.messages import Outside, Receipt

ERASED, COMPLETED = "erased", "completed"
PROVEN = ("redis_purged", "log_compacted", "answers_expired", "repaired")
"""What has to be so after `erased`, in any order, before a request is `completed`."""


@dataclass(slots=True)
class Erasure:
    """A request that is erased and not completed. `taken_up`, µs, is after it was erased.

    `last` is the last receipt that was told of it, `stages` and `evidence` what is so by now.
    """

    last: Receipt
    taken_up: int
    stages: dict[str, int]
    evidence: dict[str, int | str] = field(default_factory=dict)

    def lacks(self, stage: str) -> bool:
        return stage not in self.stages

    def reach(self, stage: str, now: int, evidence: Mapping[str, int | str]) -> None:
        """It stays as it was first reached."""
        if self.lacks(stage):
            self.stages[stage] = now
            self.evidence |= evidence


class Ledger:
    """What the receipts of a memory say. Each may come again. Those of others are passed over."""

    def __init__(self, memory: str) -> None:
        self._memory = memory
        self.open: dict[str, Erasure] = {}
        self.completed: set[str] = set()

    def note(self, receipts: Iterable[Receipt], now: int) -> None:
        """Receipts as they stand in the log; `now`, µs, is after they were written."""
        for receipt in receipts:
            if receipt.memory not in (self._memory, None):  # older versions did not say whose it is
                continue
            if COMPLETED in receipt.stages:
                self.completed.add(receipt.request)
                self.open.pop(receipt.request, None)
            elif receipt.request in self.completed or ERASED not in receipt.stages:
                continue
            elif held := self.open.get(receipt.request):
                if receipt.signature is not None:
                    held.last = receipt
                    held.stages = {**receipt.stages, **held.stages}
                    held.evidence = {**(receipt.evidence or {}), **held.evidence}
            else:
                stages, evidence = dict(receipt.stages), dict(receipt.evidence or {})
                self.open[receipt.request] = Erasure(receipt, now, stages, evidence)

    def lacking(self, stage: str) -> list[Erasure]:
        return [erasure for erasure in self.open.values() if erasure.lacks(stage)]

    def carried_out(self) -> set[str]:
        """Ids of all requests that are carried out."""
        return self.completed | self.open.keys()

    def due(self, now: int, limit: int, outside: tuple[Outside, ...]) -> list[Receipt]:
        """The next receipt of each request that has come further than its last receipt says.

        A request is due `limit` µs after the log received it.
        """
        found = []
        for erasure in self.open.values():
            if not any(map(erasure.lacks, PROVEN)):
                erasure.reach(COMPLETED, now, {})
            if erasure.stages.keys() <= erasure.last.stages.keys() and erasure.last.signature:
                continue
            found.append(
                replace(
                    erasure.last,
                    memory=self._memory,
                    stage=max(erasure.stages, key=lambda s: (erasure.stages[s], s == COMPLETED)),
                    stages=dict(erasure.stages),
                    evidence=dict(erasure.evidence),
                    outside=outside,
                    due=erasure.stages["received"] + limit
                    if "received" in erasure.stages
                    else None,
                )
            )
        return found
