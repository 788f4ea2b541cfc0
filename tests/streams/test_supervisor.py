"""Child processes: started in order, restarted, stopped, never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from streams.local import prober
from streams.local.detach import detach
from streams.local.process import ChildSpec, LocalServerError, Process
from streams.local.state import announce, read_state
from streams.local.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER


def eventually(check: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def child(folder: Path, code: str = SLEEPER, name: str = "child", **options: object) -> ChildSpec:
    log = folder / f"{name}.log"
    options.setdefault("ready", lambda: log.exists() and "up" in log.read_text())
    return ChildSpec(name, [sys.executable, "-c", code], log, **options)  # type: ignore[arg-type]


@contextmanager
def in_background(supervisor: Supervisor) -> Iterator[list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            supervisor.run()
        except LocalServerError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        supervisor.stop(20)
        thread.join(20)
        assert not thread.is_alive()


def children(folder: Path) -> dict[str, dict[str, int]]:
    state = read_state(folder)
    return state["children"] if state is not None else {}


def status(folder: Path) -> str | None:
    state = read_state(folder)
    return state["status"] if state is not None else None


def supervising(folder: Path) -> list[str]:
    """A command that supervises two sleepers in a process of its own."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from streams.local.process import ChildSpec
from streams.local.supervisor import Supervisor
folder = Path({str(folder)!r})
argv = [sys.executable, "-c", {SLEEPER!r}]
specs = [ChildSpec(name, argv, folder / (name + ".log")) for name in ("first", "second")]
Supervisor(folder, specs, log=print).run()
"""
    return [sys.executable, "-W", "error", "-c", code]


def test_a_child_runs_in_a_session_of_its_own_and_logs_to_its_file(tmp_path: Path) -> None:
    with Process(child(tmp_path)) as process:
        pid = process.pid
        assert pid is not None
        assert os.getsid(pid) == pid
        assert process.tail() == "up"
    assert not process.alive
    assert process.returncode == -signal.SIGTERM


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    process = Process(child(tmp_path))
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join()
    time.sleep(0.3)
    alive = process.alive
    process.stop()
    assert alive


def test_a_child_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys;" + STUBBORN.replace(
        "print('up'", "print(subprocess.Popen(['sleep', '600']).pid, 'up'"
    )
    process = Process(child(tmp_path, code, stop_timeout=0.2))
    process.start()
    grandchild = int(process.tail().split()[0])
    assert running(grandchild)
    process.stop()
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: not running(grandchild))


def test_what_a_dead_child_started_is_killed_too(tmp_path: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, 'up', flush=True)"
    process = Process(child(tmp_path, code, ready=None))
    process.start()
    eventually(lambda: not process.alive)
    grandchild = int(process.tail().split()[0])
    eventually(lambda: not running(grandchild))


def test_a_failed_start_shows_the_end_of_the_log_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "child.log").write_text("something old\n")
    process = Process(child(tmp_path, "raise SystemExit('disk on fire')", ready=lambda: False))
    with pytest.raises(LocalServerError, match="status 1 before it was ready") as caught:
        process.start()
    assert "disk on fire" in str(caught.value)
    assert "something old" not in str(caught.value)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    process = Process(ChildSpec("x", ["no-such-command"], tmp_path / "log", ready=lambda: False))
    with pytest.raises(LocalServerError, match="FileNotFoundError"):
        process.start()


def test_a_child_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    process = Process(child(tmp_path, ready=lambda: False, ready_timeout=0.5))
    with pytest.raises(LocalServerError, match=r"not ready within 0\.5 s"):
        process.start()
    assert not process.alive


def test_the_environment_is_asked_for_at_every_start(tmp_path: Path) -> None:
    starts: list[int] = []

    def environment() -> dict[str, str]:
        starts.append(1)
        return {"NUMBER": str(len(starts))}

    code = "import os, time; print(os.environ['NUMBER'], 'up', flush=True); time.sleep(600)"
    process = Process(child(tmp_path, code, env=environment, ready=None))
    with process:
        eventually(lambda: process.tail() == "1 up")
    with process:
        eventually(lambda: process.tail() == "2 up")


def test_children_die_when_their_parent_ends_without_a_word(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from streams.local.process import ChildSpec, Process
log = Path({str(tmp_path)!r}) / "log"
argv = [sys.executable, "-c", {SLEEPER!r}]
process = Process(ChildSpec("x", argv, log, ready=lambda: "up" in log.read_text()))
process.start()
print(process.pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    eventually(lambda: not running(int(done.stdout)))


def test_they_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = f"""
import signal, sys, time
def say(word):
    open({str(order)!r}, "a").write(word + "\\n")
