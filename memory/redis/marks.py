"""Marks by which a log is known again (`memory.ports.LogMarks`), in one hash.

Each of its fields begins with what it is and goes on with the partition: ``time``, that of the
youngest record that was read; ``below`` and ``until``, a witness; ``cut``, whose field ends with
the offset. Times are µs. Each but a witness's offset only rises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memory.model.events import LogPartition
from memory.model.logs import Cut, Witness
from memory.redis.errors import map_redis_errors
from memory.redis.names import KeyNames


def note_times(client: Any, names: KeyNames, times: Mapping[LogPartition, int]) -> None:
    _raise_to(client, names, {f"time:{place_name(place)}": time for place, time in times.items()})


def note_witnesses(client: Any, names: KeyNames, witnesses: Mapping[LogPartition, Witness]) -> None:
    fields = {}
    for place, witness in witnesses.items():
        fields[f"below:{place_name(place)}"] = witness.offset
        fields[f"until:{place_name(place)}"] = witness.time
    _raise_to(client, names, fields)


def witnesses_of(client: Any, names: KeyNames) -> dict[LogPartition, Sequence[Witness]]:
    pipeline = client.pipeline(transaction=False)
    pipeline.hgetall(names.positions)
    pipeline.hgetall(names.marks)  # afterwards: a time is noted before the position that needs it
    with map_redis_errors():
        positions, marks = pipeline.execute()
    found: dict[LogPartition, list[Witness]] = {}
    for kind, place, time in _numbers(marks):
        offsets, offset_field = {
            "time": (positions, place),
            "until": (marks, f"below:{place}"),
        }.get(kind, ({}, ""))
        if (offset := offsets.get(offset_field.encode())) is not None:
            found.setdefault(_partition(place), []).append(Witness(int(offset), time))
    return {place: sorted(held, key=lambda w: -w.offset) for place, held in found.items()}


def rewind(client: Any, names: KeyNames, partition: LogPartition, cut: Cut) -> None:
    place = place_name(partition)
    with map_redis_errors():
        client.fcall("vm1_rewind", 2, names.positions, names.marks, place, cut.offset, cut.time)


def cuts_of(client: Any, names: KeyNames) -> dict[LogPartition, Sequence[Cut]]:
    with map_redis_errors():
        marks = client.hgetall(names.marks)
    found: dict[LogPartition, list[Cut]] = {}
    for kind, place, time in _numbers(marks):
        if kind == "cut":
            partition, _, offset = place.rpartition(":")
            found.setdefault(_partition(partition), []).append(Cut(int(offset), time))
    return {place: sorted(held, key=lambda c: c.offset) for place, held in found.items()}


def place_name(partition: LogPartition) -> str:
    """What a partition is called in a field."""
    return f"{partition.topic_id}:{partition.partition}"


def _numbers(marks: Mapping[bytes, bytes]) -> Iterator[tuple[str, str, int]]:
    for field, number in marks.items():
        kind, _, place = field.decode().partition(":")
        yield kind, place, int(number)


def _partition(place: str) -> LogPartition:
    topic_id, _, partition = place.rpartition(":")
    return LogPartition(topic_id, int(partition))


def _raise_to(client: Any, names: KeyNames, fields: Mapping[str, int]) -> None:
    if fields:
        arguments = [part for pair in fields.items() for part in pair]
        with map_redis_errors():
            client.fcall("vm1_advance", 1, names.marks, *arguments)
