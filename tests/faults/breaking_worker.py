"""A worker that breaks at a step of its work when it is told to, while it runs.

Run as a program with the role as its argument. Whoever writes ``step:n`` into the file
``armed-ROLE`` in FAULTS_FOLDER has it killed after the n-th call of that step from then on, once.
Steps are methods of the index, ``append`` (facts into the fence log) and ``publish`` (what is told
of a batch), and ``overlap``, a merge while the batch before has not moved its position; ``embed-raises``, ``embed-hangs`` and ``embed-killed`` are the embedder's troubles at
the n-th call, ``embed-memory`` is no memory for more than one image, for n calls; ``group`` ends
the task that keeps the worker in its group. Whatever is about the image "poison" kills always.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka.consumer.group_coordinator import GroupCoordinator
from PIL.Image import Image

from memory.embedders import BatchedEmbedder
from memory.embedders.batches import Embeddings
from memory.model.events import LogPartition
from memory.ports import MemoryIndex
from streams import bootstrap
from streams.config.settings import Settings, load
from streams.contract import questions
from streams.contract.cloudevents import Header
from streams.kafka.fence_log import KafkaFenceLog
from streams.workers import delivery, worker_process

POISON = "poison"
POISON_SOURCE = b"cannot-be-decoded"
DIM = 8
PATIENCE_SECONDS = 4.0


class UnexpectedError(Exception):
    """No part of the error tree."""


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Armed:
    """The fault that a file asks for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._calls: dict[str, int] = {}

    def due(self, step: str) -> bool:
        """Count a call of a step; True once, at the call that the file tells."""
        try:
            wanted, _, call = self._file.read_text().partition(":")
        except FileNotFoundError:
            return False
        if step != wanted:
            return False
        self._calls[step] = self._calls.get(step, 0) + 1
        if self._calls[step] < int(call):
            return False
        self._calls.clear()
        self._file.unlink()
        return True

    def stands(self, step: str) -> bool:
        """As `due`, but True at every call up to that one."""
        return self._asks(step) and not self.due(step)

    def _asks(self, step: str) -> bool:
        return self._file.exists() and self._file.read_text().startswith(f"{step}:")


class Breaking:
    """Everything the index is; after a step, or at the poison, the process is gone."""

    def __init__(self, index: MemoryIndex, armed: Armed) -> None:
        self._index = index
        self._armed = armed
        self._poison = index.image_key(POISON)
        self._under_way, self._counting = 0, threading.Lock()

    def admit(self, puts: Sequence[Any]) -> Any:
        with self._counting:
            self._under_way += 1
        result = self.__getattr__("admit")(puts)
        with self._counting:
            if self._under_way > 1 and self._armed.due("overlap"):
                end()
        return result

    def advance(self, *given: Mapping[LogPartition, int]) -> Any:
        moved = self.__getattr__("advance")(*given)
        with self._counting:  # the fence log's position moves so too
            self._under_way = max(0, self._under_way - 1)
        return moved

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if not callable(found):
            return found

        def step(*arguments: Any, **options: Any) -> Any:
            if name in {"enlist", "put", "admit", "vectors_of"} and self._is_poison(arguments[0]):
                end()
            result = found(*arguments, **options)
            if self._armed.due(name):
                end()
            return result

        return step

    def _is_poison(self, given: Sequence[Any]) -> bool:
        return any(
            self._poison == getattr(each, "image", None)
            or each == POISON
            or (isinstance(each, tuple) and each[1] == self._poison)
            for each in given
        )


class Colours:
    """Features of an image: its mean colour. Not a model; it has a model's troubles."""

    def __init__(self, armed: Armed) -> None:
        self._armed = armed

    def __call__(self, images: Sequence[Image]) -> Embeddings:
        if self._armed.due("embed-raises"):
            raise UnexpectedError
        if self._armed.due("embed-hangs"):
            time.sleep(3600)
        if self._armed.due("embed-killed"):
            end()
        if len(images) > 1 and self._armed.stands("embed-memory"):
            raise MemoryError
        means = np.array([np.asarray(image).mean((0, 1)) for image in images])
        return np.pad(means, ((0, 0), (1, DIM - 4)), constant_values=1).astype(np.float32)


def break_calls(armed: Armed) -> None:
    """Of what is sent to Kafka."""
    append, publish = KafkaFenceLog.append, delivery.Delivery.publish

    def append_then_end(self: KafkaFenceLog, facts: Sequence[Any]) -> None:
        append(self, facts)
        if facts and armed.due("append"):
            end()

    async def publish_then_end(self: delivery.Delivery, outgoing: Sequence[Any]) -> None:
        await publish(self, outgoing)
        if outgoing and armed.due("publish"):
            end()

    patched: Any = KafkaFenceLog
    patched.append = append_then_end
    patched = delivery.Delivery
    patched.publish = publish_then_end


def break_group(armed: Armed) -> None:
    """Of what keeps the worker in its consumer group."""
    heartbeat, join = GroupCoordinator._do_heartbeat, GroupCoordinator.ensure_active_group
    left: list[bool] = []

    async def heartbeat_or_join(self: Any) -> Any:
        if armed.due("group"):
            left.append(True)
            self.request_rejoin()
        return await heartbeat(self)

    async def fail_to_join(self: Any, *arguments: Any) -> Any:
        if left:
            raise UnexpectedError
        return await join(self, *arguments)

    GroupCoordinator._do_heartbeat = heartbeat_or_join
    GroupCoordinator.ensure_active_group = fail_to_join


def break_wiring(armed: Armed) -> None:
    """Of what the composition root takes: the embedder, the decoder, how patient it is."""
    decode_query = questions.decode_query

    def decode_or_end(record: Any, **options: Any) -> Any:
        if (str(Header.SOURCE), POISON_SOURCE) in record.headers:
            end()
        return decode_query(record, **options)

    def embedder(settings: Settings) -> BatchedEmbedder:
        name = settings.embedder.split(":")[1]
        return BatchedEmbedder(name, name, Colours(armed), batch_size=32)

    patched: Any = questions
    patched.decode_query = decode_or_end
    patched = bootstrap
    patched.embedder = embedder
    patched.PATIENCE_SECONDS = PATIENCE_SECONDS
    patched.TOPICS_WATCH_SECONDS = 2.0


def main(role: str) -> None:
    settings = load()
    armed = Armed(Path(os.environ["FAULTS_FOLDER"], f"armed-{role}"))
    break_calls(armed)
    break_group(armed)
    break_wiring(armed)
    app = bootstrap.worker(settings, role, lambda index: Breaking(index, armed))
    worker_process.run_app(app, settings.log_level)


if __name__ == "__main__":
    main(sys.argv[1])
