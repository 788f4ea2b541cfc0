"""A client that repeats what fails, and starts again the stack that is gone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from memory.errors import Unavailable
from streams import stack
from streams.demo import persistent
from streams.demo.persistent import Persistent
from streams.local.process import LocalServerError

FEW = persistent.STARTS
UP = stack.Addresses("kafka", "redis", "metrics")


class Connection:
    """In the place of a client, which would connect."""

    def close(self, timeout: float) -> None:
        raise Unavailable("nobody is there")


class Imagined(Persistent):
    """A client of a stack that is there or gone as the test says."""

    gone = False

    def _connected(self) -> Any:
        return Connection()

    def _is_gone(self) -> bool:
        return self.gone


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose stacks are started."""
    started: list[Path] = []

    def up(folder: Path, **_more: Any) -> stack.Addresses:
        started.append(folder)
        Imagined.gone = False
        return UP

    monkeypatch.setattr(stack, "start_in_background", up)
    monkeypatch.setattr(persistent, "LOOK_SECONDS", 0.01)
    return started


def failing(times: int) -> Callable[[Any], list[Any]]:
    """What fails so often, and then tells the clients that tried."""
    tried: list[Any] = []

    def attempt(client: Any) -> list[Any]:
        tried.append(client)
        if len(tried) <= times:
            raise Unavailable("away")
        return tried

    return attempt


def made(wait: float = 30.0) -> Imagined:
    return Imagined(Path("folder"), "test", lambda _line: None, wait)


def test_what_fails_while_a_server_is_away_is_repeated_with_the_same_client(
    starts: list[Path],
) -> None:
    assert len(set(map(id, made().do(failing(2))))) == 1
    assert starts == []


def test_a_stack_that_is_gone_is_started_again_for_a_new_client(starts: list[Path]) -> None:
    client = made()
    client.gone = True  # of this one, until the start sets it for all

    def attempt(to: Any) -> Any:
        if not starts:
            raise Unavailable("gone")
        return to

    first = client._client
    assert client.do(attempt) is not first
    assert starts == [Path("folder")]


def test_one_who_waits_for_ever_is_told(starts: list[Path]) -> None:
    with pytest.raises(Unavailable, match="away"):
        made(wait=0.0).do(failing(9))


def test_an_answer_of_a_stack_that_is_gone_is_not_awaited(starts: list[Path]) -> None:
    client = made()
    client.gone = True
    with pytest.raises(Unavailable, match="gone"):
        client.result(Future())


def test_a_first_start_that_fails_is_repeated_a_few_times(
    starts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []

    def fail(folder: Path, **_more: Any) -> stack.Addresses:
        tries.append(folder)
        if len(tries) < FEW:
            raise LocalServerError("killed")
        return UP

    monkeypatch.setattr(stack, "start_in_background", fail)
    assert persistent.start(Path("folder")) == UP
    monkeypatch.setattr(persistent, "STARTS", 1)
    tries.clear()
    with pytest.raises(LocalServerError):
        persistent.start(Path("folder"))
