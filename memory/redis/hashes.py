"""An item as the fields of its Redis hash (law.lua tells which is which)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memory.model.events import LogAddress
from memory.model.keys import SelectorKey, count_sources
from memory.model.state import (
    CorrectionWrite,
    Item,
    PruningWrite,
    Put,
    PutResult,
    Trace,
    TraceWrite,
)
from memory.model.times import NEVER
from memory.model.vectors import check_made_by, stored_rows
from memory.redis.schema import Schema

DIGESTED = (
    *(b"b", b"ts", b"cs", b"ps", b"corrected", b"pruned", b"sel", b"asserted", b"image"),
    b"embedder",
)
"""The fields that digests cover."""


def decode_put_result(reply: Sequence[Any]) -> PutResult:
    """What a `put` of law.lua says."""
    barrier, won, erased, visible, selectors, outbox = reply
    return PutResult(
        barrier=decode_time(barrier),
        won=bool(won),
        erased=bool(erased),
        visible=bool(visible),
        outbox=outbox,
        sources=count_sources(map(SelectorKey, selectors.decode().split())),
    )


def encode_time(time: int) -> str:
    return "" if time == NEVER else f"{time:016d}"


def decode_time(text: bytes | None) -> int:
    return int(text) if text else NEVER


def encode_puts(puts: Sequence[Put], schema: Schema) -> Iterator[list[str | bytes]]:
    """What a `put` of law.lua is told of each, beside its keys. Raises `Rejected`."""
    vectors = _encode_vectors(
        [put.write.trace for put in puts if isinstance(put.write, TraceWrite)], schema
    )
    for put in puts:
        register: list[str | bytes] = ["", ""]
        match put.write:
            case TraceWrite(stamp, trace):
                register = ["t", stamp, *_encode_trace(trace, next(vectors))]
            case CorrectionWrite(stamp, label):
                register = ["c", stamp, label or ""]
            case PruningWrite(stamp, pruned):
                register = ["p", stamp, "1" if pruned else ""]
        yield [
            encode_time(put.barrier),
            put.address.encode() if put.address else "",
            " ".join(put.selectors),
            *register,
        ]


def _encode_vectors(traces: Sequence[Trace], schema: Schema) -> Iterator[bytes]:
    for trace in traces:
        check_made_by(trace.vector, trace.embedder, embedder=schema.embedder, dim=schema.dim)
    rows = [trace.vector for trace in traces]
    stored = stored_rows(np.stack(rows), schema.element) if rows else ()
    return (row.tobytes() for row in stored)


def _encode_trace(trace: Trace, vector: bytes) -> list[str | bytes]:
    return [
        trace.image_id,
        trace.image_digest,
        trace.label,
        trace.source,
        json.dumps(trace.subjects, ensure_ascii=False) if trace.subjects else "[]",
        json.dumps(dict(trace.attributes), ensure_ascii=False) if trace.attributes else "{}",
        trace.embedder,
        vector,
    ]


def decode_item(fields: Mapping[bytes, bytes], outbox: Iterable[bytes], schema: Schema) -> Item:
    """The item of a hash; of what `fields` leaves out it has nothing."""

    def text(name: bytes, default: bytes = b"") -> str:
        return fields.get(name, default).decode()

    trace = None
    if b"ts" in fields:
        trace = Trace(
            image_id=text(b"id"),
            image_digest=text(b"image"),
            label=text(b"asserted"),
            source=text(b"source"),
            subjects=tuple(json.loads(text(b"subjects", b"[]"))),
            attributes=json.loads(text(b"attributes", b"{}")),
            embedder=text(b"embedder"),
            vector=schema.decode_vector(fields[b"vector"]) if b"vector" in fields else _NOTHING,
        )
    return Item(
        barrier=decode_time(fields.get(b"b")),
        trace_stamp=text(b"ts"),
        trace=trace,
        corrected_stamp=text(b"cs"),
        corrected=text(b"corrected") or None,
        selectors=frozenset(map(SelectorKey, text(b"sel").split())),
        log=frozenset(
            LogAddress.decode(name[1:].decode()) for name in fields if name.startswith(b">")
        ),
        outbox=frozenset(LogAddress.decode(address.decode()) for address in outbox),
        pruned_stamp=text(b"ps"),
        pruned=text(b"pruned") == "1",
    )


_NOTHING = np.empty(0, np.float32)
