"""Which forget-requests are on their way, and which stages each has come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from streams.contract.messages import Cancellation, Outside, Receipt

SCHEDULED, CANCELLED, ERASED, COMPLETED = "scheduled", "cancelled", "erased", "completed"
MS = 1000
PROVEN = ("redis_purged", "log_compacted", "answers_expired", "repaired")
"""What has to be so after `erased`, in any order, before a request is `completed`."""


@dataclass(slots=True)
class Erasure:
    """A request that is erased and not completed. `taken_up`, µs, is after it was erased.

    `last` is the last receipt that was told of it, `stages` and `evidence` what is so by now, `bound` how
    long it may take at worst, µs; 0 where nobody could tell.
    """

    last: Receipt
    taken_up: int
    stages: dict[str, int]
    evidence: dict[str, int | str] = field(default_factory=dict)
    bound: int = 0

    def lacks(self, stage: str) -> bool:
        return stage not in self.stages

    def reach(self, stage: str, now: int, evidence: Mapping[str, int | str]) -> None:
        """It stays as it was first reached."""
        if self.lacks(stage):
            self.stages[stage] = now
            self.evidence |= evidence

    def complete(self, now: int) -> None:
        """It is, and took that long, of what was possible."""
        began = begun(self.last, self.stages)
        took = {} if began is None else {"took_ms": max(0, now - began) // MS}
        self.reach(
            COMPLETED, now, took | ({"worst_case_ms": self.bound // MS} if self.bound else {})
        )


class Ledger:
    """What the receipts of a memory say. Each may come again. Those of others are passed over."""

    def __init__(self, memory: str) -> None:
        self._memory = memory
        self.open: dict[str, Erasure] = {}
        self.completed: set[str] = set()
        self.cancelled: set[str] = set()
        self._plans: dict[str, Receipt] = {}
        self._asked: dict[str, Cancellation] = {}
        self._too_late: set[str] = set()
        self._again: list[Receipt] = []

    def note(self, told: Iterable[Receipt | Cancellation], now: int) -> None:
        """What was told, as it stands in the log; `now`, µs, is after it was written."""
        for one in told:
            if one.memory not in (self._memory, None):  # older versions did not say whose it is
                continue
            if isinstance(one, Cancellation):
                self._note_cancellation(one)
            elif COMPLETED in one.stages:
                self.completed.add(one.request)
                self.open.pop(one.request, None)
                self._plans.pop(one.request, None)
            elif CANCELLED in one.stages:
                self.cancelled.add(one.request)
                self._plans.pop(one.request, None)
            elif one.request in self.completed or one.request in self.cancelled:
                if one.signature is None and one.evidence:  # older versions did not say where it is
                    self._again.append(one)
            elif ERASED in one.stages:
                self._note_erased(one, now)
            elif SCHEDULED in one.stages:
                self._plans[one.request] = _joined(self._plans.get(one.request, one), one)

    def _note_cancellation(self, said: Cancellation) -> None:
        if said.outcome == "too_late":
            self._too_late.add(said.cancel)
            self._asked.pop(said.cancel, None)
        elif said.cancel not in self._too_late:
            self._asked.setdefault(said.cancel, said)

    def _note_erased(self, receipt: Receipt, now: int) -> None:
        if held := self.open.get(receipt.request):
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

    def over(self) -> set[str]:
        """Ids of all requests whose events are of no use any more."""
        return self.carried_out() | self.cancelled

    def take_again(self) -> list[Receipt]:
        """Of requests that came again when they were over; each is returned once."""
        again, self._again = self._again, []
        return again

    def plans(self) -> list[Receipt]:
        """Of requests that are to be carried out later, or now, unless they are cancelled before."""
        return [plan for request, plan in self._plans.items() if request not in self.open]

    def stops(self, now: int) -> list[Receipt]:
        """That requests are cancelled, which somebody asked for before they were due."""
        asked = {one.request for one in self._asked.values() if self._stops(one)}
        return [
            replace(
                self._plans[request],
                memory=self._memory,
                stage=CANCELLED,
                status="cancelled",
                stages={**self._plans[request].stages, CANCELLED: now},
            )
            for request in sorted(asked)
        ]

    def _stops(self, asked: Cancellation) -> bool:
        plan = self._plans.get(asked.request)
        return (
            plan is not None
            and asked.request not in self.open
            and asked.asked < (plan.not_before or 0)
        )

    def too_late(self) -> Iterator[Cancellation]:
        """Of those who asked to cancel what is carried out, or was due."""
        for one in self._asked.values():
            known = (self.completed, self.open, self._plans)
            if any(one.request in held for held in known) and not self._stops(one):
                yield replace(one, outcome="too_late")

    def due(
        self, now: int, limit: int, outside: tuple[Outside, ...], bound: int = 0
    ) -> list[Receipt]:
        """The next receipt of each request that has come further than its last receipt says.

        A request is due `limit` µs after the log received it, or after it was to be carried out; as the
        servers are configured now, that may take `bound` µs.
        """
        found = []
        for request, erasure in self.open.items():
            plan = self._plans.get(request)
            if plan is not None:
                erasure.stages |= plan.stages
            erasure.bound = max(erasure.bound, bound)
            if not any(map(erasure.lacks, PROVEN)):
                erasure.complete(now)
            if erasure.stages.keys() <= erasure.last.stages.keys() and erasure.last.signature:
                continue
            began = begun(erasure.last, erasure.stages)
            found.append(
                replace(
                    erasure.last,
                    memory=self._memory,
                    stage=max(erasure.stages, key=lambda s: (erasure.stages[s], s == COMPLETED)),
                    stages=dict(erasure.stages),
                    evidence=dict(erasure.evidence),
                    outside=outside,
                    due=None if began is None else began + limit,
                )
            )
        return found


def _joined(one: Receipt, other: Receipt) -> Receipt:
    """A request that was sent more than once: it stands where the last does, and came as the first did."""
    first = min(one, other, key=lambda each: each.stages["received"])
    last = max(one, other, key=lambda each: (each.evidence or {})["offset"])
    return replace(last, stages=first.stages)


def begun(receipt: Receipt, stages: Mapping[str, int]) -> int | None:
    """Since when a request was to be carried out, µs."""
    received = stages.get("received")
    return None if received is None else max(received, receipt.not_before or 0)
