"""Ready vectors, and the batch rebuild of what a log holds: what a memory must come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from memory.errors import Rejected
from memory.exact.index import ExactIndex
from memory.model import merge
from memory.model.events import Correction, Forget, Ingest, Prune, SelectorKind, VectorPayload
from memory.model.forgetting import Barrier
from memory.model.keys import ImageKey
from memory.model.state import Digests, Trace
from memory.model.vectors import Vector
from streams.config.connections import kafka_cluster
from streams.contract import decoding, forgetting
from streams.contract.facts import decode_fact
from streams.contract.forgetting import Cancel, Scheduled
from streams.contract.records import Marker, Record
from streams.contract.topics import Topic
from tests.integration.running import Running
from tests.memory import oracle

DIM = 24
EMBEDDER = f"vectors:test:{DIM}"


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=DIM)
    found: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def read_all(running: Running, topic: Topic) -> list[Record]:
    """Every record of a topic, from its start to its present end."""
    name = kafka_cluster(running.settings).full_name(topic)
    consumer = KafkaConsumer(
        bootstrap_servers=running.settings.kafka, enable_auto_commit=False, max_poll_records=5000
    )
    partitions = [TopicPartition(name, p) for p in consumer.partitions_for_topic(name)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    records = []
    while any(consumer.position(tp) < ends[tp] for tp in partitions):
        for batch in consumer.poll(timeout_ms=500).values():
            records += [Record.of(record) for record in batch]
    consumer.close(autocommit=False)
    return records


def _immediate(found: Forget | Scheduled | Cancel | Marker) -> Forget | Marker:
    """What may be stopped is no event of which all that was read tells that it was admitted."""
    assert isinstance(found, Forget | Marker)
    return found


def admitted_events(
    running: Running, without: Container[bytes | None] = ()
) -> Iterator[Ingest | Correction | Prune | Forget]:
    """What the writing topics hold, as the roles would admit it, but for records of these keys."""
    skew = round(running.settings.clock_skew * 1_000_000)
    ids = running.topic_ids()
    ingest, correct = (
        ids[kafka_cluster(running.settings).full_name(topic)]
        for topic in (Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION)
    )
    decoders: dict[Topic, Callable[[Record], Ingest | Correction | Prune | Forget | Marker]] = {
        Topic.IMAGE_INGEST: lambda r: decoding.decode_ingest(r, ingest, clock_skew=skew),
        Topic.LABEL_CORRECTION: lambda r: decoding.decode_correction(r, correct, clock_skew=skew),
        Topic.FORGET_REQUEST: lambda r: _immediate(forgetting.decode_forget(r, clock_skew=skew)),
    }
    for topic, decode in decoders.items():
        for record in read_all(running, topic):
            if record.key in without:
                continue
            try:
                event = decode(record)
            except Rejected:
                continue
            if not isinstance(event, Marker):
                yield event


def rebuilt_digests(running: Running, without: Container[bytes | None] = ()) -> Digests:
    """The digest of a batch rebuild by the pure law from what the topics hold.

    Records of the keys in `without` are left out, as a memory leaves out what it rejected.
    """
    skew = round(running.settings.clock_skew * 1_000_000)
    index = running.index()
    exact = ExactIndex(
        embedder=index.embedder, dim=index.dim, hmac_key=running.settings.secret_key()
    )
    admitted: list[oracle.Admitted] = []
    first_seen: dict[str, Forget] = {}
    for event in admitted_events(running, without):
        if isinstance(event, Forget):
            known = first_seen.get(event.request_id, event)
            first_seen[event.request_id] = min(known, event, key=lambda f: f.time)
        else:
            admitted.append(oracle.Admitted(event))
    barriers: dict[int, set[ImageKey]] = {}
    for record in read_all(running, Topic.FENCES):
        fact = decode_fact(record)
        if isinstance(fact, Barrier):
            barriers.setdefault(fact.until, set()).add(fact.image)
    for request in first_seen.values():
        until = oracle.until_of(request, request.time, skew)
        # What a label expands into is admitted as the images it found, not as the label.
        found = barriers.get(until, set()) if request.selector.kind is SelectorKind.LABEL else ()
        admitted.append(oracle.Admitted(request, until, frozenset(found)))

    def trace_of(event: Ingest) -> Trace:
        payload = event.payload
        # No digest covers a vector, so that of an image may be any.
        vector = payload.vector if isinstance(payload, VectorPayload) else np.ones(index.dim, "f4")
        return Trace(
            event.image_id,
            event.payload_digest,
            event.label,
            event.source,
            event.subjects,
            event.attributes,
            index.embedder,
            vector,
        )

    keys = oracle.Keys(exact.image_key, exact.selector_key)
    state = oracle.rebuild(admitted, keys, trace_of)
    return merge.digests(state.items, state.fences)


def rejected(running: Running) -> list[dict[str, object]]:
    return [json.loads(record.value or b"") for record in read_all(running, Topic.REJECTED)]
