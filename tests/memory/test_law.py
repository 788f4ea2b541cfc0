"""The law on plain values: what one merge does, and that merges are joins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import Reason, Rejected
from memory.model import merge
from memory.model.events import Forget, Ingest, LogAddress, Selector, SelectorKind, VectorPayload
from memory.model.keys import ImageKey, SelectorKey
from memory.model.state import CorrectionWrite, Put, Trace, TraceWrite
from memory.model.times import FOREVER, NEVER, Stamp, make_stamp
from memory.model.vectors import stored_vector
from tests.memory import oracle
from tests.memory.histories import KEYS, described, digests, rebuilt

IMAGE = ImageKey("0" * 32)


def trace(label: str = "cat", vector: list[float] | None = None) -> Trace:
    return Trace(
        image_id="i",
        image_digest="digest",
        label=label,
        source="camera",
        subjects=(),
        attributes={},
        embedder="test",
        vector=np.array(vector or [1, 0], np.float32),
    )


def stamp(time: int, what: str = "") -> Stamp:
    return make_stamp(time, what)


def seen(time: int, label: str = "cat", **more: object) -> Put:
    put = Put(IMAGE, write=TraceWrite(stamp(time, label), trace(label)))
    return replace(put, **more)  # type: ignore[arg-type]  # fields of Put


def said(time: int, label: str | None) -> Put:
    return Put(IMAGE, write=CorrectionWrite(stamp(time, str(label)), label))


times = st.integers(1, 6)
addresses = st.none() | st.builds(
    LogAddress, times, st.just("t"), st.just(0), st.sampled_from("ab")
)
selectors = st.lists(
    st.sampled_from([SelectorKey("subject:a"), SelectorKey("source:b")]), max_size=2
).map(tuple)
barriers = st.sampled_from([NEVER, 2, 4, FOREVER])
puts = st.builds(
    lambda put, barrier, address, selectors: replace(
        put, barrier=barrier, address=address, selectors=selectors
    ),
    st.one_of(
        st.builds(seen, times, st.sampled_from(["cat", "dog"])),
        st.builds(said, times, st.sampled_from([None, "cat", "dog"])),
        st.just(Put(IMAGE)),
    ),
    barriers,
    addresses,
    selectors,
)


def merged(*changes: Put) -> object:
    item = merge.EMPTY
    for change in changes:
        item = merge.merge(item, change)
    return described(item)


@given(puts, puts, puts)
def test_merges_commute_and_repeat_without_effect(a: Put, b: Put, c: Put) -> None:
    assert merged(a, b, c) == merged(c, a, b) == merged(b, c, a) == merged(a, b, a, c, b, c)


def test_the_greatest_stamp_stands_and_at_one_time_the_content_decides() -> None:
    assert merged(seen(2), seen(1, "dog")) == merged(seen(2))
    a, b = sorted([seen(3, "cat"), seen(3, "dog")], key=lambda put: str(put.write))
    assert merged(a, b) == merged(b, a) == merged(b)


def test_no_image_overwrites_what_a_person_said_and_a_withdrawal_ends_it() -> None:
    item = merge.merge(merge.merge(merge.EMPTY, said(1, "dog")), seen(5, "cat"))
    assert item.label == "dog"
    withdrawn = merge.merge(item, said(6, None))
    assert withdrawn.label == "cat"
    assert merge.merge(withdrawn, said(4, "owl")).label == "cat"


@pytest.mark.parametrize("barrier", [4, 5, 6, FOREVER])
def test_what_has_a_time_up_to_the_barrier_is_dead(barrier: int) -> None:
    lives = barrier < 5
    addresses = frozenset({LogAddress(5, "t", 0, "k")})
    item = merge.merge(merge.EMPTY, seen(5, address=LogAddress(5, "t", 0, "k")))
    item = merge.merge(merge.merge(item, said(5, "dog")), Put(IMAGE, barrier))
    assert (item.trace is not None) is lives
    assert (item.corrected == "dog") is lives
    assert item.log == (addresses if lives else frozenset())
    assert item.outbox == (frozenset() if lives else addresses)


def test_an_event_that_loses_leaves_its_address_and_selectors() -> None:
    address = LogAddress(1, "t", 0, "k")
    item = merge.merge(merge.EMPTY, seen(5))
    item = merge.merge(item, seen(1, selectors=(SelectorKey("subject:ada"),), address=address))
    assert item.log == {address}
    assert item.selectors == {"subject:ada"}


def test_a_put_says_what_it_did() -> None:
    state = merge.State()
    first = merge.put(state, seen(5, selectors=(SelectorKey("subject:ada"),)))
    assert (first.won, first.visible, first.erased) == (True, True, False)
    loser = merge.put(state, seen(4))
    assert (loser.won, loser.visible) == (False, True)
    assert merge.put(state, seen(5)).won, "a repeat of what stands"
    erased = merge.put(state, Put(IMAGE, 7))
    assert (erased.barrier, erased.erased, erased.visible) == (7, True, False)
    assert not merge.put(state, Put(IMAGE, 7)).erased


def test_a_fence_never_falls_and_reaches_who_enlists_later() -> None:
    state = merge.State()
    assert merge.enlist(state, SelectorKey("subject:ada"), IMAGE) == NEVER
    merge.fence(state, SelectorKey("subject:ada"), 8)
    merge.fence(state, SelectorKey("subject:ada"), 3)
    assert merge.enlist(state, SelectorKey("subject:ada"), IMAGE) == 8


def ingest(image: str, time: int, *subjects: str) -> oracle.Admitted:
    payload = VectorPayload(np.eye(4, dtype=np.float32)[0], "test")
    return oracle.Admitted(
        Ingest(stamp(time, image), image, "cat", "camera", payload, "digest", subjects)
    )


def test_a_rebuild_reaches_all_that_ever_bore_a_selector_and_nothing_else() -> None:
    forget = Forget("r", Selector(SelectorKind.SUBJECT, "ada"), 5)
    state = rebuilt(
        [
            ingest("a", 3),
            ingest("a", 7, "ada"),
            ingest("b", 3),
            oracle.Admitted(forget, until=5),
            ingest("c", 4, "ada"),
        ]
    )
    assert {image for image, item in state.items.items() if item.trace} == {
        KEYS.image("a"),
        KEYS.image("b"),
    }
    assert [state.items[KEYS.image(i)].barrier for i in "abc"] == [5, NEVER, 5]


def test_a_label_reaches_the_images_it_was_expanded_into() -> None:
    forget = Forget("r", Selector(SelectorKind.LABEL, "cat"), 5)
    admitted = oracle.Admitted(forget, 5, frozenset({KEYS.image("b")}))
    state = rebuilt([ingest("a", 3), ingest("b", 3), admitted])
    assert [i for i in "ab" if state.items[KEYS.image(i)].trace] == ["a"]


def test_until_is_the_first_time_seen_and_the_skew_or_for_ever() -> None:
    forget = Forget("r", Selector(SelectorKind.IMAGE, "i"), 5)
    assert oracle.until_of(forget, 5, 3) == 8
    assert oracle.until_of(replace(forget, permanent=True), 5, 3) == FOREVER


def state_of(*changes: Put) -> merge.State:
    state = merge.State()
    for change in changes:
        merge.put(state, change)
    return state


def test_digests_cover_labels_stamps_and_images_but_no_vectors_and_no_log() -> None:
    reference = digests(state_of(seen(5)))
    other_vector = replace(seen(5), write=TraceWrite(stamp(5, "cat"), trace(vector=[0, 1])))
    with_address = seen(5, address=LogAddress(5, "t", 0, "k"))
    assert digests(state_of(other_vector)) == digests(state_of(with_address)) == reference
    for change in (
        Put(IMAGE, write=TraceWrite(stamp(5, "cat"), trace("dog"))),
        Put(IMAGE, write=TraceWrite(stamp(5, "cat"), replace(trace(), image_digest="other"))),
        Put(IMAGE, write=TraceWrite(stamp(5, "cat"), replace(trace(), embedder="other"))),
        seen(6),
    ):
        assert digests(state_of(change)).visible != reference.visible
    assert digests(state_of(seen(5), said(6, None))).visible != reference.visible


def test_only_the_full_digest_tells_of_barriers_fences_and_selectors() -> None:
    reference = digests(state_of(seen(5)))
    fenced = state_of(seen(5))
    merge.fence(fenced, SelectorKey("subject:ada"), 1)
    for state in (
        fenced,
        state_of(seen(5), Put(IMAGE, 1)),
        state_of(seen(5, selectors=(SelectorKey("subject:ada"),))),
    ):
        assert digests(state).visible == reference.visible
        assert digests(state).full != reference.full


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ([1.0, np.inf], Reason.NOT_FINITE),
        ([1.0, 1e6], Reason.NOT_FINITE),
        ([0.0, 1e-12], Reason.ZERO_VECTOR),
    ],
)
def test_a_vector_is_refused_for_what_would_be_stored_of_it(
    vector: list[float], reason: Reason
) -> None:
    with pytest.raises(Rejected) as caught:
        stored_vector(
            np.array(vector, np.float32), "test", embedder="test", dim=2, dtype=np.float16
        )
    assert caught.value.reason is reason
