"""Forked workers are processes as others are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.local.process import ChildSpec
from streams.local.spawner import start_ticks
from tests.integration.zygote import ROOT, ForkedProcess, Zygote
from tests.waiting import until

SAYS = """
import json, os, signal, sys, time
heard = [os.environ.get(name) for name in ("VISUAL_MEMORY_SAID", "SAID")]
print(json.dumps([sys.argv[1:], heard, "streams.bootstrap" in sys.modules]), flush=True)
if sys.argv[1:] == ["stay"]:
    time.sleep(600)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def process(tmp_path: Path, zygote: Zygote) -> Callable[..., ForkedProcess]:
    """A program that says how it was called, and stays or ends with 7."""
    program = tmp_path / "says.py"
    program.write_text(SAYS)

    def made(word: str, **environment: str) -> ForkedProcess:
        return ForkedProcess(
            ChildSpec(
                "worker",
                (sys.executable, str(program), word),
                tmp_path / "log",
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                ready=lambda: bool((tmp_path / "log").read_text()),
            ),
            zygote,
        )

    return made


def test_it_is_a_child_in_a_session_of_its_own_and_says_how_it_ended(
    process: Callable[..., ForkedProcess],
) -> None:
    with process("stay") as worker:
        pid = worker.pid
        assert pid is not None
        assert os.getsid(pid) == pid
        assert (
            int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
        )
        os.kill(pid, signal.SIGKILL)
        until(lambda: not worker.alive)
        assert worker.returncode == -signal.SIGKILL
    ends = process("end")
    ends.spawn()
    until(lambda: not ends.alive)
    assert ends.returncode == 7


def test_it_has_its_arguments_and_environment_and_all_that_workers_import(
    process: Callable[..., ForkedProcess],
) -> None:
    with process("stay", VISUAL_MEMORY_SAID="this") as worker:
        assert worker.tail() == '[["stay"], ["this", null], true]'


def test_one_whose_libraries_would_find_another_environment_is_started_anew(
    process: Callable[..., ForkedProcess],
) -> None:
    with process("stay", SAID="this") as worker:
        assert worker.tail() == '[["stay"], [null, "this"], false]'


def test_it_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    program = tmp_path / "stays.py"
    program.write_text("import time\ntime.sleep(600)\n")
    asking = textwrap.dedent(
        f"""
        import os
        from tests.integration.zygote import Zygote
        with open(os.devnull, "wb") as output:
            print(Zygote().fork([{str(program)!r}], os.environ, output).pid, flush=True)
        os._exit(0)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", asking], cwd=ROOT, capture_output=True, text=True, check=True
    )
    until(lambda: start_ticks(int(done.stdout)) is None)
