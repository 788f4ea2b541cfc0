"""How a worker's process runs."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest.mock import Mock, call, patch

import faust
import pytest

from streams.workers import worker_process

SECRET = "correct-horse"


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


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (f"ValueError('{SECRET}')", "ingest: unexpected ValueError"),
        ("Misconfigured('set it to 1')", "ingest: set it to 1"),
    ],
)
def test_the_last_line_of_a_worker_says_why_it_ends_and_quotes_no_event(
    error: str, last: str
) -> None:
    program = f"""
import logging
from memory.errors import Misconfigured
from streams.workers.worker_process import exit_now
logging.basicConfig(format="%(message)s")
def step():
    raise {error}
try:
    step()
except Exception as why:
    exit_now("ingest", why)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == worker_process.EXIT_UNEXPECTED
    said = done.stderr.splitlines()
    assert (said[0], said[-1]) == ("exiting", last)
    assert "in step" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [("_on_sigterm", call.sigterm()), ("_on_sigint", call.shutdown(signal.SIGINT))],
)
def test_an_end_that_is_asked_for_is_bounded(
    monkeypatch: pytest.MonkeyPatch, asked: str, goes_on: object
) -> None:
    seen = Mock()
    monkeypatch.setattr(worker_process, "end_within", seen.end_within)
    monkeypatch.setattr(faust.Worker, "_on_sigterm", lambda _: seen.sigterm())
    worker = object.__new__(worker_process.BoundedWorker)
    monkeypatch.setattr(worker, "_schedule_shutdown", seen.shutdown, raising=False)
    getattr(worker, asked)()
    assert seen.mock_calls == [call.end_within(worker_process.SHUTDOWN_SECONDS), goes_on]
