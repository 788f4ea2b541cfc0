"""Settings as the environment gives them."""

from __future__ import annotations

import os
import subprocess
import sys

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


def printed(script: str, *arguments: str, without: str = "-", **environment: str) -> str:
    """What a Python script prints, with these variables and none that begins as `without` says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, env=kept | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


ARENAS_OF_EIGHT_THREADS = """
import ctypes, sys, tempfile, threading
from streams.config.settings import prepare_process

if sys.argv[1] == "prepared":
    prepare_process()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier(8)

def allocate():
    together.wait()
    libc.malloc(10_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(file.read().count(b"<heap nr="))
"""


def test_a_worker_threads_share_one_arena_of_memory() -> None:
    assert int(printed(ARENAS_OF_EIGHT_THREADS, "bare")) > 2
    assert int(printed(ARENAS_OF_EIGHT_THREADS, "prepared")) == 1


KEPT_OF_SOME_LAYERS = """
import numpy as np, psutil
from streams.config.settings import prepare_process

prepare_process()
process = psutil.Process()
before = process.memory_info().rss
layers = [np.ones(20 << 20, np.uint8) for _ in range(3)]
del layers
large = np.ones(100 << 20, np.uint8)
del large
print((process.memory_info().rss - before) >> 20)
"""


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        ({}, 55, 70),
        ({"MALLOC_TRIM_THRESHOLD_": str(1 << 20), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}, 0, 5),
    ],
)
def test_what_a_models_layers_took_is_kept_for_the_next_unless_it_is_to_be_given_back(
    given: dict[str, str], least: int, most: int
) -> None:
    """And what is larger than any of them is not."""
    assert least <= int(printed(KEPT_OF_SOME_LAYERS, without="MALLOC_", **given)) <= most, "MB"


@pytest.mark.parametrize(
    ("given", "then"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_that_wait_do_not_spin_unless_they_are_told_to(
    given: dict[str, str], then: str
) -> None:
    script = (
        "import os; from streams.config.settings import prepare_process; prepare_process(); "
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert printed(script, without="OMP_WAIT_POLICY", **given) == then


def test_a_worker_thread_multiplies_alone() -> None:
    """Those that help it spin until they are wanted again."""
    script = (
        "from threadpoolctl import threadpool_info; from streams import bootstrap; "
        "bootstrap.prepare_process(); "
        "print([lib['num_threads'] for lib in threadpool_info() if lib['user_api'] == 'blas'])"
    )
    assert printed(script) == "[1]"
