"""The four roles, with plain fakes of what they call; see test_waiting.py for what waits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest.mock import Mock, patch

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from memory.errors import Misconfigured, Reason, Rejected, Unavailable
from memory.exact.index import ExactIndex
from memory.model.answers import Findings, Position, Prediction
from memory.model.events import (
    Correction,
    Forget,
    Ingest,
    LogPartition,
    Payload,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.logs import Cut
from memory.model.outcomes import Forgotten, Merged, Outcome, Refused
from memory.model.questions import About, ItemRef, Query, Review
from memory.model.reliability import Pruning
from memory.model.times import NEVER, make_stamp, now_us
from memory.service import VisualMemory
from streams.contract import encoding, questions
from streams.contract.forgetting import Cancel, Scheduled
from streams.contract.messages import QueryEvent
from streams.contract.records import Marker, OutgoingRecord, Record
from streams.contract.topics import Topic
from streams.workers.agents import SEARCHED_AT_ONCE, ForgetAgent, QueryAgent, WritingAgent
from streams.workers.handlers import influence_writer
from streams.workers.waiting import Batcher, Watch

SECRET = "ada lovelace"
NOW = time.time_ns() // 1000
AT = Position("image-ingest", "t", 0, 7)


def record(
    offset: int, *, headers: Sequence[tuple[str, bytes]] = (), topic: str = "p-in"
) -> Record:
    return Record(topic, 3, offset, b"key", SECRET.encode(), tuple(headers), NOW)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def said(outgoing: OutgoingRecord) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(outgoing.value or b"")
    return body


def ingest(offset: int, *, time: int = NOW) -> Ingest:
    vector = VectorPayload(np.ones(2, np.float32), "test")
    return Ingest(make_stamp(time, str(offset)), f"i{offset}", "cat", "camera", vector, "")


def writing(
    outcomes: Mapping[int, Outcome | Rejected | Marker], role: str = "ingest"
) -> tuple[WritingAgent[Ingest], list[list[str]]]:
    """An agent for which the record at an offset ends as told; and what was merged together."""
    merged: list[list[str]] = []

    def decode(found: Record) -> Ingest | Marker:
        outcome = outcomes[found.offset]
        if isinstance(outcome, Marker):
            return outcome
        if isinstance(outcome, Rejected) and outcome.reason is Reason.MISSING_HEADER:
            raise outcome
        return ingest(found.offset)

    def merge(events: Sequence[Ingest]) -> list[Outcome]:
        merged.append([event.image_id for event in events])
        return [cast("Outcome", outcomes[int(event.image_id[1:])]) for event in events]

    return WritingAgent(role, decode, merge), merged


UNREADABLE = Rejected(Reason.MISSING_HEADER, "the header ce_id is missing")
BROKEN = Rejected(Reason.TRUNCATED_IMAGE, "the image is broken")


def test_what_is_merged_needs_no_word() -> None:
    agent, merged = writing({0: Merged(won=True), 1: Merged(won=False)})
    assert agent([record(0), record(1)]) == []
    assert merged == [["i0", "i1"]]


def test_a_rejection_names_the_place_and_the_reason_and_quotes_nothing() -> None:
    agent, merged = writing({4: UNREADABLE, 5: Merged(won=True), 6: BROKEN})
    outgoing = agent([record(n) for n in (4, 5, 6)])
    assert merged == [["i5", "i6"]]
    assert [said(o) for o in outgoing] == [
        {
            "reason": why.reason,
            "detail": why.detail,
            "topic": "p-in",
            "partition": 3,
            "offset": offset,
        }
        for offset, why in [(4, UNREADABLE), (6, BROKEN)]
    ]
    assert {o.topic for o in outgoing} == {Topic.REJECTED}
    assert not any(SECRET in repr(o) for o in outgoing)


def test_rejections_of_two_records_have_keys_of_their_own_and_of_one_the_same() -> None:
    """So that a batch carried out again says nothing new."""
    agent, _ = writing({4: UNREADABLE, 5: BROKEN})
    keys = [[o.key for o in agent([record(4), record(5)])] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 2


def test_what_is_forgotten_is_told_after_when_it_is_taken_again() -> None:
    blocked = counted("visual_memory_revivals_blocked_total")
    agent, _ = writing({0: Refused(NOW + 5)})
    (refused,) = map(said, agent([record(0)]))
    assert (refused["reason"], refused["admitted_after"]) == ("forgotten", NOW + 5)
    assert counted("visual_memory_revivals_blocked_total") == blocked + 1


def test_an_id_that_another_source_uses_too_is_counted() -> None:
    before = counted("visual_memory_shared_ids_total")
    agent, _ = writing(
        {0: Merged(won=True), 1: Merged(won=True, shared_id=True), 2: Merged(False, True)}
    )
    agent([record(n) for n in range(3)])
    assert counted("visual_memory_shared_ids_total") == before + 2


def test_markers_are_counted_and_nothing_else() -> None:
    before = [counted("visual_memory_events_total", role="markers", outcome=str(m)) for m in Marker]
    agent, merged = writing(dict(enumerate(Marker)), role="markers")
    assert agent([record(n) for n in range(len(Marker))]) == []
    assert merged == [], "no call of the memory for nothing"
    after = [counted("visual_memory_events_total", role="markers", outcome=str(m)) for m in Marker]
    assert after == [n + 1 for n in before]


def test_every_outcome_is_counted() -> None:
    role = "counting"
    agent, _ = writing(
        {
            0: Merged(won=True),
            1: Merged(won=False),
            2: Refused(9),
            3: UNREADABLE,
            4: BROKEN,
            5: Merged(won=True),
        },
        role,
    )
    agent([record(n) for n in range(6)])
    counts = {
        outcome: counted("visual_memory_events_total", role=role, outcome=outcome)
        for outcome in ("merged", "superseded", "rejected")
    }
    assert counts == {"merged": 2, "superseded": 1, "rejected": 3}
    for reason in ("forgotten", "missing-header", "truncated-image"):
        assert counted("visual_memory_rejected_total", role=role, reason=reason) == 1


def test_an_event_from_the_future_has_no_negative_freshness() -> None:
    def merge(events: Sequence[Ingest]) -> list[Outcome]:
        return [Merged(won=True) for _ in events]

    a_minute_ahead = time.time_ns() // 1000 + 60_000_000
    agent = WritingAgent("early", lambda r: ingest(r.offset, time=a_minute_ahead), merge)
    agent([record(0)])
    assert counted("visual_memory_freshness_seconds_sum", role="early") == 0
    assert counted("visual_memory_freshness_seconds_count", role="early") == 1


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError()])
def test_what_the_memory_cannot_do_is_left_to_delivery(error: Exception) -> None:
    def merge(events: Sequence[Correction]) -> list[Outcome]:
        raise error

    event = Correction(make_stamp(1, "a"), "i0", None)
    with pytest.raises(type(error)):
        WritingAgent("correct", lambda _: event, merge)([record(0)])


# Forgetting


class Forgetting:
    """A memory that only forgets."""

    def __init__(self, done: Forgotten) -> None:
        self.index = ExactIndex(embedder="test", dim=2)
        self.asked: list[Forget] = []
        self._done = done

    def forget(self, request: Forget) -> Forgotten:
        self.asked.append(request)
        return self._done


DONE = Forgotten(first_seen=10, until=99, fenced=20, erased=30, images=4, matched=5, repeated=False)
REQUEST = Forget("f00d", Selector(SelectorKind.SUBJECT, SECRET), 10)


def forgetting(
    decode: Callable[[Record], Forget | Scheduled | Cancel | Marker], done: Forgotten = DONE
) -> tuple[ForgetAgent, Forgetting]:
    memory = Forgetting(done)
    return ForgetAgent(cast("VisualMemory", memory), decode, "vm"), memory


@pytest.mark.parametrize(
    ("matched", "status", "counted_as"),
    [(5, "matched", "erased"), (0, "unmatched", "unmatched"), (None, "repeated", "repeated")],
)
def test_a_receipt_tells_the_stages_and_no_raw_id(
    matched: int | None, status: str, counted_as: str
) -> None:
    repeated = matched is None
    done = Forgotten(10, 99, 20, 30, images=4, matched=matched, repeated=repeated)
    agent, memory = forgetting(lambda _: REQUEST, done)
    before = counted("visual_memory_events_total", role="forget", outcome=counted_as)
    spent = counted("visual_memory_stage_seconds_sum", stage="forget")
    (receipt,) = agent([record(0)])
    after = counted("visual_memory_events_total", role="forget", outcome=counted_as)
    assert after == before + 1
    assert 0 < counted("visual_memory_stage_seconds_sum", stage="forget") - spent < 60
    assert receipt.topic is Topic.FORGET_RECEIPT
    assert said(receipt) == {
        "request": "f00d",
        "stage": "erased",
        "stages": {"received": 10, "fenced": 20, "erased": 30},
        "selector": {"kind": "subject", "digest": memory.index.selector_key(REQUEST.selector)},
        "until": 99,
        "status": status,
        "matched": matched,
        "images": 4,
        "repeated": repeated,
        "memory": "vm",
        "evidence": {"partition": record(0).partition, "offset": 0},
    }
    assert SECRET not in repr(receipt)


def test_a_receipt_tells_all_that_the_request_named_and_what_it_said() -> None:
    more = (Selector(SelectorKind.IMAGE, SECRET), Selector(SelectorKind.LABEL, SECRET))
    request = Forget("f00d", REQUEST.selector, 10, more=more, submitted=7, regulation="gdpr")
    done = Forgotten(10, 99, 20, 30, images=4, matched=5, repeated=False)
    agent, memory = forgetting(lambda _: request, done)
    (receipt,) = agent([record(0)])
    told = said(receipt)
    assert told["more"] == [
        {"kind": str(one.kind), "digest": memory.index.selector_key(one)} for one in more
    ]
    assert (told["submitted"], told["regulation"]) == (7, "gdpr")
    assert SECRET not in repr(receipt)


def test_a_request_for_later_is_carried_out_once_it_bears_that_it_is_due() -> None:
    later = replace(REQUEST, not_before=50)
    due = ExactIndex(embedder="test", dim=2).due_key("f00d")
    for wrong in (None, "f00d", ExactIndex(embedder="test", dim=2).due_key("f00e")):
        agent, memory = forgetting(partial(lambda bears, _: Scheduled(later, bears), wrong))
        before = counted("visual_memory_events_total", role="forget", outcome="scheduled")
        (receipt,) = agent([record(7)])
        assert memory.asked == []
        now = counted("visual_memory_events_total", role="forget", outcome="scheduled")
        assert now == before + 1
        told = said(receipt)
        assert (told["stage"], told["status"], told["not_before"]) == ("scheduled", "scheduled", 50)
        assert told["stages"].keys() == {"received", "scheduled"}
        assert told["evidence"] == {"partition": record(7).partition, "offset": 7}
        assert SECRET not in repr(receipt)
    agent, memory = forgetting(lambda _: Scheduled(later, due))
    (receipt,) = agent([record(7)])
    assert memory.asked == [later]
    assert (said(receipt)["stage"], said(receipt)["not_before"]) == ("erased", 50)


def test_that_a_request_is_to_be_stopped_is_told_as_the_log_has_it() -> None:
    agent, memory = forgetting(lambda _: Cancel("c0", "f00d", 12))
    (told,) = agent([record(0)])
    assert memory.asked == []
    assert (told.topic, said(told)) == (
        Topic.FORGET_RECEIPT,
        {"request": "f00d", "cancel": "c0", "asked": 12, "outcome": "noted", "memory": "vm"},
    )


def test_a_request_that_cannot_be_read_is_rejected_and_the_others_carried_out() -> None:
    def decode(found: Record) -> Forget | Marker:
        if found.offset == 0:
            raise UNREADABLE
        return Marker.HEARTBEAT if found.offset == 1 else REQUEST

    agent, memory = forgetting(decode)
    images = counted("visual_memory_images_forgotten_total")
    outgoing = agent([record(n) for n in range(4)])
    assert [o.topic for o in outgoing] == [
        Topic.REJECTED,
        Topic.FORGET_RECEIPT,
        Topic.FORGET_RECEIPT,
    ]
    assert memory.asked == [REQUEST] * 2
    assert counted("visual_memory_images_forgotten_total") == images + 8


# Asking


class Remembering:
    """A memory over the exact index whose calls are counted."""

    def __init__(self) -> None:
        self._memory = VisualMemory(ExactIndex(embedder="test", dim=2), None)
        self.together: list[int] = []

    def holds(self, image_id: str, label: str = "cat") -> None:
        payload = VectorPayload(np.ones(2, np.float32), "test")
        self._memory.remember(
            [Ingest(make_stamp(1, "a"), image_id, label, "camera", payload, "digest")]
        )

    def knows(self, position: Position) -> bool:
        return position.topic_id != "unknown"

    def has_lost(self, positions: Sequence[Position]) -> bool:
        return self._memory.has_lost(positions)

    def loses(self, partition: LogPartition, cut: Cut) -> None:
        self._memory.index.rewind(partition, cut)

    def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        self.together.append(len(queries))
        return self._memory.recall(queries)

    def review(self, asked: Review) -> Findings | Rejected:
        return self._memory.review(asked)


ONES: Payload = VectorPayload(np.ones(2, np.float32), "test")


def question(
    *,
    payload: Payload | ItemRef = ONES,
    within: int = 60_000_000,
    after: tuple[Position, ...] = (),
    asked: Query | Review | None = None,
) -> QueryEvent:
    query = Query(payload) if asked is None else asked
    return QueryEvent("asker", query, "q1", 5, after, time.time_ns() // 1000 + within)


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    await asyncio.sleep(0)
    return function(*arguments)


def asking(
    memory: Remembering,
    found: QueryEvent | Marker | Rejected,
    merged: Callable[[], Mapping[LogPartition, int]] = dict,
    asker: tuple[str, int] | None = ("q1", 5),
) -> list[OutgoingRecord]:
    def decode(_: Record) -> QueryEvent | Marker:
        if isinstance(found, Rejected):
            raise found
        return found

    async def positions() -> Mapping[LogPartition, int]:
        return merged()

    async def ask() -> list[OutgoingRecord]:
        agent = QueryAgent(
            cast("VisualMemory", memory), decode, lambda _: asker, in_thread, positions
        )
        return await agent(record(0))

    return asyncio.run(ask())


@pytest.fixture
def remembering() -> Remembering:
    return Remembering()


def test_an_answer_goes_to_the_partition_where_it_is_awaited(remembering: Remembering) -> None:
    remembering.holds("i0")
    answered = counted("visual_memory_events_total", role="query", outcome="answered")
    (answer,) = asking(remembering, question())
    assert (answer.topic, answer.partition) == (Topic.PREDICTION, 5)
    body = said(answer)
    assert (body["query"], body["status"], body["label"]) == ("q1", "answered", "cat")
    assert [n["id"] for n in body["neighbors"]] == ["i0"]
    assert counted("visual_memory_events_total", role="query", outcome="answered") == answered + 1


def test_an_empty_memory_says_so(remembering: Remembering) -> None:
    (answer,) = asking(remembering, question())
    assert (said(answer)["status"], said(answer)["label"]) == ("empty", None)


def test_a_question_past_its_deadline_is_told_and_costs_nothing(remembering: Remembering) -> None:
    (answer,) = asking(remembering, question(within=-1))
    assert said(answer)["status"] == "expired"
    assert remembering.together == []


def test_a_memory_that_has_not_come_so_far_says_so_and_does_not_guess(
    remembering: Remembering,
) -> None:
    (answer,) = asking(
        remembering, question(within=30_000, after=(AT,)), merged=lambda: {LogPartition("t", 0): 7}
    )
    assert said(answer)["status"] == "stale"
    assert remembering.together == []


def test_a_question_is_answered_once_the_memory_has_come_so_far(remembering: Remembering) -> None:
    remembering.holds("i0")
    seen = iter([{}, {LogPartition("t", 0): 7}, {LogPartition("t", 0): 8}])
    (answer,) = asking(remembering, question(after=(AT,)), merged=lambda: next(seen))
    assert said(answer)["status"] == "answered"


def test_a_position_in_a_log_that_is_not_read_is_told_at_once(remembering: Remembering) -> None:
    elsewhere = Position("image-ingest", "unknown", 0, 7)
    started = time.monotonic()
    (answer,) = asking(remembering, question(after=(AT, elsewhere)))
    assert said(answer)["status"] == "stale"
    assert "does not read" in said(answer)["detail"]
    assert time.monotonic() - started < 30


def test_a_position_in_what_the_log_lost_is_told_at_once_and_one_of_what_stands_there_now_is_not(
    remembering: Remembering,
) -> None:
    remembering.holds("i0")
    remembering.loses(AT.log_partition, Cut(AT.offset - 2, 5_000))

    def status(after: Position) -> Any:
        merged = {AT.log_partition: AT.offset + 1}
        (answer,) = asking(remembering, question(after=(after,)), merged=lambda: merged)
        return said(answer)["status"]

    assert status(msgspec.structs.replace(AT, time=5_000)) == "stale"
    assert status(AT) == "stale", "nobody knows which of both it means"
    assert status(msgspec.structs.replace(AT, time=5_001)) == "answered"
    assert status(msgspec.structs.replace(AT, offset=AT.offset - 3, time=1)) == "answered"


def test_a_log_that_is_cut_while_a_question_waits_makes_no_answer_of_it(
    remembering: Remembering,
) -> None:
    def merged() -> Mapping[LogPartition, int]:
        remembering.loses(AT.log_partition, Cut(AT.offset, 5_000))
        return {AT.log_partition: AT.offset + 1}

    (answer,) = asking(
        remembering, question(after=(msgspec.structs.replace(AT, time=4_000),)), merged=merged
    )
    assert said(answer)["status"] == "stale"


def test_positions_of_another_topic_of_that_name_do_not_count(remembering: Remembering) -> None:
    """A topic that was deleted and made anew has another id and starts at 0."""
    (answer,) = asking(
        remembering,
        question(within=30_000, after=(AT,)),
        merged=lambda: {LogPartition("older", 0): 900},
    )
    assert said(answer)["status"] == "stale"


def test_a_question_the_memory_rejects_is_told_to_the_log_and_to_the_asker(
    remembering: Remembering,
) -> None:
    logged, answer = asking(remembering, question(payload=ItemRef("nobody")))
    assert (logged.topic, said(logged)["reason"]) == (Topic.REJECTED, "unknown-item")
    assert (answer.topic, answer.partition) == (Topic.PREDICTION, 5)
    assert said(answer)["status"] == "rejected"
    assert said(answer)["reason"] == "unknown-item"
    assert said(answer)["detail"] == said(logged)["detail"]


def test_a_question_that_cannot_be_read_is_told_to_whoever_it_says_asks(
    remembering: Remembering,
) -> None:
    logged, answer = asking(remembering, UNREADABLE, asker=("q9", 2))
    assert said(logged)["reason"] == "missing-header"
    assert (said(answer)["query"], answer.partition) == ("q9", 2)
    (only,) = asking(remembering, UNREADABLE, asker=None)
    assert only.topic is Topic.REJECTED


def test_a_marker_is_no_question(remembering: Remembering) -> None:
    before = counted("visual_memory_events_total", role="query", outcome="heartbeat")
    assert asking(remembering, Marker.HEARTBEAT) == []
    assert counted("visual_memory_events_total", role="query", outcome="heartbeat") == before + 1


def test_a_question_as_it_stands_in_the_log_is_answered(remembering: Remembering) -> None:
    """With the real decoders: one good, one whose deadline cannot be read."""
    remembering.holds("i0")
    sent = encoding.encode_query(
        source="me", event_id="q1", time=NOW, query=Query(ONES), reply_partition=1
    )
    good = Record("p-query", 0, 0, sent.key, sent.value, sent.headers, now_us())
    garbled = [(n, b"soon" if n == "ce_timeout" else v) for n, v in sent.headers]
    bad = Record("p-query", 0, 1, sent.key, sent.value, tuple(garbled), NOW)

    async def positions() -> Mapping[LogPartition, int]:
        return {}

    async def ask() -> list[list[OutgoingRecord]]:
        agent = QueryAgent(
            cast("VisualMemory", remembering),
            partial(questions.decode_query, partitions=2),
            partial(questions.reply_address, partitions=2),
            in_thread,
            positions,
        )
        return [await agent(good), await agent(bad)]

    (answer,), (logged, told) = asyncio.run(ask())
    assert said(answer)["status"] == "answered"
    assert said(logged)["reason"] == said(told)["reason"] == "invalid-header"
    assert told.partition == 1


def test_an_answer_that_has_too_small_a_share_is_counted_and_says_so(
    remembering: Remembering,
) -> None:
    for name, label in (("i0", "cat"), ("i1", "dog")):
        remembering.holds(name, label)
    before = counted("visual_memory_events_total", role="query", outcome="abstained")
    (out,) = asking(remembering, question(asked=Query(ONES, min_share=0.9)))
    answer = said(out)
    assert (answer["status"], answer["label"]) == ("abstained", None)
    assert answer["shares"].keys() == {"cat", "dog"}
    assert len(answer["neighbors"]) == 2
    assert counted("visual_memory_events_total", role="query", outcome="abstained") == before + 1


def test_a_request_for_review_is_answered_with_what_was_found(remembering: Remembering) -> None:
    remembering.holds("i0")
    (out,) = asking(remembering, question(asked=Review(About.INFLUENCE)))
    assert said(out)["status"] == "answered"
    assert said(out)["review"] == {"about": "influence", "total": 0}
    refused, told = asking(remembering, question(asked=Review(About.SUSPECTS)))
    assert said(refused)["reason"] == said(told)["reason"] == "not-counted"
    assert remembering.together == []


class Pruned(Remembering):
    """What it says was pruned."""

    def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
        return [
            replace(found, pruning=Pruning.SOFT)
            for found in super().recall(queries)
            if isinstance(found, Prediction)
        ]


def test_answers_in_which_something_was_pruned_are_counted() -> None:
    pruned = Pruned()
    pruned.holds("i0")
    before = counted("visual_memory_pruned_answers_total", pruning="soft")
    asking(pruned, question())
    assert counted("visual_memory_pruned_answers_total", pruning="soft") == before + 1


@pytest.mark.parametrize("denied", [False, True])
def test_how_often_items_are_used_is_written_down_as_long_as_that_is_allowed(
    denied: bool,  # noqa: FBT001 - a parameter of pytest
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Mock()
    write = influence_writer(memory)
    memory.write_influence.side_effect = Misconfigured("no right") if denied else None
    with patch("streams.workers.handlers.time.monotonic", return_value=0.0):
        write()
        write()
    assert memory.write_influence.call_count == 2
    assert len([r for r in caplog.records if "not counted: no right" in r.message]) == denied


def test_to_write_down_how_often_items_are_used_takes_no_more_than_its_share_of_the_time() -> None:
    memory, now = Mock(), 100.0

    def take_long() -> None:
        nonlocal now
        now += 0.5

    memory.write_influence.side_effect = take_long
    with patch("streams.workers.handlers.time.monotonic", side_effect=lambda: now):
        write = influence_writer(memory)
        write()
        now = 100 + 0.5 / 0.02 - 0.01
        write()
        assert memory.write_influence.call_count == 1
        now += 0.01
        write()
    assert memory.write_influence.call_count == 2


def test_questions_that_come_together_are_searched_together(remembering: Remembering) -> None:
    async def positions() -> Mapping[LogPartition, int]:
        return {}

    async def ask() -> None:
        agent = QueryAgent(
            cast("VisualMemory", remembering),
            lambda _: question(),
            lambda _: None,
            in_thread,
            positions,
        )
        await asyncio.gather(*(agent(record(n)) for n in range(70)))

    asyncio.run(ask())
    assert sum(remembering.together) == 70
    assert max(remembering.together) == SEARCHED_AT_ONCE
    assert len(remembering.together) <= 2 + 70 // SEARCHED_AT_ONCE


def test_a_store_that_is_away_is_left_to_delivery() -> None:
    class Away(Remembering):
        def recall(self, queries: Sequence[Query]) -> list[Prediction | Rejected]:
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        asking(Away(), question())


# What waits (beside test_waiting.py)


def test_a_batcher_works_on_after_a_batch_that_failed_and_after_a_rest() -> None:
    async def run(items: Sequence[int]) -> list[int]:
        if NEVER in items:
            raise Unavailable("away")
        return list(items)

    async def ask() -> list[int]:
        batcher = Batcher(run, at_most=8)
        with pytest.raises(Unavailable):
            await batcher.submit(NEVER)
        first = await batcher.submit(1)
        await asyncio.sleep(0.01)
        return [first, await batcher.submit(2)]

    assert asyncio.run(ask()) == [1, 2]


def test_a_run_with_too_few_results_fails_its_batch_and_leaves_nobody_waiting() -> None:
    async def run(items: Sequence[int]) -> list[int]:
        return [0]

    async def ask() -> list[int | BaseException]:
        batcher = Batcher(run, at_most=8)
        waiting = asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
        return await asyncio.wait_for(waiting, 5)

    assert [type(found) for found in asyncio.run(ask())] == [ValueError] * 3


def test_one_batch_runs_at_a_time() -> None:
    running = most = 0

    async def run(items: Sequence[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return list(items)

    async def ask() -> None:
        batcher = Batcher(run, at_most=2)
        await asyncio.gather(*(batcher.submit(n) for n in range(9)))

    asyncio.run(ask())
    assert most == 1


def test_one_who_gives_up_in_the_middle_of_a_batch_harms_nobody() -> None:
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def run(items: Sequence[int]) -> list[int]:
        begun.set()
        await go_on.wait()
        return list(items)

    async def ask() -> list[int]:
        batcher = Batcher(run, at_most=8)
        leaving, staying = (asyncio.create_task(batcher.submit(n)) for n in (1, 2))
        await begun.wait()
        next_ = asyncio.create_task(batcher.submit(3))
        leaving.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return [await staying, await next_]

    assert asyncio.run(ask()) == [2, 3]


def test_a_store_that_comes_back_ends_a_wait() -> None:
    looks = 0

    async def positions() -> Mapping[LogPartition, int]:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise Unavailable("away")
        return {LogPartition("t", 0): 8}

    async def wait() -> bool:
        return await Watch(positions).wait_for((AT,), 30)

    assert asyncio.run(wait()) is True


def test_a_wait_needs_every_position_it_names() -> None:
    other = Position("label-correction", "u", 1, 0)
    seen = iter(
        [
            {LogPartition("t", 0): 8},
            {LogPartition("u", 1): 1},
            {LogPartition("t", 0): 8, LogPartition("u", 1): 1},
        ]
    )

    async def positions() -> Mapping[LogPartition, int]:
        return next(seen)

    async def wait() -> bool:
        return await Watch(positions).wait_for((AT, other), 30)

    assert asyncio.run(wait()) is True
    assert list(seen) == []


def test_one_who_waits_in_vain_ends_alone_and_polling_ends_with_the_last() -> None:
    looks = 0
    merged: dict[LogPartition, int] = {}

    async def positions() -> Mapping[LogPartition, int]:
        nonlocal looks
        looks += 1
        return merged

    async def wait() -> tuple[bool, bool, int]:
        watch = Watch(positions)
        staying = asyncio.create_task(watch.wait_for((AT,), 30))
        in_vain = await watch.wait_for((AT,), 0.02)
        merged[LogPartition("t", 0)] = 8
        found = await staying
        await asyncio.sleep(4 * Watch.INTERVAL)
        at_rest = looks
        await asyncio.sleep(4 * Watch.INTERVAL)
        return in_vain, found, looks - at_rest

    assert asyncio.run(wait()) == (False, True, 0)


def test_what_nobody_expects_reaches_all_who_wait() -> None:
    """Silence would make every question stale and no worker end."""

    async def positions() -> Mapping[LogPartition, int]:
        await asyncio.sleep(0)
        raise RuntimeError

    async def wait() -> list[bool | BaseException]:
        watch = Watch(positions)
        return await asyncio.gather(
            *(watch.wait_for((AT,), 5) for _ in range(2)), return_exceptions=True
        )

    assert [type(found) for found in asyncio.run(wait())] == [RuntimeError] * 2
