"""The rows of a replica: equal to brute force, whatever the vectors; what goes is overwritten."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.model.answers import Hit
from memory.model.keys import ImageKey
from memory.model.questions import Exclusion, Probe
from memory.model.vectors import Vector, cosine_distances, kernels
from memory.replica import rows as module
from memory.replica.rows import BLOCK, FEW_WRITES, OverBudget, Rows, Shown
from memory.replica.scan import ROOM_FOR_TIES
from tests.memory.variants import by_each_variant

DIM = 32
F16, F32 = np.dtype("<f2"), np.dtype("<f4")


def drawn(seed: int, count: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def key(number: int) -> ImageKey:
    return ImageKey(f"key-{number}")


def filled(vectors: np.ndarray, element: np.dtype = F16) -> Rows:
    rows = Rows(vectors.shape[1], element, 1 << 30)
    numbers = range(len(vectors))
    shown = [
        Shown(key(n), f"i{n}", f"l{n % 3}", f"source:{n % 2} subject:{n % 5}") for n in numbers
    ]
    rows.put(shown, vectors.astype(element))
    return rows


def defined(vectors: np.ndarray, query: Vector) -> np.ndarray:
    """Cosine distances by numpy, with more digits than float64 has."""
    wide, asked = vectors.astype(np.longdouble), query.astype(np.longdouble)
    lengths = np.sqrt((wide * wide).sum(axis=1) * (asked * asked).sum())
    found: np.ndarray = np.clip(1 - (wide * asked).sum(axis=1) / lengths, 0, 2).astype(float)
    return found


def brute(vectors: np.ndarray, query: Vector, k: int, without: int | None = None) -> list[Hit]:
    """By every distance, as the definition says."""
    distances = defined(vectors, query).tolist()
    hits = [Hit(f"i{n}", f"l{n % 3}", d) for n, d in enumerate(distances) if n != without]
    return sorted(hits, key=lambda hit: (hit.distance, hit.image_id))[:k]


def same(found: tuple[Hit, ...], wanted: list[Hit]) -> bool:
    return [(hit.image_id, hit.label) for hit in found] == [
        (hit.image_id, hit.label) for hit in wanted
    ] and np.allclose([h.distance for h in found], [h.distance for h in wanted], atol=1e-12)


@pytest.mark.parametrize("element", [F16, F32], ids=str)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_nearest_are_those_of_brute_force(element: np.dtype, k: int) -> None:
    vectors = drawn(0, 3000, 96).astype(element)
    rows = filled(vectors, element)
    queries = drawn(1, 40, 96)
    for _ in by_each_variant():
        found = rows.nearest([Probe(query, k) for query in queries])
        for query, result in zip(queries, found, strict=True):
            assert result.exact
            assert same(result.hits, brute(vectors, query, k))


SHAPES = st.sampled_from(["random", "near one", "equal by groups", "few values", "one hot", "tiny"])


@given(
    SHAPES,
    st.sampled_from([F16, F32]),
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 30),
)
def test_whatever_the_vectors_are(
    shape: str, element: np.dtype, seed: int, count: int, k: int
) -> None:
    """Among them such as lie so close that the scan alone could not tell them."""
    rng = np.random.default_rng(seed)
    vectors = drawn(seed, count)
    if shape == "near one":
        vectors = vectors[:1] + 1e-3 * vectors
    elif shape == "equal by groups":
        vectors = vectors[rng.integers(0, max(1, count // 8), count)]
    elif shape == "few values":
        vectors = rng.choice([-1.0, 0.0, 1.0], (count, DIM)) + 0.5 * np.eye(1, DIM)
    elif shape == "one hot":
        vectors = np.eye(DIM)[rng.integers(0, DIM, count)]
    elif shape == "tiny":
        vectors = np.eye(DIM)[rng.integers(0, DIM, count)] + 1e-4 * vectors
    vectors = vectors.astype(element)
    rows = filled(vectors, element)
    query = (vectors[0] if seed % 2 else drawn(seed + 1, 1)[0]).astype(np.float32)
    without = seed % count
    probes = [Probe(query, k), Probe(query, k, Exclusion(frozenset([key(without)])))]
    for _ in by_each_variant():
        plain, less = rows.nearest(probes)
        assert same(plain.hits, brute(vectors, query, k))
        assert same(less.hits, brute(vectors, query, k, without))


@pytest.mark.parametrize("exact", ["exact", ""])
def test_no_cosine_is_greater_than_a_scan_says(exact: str) -> None:
    """Where levels are as exact as the vectors, what is rounded counts alone."""
    if exact:
        vectors = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (4000, DIM))
        vectors[:, 0] = 1
    else:
        vectors = drawn(30, 4000)
    rows, queries = filled(vectors.astype(F16)), vectors[:20].astype(np.float32)
    for _ in by_each_variant():
        scan = rows.scan([Probe(query, 1) for query in queries])
        assert scan is not None
        for query, greatest in zip(queries, scan.greatest(), strict=True):
            cosines = 1 - defined(vectors.astype(F16), query)
            assert (greatest >= cosines).all()
            assert (greatest <= cosines + (1e-5 if exact else 0.1)).all()


def test_a_search_loads_no_torch() -> None:
    """Checked apart: another test may have loaded it here."""
    script = """
