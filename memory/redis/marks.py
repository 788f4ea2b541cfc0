"""Marks by which a log is known again (`memory.ports.LogMarks`), in one hash.

Each of its fields begins with what it is and goes on with the partition, and holds a time, µs, that
only rises: ``time``, that of the youngest record that was read; ``witness`` and ``cut``, whose fields
end with their offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memory.model.events import LogPartition
from memory.model.logs import ByPartition, Cut, Witness, Witnesses
from memory.redis.connection import map_redis_errors
from memory.redis.names import KeyNames, named_partition, place_name


def advance(
    client: Any,
    names: KeyNames,
    positions: ByPartition,
    youngest: ByPartition,
    noted: ByPartition,
) -> bool:
    held = [part for place, offset in noted.items() for part in (place_name(place), offset)]
    ends = [part for place, end in positions.items() for part in (place_name(place), end)]
    times = [
        part for place, time in youngest.items() for part in (f"time:{place_name(place)}", time)
    ]
    arguments = (len(held), len(ends), *held, *ends, *times)
    with map_redis_errors():
        moved = client.fcall("vm1_advance_noted", 2, names.positions, names.marks, *arguments)
    return bool(moved)


def note_witnesses(
    client: Any, names: KeyNames, witnesses: Witnesses, instead_of: Witnesses
) -> None:
    fields = {
        f"witness:{place_name(place)}:{witness.offset}": witness.time
        for place, several in witnesses.items()
        for witness in several
    }
    gone = {
        f"witness:{place_name(place)}:{witness.offset}"
        for place, several in instead_of.items()
        for witness in several
    }
    pipeline = client.pipeline(transaction=False)
    if fields:
        numbers = (part for pair in fields.items() for part in pair)
        pipeline.fcall("vm1_advance", 1, names.marks, *numbers)
    if gone := gone - fields.keys():
        pipeline.hdel(names.marks, *gone)
    with map_redis_errors():
        pipeline.execute()


def witnesses_of(client: Any, names: KeyNames) -> Witnesses:
    pipeline = client.pipeline(transaction=False)
    pipeline.hgetall(names.positions)
    pipeline.hgetall(names.marks)  # afterwards: a time is noted before the position that needs it
    with map_redis_errors():
        positions, marks = pipeline.execute()
    here: dict[LogPartition, list[Witness]] = {}
    noted: dict[LogPartition, list[Witness]] = {}
    for kind, place, time in _numbers(marks):
        if kind == "time" and (position := positions.get(place.encode())) is not None:
            here[named_partition(place)] = [Witness(int(position), time)]
        elif kind == "witness":
            partition, _, offset = place.rpartition(":")
            noted.setdefault(named_partition(partition), []).append(Witness(int(offset), time))
    return {
        place: [
            *here.get(place, []),
            *sorted(noted.get(place, []), key=lambda witness: -witness.offset),
        ]
        for place in here.keys() | noted.keys()
    }


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
            found.setdefault(named_partition(partition), []).append(Cut(int(offset), time))
    return {place: sorted(held, key=lambda c: c.offset) for place, held in found.items()}


def _numbers(marks: Mapping[bytes, bytes]) -> Iterator[tuple[str, str, int]]:
    for field, number in marks.items():
        kind, _, place = field.decode().partition(":")
        yield kind, place, int(number)