def end(*_):
    say("-" + sys.argv[1])
    sys.exit()
signal.signal(signal.SIGTERM, end)
time.sleep(0.2)
say("+" + sys.argv[1])
print("up", flush=True)
time.sleep(600)
"""
    specs = []
    for name in ("a", "b", "c"):
        spec = child(tmp_path, code, name)
        specs.append(ChildSpec(name, [*spec.argv, name], spec.log, ready=spec.ready))
    with in_background(Supervisor(tmp_path, specs)):
        eventually(lambda: status(tmp_path) == "running")
    assert order.read_text().split() == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert read_state(tmp_path) is None


def test_those_of_a_tuple_start_together_and_stop_together(tmp_path: Path) -> None:
    code = f"""
import pathlib, signal, sys, time
def meet(word):
    for name in ("a", "b"):
        mark = pathlib.Path({str(tmp_path)!r}, word + name)
        if name == sys.argv[1]:
            mark.touch()
        while not mark.exists():
            time.sleep(0.01)
def end(*_):
    meet("-")
    meet("=")  # killed before, had the other not been asked to end meanwhile
    sys.exit()
signal.signal(signal.SIGTERM, end)
meet("+")
print("up", flush=True)
time.sleep(600)
"""
    specs = []
    for name in ("a", "b"):
        spec = child(tmp_path, code, name)
        specs.append(ChildSpec(name, [*spec.argv, name], spec.log, ready=spec.ready))
    before = child(tmp_path, SLEEPER, "before")
    supervisor = Supervisor(tmp_path, [before, tuple(specs)])
    with in_background(supervisor):
        eventually(lambda: status(tmp_path) == "running")
    met = {file.name for file in tmp_path.glob("[-+=]*")}
    assert met == {"+a", "+b", "-a", "-b", "=a", "=b"}


def test_a_child_that_dies_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    supervisor = Supervisor(
        tmp_path, [child(tmp_path, name="a"), child(tmp_path, name="b")], backoff=(0.1, 1)
    )
    with in_background(supervisor):
        eventually(lambda: status(tmp_path) == "running")
        before = children(tmp_path)
        os.kill(before["b"]["pid"], signal.SIGKILL)
        eventually(lambda: children(tmp_path)["b"]["restarts"] == 1)
        eventually(lambda: children(tmp_path)["b"]["ready"])
        after = children(tmp_path)
        assert after["b"]["pid"] not in (None, before["b"]["pid"])
        assert after["a"] == before["a"]


def test_the_process_id_of_a_child_that_died_is_told_before_it_is_started_again(
    tmp_path: Path,
) -> None:
    told: list[tuple[int, bool]] = []
    mortal = Process(child(tmp_path))
    supervisor = Supervisor(
        tmp_path,
        [mortal],
        backoff=(0.05, 1),
        on_ended=lambda pid: told.append((pid, mortal.alive)),
    )
    with in_background(supervisor):
        eventually(lambda: status(tmp_path) == "running")
        first = children(tmp_path)["child"]["pid"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: children(tmp_path)["child"]["restarts"] == 1)
    assert told == [(first, False)]


def test_the_last_words_of_a_child_that_fails_are_shown(tmp_path: Path) -> None:
    said: list[str] = []
    code = "raise SystemExit('first line' + chr(10) + 'Redis refuses this user ' + 600 * '.')"
    failing = child(tmp_path, code, ready=None)
    with in_background(Supervisor(tmp_path, [failing], backoff=(0.05, 1), log=said.append)):
        eventually(lambda: len(said) > 2)
    assert "ended with status 1 (Redis refuses this user ..." in said[1]
    assert len(said[1]) < 600


def test_a_child_that_a_signal_ended_has_no_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    with in_background(Supervisor(tmp_path, [child(tmp_path)], log=said.append)):
        eventually(lambda: status(tmp_path) == "running")
        os.kill(children(tmp_path)["child"]["pid"], signal.SIGKILL)
        eventually(lambda: len(said) > 1)
    assert "child: ended with status -9, starting again in 0.5 s" in said


def test_the_pauses_between_restarts_double_up_to_a_bound(tmp_path: Path) -> None:
    said: list[str] = []
    flaky = child(tmp_path, "print('up', flush=True)", ready=None)
    with in_background(Supervisor(tmp_path, [flaky], backoff=(0.05, 0.2), log=said.append)):
        eventually(lambda: len(said) > 5)
    assert [line.split()[-2] for line in said[1:6]] == ["0.05", "0.1", "0.2", "0.2", "0.2"]


def test_a_child_that_lived_long_enough_starts_with_the_short_pause_again(tmp_path: Path) -> None:
    said: list[str] = []
    mortal = child(tmp_path, "import time; time.sleep(0.3)", ready=None)
    supervisor = Supervisor(tmp_path, [mortal], backoff=(0.05, 1), steady=0.25, log=said.append)
    with in_background(supervisor):
        eventually(lambda: len(said) > 3)
    assert [line.split()[-2] for line in said[1:4]] == ["0.05"] * 3


def test_a_restarted_child_that_does_not_become_ready_is_killed(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.touch()
    said: list[str] = []
    spec = child(tmp_path, ready=first.exists, ready_timeout=0.5)
    with in_background(Supervisor(tmp_path, [spec], backoff=(0.05, 1), log=said.append)):
        eventually(lambda: status(tmp_path) == "running")
        first.unlink()
        os.kill(children(tmp_path)["child"]["pid"], signal.SIGKILL)
        eventually(lambda: children(tmp_path)["child"]["restarts"] >= 2)
        assert any("not ready after 0.5 s" in line for line in said)


BEATING = """
import sys, time
print('up', flush=True)
while True:
    open(sys.argv[1], "w").write("beat")
    time.sleep(0.05)
