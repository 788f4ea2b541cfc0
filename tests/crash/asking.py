"""Clients that write, ask and check each answer while everything around them is killed.

What an asker writes nobody else touches, so it knows what each answer must and must not hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from memory.errors import Unavailable
from memory.model.answers import Position
from memory.model.vectors import Vector
from streams.client import ForgetRequest, MemoryClient, Pending
from streams.contract.messages import Answer
from tests.faults.ground import unit
from tests.integration.running import Running

T = TypeVar("T")

K = 20
QUERY_SECONDS = 5.0
PATIENCE_SECONDS = 60.0


class Broken(AssertionError):
    """An answer, or the want of one, breaks a promise."""


class Asker(threading.Thread):
    """Teaches one image after the other, corrects it, forgets it, and asks in between."""

    def __init__(self, memory: Running, seed: int, number: int, ended: threading.Event) -> None:
        super().__init__(name=f"asker-{number}", daemon=True)
        self._memory = memory
        self._name = f"asked-{seed}-{number}"
        self._first = 1000 * (10 * seed + number)
        self._ended = ended
        self._client: MemoryClient
        self._forgotten: set[str] = set()
        """Those of which a receipt said that they are erased."""
        self.answers = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        self._client = self._memory.client(self._name)
        number = 0
        try:
            while number == 0 or not self._ended.is_set():
                self._live_and_die(number)
                number += 1
        except Exception as error:  # noqa: BLE001 - told to the round's own thread
            self.failure = error

    def _live_and_die(self, number: int) -> None:
        image, vector = f"{self._name}-{number}", unit(self._first + number)
        seen = time.time_ns() // 1000

        def teach(event: str) -> Pending:
            return self._client.ingest(
                vector, id=image, label="taught", embedder="test", time=seen, event_id=event
            )

        taught = self._written(lambda: teach(f"{image}-taught"))
        self._check(self._asked(vector), image, must=[(taught, "taught")])
        self._check(self._asked(vector, [taught]), image, "taught")
        corrected = self._written(
            lambda: self._client.correct(image, "corrected", event_id=f"{image}-corrected")
        )
        self._check(self._asked(vector), image, must=[(corrected, "corrected"), (taught, "taught")])
        self._check(self._asked(vector, [corrected]), image, "corrected")

        asked_for = self._forget(image)
        forgotten = asked_for.position()
        self._check(self._asked(vector), image, never=forgotten)
        self._repeated(lambda: self._client.receipt(asked_for, "erased", QUERY_SECONDS))
        self._forgotten.add(image)
        self._check(self._asked(vector), image)
        self._check(self._asked(vector, [forgotten]), image)
        # Repeated, and told late by another event: both are of before.
        repeated = self._written(lambda: teach(f"{image}-taught"))
        late = self._written(lambda: teach(f"{image}-late"))
        self._check(self._asked(vector, [repeated, late]), image)

    def _forget(self, image: str) -> ForgetRequest:
        sent: list[ForgetRequest] = []

        def forget() -> Position:
            sent.append(self._client.forget(image=image, event_id=f"{image}-forgotten"))
            return sent[-1].position(QUERY_SECONDS)

        self._repeated(forget)
        return sent[-1]

    def _written(self, send: Callable[[], Pending]) -> Position:
        """Sent until the log has it; a repetition is the same event."""
        return self._repeated(lambda: send().position(QUERY_SECONDS))

    def _asked(self, vector: Vector, after: Sequence[Position] = ()) -> Answer:
        def ask() -> Answer:
            answer = self._client.query(
                vector, embedder="test", k=K, after=after, timeout=QUERY_SECONDS
            )
            if answer.status in {"stale", "expired"}:
                raise Unavailable(answer.status)
            return answer

        answer = self._repeated(ask)
        self.answers += 1
        if answer.status == "rejected":
            raise Broken(f"{self._name}: a question is rejected: {answer.reason}")
        for position in after:
            if not covers(answer, position):
                raise Broken(f"{self._name}: asked after {position}, as of {answer.as_of}")
        return answer

    def _repeated(self, attempt: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return attempt()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _check(
        self,
        answer: Answer,
        image: str,
        label: str | None = None,
        *,
        must: Sequence[tuple[Position, str]] = (),
        never: Position | None = None,
    ) -> None:
        """`must`: the first of these that the answer claims to have seen tells the label."""
        shown = {neighbor.image_id: neighbor.label for neighbor in answer.neighbors}
        if revived := self._forgotten & shown.keys():
            raise Broken(f"forgotten, yet answered with: {sorted(revived)}")
        if never is not None and covers(answer, never) and image in shown:
            raise Broken(f"{image}: the answer claims to have seen that it is forgotten")
        claimed = next((said for position, said in must if covers(answer, position)), label)
        if claimed is not None and shown.get(image) not in {claimed, *self._later(claimed, must)}:
            raise Broken(f"{image}: {shown.get(image)} where the answer must know {claimed}")

    @staticmethod
    def _later(claimed: str, must: Sequence[tuple[Position, str]]) -> set[str]:
        """An answer may know more than it claims."""
        said = [label for _, label in must]
        return set(said[: said.index(claimed)]) if claimed in said else set()


def covers(answer: Answer, position: Position) -> bool:
    """Whether an answer claims to rest on the record at a position."""
    return any(
        held.topic_id == position.topic_id
        and held.partition == position.partition
        and held.offset > position.offset
        for held in answer.as_of
    )
