"""Which requests are on their way, from receipts in any order and number."""

from __future__ import annotations

from msgspec.structs import replace

from streams.contract.messages import Outside, Receipt, SelectorDigest
from streams.erasure.ledger import PROVEN, Ledger

OUTSIDE = (Outside("backups", "operator", "let them expire"),)


def erased(request: str = "r") -> Receipt:
    stages = {"received": 1, "fenced": 2, "erased": 3}
    return Receipt(request, "erased", stages, SelectorDigest("subject", "d"), 9, 4, memory="vm")


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
    assert receipt.evidence == {stage: at for at, stage in enumerate(PROVEN, 10)}
    assert ledger.open == {}


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
