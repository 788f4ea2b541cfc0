"""An exception raised anywhere in an agent loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from streams.client.sending import Pending
from streams.contract.messages import Answer
from tests.integration.events import EMBEDDER, rebuilt_digests, rejected, unit
from tests.integration.poisoned_worker import POISONOUS_K
from tests.integration.running import Running, running

IMAGES = 400


@pytest.mark.parametrize(
    "faults",
    [
        {"ingest": "admit:3:1", "correct": "put:1:1", "forget": "images_with_selector:1:1"},
        {"ingest": "admit:4:2", "forget": "put:2:1"},
        {"ingest": "advance:3:1", "forget": "close_request:1:1"},
        {"correct": "advance:2:1", "forget": "open_request:3:1"},
    ],
    ids=lambda faults: " ".join(faults.values()),
)
def test_an_unexpected_exception_ends_the_worker_and_loses_nothing(
    faults: Mapping[str, str],
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("faults"),
        workers={"ingest": 1, "correct": 1, "forget": 1},
        entry=(str(Path(__file__).parent / "faulty_worker.py"),),
        environment={"FAULT_FILE": str(tmp_path / "none")},
        role_environments={
            role: {"FAULT": fault, "FAULT_FILE": str(tmp_path / f"faults of {role}")}
            for role, fault in faults.items()
        },
        embedder=EMBEDDER,
        batch=16,
        clock_skew=0.2,
    ) as memory:
        client = memory.client()
        for n in range(IMAGES):
            client.ingest(unit(n), id=f"i{n}", label="a", subjects=[f"s{n % 20}"], embedder="test")
            client.correct(f"i{n}", f"b{n % 7}")
        client.flush()
        for n in range(5):
            client.forget(subject=f"s{n}").position()
        client.forget(label="b3").position()
        for n in (6, 7):
            client.forget(image=f"i{n}").position()
        for n in (8, 9):  # merged or not by then, an image named beside a subject is put
            client.forget_for(named_beside_a_subject(n)).position()
        memory.wait_until_merged()
        for role, fault in faults.items():
            assert (tmp_path / f"faults of {role}").read_text() == fault.rpartition(":")[2]
            assert memory.restarts(role) >= 1
        assert memory.index().digests() == rebuilt_digests(memory)
        assert {str(r["reason"]) for r in rejected(memory)} <= {"forgotten"}


def named_beside_a_subject(number: int) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": str(UUID(int=number, version=4)),
        "subject_request_type": "erasure",
        "submitted_time": "2026-01-01T00:00:00Z",
        "api_version": "2.0",
        "subject_identities": [
            {"identity_type": "email", "identity_value": f"s{number}", "identity_format": "raw"}
        ],
        "extensions": {"visual-memory": {"selectors": [{"image": f"i{number}"}]}},
    }


@pytest.fixture
def poisoned(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> Callable[..., AbstractContextManager[Running]]:
    """Runs an ingest worker and one of another role, which certain records kill."""

    def run(role: str, **settings: Any) -> AbstractContextManager[Running]:
        return running(
            tmp_path,
            kafka=kafka_bootstrap,
            redis_url=redis_url,
            name=unique("poison"),
            workers={"ingest": 1, role: 1},
            entry=(str(Path(__file__).parent / "poisoned_worker.py"),),
            embedder=EMBEDDER,
            **settings,
        )

    return run


def test_a_record_that_ends_every_worker_is_rejected_and_holds_nobody_up(
    poisoned: Callable[..., AbstractContextManager[Running]],
) -> None:
    with poisoned("correct", batch=8) as memory:
        client = memory.client()
        sent = [client.correct(f"i{n}", "poison" if n == 3 else "fine") for n in range(40)]
        poison = sent[3].position()
        memory.wait_until_merged()
        assert memory.index().stats().waiting_corrections == 39
        (only,) = rejected(memory)
        assert only["reason"] == "internal"
        assert (only["partition"], only["offset"]) == (poison.partition, poison.offset)


def test_an_image_that_ends_every_worker_is_rejected_and_holds_nobody_up(
    poisoned: Callable[..., AbstractContextManager[Running]],
) -> None:
    with poisoned("ingest", partitions=1) as memory:
        client = memory.client()

        def ingest(number: int) -> Pending:
            label = "poison" if number == 3 else "fine"
            return client.ingest(unit(number), id=f"i{number}", label=label, embedder="test")

        sent = [ingest(number) for number in range(40)]
        poison = sent[3].position()
        started = time.monotonic()
        memory.wait_until_merged()
        print(f"isolated and rejected within {time.monotonic() - started:.1f} s")
        assert memory.index().label_counts() == {"fine": 39}
        (only,) = rejected(memory)
        assert only["reason"] == "internal"
        assert (only["partition"], only["offset"]) == (poison.partition, poison.offset)
        assert memory.restarts("ingest") <= 4


def test_a_question_that_ends_every_worker_is_rejected_and_holds_nobody_up(
    poisoned: Callable[..., AbstractContextManager[Running]],
) -> None:
    with poisoned("query", partitions=1) as memory:
        client = memory.client()
        written = client.ingest(unit(1), id="one", label="cat", embedder="test").position()
        client.query(unit(1), embedder="test", after=[written])
        never = msgspec.structs.replace(written, offset=written.offset + 1_000_000)

        def ask(k: int = 1, timeout: float = 60, **more: Any) -> Future[Answer]:
            return client.ask(unit(1), embedder="test", k=k, timeout=timeout, **more)

        waiting = [ask(after=[never], timeout=300) for _ in range(3)]
        before = [ask() for _ in range(7)]
        poison = ask(k=POISONOUS_K, after=[written], timeout=300)
        behind = [ask() for _ in range(8)]
        client.flush()
        said = poison.result(120)
        assert (said.status, said.reason) == ("rejected", "internal")
        assert {asked.result(60).status for asked in before + behind} == {"answered"}
        assert not any(asked.done() for asked in waiting)
        # A position that moves before the first end makes a start more.
        assert memory.restarts("query") <= 4
        assert ask().result(60).status == "answered"
