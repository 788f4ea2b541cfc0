"""The log of forgetting: facts that every memory must know before it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from memory.errors import Misconfigured, Unavailable
from memory.model import canonical_json
from memory.ports import FenceFact
from streams.events import HEARTBEAT, JSON, Topic, event_type

KINDS = ("fence", "barrier", "posting", "request")
HEADERS = [("ce_type", event_type(Topic.FENCES).encode()), ("content-type", JSON.encode())]
PAGE = 500


def encode_fact(fact: FenceFact) -> tuple[bytes, bytes]:
    """Key and value. The key is the content's digest: repeats compact away, nothing else."""
    value = canonical_json({k: v for k, v in asdict(fact).items() if v not in ("", -1)}).encode()
    return hashlib.sha256(value).hexdigest().encode(), value


def decode_fact(value: bytes) -> FenceFact:
    """Raises ValueError when it is no fact."""
    fields = json.loads(value.decode())
    if not isinstance(fields, dict):
        raise ValueError("no object")
    try:
        fact = FenceFact(**fields)
    except TypeError as error:
        raise ValueError("unknown fields") from error
    if fact.kind not in KINDS or not isinstance(fact.until, int):
        raise ValueError("unknown kind")
    return fact


class KafkaFenceLog:
    """`memory.ports.FenceLog` on the topic `fences`."""

    def __init__(self, bootstrap: str, *, prefix: str = "") -> None:
        self._bootstrap = bootstrap
        self._topic = prefix + Topic.FENCES
        self._producer: KafkaProducer | None = None

    def append(self, facts: Sequence[FenceFact]) -> None:
        """Return once all in-sync replicas have every fact; `Unavailable` otherwise."""
        if not facts:
            return
        try:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._bootstrap.split(","), acks="all", linger_ms=0
                )
            sent = []
            for fact in facts:
                key, value = encode_fact(fact)
                sent.append(self._producer.send(self._topic, value, key, headers=HEADERS))
            for acknowledgement in sent:
                acknowledgement.get(30)
        except KafkaError as error:
            raise Unavailable(f"Kafka: {type(error).__name__}") from error

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=5)


def replay(
    bootstrap: str,
    prefix: str,
    apply: Callable[[Sequence[FenceFact]], None],
    positions: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Apply every fact from `positions` (by partition; else the start) to the present end.

    Returns the ends. Raises `Misconfigured` at a record that is no fact: to pass it over could
    revive the forgotten.
    """
    topic = prefix + Topic.FENCES
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=PAGE,
        )
        try:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            for tp in partitions:
                consumer.seek(tp, (positions or {}).get(tp.partition, 0))
            while any(consumer.position(tp) < ends[tp] for tp in partitions):
                for records in consumer.poll(timeout_ms=500).values():
                    apply([_fact(r) for r in records if not _is_marker(r)])
        finally:
            consumer.close(autocommit=False)
    except KafkaError as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error
    return {tp.partition: end for tp, end in ends.items()}


def _is_marker(record: object) -> bool:
    value, headers = record.value, record.headers  # type: ignore[attr-defined]  # kafka-python
    return value is None or ("ce_type", HEARTBEAT.encode()) in headers


def _fact(record: object) -> FenceFact:
    try:
        return decode_fact(record.value)  # type: ignore[attr-defined]  # kafka-python
    except ValueError as error:
        place = f"{record.topic}[{record.partition}]@{record.offset}"  # type: ignore[attr-defined]  # kafka-python
        raise Misconfigured(
            f"{place} is no fact of forgetting ({error}); a newer version may have written it"
        ) from error
