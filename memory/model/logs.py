"""What tells a log from another one under the same name. Immutable values.

A log can be cut: restored from an older copy, or truncated when power fails. What it holds from
there on is appended later than anything it held before, and that is how a cut is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from memory.model.events import LogPartition


@dataclass(frozen=True, slots=True)
class Witness:
    """No record of the log below `offset` was appended after `time`, µs by the log's clock."""

    offset: int
    time: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Records from `offset` on that were appended up to `time`, µs, are in the log no more."""

    offset: int
    time: int


ByPartition: TypeAlias = Mapping[LogPartition, int]
"""Offsets or times, µs."""
OF_NONE: ByPartition = MappingProxyType({})
Witnesses: TypeAlias = Mapping[LogPartition, Sequence[Witness]]
NO_WITNESSES: Witnesses = MappingProxyType({})
