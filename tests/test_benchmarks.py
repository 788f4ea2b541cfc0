"""What the README says of measurements is what the kept results say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.__main__ import spread, table

ROOT = Path(__file__).parents[1]


def test_the_readmes_table_of_peers_is_made_from_the_kept_results() -> None:
    """If not: python -m benchmarks.peers --table benchmarks/results/peers.json."""
    results = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    assert table(results) in (ROOT / "README.md").read_text()
    assert results["rounds"] >= 3
    assert "this service" in results["systems"]


def test_rounds_become_the_least_the_median_and_the_greatest() -> None:
    rounds = [{"a": 3, "b": {"c": 1.0}}, {"a": 1, "b": {"c": 9.0}}, {"a": 2, "b": {"c": 5.0}}]
    assert spread(rounds) == {"a": [1, 2, 3], "b": {"c": [1.0, 5.0, 9.0]}}