"""


def beating(folder: Path, name: str = "child", **options: object) -> ChildSpec:
    """A child that is ready, and lives, as long as it writes."""
    beat = folder / f"{name}.beat"

    def beats() -> bool:
        return time.time() - beat.stat().st_mtime < 1

    spec = child(folder, BEATING, name, ready=beats, live=beats, **options)
    return replace(spec, argv=[*spec.argv, str(beat)])


def test_a_child_that_hangs_is_told_as_not_ready_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LIVENESS_SECONDS", 0.1)
    said: list[str] = []
    specs = [beating(tmp_path, hang_timeout=3), child(tmp_path, name="other")]
    with in_background(Supervisor(tmp_path, specs, backoff=(0.05, 1), log=said.append)):
        eventually(lambda: status(tmp_path) == "running")
        before = children(tmp_path)
        os.kill(before["child"]["pid"], signal.SIGSTOP)
        eventually(lambda: not children(tmp_path)["child"]["ready"])
        assert children(tmp_path)["child"]["pid"] == before["child"]["pid"]
        eventually(lambda: children(tmp_path)["child"]["restarts"] == 1)
        eventually(lambda: children(tmp_path)["child"]["ready"])
        assert children(tmp_path)["other"] == before["other"]
    assert "child: no answer for 3 s" in said


def test_a_child_that_is_slow_to_start_again_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LIVENESS_SECONDS", 0.1)
    said: list[str] = []
    well = tmp_path / "well"
    well.touch()
    spec = child(tmp_path, ready=well.exists, live=well.exists, hang_timeout=0.5)
    with in_background(Supervisor(tmp_path, [spec], backoff=(0.05, 1), log=said.append)):
        eventually(lambda: status(tmp_path) == "running")
        first = children(tmp_path)["child"]["pid"]
        well.unlink()
        with suppress(ProcessLookupError):  # else it hangs, and was ended already
            os.kill(first, signal.SIGKILL)
        eventually(lambda: children(tmp_path)["child"]["restarts"] == 1)
        pid = children(tmp_path)["child"]["pid"]
        time.sleep(2)
        assert children(tmp_path)["child"]["pid"] == pid, said
        well.touch()
        eventually(lambda: children(tmp_path)["child"]["ready"])
        assert children(tmp_path)["child"]["restarts"] == 1


def test_a_child_that_answers_that_it_is_not_ready_is_told_so_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LIVENESS_SECONDS", 0.1)
    well = tmp_path / "well"
    well.touch()
    spec = child(tmp_path, ready=well.exists, live=lambda: True, hang_timeout=0.5)
    with in_background(Supervisor(tmp_path, [spec], backoff=(0.05, 1))):
        eventually(lambda: status(tmp_path) == "running")
        well.unlink()
        eventually(lambda: not children(tmp_path)["child"]["ready"])
        time.sleep(1)
        well.touch()
        eventually(lambda: children(tmp_path)["child"]["ready"])
        assert children(tmp_path)["child"]["restarts"] == 0


def test_a_probe_that_hangs_holds_up_no_other_child(tmp_path: Path) -> None:
    came_up = threading.Event()
    ended = threading.Event()

    def hang() -> bool:
        if came_up.is_set():
            ended.wait(60)
        came_up.set()
        return True

    specs = [child(tmp_path, ready=hang), child(tmp_path, name="other")]
    with in_background(Supervisor(tmp_path, specs, backoff=(0.05, 1))):
        eventually(lambda: status(tmp_path) == "running")
        time.sleep(2.5)  # until it is looked at again
        os.kill(children(tmp_path)["other"]["pid"], signal.SIGKILL)
        eventually(lambda: children(tmp_path)["other"]["restarts"] == 1)
        ended.set()


def test_a_probe_with_a_defect_ends_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LIVENESS_SECONDS", 0.1)
    came_up = iter([True])
    supervisor = Supervisor(tmp_path, [child(tmp_path, ready=lambda: next(came_up))])
    with pytest.raises(StopIteration):
        supervisor.run()
    assert read_state(tmp_path) is None


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:

        def say(line: str) -> None:
            full.write(line)
            full.flush()

        def note(_pid: int) -> None:
            say("gone")

        supervisor = Supervisor(
            tmp_path, [child(tmp_path)], backoff=(0.05, 1), log=say, on_ended=note
        )
        with in_background(supervisor) as errors:
            eventually(lambda: status(tmp_path) == "running")
            os.kill(children(tmp_path)["child"]["pid"], signal.SIGKILL)
            eventually(lambda: children(tmp_path)["child"]["restarts"] == 1)
        assert not errors
        with suppress(OSError):
            full.close()


def test_a_failing_first_start_stops_the_ones_before_it(tmp_path: Path) -> None:
    first = Process(child(tmp_path, name="first"))
    failing = child(tmp_path, "raise SystemExit('no luck')", "second", ready=lambda: False)
    with pytest.raises(LocalServerError, match="no luck"):
        Supervisor(tmp_path, [first, failing]).run()
    assert first.returncode == -signal.SIGTERM
    assert read_state(tmp_path) is None


def test_it_can_be_stopped_while_a_child_is_starting(tmp_path: Path) -> None:
    slow = Process(child(tmp_path, ready=lambda: False))
    started = time.monotonic()
    with in_background(Supervisor(tmp_path, [slow])) as errors:
        eventually(lambda: slow.alive)
    assert not slow.alive
    assert not errors
    assert time.monotonic() - started < 5


def test_a_second_stack_on_one_folder_is_refused(tmp_path: Path) -> None:
    with in_background(Supervisor(tmp_path, [child(tmp_path)])):
        eventually(lambda: status(tmp_path) == "running")
        with in_background(Supervisor(tmp_path, [])) as errors:
            eventually(lambda: errors)
        assert f"in use by the stack of process {os.getpid()}" in str(errors[0])
        assert status(tmp_path) == "running"


def test_a_supervisor_runs_once_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two processes have one name"):
        Supervisor(tmp_path, [child(tmp_path), child(tmp_path)])
    supervisor = Supervisor(tmp_path, [child(tmp_path)])
    with in_background(supervisor):
        eventually(lambda: status(tmp_path) == "running")
        with pytest.raises(LocalServerError, match="runs already"):
            supervisor.run()


def test_who_waits_for_an_end_that_does_not_come_is_told(tmp_path: Path) -> None:
    stubborn = Process(child(tmp_path))
    supervisor = Supervisor(tmp_path, [stubborn])
    with in_background(supervisor):
        eventually(lambda: status(tmp_path) == "running")
        with pytest.raises(LocalServerError, match="has not stopped within 0 s"):
            supervisor.stop(0)


def test_the_state_of_a_pid_given_to_somebody_else_is_no_state(tmp_path: Path) -> None:
    with in_background(Supervisor(tmp_path, [child(tmp_path)])):
        eventually(lambda: status(tmp_path) == "running")
        state = json.loads((tmp_path / "stack.json").read_text())
    (tmp_path / "stack.json").write_text(json.dumps(state))
    assert read_state(tmp_path) is not None
    (tmp_path / "stack.json").write_text(json.dumps(state | {"started": state["started"] - 1}))
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_detached_stack_without_a_trace(tmp_path: Path, number: int) -> None:
    pid = detach(supervising(tmp_path), tmp_path / "stack.log")
    eventually(lambda: status(tmp_path) == "running")
    assert os.getsid(pid) != os.getsid(0)
    pids = [each["pid"] for each in children(tmp_path).values()]
    os.kill(pid, number)
    eventually(lambda: not running(pid))
    assert not any(running(each) for each in pids)
    assert not (tmp_path / "stack.json").exists()
    assert "Traceback" not in (tmp_path / "stack.log").read_text()


def test_a_signal_ends_the_wait_for_what_a_server_needs(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from streams.local.process import ChildSpec, Process
from streams.local.supervisor import Supervisor
folder = Path({str(tmp_path)!r})
class Fetching(Process):
    def command(self):
        print("fetching", flush=True)
        time.sleep(600)
Supervisor(folder, [Fetching(ChildSpec("x", [], folder / "log"))]).run()
"""
    log = tmp_path / "stack.log"
    pid = detach([sys.executable, "-W", "error", "-c", code], log)
    eventually(lambda: "fetching" in log.read_text())
    os.kill(pid, signal.SIGINT)
    eventually(lambda: not running(pid), 5)
    assert "Traceback" not in log.read_text()
    assert not (tmp_path / "stack.json").exists()


def test_a_supervisor_is_found_before_it_has_said_a_word(tmp_path: Path) -> None:
    pid = detach([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    announce(tmp_path, pid)
    state = read_state(tmp_path)
    assert state is not None
    assert (state["pid"], state["status"]) == (pid, "starting")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: read_state(tmp_path) is None)
    eventually(lambda: not running(pid))
    announce(tmp_path, pid)  # it may have ended by then
    assert read_state(tmp_path) is None


def test_killing_the_supervisor_leaves_no_child_and_frees_the_folder(tmp_path: Path) -> None:
    pid = detach(supervising(tmp_path), tmp_path / "stack.log")
    eventually(lambda: status(tmp_path) == "running")
    pids = [each["pid"] for each in children(tmp_path).values()]
    assert len(pids) == 2
    assert all(running(each) for each in pids)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(running(each) for each in pids))
    assert read_state(tmp_path) is None
    with in_background(Supervisor(tmp_path, [child(tmp_path)])):
        eventually(lambda: status(tmp_path) == "running")
