"""Servers of one module, memories of one module or case, and the table at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import ground as faults
from tests.faults.ground import Ground, Servers

Fresh = Callable[..., Ground]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: the selection for every change, three minutes")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if faults.ROWS:
        terminalreporter.section("faults")
        terminalreporter.write_line(faults.Row.HEAD)
        for row in faults.ROWS:
            terminalreporter.write_line(str(row))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers.start(tmp_path_factory.mktemp("servers"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def fresh(servers: Servers, tmp_path: Path) -> Iterator[Fresh]:
    """Makes a memory of this case's own; `workers` and settings as `ground` takes them."""
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(
            faults.ground(servers, tmp_path, name_of(tmp_path), **more)
        )


@pytest.fixture(scope="module")
def shared(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One memory for the cases of a module that leave it whole."""
    folder = tmp_path_factory.mktemp("shared")
    with faults.ground(servers, folder, name_of(folder)) as made:
        yield made


def name_of(folder: Path) -> str:
    return f"faults-{os.getpid()}-{folder.name}-"
