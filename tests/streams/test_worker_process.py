"""How a worker's process runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest

from streams.workers import worker_process


@pytest.fixture
def _as_before() -> Iterator[None]:
    callbacks = list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.unfreeze()


@pytest.mark.usefixtures("_as_before")
def test_what_survives_a_long_full_collection_of_a_worker_is_not_looked_through_again() -> None:
    run_app: Callable[..., object] = worker_process.run_app
    with patch.object(worker_process, "BoundedWorker"):
        run_app(None, "INFO")
    many = [[n] for n in range(300_000)]
    gc.collect()
    assert gc.get_freeze_count() > len(many)


@pytest.mark.usefixtures("_as_before")
def test_what_is_soon_looked_through_stays_with_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "LONG_COLLECTION_SECONDS", 60)
    gc.callbacks.append(worker_process.SparingCollections())
    gc.collect()
    assert not gc.get_freeze_count()
