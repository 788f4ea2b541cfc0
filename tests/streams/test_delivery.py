"""Delivery: what is left undone is never passed, and no worker carries on past the unexpected."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from streams.contract.records import Record
from streams.kafka.cluster import KafkaCluster
from streams.workers import worker_process
from streams.workers.delivery import PositionsWentBack
from streams.workers.task_delivery import Offsets
from streams.workers.worker_process import EXIT_UNEXPECTED
from tests.streams.delivery_worker import BATCH, PLACES, SECRET
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
RECORDS = 120

# Offsets


class OffsetsOfTasks(RuleBasedStateMachine):
    """Records start in the order of their partition and finish in any."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = Offsets()
        self.next = {0: 0, 1: 0}
        self.open: set[tuple[int, int]] = set()
        self.noted = {0: 0, 1: 0}

    @rule(partition=st.integers(0, 1), gap=st.integers(0, 2))
    def start(self, partition: int, gap: int) -> None:
        """With gaps where compaction removed records."""
        offset = self.next[partition] + gap
        self.offsets.start(partition, offset)
        self.open.add((partition, offset))
        self.next[partition] = offset + 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.open)))
        self.offsets.finish(*place)
        self.open.remove(place)

    @rule()
    def note(self) -> None:
        for partition, offset in self.offsets.take_advances().items():
            assert offset > self.noted[partition], "only what grew is told"
            self.noted[partition] = offset

    @invariant()
    def no_unfinished_record_is_passed(self) -> None:
        for partition, offset in self.open:
            assert self.noted[partition] <= offset

    def teardown(self) -> None:
        for place in list(self.open):
            self.offsets.finish(*place)
        self.open.clear()
        self.note()
        assert self.noted == self.next


TestOffsets = OffsetsOfTasks.TestCase


def test_an_offset_that_starts_again_is_unfinished_again() -> None:
    """After a rebalance a partition may come back and be read from an older position."""
    offsets = Offsets()
    for offset in (5, 6):
        offsets.start(0, offset)
    offsets.finish(0, 6)
    offsets.start(0, 6)
    offsets.finish(0, 5)
    assert offsets.take_advances() == {0: 6}


# Records


def event(**changed: Any) -> Any:
    message = {
        "topic": "p-image-ingest",
        "partition": 3,
        "offset": 7,
        "key": b"k",
        "value": b"v",
        "headers": [("a", b"1"), ("a", None)],
        "timestamp": 1_700_000_000_123,
    }
    return SimpleNamespace(**message | changed)


def test_a_record_keeps_repeated_headers_and_its_time_in_microseconds() -> None:
    assert Record.of(event()) == Record(
        "p-image-ingest", 3, 7, b"k", b"v", (("a", b"1"), ("a", None)), 1_700_000_000_123_000
    )


@pytest.mark.parametrize("headers", [None, [], ()])
def test_a_record_without_headers_has_none(headers: Any) -> None:
    assert Record.of(event(headers=headers, key=None, value=None)) == Record(
        "p-image-ingest", 3, 7, None, None, (), 1_700_000_000_123_000
    )


@given(st.integers(0, 9_999_999_999_999))
@example(1001)
@example(8_971_589_812_366)
def test_no_millisecond_of_the_log_is_lost_in_floats(milliseconds: int) -> None:
    assert Record.of(event(timestamp=milliseconds)).timestamp == milliseconds * 1000


# Ends of processes


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_to_die_is_to_end_at_once_with_a_traceback_and_without_the_message() -> None:
    """The message may quote an event, and so may those of its causes."""
    program = """
        import logging
        from streams.workers.worker_process import exit_now
        logging.basicConfig()
        def fails():
            try:
                raise KeyError("what nobody may read")
            except KeyError as cause:
                raise ValueError("what nobody may read") from cause
        try:
            fails()
        except ValueError as error:
            try:
                exit_now("ingest", error)
            finally:
                print("carried on")
    """
    # Lines of a program that is no file are not shown by a traceback.
    ended = python("\n".join(line[8:] for line in program.splitlines()))
    assert ended.returncode == EXIT_UNEXPECTED == 70
    assert "ingest: unexpected ValueError" in ended.stderr
    assert "in fails" in ended.stderr
    assert SECRET not in ended.stderr + ended.stdout
    assert "carried on" not in ended.stdout


def test_what_an_operator_has_to_mend_is_the_last_thing_that_is_said() -> None:
    program = """
        import logging
        from memory.errors import Misconfigured
        from streams.workers.worker_process import exit_now
        logging.basicConfig()
        try:
            raise Misconfigured("made anew while this worker ran: label-correction")
        except Misconfigured as error:
            exit_now("correct", error)
    """
    ended = python("\n".join(line[8:] for line in program.splitlines()))
    assert ended.returncode == EXIT_UNEXPECTED
    last = ended.stderr.splitlines()[-1]
    assert last == "correct: made anew while this worker ran: label-correction"


