"""What is computed in C: the same on every processor, by the definitions, and within its arrays."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from fractions import Fraction
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.model.vectors import kernels
from memory.model.vectors.kernels import QueryLevels, RowLevels, distances, nearest, write_scores
from memory.replica.levels import in_levels
from tests.memory.variants import by_each_variant

DIMS = (1, 7, 16, 17, 63, 64, 65, 384, 1000)


def stored_of(vectors: np.ndarray) -> RowLevels:
    return RowLevels(
        vectors, *in_levels(vectors), np.array([hash(row.tobytes()) for row in vectors])
    )


def asked_of(queries: np.ndarray) -> QueryLevels:
    wide = queries.astype(np.float64)
    return QueryLevels(wide, *in_levels(wide))


def drawn(seed: int, count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("element", [np.float16, np.float32])
@pytest.mark.parametrize("dim", DIMS)
def test_a_distance_is_that_of_exact_sums_and_has_the_same_bits_by_each_variant(
    dim: int, element: type[np.floating]
) -> None:
    vectors, query = drawn(dim, 9, dim).astype(element), drawn(dim + 1, 1, dim)[0]
    first = distances(query, vectors)
    for _ in by_each_variant():
        assert distances(query, vectors).tobytes() == first.tobytes()
    q = list(map(Fraction, query.tolist()))
    for row, found in zip(vectors.astype(float).tolist(), first.tolist(), strict=True):
        r = list(map(Fraction, row))
        dot, square = sum(a * b for a, b in zip(r, q, strict=True)), sum(a * a for a in r)
        cosine = float(dot) / (sqrt(square) * sqrt(sum(a * a for a in q)))
        assert found == pytest.approx(min(2, max(0, 1 - cosine)), abs=1e-14)


def test_a_distance_lies_between_0_and_2() -> None:
    """Whatever is rounded."""
    for seed in range(500):
        rows = drawn(seed, 1, 3 + seed % 30).astype(np.float32)
        for factor in (1, -1, -0.1, 0.1, -7.3, 7.3):
            (found,) = distances(factor * rows[0].astype(np.float64), rows)
            assert 0 <= found <= 2


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 63, 64, 65, 130])
def test_scores_are_exact_sums_of_levels_times_steps(queries: int, dim: int) -> None:
    """Also of the greatest levels, which some instructions add up in 16 bits."""
    rng = np.random.default_rng(dim)
    for rows in (1, 3, 4, 33):
        some = rng.integers(-127, 128, (rows, dim)).astype(np.int8)
        for levels in (some, np.full_like(some, 127), np.full_like(some, -127)):
            asked = np.resize(levels[::-1], (queries, dim)).copy()
            steps, asked_steps = rng.random(rows, np.float32), rng.random(queries, np.float32)
            nothing = np.zeros(rows, np.float32), np.zeros(rows, np.int64)
            stored = RowLevels(np.zeros((rows, dim), np.float16), levels, steps, *nothing)
            query = QueryLevels(np.zeros((queries, dim)), asked, asked_steps, asked_steps)
            sums = asked.astype(np.int64) @ levels.astype(np.int64).T
            wanted = sums.astype(np.float32) * (asked_steps[:, None] * steps)
            for _ in by_each_variant():
                scores = np.full((queries, rows + 2), 9, np.float32)
                write_scores(stored, query, scores)
                assert (scores[:, :rows] == wanted).all()
                assert (scores[:, rows:] == 9).all()


@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 5), st.data())
def test_the_nearest_are_all_that_are_as_near_as_the_kth(
    seed: int, count: int, queries: int, data: st.DataObject
) -> None:
    """Whatever is left out; none is taken for another by what scores are off."""
    rng = np.random.default_rng(seed)
    dim = data.draw(st.sampled_from([2, 5, 64]))
    vectors = (rng.integers(-3, 4, (count, dim)) + 8 * np.eye(1, dim)).astype(np.float32)
    asked = asked_of(rng.integers(-3, 4, (queries, dim)) + 0.5)
    stored = stored_of(vectors)
    without = [
        sorted(rng.choice(count, rng.integers(0, count), replace=False)) for _ in range(queries)
    ]
    ks = [data.draw(st.integers(0, count - len(out))) for out in without]
    for _ in by_each_variant():
        scores = np.empty((queries, count), np.float32)
        write_scores(stored, asked, scores)
        found = nearest(stored, asked, scores, ks, without, count)
        for i, (k, out) in enumerate(zip(ks, without, strict=True)):
            far = distances(asked.vectors[i], vectors)
            left = np.delete(np.arange(count), out)
            last = np.sort(far[left])[k - 1] if k else -1
            wanted = set(left[far[left] <= last].tolist())
            n = found.counts[i]
            assert set(found.places[i, :n].tolist()) == wanted
            assert n == len(wanted)
            assert (found.distances[i, :n] == far[found.places[i, :n]]).all()
            assert (np.diff(found.distances[i, :n]) >= 0).all()


def test_as_many_are_found_as_are_wanted_where_scores_put_others_first() -> None:
    vectors, queries = drawn(3, 3000, 64).astype(np.float16), drawn(4, 5, 64)
    stored, asked = stored_of(vectors), asked_of(queries)
    for _ in by_each_variant():
        scores = np.empty((5, 3000), np.float32)
        write_scores(stored, asked, scores)
        found = nearest(stored, asked, scores, [50] * 5, [[]] * 5, 60)
        assert found.counts.tolist() == [50] * 5
        for query, places in zip(queries, found.places, strict=True):
            assert (places[:50] == np.argsort(distances(query, vectors))[:50]).all()


def test_what_a_function_is_given_is_kept_while_it_runs() -> None:
    array = np.zeros(3)
    alive, given = weakref.ref(array), kernels._at(array, np.float64, 3)
    del array
    assert alive() is not None
    del given
    assert alive() is None


def test_more_than_there_is_room_for_are_counted_and_not_written() -> None:
    stored, asked = stored_of(np.ones((9, 4), np.float16)), asked_of(np.ones((2, 4)))
    scores = np.empty((2, 9), np.float32)
    for room in (8, 9):
        write_scores(stored, asked, scores)
        found = nearest(stored, asked, scores, [1, 0], [[], []], room)
        assert found.counts.tolist() == [9, 0]
    assert sorted(found.places[0]) == list(range(9))


def test_what_is_not_as_it_must_be_is_refused() -> None:
    stored, asked = stored_of(drawn(0, 9, 4).astype(np.float16)), asked_of(drawn(1, 2, 4))
    scores = np.empty((2, 9), np.float32)
    wrong: list[tuple[RowLevels, QueryLevels, np.ndarray]] = [
        (stored._replace(vectors=stored.vectors.astype(np.float64)), asked, scores),
        (stored._replace(levels=stored.levels[:8]), asked, scores),
        (stored._replace(steps=stored.steps[::2]), asked, scores),
        (stored._replace(hashes=stored.hashes.astype(np.int32)), asked, scores),
        (stored, asked._replace(vectors=np.asfortranarray(asked.vectors)), scores),
        (stored, asked_of(drawn(1, 2, 5)), scores),
        (stored, asked._replace(errors=asked.errors[:1]), scores),
        (stored, asked, np.empty((2, 8), np.float32)),
        (stored, asked, np.empty((3, 9), np.float32)),
        (stored, asked, np.empty((2, 9))),
    ]
    for arguments in wrong:
        with pytest.raises(TypeError):
            write_scores(*arguments)
        with pytest.raises(TypeError):
            nearest(*arguments, [1, 1], [[], []], 9)
    with pytest.raises(TypeError):
        nearest(stored, asked, scores, [1], [[], []], 9)
    with pytest.raises(TypeError):
        nearest(stored, asked, scores, [1, 1], [[]], 9)
    for ks, without in (
        ([1, 10], [[], []]),
        ([1, -1], [[], []]),
        ([1, 9], [[], [3]]),
        ([1, 1], [[], [9]]),
        ([1, 1], [[-1], []]),
    ):
        write_scores(stored, asked, scores)
        with pytest.raises(ValueError, match="rows"):
            nearest(stored, asked, scores, ks, without, 9)
    with pytest.raises(TypeError):
        distances(asked.vectors[0].astype(np.float32), stored.vectors)
    with pytest.raises(TypeError):
        distances(asked.vectors[0], stored.vectors[:, ::2])


class Guarded:
    """Memory of which what follows it must not be touched: the process would end."""

    def __init__(self, array: np.ndarray) -> None:
        size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, size + mmap.PAGESIZE)
        room = np.frombuffer(self._map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        after = ctypes.c_void_p(room.ctypes.data + size)
        assert libc.mprotect(after, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        start = size - array.nbytes
        self.array = room[start:size].view(array.dtype).reshape(array.shape)
        self.array[...] = array


@pytest.mark.parametrize("element", [np.float16, np.float32])
@pytest.mark.parametrize("dim", DIMS)
def test_nothing_behind_the_arrays_is_touched(dim: int, element: type[np.floating]) -> None:
    for count, queries in ((1, 1), (5, 2), (33, 7)):
        stored = stored_of(drawn(0, count, dim).astype(element))
        asked = asked_of(drawn(1, queries, dim))
        rows, query = [*map(Guarded, stored)], [*map(Guarded, asked)]
        scores = Guarded(np.empty((queries, count), np.float32))
        of_all = (
            RowLevels(*(each.array for each in rows)),
            QueryLevels(*(each.array for each in query)),
        )
        for _ in by_each_variant():
            write_scores(*of_all, scores.array)
            found = nearest(*of_all, scores.array, [count] * queries, [[]] * queries, count)
            assert (found.counts == count).all()
            assert len(distances(query[0].array[0], rows[0].array)) == count


def test_the_quickest_code_that_the_processor_has_instructions_for_is_used() -> None:
    told = Path("/proc/cpuinfo").read_text("utf-8")
    flags = {
        flag for line in told.splitlines() if line.startswith("flags") for flag in line.split()
    }
    avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"} <= flags
    assert (1 + ({"avx2", "f16c"} <= flags) + avx512) == kernels.VARIANTS
    assert kernels.variant == kernels.VARIANTS - 1
