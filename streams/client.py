"""For upstream applications: produce events, ask questions, see what became of them."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError

from memory.errors import Reason, Rejected, Unavailable
from memory.model import (
    ImagePayload,
    ItemRef,
    Payload,
    Position,
    Query,
    Rule,
    Selector,
    SelectorKind,
    VectorPayload,
)
from streams import codec, topics
from streams.events import (
    DEFAULT_K,
    Answer,
    OutgoingRecord,
    Receipt,
    Record,
    Rejection,
    Topic,
)

Image = bytes | Path | npt.NDArray[np.floating[Any]]


class Pending:
    """A write on its way."""

    def __init__(self, sent: Any, topic: str, topic_id: str) -> None:
        self._sent = sent
        self._topic = topic
        self._topic_id = topic_id

    def position(self, timeout: float = 30.0) -> Position:
        """Where in the log the event stands, once all in-sync replicas have it.

        Raises `Unavailable` when that is not known within `timeout` seconds; the producer may
        still deliver it.
        """
        try:
            written = self._sent.get(timeout)
        except KafkaError as error:
            raise Unavailable(f"Kafka: {type(error).__name__}") from error
        return Position(self._topic, self._topic_id, written.partition, written.offset)


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """A forget-request in the log. `request_id` names it in receipts."""

    request_id: str
    position: Position


class MemoryClient:
    """A memory, seen from an application. Safe to share between threads.

    `source` names the application: it is the `ce_source` of its events, and a forget-request
    may name it. Raises `Rejected` for input that no memory would take and `Unavailable` when
    Kafka does not answer. `kafka_options` go to every Kafka client (TLS, SASL).
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        source: str,
        prefix: str = "",
        max_record_bytes: int = 1 << 20,
        linger: float = 0.005,
        clock: Callable[[], float] = time.time,
        kafka_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._prefix = prefix
        self._max_record_bytes = max_record_bytes
        self._clock = clock
        self._options = {"bootstrap_servers": bootstrap.split(","), **(kafka_options or {})}
        names = [prefix + topic for topic in Topic]
        self._topic_ids = topics.topic_ids(bootstrap, names)
        limits = {"max_request_size": max_record_bytes + topics.HEADER_ROOM}
        with _mapped():
            self._producer = KafkaProducer(
                **self._options, **limits, acks="all", linger_ms=round(1000 * linger)
            )
            # Lingering would delay every question of a single asker.
            self._asker = KafkaProducer(
                **self._options, **limits, acks=1, linger_ms=0, enable_idempotence=False
            )
        self._replies: _Replies | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float = 30.0) -> None:
        """Send what is on its way and free the connections."""
        with _mapped():
            self._producer.flush(timeout)
            self._producer.close(timeout)
            self._asker.close(timeout)
        if self._replies is not None:
            self._replies.close()

    def flush(self, timeout: float = 30.0) -> None:
        """Return once everything written is acknowledged."""
        with _mapped():
            self._producer.flush(timeout)

    def ingest(
        self,
        image: Image,
        *,
        id: str,  # noqa: A002 - the contract's word
        label: str,
        subjects: Sequence[str] = (),
        embedder: str | None = None,
        attributes: Mapping[str, str] | None = None,
        time: float | None = None,
        event_id: str | None = None,
    ) -> Pending:
        """Teach an image: encoded bytes, a file, or a vector that names its embedder.

        `time` is when it was so, seconds since the epoch (now). Repeating an `event_id` with
        the same content changes nothing.
        """
        record = codec.encode_ingest(
            payload=_payload(image, embedder),
            image_id=id,
            label=label,
            source=self._source,
            time=self._time(time),
            event_id=event_id or uuid.uuid4().hex,
            subjects=subjects,
            attributes=attributes or {},
        )
        return self._write(record)

    def correct(
        self,
        id: str,  # noqa: A002 - the contract's word
        label: str | None,
        *,
        time: float | None = None,
        event_id: str | None = None,
    ) -> Pending:
        """Give an image the label a person says it has; None withdraws an earlier one."""
        record = codec.encode_correction(
            image_id=id,
            label=label,
            source=self._source,
            time=self._time(time),
            event_id=event_id or uuid.uuid4().hex,
        )
        return self._write(record)

    def forget(
        self,
        *,
        image: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        label: str | None = None,
        permanent: bool = False,
        event_id: str | None = None,
    ) -> ForgetRequest:
        """Ask to forget exactly one of an image, a subject, a source or a label."""
        given = {"image": image, "subject": subject, "source": source, "label": label}
        named = [(kind, value) for kind, value in given.items() if value is not None]
        if len(named) != 1:
            raise Rejected(Reason.INVALID_SELECTOR, f"name exactly one of {', '.join(given)}")
        ((kind, value),) = named
        record = codec.encode_forget(
            selector=Selector(SelectorKind(kind), value),
            permanent=permanent,
            source=self._source,
            time=self._time(None),
            event_id=event_id or uuid.uuid4().hex,
        )
        return ForgetRequest(record.key.decode(), self._write(record).position())

    def query(
        self,
        image: Image | None = None,
        *,
        item: str | None = None,
        embedder: str | None = None,
        k: int | None = None,
        rule: str | None = None,
        after: Position | Sequence[Position] = (),
        timeout: float = 30.0,
    ) -> Answer:
        """Ask what an image is; see `query_async`. Raises `Unavailable` when nobody answers."""
        asked = self.query_async(
            image, item=item, embedder=embedder, k=k, rule=rule, after=after, timeout=timeout
        )
        try:
            # The worker says "stale" or "expired" at the deadline; give that time to arrive.
            return asked.result(timeout + 5)
        except FutureTimeoutError:
            raise Unavailable(f"no answer within {timeout:g} s; is a query worker up?") from None

    def query_async(
        self,
        image: Image | None = None,
        *,
        item: str | None = None,
        embedder: str | None = None,
        k: int | None = None,
        rule: str | None = None,
        after: Position | Sequence[Position] = (),
        timeout: float = 30.0,
    ) -> Future[Answer]:
        """Ask with an image, a vector (naming its embedder) or a remembered `item`'s id.

        The answer has seen everything up to the positions in `after`, or says "stale" when
        the memory has not come there within `timeout` seconds.
        """
        if (image is None) == (item is None):
            raise Rejected(Reason.INVALID_PAYLOAD, "ask with either an image or an item")
        payload = ItemRef(item) if item is not None else _payload(image, embedder)  # type: ignore[arg-type]  # one of both
        replies = self._reading()
        query_id = uuid.uuid4().hex
        record = codec.encode_query(
            query=Query(
                payload,
                k=DEFAULT_K if k is None else k,
                rule=Rule.RANK if rule is None else codec.as_rule(rule),
            ),
            after=[after] if isinstance(after, Position) else after,
            timeout=timeout,
            reply_partition=replies.partition,
            source=self._source,
            time=self._time(None),
            event_id=query_id,
        )
        future = replies.expect(query_id, timeout + 10)
        self._send(self._asker, record)
        return future

    def receipt(self, request: ForgetRequest, stage: str, timeout: float = 60.0) -> Receipt:
        """Wait for a stage of a forget-request. Raises `Unavailable` when it does not come."""
        deadline = time.monotonic() + timeout
        with self._tail(Topic.FORGET_RECEIPT, from_start=True) as consumer:
            while time.monotonic() < deadline:
                for record in _polled(consumer):
                    receipt = codec.decode_receipt(Record.of(record))
                    if (
                        isinstance(receipt, Receipt)
                        and receipt.request == request.request_id
                        and stage in receipt.stages
                    ):
                        return receipt
        raise Unavailable(f"the request did not come to {stage!r} within {timeout:g} s")

    def rejections(self) -> Rejections:
        """Rejections from now on."""
        return Rejections(self._consumer(Topic.REJECTED, from_start=False))

    def _time(self, given: float | None) -> int:
        return round((self._clock() if given is None else given) * 1_000_000)

    def _write(self, record: OutgoingRecord) -> Pending:
        name = self._prefix + record.topic
        return Pending(self._send(self._producer, record), name, self._topic_ids[name])

    def _send(self, producer: KafkaProducer, record: OutgoingRecord) -> Any:
        with _mapped():
            try:
                return producer.send(
                    self._prefix + record.topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    partition=record.partition,
                )
            except MessageSizeTooLargeError:
                raise Rejected(
                    Reason.IMAGE_TOO_LARGE,
                    f"the event has {record.size} bytes, the limit is "
                    f"{self._max_record_bytes}; scale the image down, or raise "
                    "max_image_bytes here, in the workers and on the topics",
                ) from None

    def _reading(self) -> _Replies:
        with self._lock:
            if self._replies is None:
                self._replies = _Replies(self._options, self._prefix + Topic.PREDICTION)
            return self._replies

    def _consumer(self, topic: Topic, *, from_start: bool) -> KafkaConsumer:
        with _mapped():
            consumer = KafkaConsumer(**self._options, enable_auto_commit=False)
            name = self._prefix + topic
            partitions = [
                TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))
            ]
            consumer.assign(partitions)
            if from_start:
                consumer.seek_to_beginning(*partitions)
            else:
                for tp, end in consumer.end_offsets(partitions).items():
                    consumer.seek(tp, end)
            return consumer

    @contextlib.contextmanager
    def _tail(self, topic: Topic, *, from_start: bool) -> Iterator[KafkaConsumer]:
        consumer = self._consumer(topic, from_start=from_start)
        try:
            yield consumer
        finally:
            consumer.close(autocommit=False)


