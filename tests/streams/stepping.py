"""Work that stops between its steps, so that a test decides what happens there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

STEP_SECONDS = 20.0


class Killed(Exception):
    """The work ends here and now. What is tested must not catch this."""


class Stepped:
    """Work in a thread of its own, of which one step is done at a time; nothing runs beside it."""

    def __init__(self, work: Callable[[Stepped], None]) -> None:
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._killed = False
        self._error: BaseException | None = None
        self.done = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Stepped], None]) -> None:
        self._go.acquire()
        try:
            if not self._killed:
                work(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the step is asked for
            self._error = error
        finally:
            self.done = True
            self._stands.release()

    def gate(self) -> None:
        """Called by the work: here a step ends."""
        self._stands.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def step(self) -> None:
        """Let one step be done. Raises what the work raised."""
        self._go.release()
        assert self._stands.acquire(timeout=STEP_SECONDS), "a step does not end"
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """End the work where it stands."""
        if not self.done:
            self._killed = True
            self.step()
        self._thread.join(STEP_SECONDS)


class Gated:
    """Everything an object is; before each call of its methods a step ends."""

    def __init__(self, inner: Any, gate: Callable[[], None]) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name in UNSTEPPED:
            return found

        def step(*arguments: Any, **options: Any) -> Any:
            self._gate()
            return found(*arguments, **options)

        return step


UNSTEPPED = {"image_key", "selector_key", "request_key"}
