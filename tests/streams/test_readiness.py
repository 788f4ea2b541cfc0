"""A worker whose lag only grows is told from one that gets on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from streams.readiness import Headway

Look = tuple[float, Mapping[int, tuple[int, int]]]

LOOKS: Mapping[str, tuple[Sequence[Look], bool]] = {
    "nothing has come": ([(0, {0: (0, 0)}), (99, {0: (0, 0)})], False),
    "all is merged": ([(0, {0: (0, 5)}), (99, {0: (5, 5)})], False),
    "it only grows": ([(0, {0: (3, 3)}), (5, {0: (3, 4)}), (15, {0: (3, 9)})], True),
    "it came at once and stands": ([(0, {0: (3, 3)}), (10, {0: (3, 9)})], True),
    "it grows, but not for long": ([(0, {0: (3, 3)}), (9, {0: (3, 9)})], False),
    "it grows, and one partition moves": (
        [
            (0, {0: (3, 9), 1: (0, 9)}),
            (9, {0: (3, 99), 1: (1, 99)}),
            (15, {0: (3, 999), 1: (1, 99)}),
        ],
        False,
    ),
    "a long batch, and nothing new comes": ([(0, {0: (3, 9)}), (99, {0: (3, 9)})], False),
    "catching up with what grows faster": (
        [(0, {0: (0, 100)}), (9, {0: (1, 200)}), (18, {0: (2, 300)})],
        False,
    ),
    "it moved again after it had stalled": (
        [(0, {0: (3, 3)}), (15, {0: (3, 9)}), (16, {0: (4, 9)})],
        False,
    ),
    "other partitions since": ([(0, {0: (3, 3)}), (9, {0: (3, 9)}), (15, {1: (3, 9)})], False),
    "it has none": ([(0, {0: (3, 9)}), (99, {})], False),
}


@pytest.mark.parametrize(("looks", "stalled"), LOOKS.values(), ids=LOOKS)
def test_a_worker_has_stalled_when_no_position_moves_though_records_come(
    looks: Sequence[Look], *, stalled: bool
) -> None:
    headway = Headway(patience=10)
    for now, lags in looks:
        headway.look(now, lags)
    assert headway.stalled is stalled