class Rejections:
    """Reads the topic `rejected`."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def poll(self, until_quiet: float = 0.5) -> list[Rejection]:
        """Rejections since last asked; returns after `until_quiet` seconds without one."""
        found: list[Rejection] = []
        while records := _polled(self._consumer, until_quiet):
            found += [
                rejection
                for record in records
                if isinstance(rejection := codec.decode_rejection(Record.of(record)), Rejection)
            ]
        return found

    def close(self) -> None:
        self._consumer.close(autocommit=False)


class _Replies:
    """Reads one partition of the predictions in a thread and hands answers to their askers."""

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        with _mapped():
            self._consumer = KafkaConsumer(
                **options, enable_auto_commit=False, fetch_max_wait_ms=500
            )
            partitions = sorted(self._consumer.partitions_for_topic(topic))
            self.partition: int = random.choice(partitions)  # noqa: S311 - spreads load only
            tp = TopicPartition(topic, self.partition)
            self._consumer.assign([tp])
            self._consumer.seek(tp, self._consumer.end_offsets([tp])[tp])
        self._waiting: dict[str, tuple[Future[Answer], float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="predictions", daemon=True)
        self._thread.start()

    def expect(self, query_id: str, timeout: float) -> Future[Answer]:
        future: Future[Answer] = Future()
        with self._lock:
            self._waiting[query_id] = (future, time.monotonic() + timeout)
        return future

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)
        self._consumer.close(autocommit=False)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            future.set_exception(Unavailable("the client was closed"))

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                records = _polled(self._consumer, 0.2)
            except Unavailable:
                time.sleep(0.5)
                continue
            for record in records:
                headers = dict(record.headers)
                query_id = headers.get("ce_queryid", b"").decode(errors="replace")
                with self._lock:
                    expected = self._waiting.pop(query_id, None)
                if expected is not None and record.value is not None:
                    expected[0].set_result(Answer.from_json(json.loads(record.value)))
            self._drop_late()

    def _drop_late(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [query_id for query_id, (_, end) in self._waiting.items() if end < now]
            futures = [self._waiting.pop(query_id)[0] for query_id in late]
        for future in futures:
            future.set_exception(Unavailable("no answer in time; is a query worker up?"))


def _payload(image: Image, embedder: str | None) -> Payload:
    if isinstance(image, np.ndarray):
        if embedder is None:
            raise Rejected(Reason.OTHER_EMBEDDER, "a vector must name its embedder")
        return VectorPayload(np.asarray(image, np.float32), embedder)
    return ImagePayload(image.read_bytes() if isinstance(image, Path) else image)


def _polled(consumer: KafkaConsumer, seconds: float = 0.2) -> list[Any]:
    with _mapped():
        batches = consumer.poll(timeout_ms=round(1000 * seconds))
    return [record for records in batches.values() for record in records]


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise Unavailable(f"Kafka: {type(error).__name__}") from error
