"""A worker that is killed by one record, as a decoder that crashes would be."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from memory.errors import Rejected
from memory.model.answers import SearchResult
from memory.model.events import LogPartition
from memory.model.keys import RequestKey
from memory.model.questions import Probe
from memory.model.state import CorrectionWrite, Put, PutResult, TraceWrite
from memory.ports import MemoryIndex
from streams import bootstrap
from streams.config.settings import load
from streams.workers import worker_process

POISONOUS_K = 66
"""Of a question; one more is looked for."""


def label(put: Put) -> str | None:
    match put.write:
        case CorrectionWrite(_, label):
            return label
        case TraceWrite(_, trace):
            return trace.label
    return None


class Poisoned:
    """Everything the index is, but a label, or a k, kills the process."""

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def put(self, puts: Sequence[Put], request: RequestKey | None = None) -> list[PutResult]:
        self._die_of(puts)
        return self._index.put(puts, request)

    def admit(self, puts: Sequence[Put]) -> list[PutResult | Rejected]:
        self._die_of(puts)
        return self._index.admit(puts)

    def _die_of(self, puts: Sequence[Put]) -> None:
        if any(label(put) == "poison" for put in puts):
            os.kill(os.getpid(), signal.SIGKILL)

    def search_as_of(
        self, probes: Sequence[Probe]
    ) -> tuple[Mapping[LogPartition, int], list[SearchResult]]:
        if any(probe.k == POISONOUS_K + 1 for probe in probes):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._index.search_as_of(probes)


if __name__ == "__main__":
    settings = load()
    worker_process.run_app(bootstrap.worker(settings, sys.argv[1], Poisoned), settings.log_level)
