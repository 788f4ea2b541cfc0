"""What the README says of measurements is what the kept results say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments.report import page as experiments_page
from benchmarks.experiments.statistics import difference, log_law, outside, share
from benchmarks.experiments.studies import STUDIES
from benchmarks.peers.__main__ import spread, table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("kept", "page"),
    [
        ("peers.json", "README.md"),
        ("peers_avx2.json", "benchmarks/README.md"),
    ],
)
def test_a_table_of_peers_is_made_from_the_kept_results(kept: str, page: str) -> None:
    """If not: python -m benchmarks.peers --table benchmarks/results/KEPT."""
    results = json.loads((ROOT / "benchmarks" / "results" / kept).read_text())
    assert table(results) in (ROOT / page).read_text()
    assert results["rounds"] >= 3
    assert "this service" in results["systems"]


def test_rounds_become_the_least_the_median_and_the_greatest() -> None:
    rounds = [{"a": 3, "b": {"c": 1.0}}, {"a": 1, "b": {"c": 9.0}}, {"a": 2, "b": {"c": 5.0}}]
    assert spread(rounds) == {"a": [1, 2, 3], "b": {"c": [1.0, 5.0, 9.0]}}


def test_the_page_on_the_experiments_is_made_from_the_kept_results() -> None:
    """If not: python -m benchmarks.experiments --from benchmarks/results/experiments.json --docs docs."""
    results = json.loads((ROOT / "benchmarks" / "results" / "experiments.json").read_text())
    assert results.keys() == {"machine", *STUDIES}
    text = (ROOT / "docs" / "experiments.md").read_text()
    assert text == experiments_page(results)
    for line in text.split("(experiments/")[1:]:
        assert (ROOT / "docs" / "experiments" / line.partition(")")[0]).is_file()


def test_a_share_has_wilsons_interval() -> None:
    """Of 10 in 20: Wilson's is 29.9 to 70.1 (Newcombe, 1998, has its formula)."""
    assert share([True, False] * 10) == {"percent": 50.0, "low": 29.93, "high": 70.07, "of": 20}
    assert share([True] * 10)["low"] == pytest.approx(72.25, abs=0.01)


def test_a_difference_is_of_the_same_questions() -> None:
    before, after = [False] * 50 + [True] * 50, [True] * 10 + [False] * 40 + [True] * 50
    found = difference(before, after)
    assert found["points"] == 10.0
    assert found["low"] > 0
    assert difference(after, after) == {"points": 0.0, "low": 0.0, "high": 0.0}


def test_a_law_in_the_logarithm_is_found() -> None:
    law = log_law((0.9 - 0.05 * np.log(np.arange(1, 101))).tolist())
    assert (law["a"], law["b"], law["r2"]) == (0.9, -0.05, 1.0)


def test_numbers_of_a_run_are_held_to_the_intervals_that_are_kept() -> None:
    kept = {
        "a": {"b": {"percent": 50.0, "low": 40.0, "high": 60.0, "of": 9}, "items": 3},
        "moved": {"points": -1.0, "low": -2.0, "high": 0.0},
        "machine": {"cores": 2},
    }
    assert outside(kept, kept) == []
    other = {"a": {"b": {"percent": 61.0}, "items": 4}, "moved": {"points": -2.5}, "new": {"x": 1}}
    assert outside(other, kept) == [
        "a: b: 61.0, not from 40.0 to 60.0",
        "moved: -2.5, not from -2.0 to 0.0",
    ]
