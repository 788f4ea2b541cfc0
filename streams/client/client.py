"""For upstream applications: tell a memory images, correct it, make it forget, ask it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, Unpack

from memory.errors import Reason, Rejected, Unavailable
from memory.model.answers import Findings, Position
from memory.model.questions import DEFAULT_LISTED, About, Query, Review
from memory.model.reliability import HARD_FROM
from memory.model.times import now_us
from streams.client.asking import Asked, query_of
from streams.client.forgetting import Forgetting
from streams.client.images import Image, payload_of
from streams.client.replies import GRACE_SECONDS, Rejections, Replies, await_answer
from streams.client.sending import Pending, Sender
from streams.contract import cloudevents, encoding
from streams.contract.messages import DEFAULT_TIMEOUT, Answer
from streams.contract.records import OutgoingRecord
from streams.contract.signing import SigningKey
from streams.contract.topics import MAX_RECORD, Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.errors import as_memory_error
from streams.kafka.reading import Tail


class MemoryClient(Forgetting):
    """A client of one memory; safe for many threads. Connects when it first has to.

    `source` names the application in every event. `prefix` is the deployment's topic prefix,
    `clock` gives µs, `max_record_bytes` bounds an image, requests to forget are signed with `request_key` (Ed25519), `security` holds kafka-python's SASL
    and TLS arguments. All methods raise `Rejected` at once for what the memory would reject
    and the client can see, `Unavailable` when Kafka is away, `Misconfigured` when a topic is
    missing.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        source: str,
        prefix: str = "",
        clock: Callable[[], int] = now_us,
        max_record_bytes: int = MAX_RECORD,
        request_key: bytes | None = None,
        **security: Any,
    ) -> None:
        cluster = KafkaCluster(bootstrap, prefix, security)
        super().__init__(
            cluster,
            Sender(cluster, max_record_bytes),
            source=source,
            clock=clock,
            request_key=None if request_key is None else SigningKey(request_key),
        )
        self._replies = Replies(self._cluster)
        self._tails: list[Tail] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ingest(
        self,
        image: Image,
        *,
        id: str,  # noqa: A002 - the contract's word
        label: str,
        subjects: Sequence[str] = (),
        embedder: str | None = None,
        attributes: Mapping[str, str] = cloudevents.NO_ATTRIBUTES,
        time: int | None = None,
        event_id: str | None = None,
    ) -> Pending:
        """Send an image's bytes, file or claim, or a vector, shape (dim,), with its embedder.

        `id` is one space for all sources: what another source sends under it replaces this image, so
        let it begin with what is yours alone (``shop/photo-17``). `time` is when it came to be, µs.
        Events are sent in batches; `Pending.position` waits.
        """
        said = {"image_id": id, "label": label, "subjects": subjects, "attributes": attributes}
        payload = payload_of(image, embedder, self._sender.check_size)
        return self._tell(encoding.encode_ingest, event_id, time, **said, payload=payload)

    def correct(
        self,
        id: str,  # noqa: A002 - the contract's word
        label: str | None,
        *,
        time: int | None = None,
        event_id: str | None = None,
    ) -> Pending:
        """Give an image the label a person says it has; None withdraws an earlier one."""
        said = {"image_id": id, "label": label}
        return self._tell(encoding.encode_correction, event_id, time, **said)

    def prune(
        self,
        id: str,  # noqa: A002 - the contract's word
        *,
        undo: bool = False,
        time: int | None = None,
        event_id: str | None = None,
    ) -> Pending:
        """Leave an image out of all answers, or let it take part again. It is not forgotten."""
        said = {"image_id": id, "pruned": not undo}
        return self._tell(encoding.encode_pruning, event_id, time, **said)

    def _tell(
        self,
        encode: Callable[..., OutgoingRecord],
        event_id: str | None,
        time: int | None,
        **said: Any,
    ) -> Pending:
        event_id = event_id or uuid.uuid4().hex
        named = {"source": self._source, "event_id": event_id}
        record = encode(**named, time=self._clock() if time is None else time, **said)
        return Pending(event_id, *self._sender.send(record))

    def query(
        self,
        image: Image | None = None,
        *,
        after: Sequence[Position] = (),
        timeout: float = DEFAULT_TIMEOUT,
        **asked: Unpack[Asked],
    ) -> Answer:
        """Ask what an image, a vector or a remembered item is; see `ask`."""
        return await_answer(self.ask(image, after=after, timeout=timeout, **asked), timeout)

    def ask(
        self,
        image: Image | None = None,
        *,
        after: Sequence[Position] = (),
        timeout: float = DEFAULT_TIMEOUT,
        **asked: Unpack[Asked],
    ) -> Future[Answer]:
        """The future of an answer that rests at least on the records at `after`; see `Asked`.

        A memory that has not come to them within `timeout` seconds answers ``stale``. Without
        any answer the future fails with `Unavailable` a second later.
        """
        return self._ask(query_of(image, self._sender.check_size, **asked), after, timeout)

    def review(
        self,
        about: str,
        *,
        count: int = DEFAULT_LISTED,
        least: int = HARD_FROM,
        image: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Findings:
        """Look the memory through for ``suspects`` (labels that are doubted), for what ``pruning`` of
        items of a wrong count from `least` on would change, or for the ``influence`` of items, or of
        one image.

        At most `count` are listed. Raises `Rejected` with ``not-counted`` where there are no wrong
        counts, or not yet.
        """
        if about not in set(About):
            raise Rejected(Reason.INVALID_HEADER, f"a review is about {', '.join(About)}")
        asked = Review(About(about), count, least, image)
        answer = await_answer(self._ask(asked, (), timeout), timeout)
        if answer.review is not None:
            return answer.review
        if answer.status != "rejected":
            raise Unavailable("no answer came in time; ask again")
        reason = answer.reason if answer.reason in set(Reason) else Reason.INTERNAL
        raise Rejected(Reason(reason), answer.detail or "")

    def _ask(
        self, query: Query | Review, after: Sequence[Position], timeout: float
    ) -> Future[Answer]:
        query_id = uuid.uuid4().hex

        def encode(partition: int) -> OutgoingRecord:
            return encoding.encode_query(
                source=self._source,
                event_id=query_id,
                time=self._clock(),
                query=query,
                reply_partition=partition,
                after=after,
                timeout=timeout,
            )

        encode(0)  # what cannot be asked is told before anything is awaited
        partition, answer = self._replies.expect(query_id, timeout + GRACE_SECONDS)
        try:
            # At one asker a lingering producer would be most of the latency.
            sent, _ = self._sender.send(encode(partition), linger_ms=0)
        except Exception as error:
            self._replies.fail(query_id, error)
            raise
        sent.add_errback(lambda error: self._replies.fail(query_id, as_memory_error(error)))
        return answer

    def rejections(self, start: Mapping[int, int] | None = None) -> Rejections:
        """Rejections from these offsets on, by partition, or from now on. For one thread."""
        name = self._cluster.full_name(Topic.REJECTED)
        offsets = None if start is None else {(name, p): offset for p, offset in start.items()}
        tail = Tail(self._cluster, [name], offsets)
        with self._lock:
            self._tails.append(tail)
        return Rejections(tail)

    def flush(self, timeout: float = 60.0) -> None:
        """Return when everything sent so far is acknowledged or has failed."""
        self._sender.flush(timeout)

    def close(self, timeout: float = 60.0) -> None:
        """Send what waits, then disconnect. Questions without an answer fail."""
        with self._lock:
            tails, self._tails = self._tails, []
            if self._outcomes is not None:
                tails.append(self._outcomes)
        self._replies.close()
        for tail in tails:
            tail.close()
        self._sender.close(timeout)
