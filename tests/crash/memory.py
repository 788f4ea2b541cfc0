"""One memory under test: servers and workers that are killed and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory.errors import Reason, Rejected
from memory.model.events import LogAddress
from memory.model.questions import MAX_LISTED
from streams.bootstrap import open_counting_index, redis_client
from streams.config.settings import CACHE
from streams.local.kafka_server import KafkaServer
from streams.local.process import ChildSpec, Process
from streams.local.redis_server import RedisServer
from streams.local.state import read_state
from streams.local.supervisor import Supervisor
from tests.crash.asking import Asker
from tests.crash.plan import STOPPED_SECONDS, WORKERS, Fault, Plan
from tests.crash.workers import settings_of
from tests.faults.ground import Ground, Load, Servers, any_of, gone
from tests.integration.events import rebuilt_digests
from tests.integration.running import ROOT, Running

ASKERS = 2
LEAST = 3
"""The wrong count from which pruning is asked for: these memories are small."""
STOP_SECONDS = 20.0
BACK_SECONDS = 90.0
START_SECONDS = 120.0


@dataclass
class Outcome:
    """What a round came to."""

    happened: list[str] = field(default_factory=list)
    events: int = 0
    answers: int = 0
    lost: list[LogAddress | str] = field(default_factory=list)
    equal: bool = True


class Crashed:
    """A memory, its servers and its workers, all of which come back when they are killed."""

    def __init__(self, folder: Path, servers_folder: Path, servers: Servers, name: str) -> None:
        self._folder = folder
        self.memory = Running(settings_of(servers, name), folder / "workers")
        self._places = [servers_folder, folder / "kept", self.memory.folder]
        self._ground = Ground(servers, self.memory, folder)
        self._client = self.memory.client("crash")
        self._stopped: list[tuple[int, float]] = []

    def _children(self) -> dict[str, dict[str, Any]]:
        """All that run, by name: servers, the workers' supervisor, workers."""
        states = [read_state(place) for place in self._places]
        return {
            name: child
            for state in states
            if state is not None
            for name, child in state["children"].items()
        }

    def _break(self, fault: Fault) -> str:
        """Let it happen; returns what happened."""
        if fault.how not in {"KILL", "TERM", "STOP"}:
            self._ground.arm(fault.who, fault.how, fault.call)
            return str(fault)
        pid = self._children().get(fault.who, {}).get("pid")
        if pid is None:
            return f"{fault} (gone)"
        if fault.how != "KILL" and pid in dict(self._stopped):
            return f"{fault} (stopped)"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[f"SIG{fault.how}"])
        if fault.how == "STOP":
            self._stopped.append((pid, time.monotonic() + STOPPED_SECONDS))
        if fault.how == "TERM" and fault.who in WORKERS:
            self._wait(lambda: gone(pid), f"{fault.who} ends at SIGTERM", STOP_SECONDS)
        return str(fault)

    def _go_on(self) -> None:
        """Let stopped workers go on, late: others have their partitions by then."""
        while self._stopped:
            pid, at = self._stopped.pop(0)
            time.sleep(max(0.0, at - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _disarm(self) -> None:
        for armed in self._folder.glob("armed-*"):
            armed.unlink(missing_ok=True)

    def _wait_until_back(self) -> None:
        def back() -> bool:
            found = self._children()
            wanted = {"kafka", "redis", "supervisor", *WORKERS}
            return found.keys() >= wanted and all(child["ready"] for child in found.values())

        self._wait(back, "everything is back", BACK_SECONDS)

    def _wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def round(self, plan: Plan, found: Outcome) -> None:
        """Load, faults, and all back; `found` says what happened, also if this raises."""
        ended = threading.Event()
        askers = [Asker(self.memory, plan.seed, n, ended) for n in range(ASKERS)]
        started = time.monotonic()
        load = Load(self.memory, plan.seed, plan.events, rate=plan.rate, payload_of=any_of)
        for asker in askers:
            asker.start()
        try:
            for fault in plan.faults:
                time.sleep(max(0.0, started + fault.at - time.monotonic()))
                found.happened.append(self._break(fault))
            load.finish()
        finally:
            ended.set()
            self._disarm()
            self._go_on()
        for asker in askers:
            asker.join(BACK_SECONDS)
            if asker.failure is not None:
                raise asker.failure
            assert not asker.is_alive(), f"{asker.name} waits for an answer"
            found.answers += asker.answers
        found.events = len(load.sent)
        self._wait_until_back()
        self.memory.wait_until_merged(BACK_SECONDS)
        found.lost = self._ground.lost()
        found.equal = self.memory.index().digests() == rebuilt_digests(self.memory)
        assert not found.lost, f"lost: {found.lost[:5]}"
        assert found.equal, "the digest is not that of a batch rebuild"
        self._ground.check_rejections()
        self._check_counts()

    def _check_counts(self) -> None:
        """The query worker's wrong counts come to those of a memory that counts all from the start."""
        store = redis_client(self.memory.settings)
        fresh = open_counting_index(self.memory.settings, store)
        try:
            self._wait(lambda: fresh.wrong_counts() is not None, "all is counted", BACK_SECONDS)
            suspects, effect = fresh.suspects(), fresh.effect_of_pruning(LEAST)
        finally:
            fresh.stop()
            store.close()
        assert effect is not None

        def at_rest() -> bool:
            try:
                doubted = self._client.review("suspects", count=MAX_LISTED)
                pruned = self._client.review("pruning", least=LEAST, count=MAX_LISTED)
            except Rejected as why:
                if why.reason is not Reason.NOT_COUNTED:
                    raise
                return False
            return (doubted.suspects, pruned.images, pruned.labels) == (
                tuple(suspects),
                effect.images,
                effect.labels,
            )

        self._wait(at_rest, "wrong counts are those of a recount", BACK_SECONDS)


@contextlib.contextmanager
def kept_running(folder: Path, processes: Sequence[Process | ChildSpec]) -> Iterator[None]:
    """Start these and restart them when they die; raises what a first start fails with."""
    up = threading.Event()
    failure: list[Exception] = []
    supervisor = Supervisor(folder, processes, backoff=(0.2, 2.0), on_running=up.set)

    def run() -> None:
        try:
            supervisor.run()
        except Exception as error:  # noqa: BLE001 - told to who waits
            failure.append(error)
            up.set()

    thread = threading.Thread(target=run, name=f"supervisor of {folder.name}")
    thread.start()
    try:
        up.wait()
        if failure:
            raise failure[0]
        yield
    finally:
        supervisor.stop(120)
        thread.join()


@contextlib.contextmanager
def servers_in(folder: Path) -> Iterator[Servers]:
    """A Kafka and a Redis that come back when they are killed, on their ports and data."""
    servers = Servers(KafkaServer(folder / "kafka", CACHE), RedisServer(folder / "redis", CACHE))
    with kept_running(folder, [servers.kafka, servers.redis]):
        yield servers


@contextlib.contextmanager
def crashed(folder: Path, servers_folder: Path, servers: Servers, name: str) -> Iterator[Crashed]:
    """A fresh memory of this name with its workers up."""
    made = Crashed(folder, servers_folder, servers, name)
    ports = [str(servers.kafka.port), str(servers.redis.port)]

    def runs() -> bool:
        state = read_state(made.memory.folder)
        return state is not None and state["status"] == "running"

    supervisor = ChildSpec(
        "supervisor",
        (sys.executable, "-m", "tests.crash.workers", str(folder), name, *ports),
        folder / "supervisor.log",
        cwd=ROOT,
        ready=runs,
        ready_timeout=START_SECONDS,
        stop_timeout=120.0,
    )
    with kept_running(folder / "kept", [supervisor]):
        try:
            yield made
        finally:
            made.memory.close()
