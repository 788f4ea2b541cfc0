"""What delivery keeps in Redis, on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from memory.errors import Unavailable
from memory.model.times import SECOND, now_us
from memory.redis.connection import connect
from streams.local.server import free_port
from streams.workers.attempts import Attempts, RecordAttempts, Suspects
from streams.workers.batch_delivery import apart

Make = Callable[..., RecordAttempts]


@pytest.fixture
def make(redis_client: redis.Redis, unique: Callable[[str], str]) -> Make:
    """Attempts as a worker counts them; workers of one role and namespace share what it keeps."""
    names = {name: unique(name) for name in ("ours", "theirs")}

    def made(role: str = "ingest", namespace: str = "ours") -> RecordAttempts:
        return RecordAttempts(redis_client, names[namespace], role)

    return made


@contextmanager
def full(client: Any) -> Iterator[None]:
    """A Redis that refuses whatever may take more memory."""
    (before,) = client.config_get("maxmemory").values()
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", before)


def test_attempts_are_what_delivery_wants(make: Make) -> None:
    attempts: Attempts = make()
    assert attempts.count_attempt("t", 0, 1) == 1


def test_starts_in_a_row_at_an_offset_are_counted_by_all_workers(make: Make) -> None:
    assert [make().count_start("t", 0, 7) for _ in range(4)] == [1, 2, 3, 4]


def test_a_start_at_another_offset_counts_anew(make: Make) -> None:
    attempts = make()
    starts = [attempts.count_start("t", 0, offset) for offset in (7, 7, 8, 7, 0, 0)]
    assert starts == [1, 2, 1, 1, 1, 2]


def test_starts_a_batch_apart_are_in_a_row(make: Make) -> None:
    """A worker may finish some records before one of the same batch ends it."""
    attempts = make()
    starts = [attempts.count_start("t", 0, offset, within=8) for offset in (7, 14, 22, 22, 29, 28)]
    assert starts == [1, 2, 1, 2, 3, 1]


def test_starts_that_are_taken_back_are_in_no_row(make: Make) -> None:
    attempts = make()
    for partition in (0, 1):
        attempts.count_start("t", partition, 7)
    make().clear_starts("t", 0)
    assert [attempts.count_start("t", partition, 7) for partition in (0, 1)] == [1, 2]


@dataclass(frozen=True)
class At:
    """As much of a record as tells whether it is suspect."""

    partition: int
    offset: int
    timestamp: int = 0


def test_records_are_suspect_where_reading_began_twice_in_a_row_or_one_was_attempted_alone(
    make: Make,
) -> None:
    make().count_start("t", 0, 95)
    make().count_attempt("t", 2, 30)
    found: Any = Suspects(make(), "t", reach=10)
    found.begin({0: 100, 1: 0, 2: 20})
    suspect = [At(0, 100), At(0, 109), At(2, 20), At(2, 29)]
    assert all(map(found.include, suspect))
    others = [At(0, 110), At(1, 0), At(2, 30), At(3, 0), At(0, 100, timestamp=now_us())]
    assert not any(map(found.include, others))


def test_a_start_after_one_that_was_taken_back_suspects_nothing(make: Make) -> None:
    first: Any = Suspects(make(), "t", reach=10)
    first.begin({0: 100, 1: 100})
    first.take_back()
    second: Any = Suspects(make(), "t", reach=10)
    second.begin({0: 100, 1: 100, 2: 100})
    assert not any(second.include(At(partition, 100)) for partition in (0, 1, 2))
    third: Any = Suspects(make(), "t", reach=10)
    third.begin({0: 100})
    assert third.include(At(0, 100))
    assert not third.include(At(1, 100))


def test_what_is_no_suspect_is_processed_together_unless_it_is_ahead_of_one(make: Make) -> None:
    """Two partitions of which one may have ended a worker; the log's clock was set back amid the other."""
    for partition in (0, 2):
        make().count_start("t", partition, 5)
    found: Any = Suspects(make(), "t", reach=3)
    found.begin({0: 5, 1: 5, 2: 5})
    late = now_us() + 3600 * SECOND
    records = [
        At(1, 5),
        At(0, 5),
        At(2, 5, late),
        At(0, 6),
        At(2, 6),
        At(1, 6),
        At(0, 8),
        At(2, 7, late),
    ]
    reads: Any = [SimpleNamespace(record=record) for record in records]
    split: Any = apart(reads, found)
    first, others = ([read.record for read in some] for some in split)
    assert first == [At(0, 5), At(2, 5, late), At(0, 6), At(2, 6)]
    assert others == [At(1, 5), At(1, 6), At(0, 8), At(2, 7, late)]