def test_a_shutdown_that_hangs_is_ended() -> None:
    """With a thread that never ends, as a Faust worker with events that are not acked."""
    ended = python(
        "import threading, time\n"
        "from streams.workers.worker_process import end_within\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "end_within(0.2)\n"
        "time.sleep(600)\n"
    )
    assert ended.returncode == 0


def test_a_shutdown_that_does_not_hang_is_not_held_up() -> None:
    ended = python(
        "from streams.workers.worker_process import end_within\nend_within(600)\nprint('ended')\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "ended\n")


def test_the_bound_leaves_a_supervisor_time() -> None:
    assert worker_process.SHUTDOWN_SECONDS < 20


# Workers on a real Kafka


@dataclass
class Workplace:
    """A topic, a group and a folder with what its workers did."""

    bootstrap: str
    topic: str
    folder: Path

    def send(self, count: int = RECORDS, value: bytes = b"v") -> None:
        producer = KafkaCluster(self.bootstrap).producer()
        for n in range(count):
            producer.send(self.topic, value, partition=n % PARTITIONS)
        producer.flush()
        producer.close()

    def calls(self) -> list[dict[int, list[int]]]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [{int(p): offsets for p, offsets in json.loads(line).items()} for line in lines]

    def seen(self, since: int = 0) -> dict[int, list[int]]:
        """Offsets handed to the handler by partition, in that order."""
        found: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        for call in self.calls()[since:]:
            for partition, offsets in call.items():
                found[partition] += offsets
        return found

    def positions(self) -> Mapping[str, int]:
        file = self.folder / "positions"
        try:
            return cast("Mapping[str, int]", json.loads(file.read_text()))
        except (FileNotFoundError, ValueError):  # not there, or being written
            return {}

    def restore(self, positions: Mapping[str, int]) -> None:
        (self.folder / "positions").write_text(json.dumps(positions))

    def taken(self) -> int:
        """How many records the worker has taken from the log."""
        file = self.folder / "taken"
        return int(file.read_text()) if file.exists() else 0

    def until_committed(self, offset: int) -> None:
        """Wait until the group has committed so much of each partition: nothing of it is under way any more."""
        with KafkaCluster(self.bootstrap).administration() as admin:

            def committed() -> dict[int, int]:
                group = f"{self.topic}-group"
                found = admin.list_group_offsets({group: None})[group]
                return {tp.partition: held.offset for tp, held in found.items()}

            wanted = dict.fromkeys(range(PARTITIONS), offset)
            until(lambda: committed() == wanted, 20, what=committed)

    def taken_back(self) -> list[str]:
        """The partitions of which a worker took back that it began to read them."""
        file = self.folder / "taken_back"
        return sorted(file.read_text().split()) if file.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    @contextmanager
    def worker(self, way: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        told = {
            "bootstrap": self.bootstrap,
            "topic": self.topic,
            "group": f"{self.topic}-group",
            "folder": str(self.folder),
            "way": way,
            **more,
        }
        with (
            (self.folder / "log").open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "tests.streams.delivery_worker", json.dumps(told)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def until(self, done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def all_done(self) -> bool:
        return self.positions() == ENDS


EACH = list(range(RECORDS // PARTITIONS))
ENDS = {str(p): len(EACH) for p in range(PARTITIONS)}


@pytest.fixture
def empty_place(kafka_bootstrap: str, unique: Callable[[str], str], tmp_path: Path) -> Workplace:
    topic = unique("delivery") + "topic"
    create(kafka_bootstrap, NewTopic(topic, PARTITIONS, 1))
    return Workplace(kafka_bootstrap, topic, tmp_path)


@pytest.fixture
def place(empty_place: Workplace) -> Workplace:
    empty_place.send()
    return empty_place


def create(bootstrap: str, topic: NewTopic) -> None:
    with KafkaCluster(bootstrap).administration() as admin:
        admin.create_topics([topic])
        admin.wait_for_topics([topic.name])


def ended(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
    """Exit status after a signal."""
    process.send_signal(how)
    return process.wait(20)


def test_a_worker_reads_on_from_the_ledger_whatever_the_group_committed(place: Workplace) -> None:
    with place.worker("plain") as process:
        place.until(place.all_done, process)
        time.sleep(1.5)  # beyond the interval of commits
        assert ended(process) == 0
    assert place.seen() == dict.fromkeys(range(PARTITIONS), EACH)
    before = len(place.calls())
    place.restore({"0": 17, "1": 40})
    with place.worker("plain") as process:
        place.until(place.all_done, process)
        assert ended(process) == 0
    assert place.seen(since=before) == {0: EACH[17:], 1: EACH[40:]}


@pytest.mark.parametrize("tasks", [False, True])
def test_what_is_done_is_committed_to_the_last_record_for_lag_tools(
    place: Workplace, *, tasks: bool
) -> None:
    """Also what comes in later fetches, each of which is one message for Faust."""
    with place.worker("plain", tasks=tasks) as process:
        place.until(place.all_done, process)
        for _ in range(3):
            place.send(PARTITIONS)
            time.sleep(0.3)
        place.until_committed(len(EACH) + 3)
        assert ended(process) == 0


@pytest.mark.parametrize("tasks", [False, True])
def test_a_fresh_group_whose_first_batch_fails_loses_nothing(
    place: Workplace, *, tasks: bool
) -> None:
    (place.folder / "times").write_text("1")
    with place.worker("fails", tasks=tasks) as process:
        assert process.wait(60) == EXIT_UNEXPECTED, place.log()
    assert place.positions() == {}
    assert "unexpected UnexpectedError" in place.log()
    assert SECRET not in place.log()
    before = len(place.calls())
    with place.worker("fails", tasks=tasks) as process:
        place.until(place.all_done, process)
    after = place.seen(since=before)
    assert {p: sorted(set(offsets)) for p, offsets in after.items()} == dict.fromkeys(
        range(PARTITIONS), EACH
    )


def test_what_finds_the_store_away_is_tried_again_in_place_and_in_order(place: Workplace) -> None:
    (place.folder / "times").write_text("3")
    with place.worker("away") as process:
        place.until(place.all_done, process)
        assert ended(process) == 0
    first, *again = place.calls()[:4]
    assert again == [first] * 3
    in_order = {p: EACH[: len(first.get(p, []))] * 3 + EACH for p in range(PARTITIONS)}
    assert place.seen() == in_order
    assert max(sum(map(len, call.values())) for call in place.calls()) <= BATCH


@pytest.mark.parametrize("tasks", [False, True])
def test_what_cannot_be_noted_yet_is_noted_later_and_not_carried_out_again(
    place: Workplace, *, tasks: bool
) -> None:
    with place.worker("ledger-away", tasks=tasks) as process:
        place.until(lambda: "trying again" in place.log(), process)
        assert place.calls()
        assert place.positions() == {}
        (place.folder / "go").touch()
        place.until(place.all_done, process)
        assert ended(process) == 0
    assert {p: sorted(offsets) for p, offsets in place.seen().items()} == dict.fromkeys(
        range(PARTITIONS), EACH
    )


@pytest.mark.parametrize("tasks", [False, True])
def test_only_a_worker_that_ends_in_order_and_has_nothing_under_way_takes_back_that_it_began(
    place: Workplace, *, tasks: bool
) -> None:
    """Else each quiet restart would be a reason to read the next records one after another."""
    with place.worker("plain", tasks=tasks) as process:
        place.until(place.all_done, process)
        assert ended(process, signal.SIGKILL) == -signal.SIGKILL
    assert place.taken_back() == []
    with place.worker("plain", tasks=tasks) as process:
        place.send(PARTITIONS)
        place.until_committed(len(EACH) + 1)
        assert ended(process) == 0, place.log()
    assert place.taken_back() == sorted(ENDS)


@pytest.mark.parametrize(
    ("tasks", "how", "bound"),
    [
        (False, signal.SIGTERM, worker_process.SHUTDOWN_SECONDS),
        (True, signal.SIGTERM, 2),
        (False, signal.SIGINT, 2),
    ],
)
def test_a_worker_with_events_it_cannot_finish_ends_when_asked_to(
    place: Workplace, how: signal.Signals, *, tasks: bool, bound: float
) -> None:
    with place.worker("stuck", tasks=tasks, bound=bound) as process:
        place.until(lambda: bool(place.calls()), process)
        assert ended(process, how) == 0, place.log()
    assert place.positions() == {}
    assert place.taken_back() == []


def test_a_ledger_that_fails_as_nobody_expects_ends_the_worker(place: Workplace) -> None:
    with place.worker("broken-ledger") as process:
        assert process.wait(60) == EXIT_UNEXPECTED, place.log()
    assert place.calls() == []
    assert SECRET not in place.log()


@pytest.mark.parametrize(("watch", "tasks"), [(0.1, False), (3600, True)])
def test_a_ledger_that_forgets_what_it_held_ends_the_worker_before_a_gap_is_passed(
    place: Workplace, watch: float, *, tasks: bool
) -> None:
    """Found by looking now and then, and else as the next position moves."""
    with place.worker("plain", tasks=tasks, watch=watch) as process:
        place.until(place.all_done, process)
        place.restore({"0": 3})
        if watch == 3600:
            assert process.poll() is None
            place.send(PARTITIONS)
        assert process.wait(60) == EXIT_UNEXPECTED, place.log()
    assert PositionsWentBack.__name__ in place.log()
    assert place.positions() == {"0": 3}


@pytest.mark.parametrize("tasks", [False, True])
def test_nothing_is_passed_while_the_log_refuses_what_is_told_of_it(
    place: Workplace, *, tasks: bool
) -> None:
    """That all replicas have to take it: tests/streams/test_bootstrap.py."""
    outgoing = f"{place.topic}-told"
    create(place.bootstrap, NewTopic(outgoing, 1, 1, topic_configs={"max.message.bytes": "9"}))
    with place.worker("plain", tasks=tasks, outgoing=outgoing) as process:
        place.until(lambda: place.log().count("trying again") >= 3, process)
        time.sleep(2.5 if tasks else 0)  # positions of questions are noted each second
        assert place.calls()
        assert place.positions() == {}
    with KafkaCluster(place.bootstrap).administration() as admin:
        mended = {"max.message.bytes": "1000000"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, outgoing, mended)])
    with place.worker("plain", tasks=tasks, outgoing=outgoing) as process:
        place.until(place.all_done, process)
        told = read(place.bootstrap, outgoing)
        assert ended(process) == 0
    assert told == {f"{p}:{offset}" for p in range(PARTITIONS) for offset in EACH}


def read(bootstrap: str, topic: str) -> set[str]:
    """The values of a topic of one partition."""
    consumer = KafkaCluster(bootstrap).consumer()
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    end = consumer.end_offsets([partition])[partition]
    found: set[str] = set()
    while consumer.position(partition) < end:
        for records in consumer.poll(timeout_ms=500).values():
            found |= {record.value.decode() for record in records}
    consumer.close()
    return found


def test_no_more_questions_are_under_way_than_there_are_places(place: Workplace) -> None:
    with place.worker("waits", tasks=True) as process:
        place.until(lambda: len(place.calls()) >= PLACES, process)
        place.until(lambda: place.taken() > PLACES, process)  # others are there, and wait
        assert len(place.calls()) == PLACES


def test_a_batch_holds_no_more_bytes_than_its_bound_and_a_record(empty_place: Workplace) -> None:
    empty_place.send(value=b"v" * 1000)
    with empty_place.worker("plain", batch_bytes=3500) as process:
        empty_place.until(empty_place.all_done, process)
    sizes = [sum(map(len, call.values())) for call in empty_place.calls()]
    assert max(sizes) == 4, "the fourth takes it over the bound"


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_position_waits_for_the_batches_before_and_no_more_are_under_way_than_may_be(
    place: Workplace, at_once: int
) -> None:
    with place.worker("first-waits", at_once=at_once) as process:
        place.until(lambda: len(place.calls()) >= at_once, process)
        time.sleep(1)
        assert len(place.calls()) == at_once
        assert place.positions() == {}
        (place.folder / "go").touch()
        place.until(place.all_done, process)
    assert {p: sorted(offsets) for p, offsets in place.seen().items()} == {0: EACH, 1: EACH}


def test_what_may_have_ended_a_worker_is_processed_alone_and_all_else_together(
    place: Workplace,
) -> None:
    with place.worker("ended-before", at_once=2) as process:
        place.until(place.all_done, process)
    assert {p: sorted(offsets) for p, offsets in place.seen().items()} == {0: EACH, 1: EACH}
    suspect = set(range(2 * BATCH))
    alone = [call for call in place.calls() if suspect & set(call.get(0, []))]
    assert len(alone) == len(suspect)
    assert all(len(offsets) == 1 and len(call) == 1 for call in alone for offsets in call.values())
    others = [call for call in place.calls() if call not in alone]
    assert len(others) < RECORDS // 4


def test_what_killed_workers_left_under_way_is_handed_over_again(place: Workplace) -> None:
    with place.worker("first-waits", at_once=3) as process:
        place.until(lambda: len(place.calls()) == 3, process)
        ended(process, signal.SIGKILL)
    begun = len(place.calls())
    with place.worker("plain", at_once=3) as process:
        place.until(place.all_done, process)
    again = place.seen(begun)
    assert {p: sorted(offsets) for p, offsets in again.items()} == {0: EACH, 1: EACH}


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_worker_that_gets_on_with_nothing_takes_no_more_from_the_log(
    empty_place: Workplace, at_once: int
) -> None:
    many = 40 * BATCH
    empty_place.send(many)
    with empty_place.worker("stuck", at_once=at_once) as process:
        empty_place.until(lambda: bool(empty_place.calls()), process)
        # Until it has stopped taking: it holds the same for a second.
        held = [0, *range(1, 11)]
        while len(set(held[-11:])) > 1:
            held.append(empty_place.taken())
            time.sleep(0.1)
    # The guide: two a partition and five besides. Batches in the works, two in the queue, one each in the stream, its reader and on their way.
    assert BATCH < held[-1] <= (5 + at_once) * BATCH
