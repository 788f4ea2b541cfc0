"""A worker that dies between any two steps of its work loses nothing."""

from __future__ import annotations

import zlib

import pytest

from tests.faults.ground import Ground, Load, picture_of, vector_of

EVENTS = 240
OF_IMAGES = {"enlist", "put"}
"""Steps of an ingest of images: one of ready vectors alone is `admit`."""
STEPS = [
    pytest.param("ingest", "admit", marks=pytest.mark.quick),
    pytest.param("ingest", "enlist", marks=pytest.mark.quick),
    ("ingest", "put"),
    ("ingest", "append"),
    ("ingest", "publish"),
    ("ingest", "advance"),
    pytest.param("correct", "put", marks=pytest.mark.quick),
    ("correct", "advance"),
    ("forget", "open_request"),
    pytest.param("forget", "fence", marks=pytest.mark.quick),
    ("forget", "append"),
    ("forget", "put"),
    ("forget", "close_request"),
    pytest.param("forget", "publish", marks=pytest.mark.quick),
    ("forget", "advance"),
]


@pytest.mark.parametrize(("role", "step"), STEPS)
def test_a_worker_that_is_killed_after_a_step_loses_nothing(
    shared: Ground, role: str, step: str
) -> None:
    before = shared.memory.restarts(role)
    seed = zlib.crc32(f"{role} {step}".encode())
    armed = shared.arm(role, step, 2)
    payload_of = picture_of if role == "ingest" and step in OF_IMAGES else vector_of
    load = Load(shared.memory, seed, EVENTS, rate=1000, payload_of=payload_of)
    shared.wait_until(lambda: not armed.exists(), "the step is reached")
    recovery = shared.recovery()
    shared.judge(f"{role} killed after {step}", load, recovery)
    assert shared.memory.restarts(role) > before