def test_attempts_at_a_record_are_counted_until_it_succeeds(make: Make) -> None:
    assert [make().count_attempt("t", 0, 7) for _ in range(3)] == [1, 2, 3]
    make().clear("t", 0, 7)
    assert make().count_attempt("t", 0, 7) == 1


def test_an_attempt_that_only_waits_is_taken_back(make: Make) -> None:
    assert make().count_attempt("t", 0, 7) == 1
    make().withdraw("t", 0, 7)
    assert [make().count_attempt("t", 0, 7) for _ in range(2)] == [1, 2]


def test_an_attempt_that_has_not_ended_is_known_from_its_offset_and_from_those_before(
    make: Make,
) -> None:
    attempts = make()
    attempts.count_attempt("t:u", 0, 7)
    assert [attempts.holds_attempts("t:u", 0, offset) for offset in (6, 7, 8)] == [
        True,
        True,
        False,
    ]
    assert not any(attempts.holds_attempts(*place) for place in [("t", 0, 7), ("t:u", 1, 7)])
    attempts.withdraw("t:u", 0, 7)
    assert not attempts.holds_attempts("t:u", 0, 0)
    attempts.count_attempt("t:u", 0, 7)
    attempts.clear("t:u", 0, 7)
    assert not attempts.holds_attempts("t:u", 0, 0)


def test_success_of_a_record_never_tried_alone_is_no_fault(make: Make) -> None:
    make().clear("t", 0, 7)


@pytest.mark.parametrize(
    "other", [("u", 0, 7), ("t", 1, 7), ("t", 0, 8), ("t", 10, 7), ("t", 0, 77)]
)
def test_places_are_counted_apart(make: Make, other: tuple[str, int, int]) -> None:
    attempts = make()
    place = ("t", 0, 7)
    attempts.count_attempt(*place)
    assert attempts.count_attempt(*other) == 1
    attempts.clear(*other)
    assert attempts.count_attempt(*place) == 2
    attempts.count_start(*place)
    if other[:2] != place[:2]:
        assert attempts.count_start(*other) == 1
        assert attempts.count_start(*place) == 2


@pytest.mark.parametrize("other", [{"role": "forget"}, {"namespace": "theirs"}])
def test_roles_and_namespaces_are_counted_apart(make: Make, other: Mapping[str, str]) -> None:
    ours, theirs = make(), make(**other)
    place = ("t", 0, 7)
    for _ in range(2):
        ours.count_start(*place)
        ours.count_attempt(*place)
    assert theirs.count_start(*place) == 1
    assert theirs.count_attempt(*place) == 1
    theirs.clear(*place)
    assert ours.count_attempt(*place) == 3


def test_a_full_redis_keeps_no_worker_from_starting_nor_from_a_record(
    make: Make, redis_client: redis.Redis
) -> None:
    """A forget-request is what frees it; where a topic is quiet, starts add up without a fault."""
    attempts, place = make("forget"), ("t", 0, 7)
    for _ in range(3):
        attempts.count_start(*place)
    attempts.count_attempt(*place)
    with full(redis_client):
        assert attempts.count_start(*place) == 4
        assert [attempts.count_attempt(*place) for _ in range(2)] == [2, 2], (
            "uncounted, so never too many"
        )
        attempts.clear(*place)
        assert attempts.count_attempt(*place) == 1


def test_a_redis_that_is_away_is_unavailable() -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}/0")
    attempts = RecordAttempts(client, "away", "ingest")
    for call in (
        attempts.count_start,
        attempts.holds_attempts,
        attempts.count_attempt,
        attempts.clear,
    ):
        with pytest.raises(Unavailable):
            call("t", 0, 7)
    client.close()
    with pytest.raises(Unavailable):
        attempts.clear_starts("t", 0)