import sys
import numpy as np
from memory.model.questions import Probe
from memory.replica.rows import Rows, Shown

vectors = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float16)
rows = Rows(8, vectors.dtype, 1 << 30)
rows.put([Shown(f"{n:032x}", f"i{n}", "l") for n in range(5000)], vectors)
rows.nearest([Probe(vectors[0], 3)])
print("torch" in sys.modules)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"


def test_equal_vectors_by_the_thousand_are_found_by_their_ids() -> None:
    """Also where they are more than there is room for."""
    vectors = np.concatenate([np.repeat(drawn(5, 2), 3000, axis=0), drawn(6, 100)]).astype(F16)
    rows, query = filled(vectors), vectors[0].astype(np.float32)
    other = vectors[-1].astype(np.float32)
    for _ in by_each_variant():
        found = rows.nearest([Probe(other, 2), Probe(query, 50), Probe(other, 3)])
        assert same(found[1].hits, brute(vectors, query, 50))
        assert [len(one.hits) for one in found] == [2, 50, 3]


@pytest.mark.parametrize("more", [0, 1])
def test_ties_are_found_up_to_their_room_and_beyond(more: int) -> None:
    k = 5
    vectors = np.concatenate(
        [np.repeat(drawn(5, 1), k + ROOM_FOR_TIES + more, axis=0), drawn(6, 9)]
    )
    query = vectors[0].astype(np.float32)
    (found,) = filled(vectors.astype(F16)).nearest([Probe(query, k)])
    assert same(found.hits, brute(vectors.astype(F16), query, k))


def test_equal_vectors_are_measured_once_a_question() -> None:
    """Rows of one hash are taken for equal, and for one question alone."""
    vectors = np.tile(np.eye(2, DIM), (50, 1)).astype(F16)
    rows = filled(vectors)
    rows.hashes[:] = 7
    one, other = np.eye(2, DIM, dtype=np.float32)
    for query in (one, other):
        found = rows.nearest([Probe(query, 100), Probe(-query, 100)])
        assert [len({hit.distance for hit in each.hits}) for each in found] == [1, 1]
        assert found[0].hits[0].distance != found[1].hits[0].distance


def test_rows_beyond_one_block_are_found() -> None:
    vectors = drawn(12, 3 * BLOCK + 77).astype(F16)
    rows = filled(vectors)
    for number in (0, BLOCK - 1, BLOCK, 3 * BLOCK, len(vectors) - 1):
        query = vectors[number].astype(np.float32)
        (found,) = rows.nearest([Probe(query, 20)])
        assert found.hits[0].image_id == f"i{number}"
        assert same(found.hits, brute(vectors, query, 20))


def test_many_questions_are_scanned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 250)
    vectors = drawn(7, 100).astype(F16)
    queries = drawn(8, 7)
    found = filled(vectors).nearest([Probe(query, 5) for query in queries])
    for query, result in zip(queries, found, strict=True):
        assert same(result.hits, brute(vectors, query, 5))


def test_rows_come_change_and_go_as_in_a_dictionary() -> None:
    choose = random.Random(3)
    vectors = drawn(9, 5000)
    rows, held = Rows(DIM, F16, 1 << 30), dict[int, tuple[str, np.ndarray]]()
    for step in range(3000):
        number = choose.randrange(1500)
        if choose.random() < 0.4:
            rows.remove(key(number))
            held.pop(number, None)
        else:
            label, vector = f"l{choose.randrange(3)}", vectors[step].astype(F16)
            rows.put([Shown(key(number), f"i{number}", label)], vector[None])
            held[number] = (label, vector)
        assert len(rows) == len(held)
        assert (key(number) in rows._at) == (number in held)
    stored = np.stack([vector for _, vector in held.values()])
    for query in drawn(10, 20):
        hits = [
            Hit(f"i{number}", label, d)
            for (number, (label, _)), d in zip(
                held.items(), cosine_distances(query, stored).tolist(), strict=True
            )
        ]
        (found,) = rows.nearest([Probe(query, 30)])
        assert same(found.hits, sorted(hits, key=lambda h: (h.distance, h.image_id))[:30])


WRITES = {
    "none": (3000, 0, 0),
    "some": (3000, 40, 0.4),
    "some more than there is room for": (BLOCK - 5, 30, 0.1),
    "as many as there is room for once more": (BLOCK - 5, BLOCK, 0),
    "more than are looked at one by one": (3000, 2 * FEW_WRITES, 0.6),
}


