"""The four roles: decode, call the memory, say what happened. Delivery is not their business."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Generic, TypeVar

from memory.errors import Reason, Rejected
from memory.model.answers import Findings, Prediction
from memory.model.events import Correction, Forget, Ingest, LogPartition, Prune
from memory.model.keys import SelectorKey
from memory.model.outcomes import Merged, Outcome, Refused
from memory.model.questions import Query, Review
from memory.model.reliability import Pruning
from memory.model.times import SECOND
from memory.service import VisualMemory
from streams.contract import encoding
from streams.contract.forgetting import Cancel, Scheduled
from streams.contract.messages import Answer, Cancellation, QueryEvent, Receipt
from streams.contract.records import Marker, OutgoingRecord, Record
from streams.workers.metrics import (
    EVENTS,
    FRESHNESS_SECONDS,
    IMAGES_FORGOTTEN,
    PRUNED_ANSWERS,
    QUERY,
    REJECTED,
    REVIVALS_BLOCKED,
    SHARED_IDS,
    observe_stage,
)
from streams.workers.waiting import Batcher, WaitingRoom, Watch

_T = TypeVar("_T")
E = TypeVar("E", bound=Ingest | Correction | Prune)


SEARCHED_AT_ONCE = 16
"""Questions, at most: while some are searched, the answers of others are written and sent."""
UNKNOWN = "a position asked for is in a log, or a partition, that this memory does not read"
LOST = "the log was cut off before a position asked for; send again what was written there"


def rejection(
    role: str, record: Record, why: Rejected, admitted_after: int | None = None
) -> OutgoingRecord:
    """Count a rejection and make its record, which quotes nothing of the event."""
    EVENTS.labels(role, "rejected").inc()
    REJECTED.labels(role, str(why.reason)).inc()
    return encoding.encode_rejection(record, why, admitted_after=admitted_after)


def refusal(
    record: Record, why: Rejected, reply_address: tuple[str, int] | None
) -> list[OutgoingRecord]:
    """Tell both the log and, if the record says who asks, the asker."""
    outgoing = [rejection("query", record, why)]
    if reply_address is not None:
        query_id, partition = reply_address
        answer = Answer(
            query=query_id, status="rejected", reason=str(why.reason), detail=why.detail
        )
        outgoing.append(encoding.encode_prediction(answer, partition))
    return outgoing


def _decoded(
    role: str, records: Sequence[Record], decode: Callable[[Record], _T | Marker]
) -> tuple[list[tuple[Record, _T]], list[OutgoingRecord]]:
    """Events of the records, and rejections of those that cannot be read."""
    events: list[tuple[Record, _T]] = []
    outgoing: list[OutgoingRecord] = []
    for record in records:
        try:
            event = decode(record)
        except Rejected as why:
            outgoing.append(rejection(role, record, why))
            continue
        if isinstance(event, Marker):
            EVENTS.labels(role, str(event)).inc()
        else:
            events.append((record, event))
    return events, outgoing


class WritingAgent(Generic[E]):
    """Merges images or corrections; both roles differ only in how they decode and merge."""

    def __init__(
        self,
        role: str,
        decode: Callable[[Record], E | Marker],
        merge: Callable[[Sequence[E]], list[Outcome]],
    ) -> None:
        self._role = role
        # To look them up costs an event more than to count it.
        self._merged, self._superseded = (
            EVENTS.labels(role, outcome) for outcome in ("merged", "superseded")
        )
        self._freshness = FRESHNESS_SECONDS.labels(role)
        self._decode: Callable[[Record], E | Marker] = decode
        self._merge: Callable[[Sequence[E]], list[Outcome]] = merge

    def __call__(self, records: Sequence[Record]) -> list[OutgoingRecord]:
        started = time.perf_counter()
        events, outgoing = _decoded(self._role, records, self._decode)
        if events:
            outcomes = self._merge([event for _, event in events])
            for (record, event), outcome in zip(events, outcomes, strict=True):
                outgoing.extend(self._report(record, event, outcome))
            observe_stage(self._role, time.perf_counter() - started)
        return outgoing

    def _report(self, record: Record, event: E, outcome: Outcome) -> list[OutgoingRecord]:
        match outcome:
            case Merged(won, shared_id):
                if shared_id:
                    SHARED_IDS.inc()
                (self._merged if won else self._superseded).inc()
                self._freshness.observe(max(0.0, time.time() - event.time / SECOND))
                return []
            case Refused(admitted_after):
                REVIVALS_BLOCKED.inc()
                why = Rejected(
                    Reason.FORGOTTEN, "what this event is about is forgotten; see admitted_after"
                )
                return [rejection(self._role, record, why, admitted_after)]
            case Rejected():
                return [rejection(self._role, record, outcome)]


class ForgetAgent:
    """Carries out forget-requests and tells their stages."""

    def __init__(
        self,
        memory: VisualMemory,
        decode: Callable[[Record], Forget | Scheduled | Cancel | Marker],
        name: str,
    ) -> None:
        """`name` is what receipts call this memory."""
        self._memory = memory
        self._decode = decode
        self._name = name

    def __call__(self, records: Sequence[Record]) -> list[OutgoingRecord]:
        requests: list[tuple[Record, Forget | Scheduled | Cancel]]
        requests, outgoing = _decoded("forget", records, self._decode)
        for record, event in requests:
            if isinstance(event, Cancel):
                outgoing.append(encoding.encode_cancellation(self._note(event)))
            elif isinstance(event, Scheduled) and not self._is_due(event):
                outgoing.append(encoding.encode_receipt(self._schedule(record, event.request)))
            else:
                request = event.request if isinstance(event, Scheduled) else event
                outgoing.append(encoding.encode_receipt(self._carry_out(record, request)))
        return outgoing

    def _note(self, event: Cancel) -> Cancellation:
        EVENTS.labels("forget", "cancel").inc()
        return Cancellation(event.request_id, event.cancel_id, event.time, memory=self._name)

    def _is_due(self, event: Scheduled) -> bool:
        return event.due == self._memory.index.due_key(event.request.request_id)

    def _schedule(self, record: Record, request: Forget) -> Receipt:
        EVENTS.labels("forget", "scheduled").inc()
        digests = self._digests(request)
        return Receipt.plan(request, digests, self._name, **_place_of(record))

    def _digests(self, request: Forget) -> list[SelectorKey]:
        return list(map(self._memory.index.selector_key, request.selectors))

    def _carry_out(self, record: Record, request: Forget) -> Receipt:
        started = time.perf_counter()
        done = self._memory.forget(request)
        observe_stage("forget", time.perf_counter() - started)
        digests = self._digests(request)
        receipt = Receipt.of(request, digests, done, self._name, **_place_of(record))
        EVENTS.labels("forget", "erased" if receipt.status == "matched" else receipt.status).inc()
        IMAGES_FORGOTTEN.inc(0 if done.repeated else done.images)
        return receipt


def _place_of(record: Record) -> dict[str, int]:
    return {"partition": record.partition, "offset": record.offset}


class QueryAgent:
    """Answers questions: waits for what they must have seen, then asks the memory.

    Questions that wait while a search runs are searched together next.
    """

    def __init__(
        self,
        memory: VisualMemory,
        decode: Callable[[Record], QueryEvent | Marker],
        reply_address: Callable[[Record], tuple[str, int] | None],
        in_thread: Callable[..., Awaitable[Any]],
        positions: Callable[[], Awaitable[Mapping[LogPartition, int]]],
        place_free: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """`place_free` gives up this worker's place for a question as long as it waits."""
        self._decode = decode
        self._reply_address = reply_address
        self._recall: Batcher[Query, Prediction | Rejected] = Batcher(
            lambda queries: in_thread(memory.recall, queries), at_most=SEARCHED_AT_ONCE
        )
        # One at a time: it may take long, and questions go on beside it.
        self._review: Batcher[Review, Findings | Rejected] = Batcher(
            lambda asked: in_thread(lambda: [memory.review(one) for one in asked]), at_most=1
        )
        self._watch = Watch(positions)
        self._memory, self._in_thread = memory, in_thread
        self._room = WaitingRoom()
        self._place_free = place_free

    async def __call__(self, record: Record) -> list[OutgoingRecord]:
        started = time.perf_counter()
        try:
            event = self._decode(record)
        except Rejected as why:
            return self._refused(record, why)
        if isinstance(event, Marker):
            EVENTS.labels("query", str(event)).inc()
            return []
        answer = await self._answer(event, len(record.value or b""))
        if isinstance(answer, Rejected):
            return self._refused(record, answer)
        EVENTS.labels("query", answer.status).inc()
        QUERY.observe(time.perf_counter() - started)
        return [encoding.encode_prediction(answer, event.reply_partition)]

    def _refused(self, record: Record, why: Rejected) -> list[OutgoingRecord]:
        return refusal(record, why, self._reply_address(record))

    async def _answer(self, event: QueryEvent, size: int) -> Answer | Rejected:
        remaining = event.deadline / SECOND - time.time()
        if remaining <= 0:
            return Answer(
                query=event.query_id, status="expired", detail="the question is past its deadline"
            )
        if event.after and (why := await self._wait(event, size, remaining)):
            return Answer(query=event.query_id, status="stale", detail=why)
        if isinstance(event.query, Review):
            found = await self._review.submit(event.query)
            if isinstance(found, Rejected):
                return found
            return Answer(query=event.query_id, status="answered", review=found)
        prediction = await self._recall.submit(event.query)
        if isinstance(prediction, Rejected):
            return prediction
        if prediction.pruning is not Pruning.NONE:
            PRUNED_ANSWERS.labels(prediction.pruning).inc()
        return Answer.of(event.query_id, prediction)

    async def _wait(self, event: QueryEvent, size: int, remaining: float) -> str:
        """Why the memory has not come to what the question must have seen; nothing if it has."""
        if why := await self._in_thread(self._doubt, event):
            return str(why)
        with self._room.seat(event.source, size) as has_room:
            if not has_room:
                return "too many questions of this asker, or of all, wait already; ask again later"
            async with self._place_free():
                came = await self._watch.wait_for(event.after, remaining)
        if not came:
            return "the memory has not come to the positions asked for; ask again"
        # It may have been cut meanwhile.
        return str(await self._in_thread(self._doubt, event))

    def _doubt(self, event: QueryEvent) -> str:
        """Why the memory can never come to what the question must have seen; nothing if it can."""
        if not all(map(self._memory.knows, event.after)):
            return UNKNOWN
        return LOST if self._memory.has_lost(event.after) else ""
