"""Settings as the environment gives them."""

from __future__ import annotations

import pytest

from streams.config.settings import load


@pytest.mark.parametrize(
    ("given", "labels"),
    [("cat", ("cat",)), ("cat, sea lion", ("cat", "sea lion")), ("", ())],
)
def test_metric_labels_are_separated_by_commas(
    given: str, labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL_MEMORY_METRIC_LABELS", given)
    assert load().metric_labels == labels
