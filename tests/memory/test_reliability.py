"""Wrong counts that follow every change equal those of a batch recount."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.model.answers import Suspect
from memory.model.keys import ImageKey
from memory.model.reliability import HARD_FROM, HARD_NEIGHBORS, SOFT_NEIGHBORS, WrongCounts
from memory.model.vectors import cosine_distances
from memory.replica.reliability import Reliability
from memory.replica.rows import Rows, Shown

DIM = 8
F16 = np.dtype("<f2")
Held = dict[str, tuple[str, np.ndarray]]


def put(rows: Rows, held: Held, name: str, label: str, vector: np.ndarray) -> None:
    held[name] = (label, vector)
    rows.put([Shown(ImageKey(f"key of {name}"), name, label)], vector[None])


def remove(rows: Rows, held: Held, name: str) -> None:
    held.pop(name, None)
    rows.remove(ImageKey(f"key of {name}"))


def drawn(chance: random.Random) -> np.ndarray:
    """One of a few hundred vectors, so that many are equal."""
    vector = np.random.default_rng(chance.randrange(300)).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(F16)


def recounted(held: Held, k: int) -> dict[str, int]:
    """By every distance, leave-one-out, as the paper says."""
    names = list(held)
    rows = np.array([held[name][1] for name in names])
    wrong: Counter[str] = Counter()
    for i, name in enumerate(names):
        distances = cosine_distances(rows[i].astype(np.float32), rows).tolist()
        near = sorted((d, names[j]) for j, d in enumerate(distances) if j != i)[:k]
        wrong.update(other for _, other in near if held[other][0] != held[name][0])
    return dict(wrong)


def settle(reliability: Reliability, at_most: int = 64) -> WrongCounts:
    for _ in range(100_000):
        if reliability.work(at_most, time.monotonic()):
            break
    assert reliability.counts is not None
    return reliability.counts


def check(reliability: Reliability, held: Held) -> None:
    counts = settle(reliability)
    assert counts.soft == recounted(held, SOFT_NEIGHBORS)
    hard = recounted(held, HARD_NEIGHBORS)
    assert counts.hard == hard
    assert counts.pruned == {ImageKey(f"key of {n}") for n, v in hard.items() if v >= HARD_FROM}


def change(chance: random.Random, rows: Rows, held: Held, names: int) -> None:
    name, label = f"i{chance.randrange(names)}", f"l{chance.randrange(4)}"
    match chance.randrange(6):
        case 0 | 1:
            remove(rows, held, name)
        case 2 if name in held:
            put(rows, held, name, label, held[name][1])  # a correction
        case _:
            put(rows, held, name, label, drawn(chance))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([3, 30, 130]), st.integers(1, 40))
def test_after_any_history_the_counts_are_the_batch_recounts(
    seed: int, names: int, at_most: int
) -> None:
    """Whatever part of the work was done between two changes."""
    chance = random.Random(seed)
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for _ in range(chance.randrange(300)):
        change(chance, rows, held, names)
        for _ in range(chance.randrange(3)):
            reliability.work(at_most, time.monotonic())
    check(reliability, held)


def test_many_that_go_at_once_are_few_steps() -> None:
    """One look through all lists for each handful of a hundred thousand took hours."""
    chance = random.Random(4)
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(1500):
        put(rows, held, f"i{n}", f"l{n % 4}", drawn(chance))
    settle(reliability)
    for n in range(1498):
        remove(rows, held, f"i{n}")
    steps = 1
    while not reliability.work(4, time.monotonic()):
        steps += 1
    assert steps < 10
    check(reliability, held)


def test_ten_thousand_events() -> None:
    chance = random.Random(3)
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(10_000):
        change(chance, rows, held, 400)
        if chance.random() < 0.1:
            reliability.work(16, time.monotonic())
        if n % 2500 == 2499:
            check(reliability, held)


def test_the_forgotten_leave_no_trace() -> None:
    chance = random.Random(4)
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(200):
        put(rows, held, f"i{n}", f"l{chance.randrange(3)}", drawn(chance))
    before = settle(reliability)
    put(rows, held, "guest", "a label of its own", drawn(chance))
    settle(reliability)
    remove(rows, held, "guest")
    after = settle(reliability)
    assert (after.soft, after.hard, after.pruned) == (before.soft, before.hard, before.pruned)
    assert "a label of its own" not in reliability._labels


def test_while_rows_change_without_end_counts_follow_and_hold_nothing_of_the_forgotten() -> None:
    """Else a request to forget would wait for a quiet moment."""
    chance = random.Random(7)
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(300):
        put(rows, held, f"i{n}", f"l{n % 3}", drawn(chance))
    put(rows, held, "guest", "a label of its own", drawn(chance))
    settle(reliability)
    assert any("guest" in counts for counts in _counts_of(reliability))
    remove(rows, held, "guest")
    removed = time.monotonic()
    for _ in range(3000):
        change(chance, rows, held, 300)
        assert not reliability.work(8, time.monotonic())
        if reliability.as_of > removed:
            break
    assert reliability.as_of > removed
    assert not any("guest" in counts for counts in _counts_of(reliability))
    assert "a label of its own" not in {one.label for one in reliability.suspects}
    check(reliability, held)


def _counts_of(reliability: Reliability) -> tuple[Mapping[str, int], Mapping[str, int]]:
    counts = reliability.counts
    assert counts is not None
    return counts.soft, counts.hard


def test_a_row_that_takes_the_number_and_the_vector_of_one_that_went_is_another() -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability, chance = Reliability(rows, threading.Lock()), random.Random(5)
    same = drawn(chance)
    for n in range(150):
        put(rows, held, f"i{n:03}", f"l{n % 2}", same)
    settle(reliability)
    remove(rows, held, "i000")
    put(rows, held, "zzz", "l0", same)  # last where ids decide, and with the free number
    check(reliability, held)


def test_the_counts_stay_those_of_before_until_all_is_done() -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability, chance = Reliability(rows, threading.Lock()), random.Random(6)
    for n in range(50):
        put(rows, held, f"i{n}", f"l{n % 2}", drawn(chance))
    while not reliability.work(8, time.monotonic()):
        assert reliability.counts is None
    before = settle(reliability)
    put(rows, held, "i50", "l0", drawn(chance))
    assert not reliability.work(8, time.monotonic())
    meanwhile = reliability.counts
    assert meanwhile is not None
    assert meanwhile.soft == before.soft
    assert meanwhile.age > 0


def test_an_item_among_others_of_one_label_is_the_first_suspect() -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    rng = np.random.default_rng(7)
    for n in range(60):
        centre = np.eye(DIM)[n % 2]
        vector = (centre + 0.1 * rng.normal(size=DIM)).astype(F16)
        put(rows, held, f"i{n}", "ab"[n % 2], vector)
    put(rows, held, "i7", "a", held["i7"][1])  # wrong: it is among the b
    put(rows, held, "i9", "c", held["i9"][1])
    settle(reliability)
    suspects = reliability.suspects
    assert {one.image_id for one in suspects} == {"i7", "i9"}
    assert {one.suggested for one in suspects} == {"b"}
    assert all(one.share > 0.7 and one.wrong > 0 for one in suspects)
    put(rows, held, "i7", "b", held["i7"][1])
    settle(reliability)
    assert [one.image_id for one in reliability.suspects] == ["i9"]
    shown = Shown(ImageKey("key of i9"), "i9", "c", corrected=True)
    rows.put([shown], held["i9"][1][None])  # a person says that it is right
    settle(reliability)
    assert reliability.suspects == []


def test_what_neighbours_say_is_by_the_papers_weights_of_ranks() -> None:
    """1/2, 1/3, 1/4: the second and third overturn the first."""
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n, label in enumerate("xabb"):
        vector = np.cos(n / 10) * np.eye(DIM)[0] + np.sin(n / 10) * np.eye(DIM)[1]
        put(rows, held, f"i{n}", label, vector.astype(F16))
    settle(reliability)
    (said,) = [one for one in reliability.suspects if one.image_id == "i0"]
    assert said.suggested == "b"
    assert said.share == pytest.approx((1 / 3 + 1 / 4) / (1 / 2 + 1 / 3 + 1 / 4))


def test_who_sees_counts_finds_the_suspects_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(2):
        put(rows, held, f"i{n}", f"l{n}", np.eye(DIM)[n].astype(F16))
    seen: list[WrongCounts | None] = []
    suspected = reliability._suspects

    def looked(wrong: np.ndarray) -> list[Suspect]:
        seen.append(reliability.counts)  # as another thread would meanwhile
        return suspected(wrong)

    monkeypatch.setattr(reliability, "_suspects", looked)
    settle(reliability)
    assert seen == [None]
    assert len(reliability.suspects) == 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_next_to_nobody(count: int) -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    for n in range(count):
        put(rows, held, f"i{n}", f"l{n}", np.eye(DIM)[n].astype(F16))
    check(reliability, held)
    assert len(reliability.suspects) == (2 if count == 2 else 0)


@pytest.mark.parametrize("others", [HARD_FROM - 1, HARD_FROM])
def test_from_how_many_wrong_neighbours_on_an_item_is_pruned(others: int) -> None:
    """One in the middle of others of another label is among the nearest of each."""
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability, rng = Reliability(rows, threading.Lock()), np.random.default_rng(9)
    for n in range(others):
        around = np.eye(DIM)[0] + 0.5 * (off := rng.normal(size=DIM)) / np.linalg.norm(off)
        put(rows, held, f"i{n}", "a", around.astype(F16))
    put(rows, held, "middle", "b", np.eye(DIM)[0].astype(F16))
    counts = settle(reliability)
    assert counts.hard["middle"] == others
    assert counts.pruned == ({ImageKey("key of middle")} if others == HARD_FROM else set())


def test_what_pruning_would_change_is_told_by_label() -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability, rng = Reliability(rows, threading.Lock()), np.random.default_rng(10)
    for n in range(300):
        centre = np.eye(DIM)[n % 2]
        vector = (centre + 0.1 * rng.normal(size=DIM)).astype(F16)
        put(rows, held, f"i{n}", "ab"[n % 2], vector)
    for n in range(15):  # wrong ones in the middle of the a
        vector = (np.eye(DIM)[0] + 0.02 * rng.normal(size=DIM)).astype(F16)
        put(rows, held, f"x{n}", "b", vector)
    counts = settle(reliability)
    least = min(counts.hard[f"x{n}"] for n in range(15))
    effect = reliability.effect_of_pruning(least)
    assert set(effect.images) == {name for name, v in counts.hard.items() if v >= least}
    a, b = effect.labels["a"], effect.labels["b"]
    assert a.gone + b.gone == len(effect.images)
    assert a.gone + a.stays == 150
    assert b.gone + b.stays == 165
    assert a.right_after > a.right_before, "nobody calls them b any more"
    for name in effect.images:
        remove(rows, held, name)
    settle(reliability)
    again = reliability.effect_of_pruning(10**9)
    for label, before in again.labels.items():
        assert before.right_before == before.right_after == effect.labels[label].right_after
        assert (before.gone, before.stays) == (0, effect.labels[label].stays)


def test_a_list_is_asked_for_anew_only_where_it_may_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, held = Rows(DIM, F16, 1 << 30), Held()
    reliability = Reliability(rows, threading.Lock())
    rng = np.random.default_rng(8)
    for n in range(1000):
        vector = (np.eye(DIM)[n % 8] + 0.05 * rng.normal(size=DIM)).astype(F16)
        put(rows, held, f"i{n}", "l", vector)
    settle(reliability)
    asked: list[int] = []
    ask = reliability._ask

    def noted(numbers: np.ndarray) -> None:
        asked.extend(numbers)
        ask(numbers)

    monkeypatch.setattr(reliability, "_ask", noted)
    put(rows, held, "new", "l", np.eye(DIM)[0].astype(F16))
    check(reliability, held)
    assert 1 < len(asked) < 200, "those of its own cluster"
    asked.clear()
    put(rows, held, "i1", "m", held["i1"][1])
    check(reliability, held)
    assert asked == [], "a label moves no list"
