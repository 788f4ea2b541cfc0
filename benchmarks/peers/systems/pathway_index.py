"""Pathway: a table of the newest event of each image, an index over it, questions as of now."""

import json
import os
from collections import Counter

import msgpack
import numpy as np
import pathway as pw
from pathway.stdlib.indexing import BruteForceKnnFactory, UsearchKnnFactory

KAFKA, PREFIX, DIM = os.environ["KAFKA"], os.environ["PREFIX"], int(os.environ["DIM"])
KINDS = {"brute": BruteForceKnnFactory, "usearch": UsearchKnnFactory}


def read(topic, offsets):
    settings = {
        "bootstrap.servers": KAFKA,
        "group.id": PREFIX + topic,
        "auto.offset.reset": offsets,
        "security.protocol": "plaintext",
    }
    return pw.io.kafka.read(
        settings, PREFIX + topic, format="raw", with_metadata=True, autocommit_duration_ms=20
    )


def field(name, kind):
    def get(data: bytes) -> kind:
        value = msgpack.unpackb(data)[name]
        return np.frombuffer(value, np.float32) if name == "vector" else value

    return get


def say(name: str, ids: tuple, labels: tuple, scores: tuple) -> bytes:
    rows = [list(row) for row in zip(ids or (), labels or (), (-s for s in scores or ()))]
    label = Counter(label for _, label, _ in rows).most_common(1)[0][0] if rows else None
    return json.dumps({"id": name, "label": label, "neighbors": rows}).encode()


events = read("events", "earliest")
events = events.select(
    name=pw.apply(field("id", str), pw.this.data),
    offset=pw.apply(lambda m: int(m["offset"].as_int()), pw.this._metadata),
    data=pw.this.data,
)
newest = events.deduplicate(
    value=pw.this.offset, instance=pw.this.name, acceptor=lambda new, last: new > last
)
items = newest.filter(~pw.apply(field("deleted", bool), pw.this.data)).select(
    name=pw.this.name,
    label=pw.apply(field("label", str), pw.this.data),
    vector=pw.apply(field("vector", np.ndarray), pw.this.data),
)
factory = KINDS[os.environ["ALGORITHM"]](dimensions=DIM)
index = factory.build_index(items.vector, items)
asked = read("questions", "latest").select(
    name=pw.apply(field("id", str), pw.this.data),
    k=pw.apply(field("k", int), pw.this.data),
    vector=pw.apply(field("vector", np.ndarray), pw.this.data),
)
found = index.query_as_of_now(asked.vector, number_of_matches=asked.k, collapse_rows=True).select(
    name=pw.left.name,
    said=pw.apply(say, pw.left.name, pw.right.name, pw.right.label, pw.right._pw_index_reply_score),
)
pw.io.kafka.write(
    found,
    {"bootstrap.servers": KAFKA, "linger.ms": "0"},
    PREFIX + "answers",
    format="raw",
    value=found.said,
    key=found.name,
)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
