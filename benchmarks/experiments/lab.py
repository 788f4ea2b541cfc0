"""A memory to experiment with: a worker of each role, taught, corrected and asked by events."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from benchmarks import service
from benchmarks.experiments.samples import Samples
from memory.model.answers import Suspect
from streams import bootstrap
from streams.client import Pending
from streams.contract.messages import Answer

IN_FLIGHT = 64
SECONDS = 120.0
EMBEDDER = "experiment"


class Lab:
    """`memory` answers what `teach`, `correct` and `forget` told it, each until all of it is merged."""

    def __init__(self, memory: service.Service) -> None:
        self._memory = memory
        self._client = memory.client

    def teach(self, samples: Samples, first: int = 0) -> None:
        """Under the ids ``s<first>`` and on."""
        self._merged(
            [
                self._client.ingest(vector, id=f"s{first + n}", label=label, embedder=EMBEDDER)
                for n, (vector, label) in enumerate(
                    zip(samples.vectors, samples.labels, strict=True)
                )
            ]
        )

    def correct(self, labels: dict[int, str]) -> None:
        """By the number in the id."""
        self._merged([self._client.correct(f"s{n}", label) for n, label in labels.items()])

    def forget(self, *, image: str | None = None, label: str | None = None) -> None:
        request = self._client.forget(image=image, label=label)
        self._client.receipt(request, timeout=SECONDS)

    def ask(self, samples: Samples, **asked: Any) -> list[Answer]:
        """The answers, in order."""
        found: list[Answer] = []
        waiting: deque[Future[Answer]] = deque()
        for vector in samples.vectors:
            if len(waiting) == IN_FLIGHT:
                found.append(self._answered(waiting.popleft()))
            waiting.append(self._client.ask(vector, embedder=EMBEDDER, timeout=SECONDS, **asked))
        return [*found, *map(self._answered, waiting)]

    def right(self, samples: Samples, **asked: Any) -> list[bool]:
        """Of each whether it is told its label."""
        answers = self.ask(samples, **asked)
        return [one.label == label for one, label in zip(answers, samples.labels, strict=True)]

    def wait_for_counts(self, samples: Samples) -> None:
        """Until wrong counts are those of all that is merged by now."""
        one, deadline = samples.take(range(1)), time.monotonic() + SECONDS
        now = time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(1.5)  # counting goes slowly beside questions
            answer = self._client.query(one.vectors[0], embedder=EMBEDDER, pruning="soft")
            age = answer.reliability_age
            if answer.status == "answered" and age is not None and age < time.monotonic() - now:
                return
        raise RuntimeError("the wrong counts did not become those of the whole memory")

    def suspects(self) -> Sequence[Suspect]:
        settings = self._memory.settings
        with contextlib.closing(bootstrap.redis_client(settings)) as store:
            index = bootstrap.open_counting_index(settings, store)
            while index.wrong_counts() is None:
                time.sleep(0.1)
            found = index.suspects()
            index.stop()
            return found

    @staticmethod
    def _answered(waiting: Future[Answer]) -> Answer:
        answer = waiting.result(SECONDS)
        if answer.status != "answered":
            raise RuntimeError(f"the memory said {answer.status}: {answer.detail}")
        return answer

    def _merged(self, sent: Sequence[Pending]) -> None:
        last: dict[Any, int] = {}
        for one in sent:
            position = one.position(SECONDS)
            place = position.log_partition
            last[place] = max(last.get(place, -1), position.offset)
        with contextlib.closing(bootstrap.redis_client(self._memory.settings)) as store:
            index = bootstrap.open_index(self._memory.settings, store)
            while any(index.positions().get(place, 0) <= offset for place, offset in last.items()):
                time.sleep(0.01)


@contextlib.contextmanager
def lab(servers: service.Servers, name: str, dim: int) -> Iterator[Lab]:
    roles = ("ingest", "correct", "forget", "query")
    with service.running(servers, name, roles, embedder=f"vectors:{EMBEDDER}:{dim}") as memory:
        yield Lab(memory)
