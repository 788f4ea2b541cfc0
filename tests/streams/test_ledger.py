"""Which requests are on their way, from receipts in any order and number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from streams.contract.messages import Cancellation, Outside, Receipt, SelectorDigest
from streams.erasure.ledger import PROVEN, Ledger

OUTSIDE = (Outside("backups", "operator", "let them expire"),)


def erased(request: str = "r") -> Receipt:
    stages = {"received": 1, "fenced": 2, "erased": 3}
    return Receipt(request, "erased", stages, SelectorDigest("subject", "d"), 9, 4, memory="vm")


def scheduled(received: int = 1, *, offset: int = 0, not_before: int = 50) -> Receipt:
    return Receipt(
        "r",
        "scheduled",
        {"received": received, "scheduled": received + 1},
        SelectorDigest("subject", "d"),
        0,
        0,
        status="scheduled",
        not_before=not_before,
        evidence={"partition": 1, "offset": offset},
        memory="vm",
    )


def cancel(asked: int, name: str = "c") -> Cancellation:
    return Cancellation("r", name, asked, memory="vm")


def signed(receipt: Receipt) -> Receipt:
    return replace(receipt, signature="s", sequence=1)


def test_a_request_is_open_from_erased_to_completed() -> None:
    ledger = Ledger("vm")
    ledger.note([replace(erased(), stage="fenced", stages={"fenced": 2})], 5)
    assert ledger.open == {}
    ledger.note([erased(), erased("s")], 5)
    assert ledger.open.keys() == ledger.carried_out() == {"r", "s"}
    ledger.note([replace(erased(), stages={"erased": 3, "completed": 8})], 9)
    assert ledger.open.keys() == {"s"}
    assert ledger.carried_out() == {"r", "s"}
    ledger.note([erased()], 10)  # sent again
    assert ledger.open.keys() == {"s"}


def test_the_first_signed_receipt_says_what_the_forget_worker_said() -> None:
    ledger = Ledger("vm")
    ledger.note([erased()], 5)
    (first,) = ledger.due(6, 100, OUTSIDE)
    assert (first.stage, first.stages, first.outside) == ("erased", erased().stages, OUTSIDE)
    assert first.due == 101
    ledger.note([signed(first)], 6)
    assert ledger.due(7, 100, OUTSIDE) == []


def test_each_stage_is_told_once_and_completed_follows_from_all() -> None:
    ledger = Ledger("vm")
    ledger.note([erased()], 5)
    ledger.note([signed(ledger.due(6, 100, OUTSIDE)[0])], 6)
    told = []
    for at, stage in enumerate(PROVEN, 10):
        (one,) = ledger.lacking(stage)
        one.reach(stage, at, {stage: at})
        one.reach(stage, 99, {stage: 99})
        (receipt,) = ledger.due(at, 100, OUTSIDE)
        told.append(receipt.stage)
        ledger.note([signed(receipt)], at)
    assert told == [*PROVEN[:-1], "completed"]
    assert receipt.stages == {
        **erased().stages,
        **{stage: at for at, stage in enumerate(PROVEN, 10)},
        "completed": 13,
    }
    assert receipt.evidence == {stage: at for at, stage in enumerate(PROVEN, 10)} | {"took_ms": 0}
    assert ledger.open == {}


def test_the_last_receipt_says_how_long_it_took_and_how_long_it_might_have() -> None:
    """Of what the servers were configured to take meanwhile, the longest."""
    ledger = Ledger("vm")
    later = replace(erased(), stages={"received": 1000, "erased": 60_000}, not_before=50_000)
    ledger.note([later], 70_000)
    for bound in (20_000_000, 30_000_000, 10_000_000):
        ledger.due(80_000, 100, OUTSIDE, bound)
    (one,) = ledger.open.values()
    for stage in PROVEN:
        one.reach(stage, 90_000, {})
    (receipt,) = ledger.due(5_050_000, 100, OUTSIDE)
    assert receipt.evidence == {"took_ms": 5000, "worst_case_ms": 30_000}


def test_who_takes_over_goes_on_with_the_stages_that_were_told() -> None:
    ledger = Ledger("vm")
    further = replace(
        erased(), stage="repaired", stages={**erased().stages, "repaired": 7}, evidence={"a": 1}
    )
    ledger.note([erased(), signed(further), erased()], 20)
    (one,) = ledger.open.values()
    assert not one.lacks("repaired")
    assert ledger.lacking("repaired") == []
    assert ledger.due(21, 100, OUTSIDE) == []
    one.reach("redis_purged", 22, {})
    (receipt,) = ledger.due(22, 100, OUTSIDE)
    assert receipt.stages == {**further.stages, "redis_purged": 22}
    assert receipt.evidence == {"a": 1}


def test_requests_are_told_of_apart() -> None:
    ledger = Ledger("vm")
    ledger.note([signed(erased()), signed(erased("s"))], 5)
    ledger.open["s"].reach("repaired", 6, {})
    assert [one.request for one in ledger.due(6, 100, OUTSIDE)] == ["s"]


def test_another_memorys_receipts_are_passed_over_and_older_ones_are_ours() -> None:
    ledger = Ledger("vm")
    ledger.note([replace(erased("theirs"), memory="other"), replace(erased("old"), memory=None)], 5)
    assert ledger.open.keys() == {"old"}
    assert [one.memory for one in ledger.due(6, 100, OUTSIDE)] == ["vm"]


def test_a_request_that_comes_again_when_it_is_over_is_told_once_to_be_buried() -> None:
    ledger = Ledger("vm")
    done = replace(erased(), stages={"erased": 3, "completed": 8})
    ledger.note([erased(), done, signed(done), signed(erased()), erased()], 9)
    assert ledger.take_again() == []
    again = replace(erased(), status="repeated", evidence={"partition": 1, "offset": 9})
    ledger.note([again, replace(again, memory="other")], 10)
    assert ledger.take_again() == [again]
    assert ledger.take_again() == []
    assert ledger.open == {}


# Later


def test_a_request_for_later_is_where_it_was_sent_last_and_was_received_when_it_was_first() -> None:
    ledger = Ledger("vm")
    ledger.note([scheduled(1, offset=4), scheduled(9, offset=7)], 10)
    (plan,) = ledger.plans()
    assert plan.evidence == {"partition": 1, "offset": 7}
    assert plan.stages == {"received": 1, "scheduled": 2}
    assert ledger.carried_out() == ledger.over() == set()
    assert ledger.due(99, 100, OUTSIDE) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_was_carried_out_later_is_due_from_then_whatever_is_read_first(
    order: Sequence[int],
) -> None:
    told = [
        scheduled(1),
        replace(erased(), stages={"received": 51, "fenced": 52, "erased": 53}, not_before=50),
        scheduled(9, offset=3),
    ]
    ledger = Ledger("vm")
    ledger.note([told[n] for n in order], 60)
    assert ledger.plans() == []
    (receipt,) = ledger.due(60, 100, OUTSIDE)
    assert receipt.stage == "erased"
    assert receipt.stages["received"] == 1, "when the log had it, not when it was sent again"
    assert receipt.stages["erased"] == 53
    assert receipt.due == 150
    ledger.note([replace(receipt, stages={**receipt.stages, "completed": 70})], 70)
    ledger.note([scheduled(80)], 80)
    assert ledger.plans() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_who_asks_before_it_is_due_stops_it_whatever_is_read_first(order: Sequence[int]) -> None:
    told: list[Receipt | Cancellation] = [scheduled(), cancel(49), cancel(20, "again")]
    ledger = Ledger("vm")
    ledger.note([told[n] for n in order], 60)
    (stopped,) = ledger.stops(60)
    assert (stopped.stage, stopped.status) == ("cancelled", "cancelled")
    assert stopped.stages == {"received": 1, "scheduled": 2, "cancelled": 60}
    assert list(ledger.too_late()) == []
    ledger.note([signed(stopped)], 61)
    assert ledger.stops(62) == ledger.plans() == []
    assert list(ledger.too_late()) == []
    assert (ledger.over(), ledger.carried_out()) == ({"r"}, set())
    ledger.note([scheduled(70), *told], 80)  # sent again
    assert ledger.stops(80) == ledger.plans() == []


@pytest.mark.parametrize(
    "known",
    [
        [scheduled()],
        [erased()],
        [scheduled(), erased()],
        [replace(erased(), stages={"completed": 9})],
    ],
)
def test_who_asks_once_it_is_due_or_carried_out_is_told_so_once(known: Sequence[Receipt]) -> None:
    ledger = Ledger("vm")
    ledger.note([cancel(50)], 51)
    assert list(ledger.too_late()) == [], "nobody heard of the request yet"
    ledger.note(known, 52)
    assert ledger.stops(52) == []
    (told,) = ledger.too_late()
    assert (told.outcome, told.cancel, told.request, told.asked) == ("too_late", "c", "r", 50)
    ledger.note([replace(told, signature="s", sequence=1)], 53)
    assert list(ledger.too_late()) == []
    ledger.note([cancel(50)], 54)
    assert list(ledger.too_late()) == []


def test_what_others_ask_is_not_looked_at() -> None:
    ledger = Ledger("vm")
    ledger.note([scheduled(), replace(cancel(3), memory="other")], 5)
    assert ledger.stops(6) == []
    ledger.note([replace(scheduled(), memory="other", request="s")], 7)
    assert [plan.request for plan in ledger.plans()] == ["r"]
