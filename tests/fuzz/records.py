"""Records as strangers might write them: good ones, and good ones that were changed at random."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from memory.model.events import ImagePayload, Payload, Selector, SelectorKind, VectorPayload
from memory.model.questions import NOTHING_SUPPOSED, Factors, ItemRef, Query, Rule, WhatIf
from streams.contract import encoding
from streams.contract.records import OutgoingRecord, record_key
from streams.contract.topics import Topic

SECOND = 1_000_000
Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Fuzz:
    """What records are made of. `images` of them hold images, `now` is µs."""

    seed: int
    count: int
    images: int
    embedder: str
    dim: int
    now: int


def fuzzed_records(fuzz: Fuzz) -> Iterator[OutgoingRecord]:
    """`count` records for the four roles, of which two in three were changed."""
    chance = random.Random(fuzz.seed)
    with_image = set(chance.sample(range(fuzz.count), min(fuzz.images, fuzz.count)))
    for number in range(fuzz.count):
        record = _good(chance, fuzz, number, has_image=number in with_image)
        for _ in range(chance.choice((0, 1, 2))):
            record = chance.choice(CHANGES)(chance, record)
        yield record


def _good(chance: random.Random, fuzz: Fuzz, number: int, *, has_image: bool) -> OutgoingRecord:
    named: Any = {
        "source": chance.choice(("camera", "scanner", "caméra 猫")),
        "event_id": f"e{number}" if chance.random() < 0.97 else "e0",
        "time": fuzz.now - chance.randrange(3600 * SECOND),
    }
    image_id = f"i{chance.randrange(fuzz.count // 4 + 1)}"
    payload: Payload
    if has_image:
        payload = ImagePayload(_image(chance))
    else:
        vector = np.random.default_rng(number).normal(size=fuzz.dim).astype(np.float32)
        payload = VectorPayload(vector, fuzz.embedder)
    kind = 0 if has_image else chance.choices(range(4), (6, 6, 1, 3))[0]
    if kind == 0:
        return encoding.encode_ingest(
            **named,
            image_id=image_id,
            label=chance.choice(("cat", "dog", "hút", "a,b|c{d}")),
            payload=payload,
            subjects=[f"s{chance.randrange(40)}" for _ in range(chance.randrange(4))],
            attributes={"camera": "3"} if chance.random() < 0.3 else {},
        )
    if kind == 1:
        label = chance.choice(("lynx", None))
        return encoding.encode_correction(**named, image_id=image_id, label=label)
    if kind == 2:
        by = chance.choice((SelectorKind.IMAGE, SelectorKind.SUBJECT))
        value = image_id if by is SelectorKind.IMAGE else f"s{chance.randrange(40)}"
        return encoding.encode_forget(**named, selector=Selector(by, value))
    asked = ItemRef(image_id) if chance.random() < 0.3 else payload
    query = Query(
        asked,
        k=chance.randrange(1, 101),
        rule=chance.choice(list(Rule)),
        what_if=_supposed(chance, image_id) if chance.random() < 0.2 else NOTHING_SUPPOSED,
        why=chance.random() < 0.2,
    )
    return encoding.encode_query(**named, query=query, reply_partition=0, timeout=30)


def _supposed(chance: random.Random, image_id: str) -> WhatIf:
    names = {SelectorKind.IMAGE: image_id, SelectorKind.SUBJECT: "s1", SelectorKind.LABEL: "cat"}
    return WhatIf(
        tuple(Selector(kind, name) for kind, name in names.items() if chance.random() < 0.3),
        Factors({image_id: chance.random()}, {"dog": 10 * chance.random()}),
        plus=(image_id,) * chance.randrange(2),
    )


def _image(chance: random.Random) -> bytes:
    mode = chance.choice(("RGB", "RGBA", "L", "P", "1", "I;16", "F", "CMYK", "LA"))
    size = (chance.randrange(1, 90), chance.randrange(1, 90))
    data = io.BytesIO()
    fits = {"RGBA": ("PNG", "WEBP"), "LA": ("PNG",), "I;16": ("PNG",), "F": ("TIFF",)}
    kinds = fits.get(mode, ("PNG", "GIF", "TIFF") if mode in ("P", "1") else ("TIFF", "JPEG"))
    Image.new(mode, size, chance.randrange(2)).save(data, chance.choice(kinds))
    image = bytearray(data.getvalue())
    match chance.randrange(4):
        case 0:
            del image[chance.randrange(1, len(image)) :]
        case 1:
            for _ in range(chance.randrange(1, 9)):
                image[chance.randrange(len(image))] = chance.randrange(256)
        case 2:
            image += chance.randbytes(chance.randrange(200))
    return bytes(image)


# Changes


def _drop_header(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    headers = list(record.headers)
    if headers:
        del headers[chance.randrange(len(headers))]
    return replace(record, headers=tuple(headers))


def _repeat_header(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    if not record.headers:
        return record
    return replace(record, headers=(*record.headers, chance.choice(record.headers)))


def _spoil_header(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    headers: Headers = list(record.headers)
    if headers:
        at = chance.randrange(len(headers))
        headers[at] = (headers[at][0], chance.choice(ODD_TEXTS))
    return replace(record, headers=tuple(headers))


def _add_header(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    name = chance.choice(("ce_k", "ce_after", "ce_subjects", "ce_x", "ce_", "x", "ce_A-b", "猫"))
    headers: Headers = [*record.headers, (name, chance.choice(ODD_TEXTS))]
    return replace(record, headers=tuple(headers))


def _spoil_value(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    value = record.value or b""
    at = chance.randrange(len(value) + 1)
    found = chance.choice(
        (None, b"", value[:at], chance.randbytes(40), value + b"\0", value[at:], *ODD_BODIES)
    )
    return replace(record, value=found)


def _spoil_key(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    key = chance.choice((b"", b"k", record_key("a", "b"), chance.randbytes(64)))
    return replace(record, key=key)


def _move(chance: random.Random, record: OutgoingRecord) -> OutgoingRecord:
    topics = (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST, Topic.QUERY)
    return replace(record, topic=chance.choice(topics))


CHANGES: Sequence[Callable[[random.Random, OutgoingRecord], OutgoingRecord]] = (
    *(_drop_header, _repeat_header, _spoil_header, _spoil_header, _add_header),
    *(_spoil_value, _spoil_value, _spoil_key, _move),
)
ODD_TEXTS: Sequence[bytes] = (
    *(b"", b"\xff\xfe", b"null", b"0", b"-1", b"1e999", b"NaN", b"a" * 2000, b"\0"),
    *(b"2026-02-30T00:00:00Z", b"9999-12-31T23:59:59.999999Z", b"1969-12-31T00:00:00Z"),
    *(b"[" * 3000, b'["a", 1]', b'[["a"]]', json.dumps(["s"] * 65).encode(), b'["\\ud800"]'),
    *(b'[{"topic": "t", "topic_id": "x", "partition": 0, "offset": 5}]', b'[{"topic": 1}]'),
    *("猫".encode(), b"\xe2\x80\xae", b"visual-memory.image-ingest.v9", b"application/json"),
    *(b"application/vnd.visual-memory.vector", b"text/plain", b"camera\nevil: 1"),
)
ODD_BODIES: Sequence[bytes] = (
    *(b"{}", b"[]", b"null", b'{"label": 1}', b'{"label": ""}', b'{"label": "a", "label": "b"}'),
    *(b'{"label": "' + b"x" * 5000 + b'"}', b'{"selector": {}}', b'{"selector": {"image": 1}}'),
    *(b'{"a":' * 2000, b"[" * 5000, b'{"label": NaN}', b'{"label": 1e999}', b"\xef\xbb\xbf{}"),
    *(b'{"selector": {"label": "no-such"}}', b'{"selector": {"image": "\\ud800"}}'),
    np.full(4, np.nan, "<f4").tobytes(),
    np.zeros(1280, "<f4").tobytes(),
)