@pytest.mark.parametrize("variant", range(kernels.VARIANTS))
@pytest.mark.parametrize("writes", WRITES)
def test_rows_written_after_a_scan_are_found_as_they_are_then(
    writes: str, variant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "variant", variant)
    choose = random.Random(17)
    before, count, share_removed = WRITES[writes]
    vectors = drawn(18, before + count).astype(F16)
    queries = drawn(19, 5)
    rows = filled(vectors[:before])
    held = {n: vectors[n] for n in range(before)}
    probes = [Probe(query, 50) for query in queries]
    scan = rows.scan(probes)
    for n in range(before, before + count):
        if choose.random() < share_removed:
            gone = choose.choice([*held])
            rows.remove(key(gone))
            del held[gone]
            continue
        # What is nearest to a question comes in another's place, or moves away from it.
        number = choose.choice([n, n, choose.randrange(before)])
        vector = (queries[n % 5] + 0.3 * vectors[n]).astype(F16) if n % 2 else -vectors[n]
        rows.put([Shown(key(number), f"i{number}", f"l{number % 3}")], vector[None])
        held[number] = vector
    stored, numbers = np.stack([*held.values()]), [*held]
    for query, result in zip(queries, rows.nearest(probes, scan), strict=True):
        distances = cosine_distances(query, stored).tolist()
        wanted = [Hit(f"i{n}", f"l{n % 3}", d) for n, d in zip(numbers, distances, strict=True)]
        wanted.sort(key=lambda hit: (hit.distance, hit.image_id))
        assert same(result.hits, wanted[:50])


def test_rows_that_come_and_go_after_a_scan_are_not_found() -> None:
    """Though the last of them stood where there was no room yet."""
    vectors = drawn(22, BLOCK + 5).astype(F16)
    rows, probes = filled(vectors[: BLOCK - 5]), [Probe(drawn(21, 1)[0], 5)]
    scan = rows.scan(probes)
    for n in range(BLOCK - 5, BLOCK + 5):
        rows.put([Shown(key(n), f"i{n}", "l0")], vectors[n : n + 1])
    for n in range(BLOCK - 5, BLOCK + 5):
        rows.remove(key(n))
    (found,) = rows.nearest(probes, scan)
    assert same(found.hits, brute(vectors[: BLOCK - 5], probes[0].vector, 5))


def test_rows_that_all_go_after_a_scan_are_not_found() -> None:
    vectors = drawn(20, 30).astype(F16)
    rows, probes = filled(vectors), [Probe(drawn(21, 1)[0], 5)]
    scan = rows.scan(probes)
    for number in range(30):
        rows.remove(key(number))
    assert rows.nearest(probes, scan)[0].hits == ()


def test_a_part_of_many_questions_may_be_scanned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 250)
    vectors = drawn(7, 100).astype(F16)
    rows, probes = filled(vectors), [Probe(query, 5) for query in drawn(8, 7)]
    scan = rows.scan(probes)
    assert scan is not None
    assert len(scan) == 2
    rows.remove(key(3))
    for probe, result in zip(probes, rows.nearest(probes, scan), strict=True):
        assert same(result.hits, brute(vectors, probe.vector, 5, without=3))


@pytest.mark.parametrize("element", [F16, F32], ids=str)
def test_what_goes_is_overwritten(element: np.dtype) -> None:
    """Wherever it stands, and after others have moved."""
    vectors = drawn(11, 2000).astype(element)
    rows = filled(vectors, element)

    def holds(vector: np.ndarray) -> bool:
        return vector.tobytes() in rows.vectors.tobytes()

    gone = [0, 1999, 1000, 1998, 7]
    for number in gone:
        assert holds(vectors[number])
        rows.remove(key(number))
        assert not holds(vectors[number])
    rows.put([Shown(key(5), "i5", "l0")], vectors[:1])
    assert not holds(vectors[5])
    assert not rows.levels[len(rows) :].any()
    rows.clear()
    assert not rows.vectors.any()
    assert not rows.levels.any()
    assert len(rows) == len(rows.shown) == 0
    assert rows.nearest([Probe(drawn(1, 1)[0], 3)])[0].hits == ()


def test_no_more_room_is_taken_than_may_be() -> None:
    block = Rows(DIM, F16, 0).nbytes
    rows = Rows(DIM, F16, 3 * block + 1)
    vectors = drawn(13, 3 * BLOCK + 1).astype(F16)

    def put(start: int, stop: int) -> None:
        numbers = range(start, stop)
        rows.put([Shown(key(n), f"i{n}", "l0") for n in numbers], vectors[start:stop])

    for start in range(0, 3 * BLOCK, 1024):
        put(start, start + 1024)
        assert rows.nbytes <= 3 * block
    with pytest.raises(OverBudget):
        put(3 * BLOCK - 5, 3 * BLOCK + 1)
    assert len(rows) == 3 * BLOCK
    put(0, 1024)  # again
    (found,) = rows.nearest([Probe(vectors[7].astype(np.float32), 1)])
    assert found.hits[0].image_id == "i7"
    none = Rows(DIM, F16, block - 1)
    with pytest.raises(OverBudget):
        none.put([Shown(key(0), "i0", "l0")], vectors[:1])
