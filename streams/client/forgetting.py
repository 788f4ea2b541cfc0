"""Asking a memory to forget, and what becomes of it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memory.errors import Reason, Rejected
from memory.model.events import Selector, Surroundings
from streams.client.receipts import await_cancel, await_receipt
from streams.client.sending import ForgetRequest, Sender
from streams.contract import encoding
from streams.contract.forgetting import check_request, sign_request
from streams.contract.messages import Receipt
from streams.contract.records import OutgoingRecord
from streams.contract.signing import SigningKey
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.kafka.reading import Tail


class Forgetting:
    """The part of a `MemoryClient` that makes the memory forget."""

    def __init__(
        self,
        cluster: KafkaCluster,
        sender: Sender,
        *,
        source: str,
        clock: Callable[[], int],
        request_key: SigningKey | None,
    ) -> None:
        self._cluster, self._sender = cluster, sender
        self._source, self._clock, self._request_key = source, clock, request_key
        self._lock = threading.Lock()
        self._outcomes: Tail | None = None

    def forget(
        self,
        *,
        image: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        label: str | None = None,
        near: Sequence[str] = (),
        within: float | None = None,
        permanent: bool = False,
        not_before: int | None = None,
        event_id: str | None = None,
    ) -> ForgetRequest:
        """Ask to forget an image, all of a subject or a source, or what has a label then.

        Or what is within a cosine distance of the images `near` then, these too, of any label.
        `not_before`, µs, is when to carry it out; until then it can be stopped: see `cancel`.
        """
        event_id = event_id or uuid.uuid4().hex
        record = encoding.encode_forget(
            source=self._source,
            event_id=event_id,
            time=self._clock(),
            selector=selector_of(
                near, within, image=image, subject=subject, source=source, label=label
            ),
            permanent=permanent,
            not_before=not_before,
        )
        return self._request(event_id, record)

    def cancel(self, request: ForgetRequest | str, timeout: float = 60.0) -> bool:
        """Stop a request that is to be carried out later, also by the id that its receipts name.

        Whether it is stopped; False where it was to be carried out by then, or is. Raises
        `Unavailable` if neither is said in time.
        """
        request_id = request if isinstance(request, str) else request.request_id
        event_id = uuid.uuid4().hex
        record = encoding.encode_cancel(
            source=self._source, event_id=event_id, time=self._clock(), request_id=request_id
        )
        check_request(record)
        sent = self._request(event_id, record)
        return await_cancel(self._cluster, sent, request_id, timeout)

    def forget_for(self, request: Mapping[str, Any]) -> ForgetRequest:
        """Ask to forget as a data subject's request says, in OpenDSR's form (docs/forgetting.md).

        Sent again it is the same request. Raises `Rejected` for what the memory would reject.
        """
        event_id = str(request.get("subject_request_id"))
        record = encoding.encode_subject_request(
            source=self._source, event_id=event_id, time=self._clock(), request=request
        )
        check_request(record)
        return self._request(event_id, record)

    def _request(self, event_id: str, record: OutgoingRecord) -> ForgetRequest:
        if self._request_key is not None:
            record = sign_request(record, self._request_key)
        # Taken before the request is sent: what is said about it comes behind.
        start = self._outcome_ends()
        return ForgetRequest(event_id, *self._sender.send(record), record.key.decode(), start)

    def receipt(
        self, request: ForgetRequest | str, stage: str = "erased", timeout: float = 60.0
    ) -> Receipt:
        """The first receipt that says a request has come to a stage.

        A request made elsewhere is named by its id; the receipts are then read from the start.
        Raises `Rejected` if the request was, `Unavailable` if no receipt comes in time.
        """
        return await_receipt(self._cluster, request, stage, timeout)

    def _outcome_ends(self) -> dict[tuple[str, int], int]:
        """Where the next receipt and the next rejection will stand."""
        with self._lock:
            if self._outcomes is None:
                names = list(map(self._cluster.full_name, (Topic.FORGET_RECEIPT, Topic.REJECTED)))
                self._outcomes = Tail(self._cluster, names)
            return self._outcomes.ends()


def selector_of(
    near: Sequence[str], within: float | None, **named: str | None
) -> Selector | Surroundings:
    """The one thing that is to be forgotten. Raises `Rejected`."""
    if within is None and not near:
        return Selector.of(**named)
    if within is None or not near or any(value is not None for value in named.values()):
        raise Rejected(
            Reason.INVALID_SELECTOR,
            "what is near images is named by these and a distance, and by nothing else",
        )
    return Surroundings(tuple(near), within)
