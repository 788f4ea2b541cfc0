"""The process of a worker: how it runs, and its end, which is bounded and says why."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

import faust

from memory.errors import Misconfigured

_log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 12.0
EXIT_REFUSED = 2
EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
LONG_COLLECTION_SECONDS = 0.005


def end_within(seconds: float) -> None:
    """Bound a shutdown: Faust can wait for ever for events that are not acked."""
    timer = threading.Timer(seconds, os._exit, args=(0,))
    timer.daemon = True
    timer.start()


def exit_now(what: str, error: BaseException) -> NoReturn:
    """End the process now: carrying on past what was not done would lose it.

    The last line says why; only the message of a `Misconfigured` surely quotes no event.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    why = error if isinstance(error, Misconfigured) else f"unexpected {type(error).__name__}"
    _log.critical("exiting\n%s%s: %s", frames, what, why)
    logging.shutdown()
    os._exit(EXIT_UNEXPECTED)


@contextmanager
def refusing() -> Iterator[None]:
    """Let `Misconfigured` end the process as where it refuses to start; the last line says why."""
    try:
        yield
    except Misconfigured as error:
        _log.critical("%s", error)
        logging.shutdown()
        os._exit(EXIT_REFUSED)


class BoundedWorker(faust.Worker):
    """A Faust worker whose SIGTERM and SIGINT always end it."""

    def _on_sigterm(self) -> None:
        end_within(SHUTDOWN_SECONDS)
        super()._on_sigterm()

    def _on_sigint(self) -> None:
        end_within(SHUTDOWN_SECONDS)
        self._schedule_shutdown(signal.SIGINT)


class SparingCollections:
    """Lets no full garbage collection take long over the same objects twice; one of `gc.callbacks`.

    What imports leave behind, torch's most of all, takes 60 to 150 ms to look through. Nobody is
    answered meanwhile, and hardly anything of it ever becomes garbage.
    """

    def __init__(self) -> None:
        self._began = 0.0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.perf_counter()
        elif time.perf_counter() - self._began > LONG_COLLECTION_SECONDS:
            gc.freeze()


def give_way() -> None:
    """Let others of this machine, who are asked for something, finish first when this process wakes."""
    # A gain only: some sandboxes refuse it, and only Linux has it.
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def run_app(app: faust.App, log_level: str, *, gives_way: bool = False) -> NoReturn:
    """Run a worker until a signal or the unexpected ends it; see `give_way`."""
    if gives_way:
        give_way()
    gc.callbacks.append(SparingCollections())
    worker = BoundedWorker(app, loglevel=log_level, redirect_stdouts=False)
    worker.execute_from_commandline()
