"""Settings as the environment gives them."""

from __future__ import annotations

import pytest

from memory.errors import Misconfigured
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


def test_metric_labels_are_spelt_as_the_memory_spells_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VISUAL_MEMORY_METRIC_LABELS", "cat,Jose\u0301")
    assert load().metric_labels == ("cat", "José")
    monkeypatch.setenv("VISUAL_MEMORY_METRIC_LABELS", "cat\u200b")
    with pytest.raises(Misconfigured, match=r"METRIC_LABELS.*cannot be seen"):
        load()
