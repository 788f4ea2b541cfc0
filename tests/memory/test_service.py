"""The memory as a library, over the exact index and with embedders made for the purpose."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest.mock import Mock, patch

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.exact.index import ExactIndex
from memory.images import ImageLimits
from memory.model.answers import Position, Prediction, SearchResult
from memory.model.events import (
    MAX_SELECTORS,
    MAX_SUBJECTS,
    Correction,
    Forget,
    ImagePayload,
    Ingest,
    LogAddress,
    LogPartition,
    Payload,
    Prune,
    Selector,
    SelectorKind,
    Surroundings,
    VectorPayload,
)
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.outcomes import Forgotten, Merged, Refused
from memory.model.questions import ItemRef, Probe, Query
from memory.model.state import Item, Put
from memory.model.times import FOREVER, make_stamp, now_us
from memory.model.vectors import Vector
from memory.ports import MemoryIndex
from memory.service import VisualMemory

DIM = 3
SKEW = 10
FORGOTTEN_AT = 100
UNTIL = FORGOTTEN_AT + SKEW

Colour = tuple[int, int, int]
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


class Colours:
    """An embedder of an image's mean colour, which refuses what is black."""

    name = "colours"
    digest = "colours-1"
    dim = DIM

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        self.batches.append(len(images))
        rows = np.array([np.asarray(i.convert("RGB"), float).mean((0, 1)) for i in images])
        if not rows.any(axis=1).all():
            raise Rejected(Reason.IMAGE_TOO_LARGE, "an image of this batch is refused")
        found: npt.NDArray[np.float32] = (
            rows / np.linalg.norm(rows, axis=1, keepdims=True)
        ).astype(np.float32)
        return found


class Journaled:
    """An index that writes the names of its calls to a journal and may be interrupted."""

    def __init__(self, index: MemoryIndex, journal: list[Any]) -> None:
        self._index = index
        self._journal = journal
        self.before: dict[str, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if not callable(found) or name.endswith("_key"):
            return found

        def journaled(*args: Any) -> Any:
            if name in self.before:
                self.before.pop(name)()
            self._journal.append((name, *args))
            return found(*args)

        return journaled


class Facts:
    """A fence log in a list, with a line in the journal for each fact."""

    def __init__(self, journal: list[Any] | None = None) -> None:
        self.all: list[FenceFact] = []
        self._journal = [] if journal is None else journal

    def append(self, facts: Sequence[FenceFact]) -> None:
        self.all.extend(facts)
        self._journal.extend(facts)


class Crash(Exception):
    """The worker ends here."""


def _crash() -> None:
    raise Crash


def exact() -> ExactIndex:
    return ExactIndex(embedder=Colours.digest, dim=DIM)


def png(colour: Colour, mode: str = "RGB", **saved: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).convert(mode).save(buffer, "PNG", **saved)
    return buffer.getvalue()


def ingest(
    image_id: str,
    *,
    time: int = 50,
    label: str = "cat",
    source: str = "camera",
    subjects: tuple[str, ...] = (),
    payload: Payload | None = None,
) -> Ingest:
    stamp = make_stamp(time, source, image_id, label, *subjects)
    return Ingest(
        stamp=stamp,
        image_id=image_id,
        label=label,
        source=source,
        payload=payload or ImagePayload(png(RED)),
        payload_digest=f"digest of {image_id}",
        subjects=subjects,
        address=LogAddress(time, "ingest-topic", 0, stamp),
    )


def correction(image_id: str, label: str | None, *, time: int = 60) -> Correction:
    stamp = make_stamp(time, "reviewer", image_id, label)
    return Correction(stamp, image_id, label, LogAddress(time, "correct-topic", 0, stamp))


def forget(kind: str, value: str, *, time: int = FORGOTTEN_AT, permanent: bool = False) -> Forget:
    return Forget(f"{kind} {value} {time}", Selector(SelectorKind(kind), value), time, permanent)


def visible(memory: VisualMemory) -> dict[str, str]:
    """Labels of all that answers can rest on, by image id."""
    (found,) = memory.index.search([Probe(np.ones(DIM, np.float32), 100)])
    return {hit.image_id: hit.label for hit in found.hits}


def stored(memory: VisualMemory, image_id: str) -> Vector:
    (vector,) = memory.index.vectors_of([image_id])
    assert vector is not None
    return vector


def held(memory: VisualMemory, image_id: str) -> Item:
    item = memory.index.item(memory.index.image_key(image_id))
    assert item is not None
    return item


def of(journal: Sequence[Any], *names: str) -> list[Any]:
    """Lines of a journal: those of the facts, and of the calls with these names."""
    return [line for line in journal if isinstance(line, FenceFact) or line[0] in names]


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def memory(facts: Facts) -> VisualMemory:
    return VisualMemory(exact(), Colours(), fence_log=facts, clock_skew=SKEW)


# Remembering and correcting


def test_what_is_remembered_is_merged_and_found(memory: VisualMemory) -> None:
    assert memory.remember([ingest("i0"), ingest("i1", label="dog")]) == [Merged(won=True)] * 2
    assert visible(memory) == {"i0": "cat", "i1": "dog"}


def test_nothing_to_remember_is_no_fault(memory: VisualMemory) -> None:
    assert memory.remember([]) == []
    assert memory.correct([]) == []
    assert memory.recall([]) == []


def test_an_older_event_of_an_image_is_merged_and_does_not_win(memory: VisualMemory) -> None:
    memory.remember([ingest("i0", time=50, label="new")])
    assert memory.remember([ingest("i0", time=40, label="old")]) == [Merged(won=False)]
    assert visible(memory) == {"i0": "new"}


def test_an_event_that_comes_again_wins_again(memory: VisualMemory) -> None:
    """It stands in the memory; the worker that died before it said so is not told otherwise."""
    assert memory.remember([ingest("i0")] * 2) == [Merged(won=True)] * 2


def test_an_id_that_two_sources_use_is_told(memory: VisualMemory) -> None:
    """One replaces the other: a rule by which the first keeps it would depend on the order."""
    mine, theirs = ingest("i0", source="a"), ingest("i0", source="b", time=60, label="theirs")
    assert memory.remember([mine, theirs]) == [Merged(won=True), Merged(True, shared_id=True)]
    assert memory.remember([mine]) == [Merged(won=False, shared_id=True)]
    assert memory.correct([correction("i0", "dog")]) == [Merged(won=True)]
    assert visible(memory) == {"i0": "dog"}
    assert memory.forget(forget("source", "a")).images == 1
    assert visible(memory) == {}


def test_a_correction_counts_before_and_after_its_image_and_can_be_withdrawn(
    memory: VisualMemory,
) -> None:
    assert memory.correct([correction("i0", "dog", time=60)]) == [Merged(won=True)]
    assert visible(memory) == {}
    memory.remember([ingest("i0", time=70)])
    assert visible(memory) == {"i0": "dog"}
    assert memory.correct([correction("i0", "late", time=55)]) == [Merged(won=False)]
    memory.correct([correction("i0", None, time=80)])
    assert visible(memory) == {"i0": "cat"}


def test_one_image_that_the_embedder_refuses_is_rejected_alone(memory: VisualMemory) -> None:
    bad = ingest("bad", payload=ImagePayload(png(BLACK)))
    first, second, third = memory.remember([ingest("i0"), bad, ingest("i1")])
    assert (first, third) == (Merged(won=True), Merged(won=True))
    assert isinstance(second, Rejected)
    assert visible(memory) == {"i0": "cat", "i1": "cat"}


def test_one_image_that_cannot_be_decoded_is_rejected_alone(memory: VisualMemory) -> None:
    first, second, third = memory.remember(
        [
            ingest("i0"),
            ingest("bad", payload=ImagePayload(png(RED)[:40])),
            ingest("large", payload=ImagePayload(b"x" * (ImageLimits().max_bytes + 1))),
        ]
    )
    assert first == Merged(won=True)
    assert isinstance(second, Rejected)
    assert isinstance(third, Rejected)
    assert (second.reason, third.reason) == (Reason.TRUNCATED_IMAGE, Reason.IMAGE_TOO_LARGE)
    assert visible(memory) == {"i0": "cat"}


def test_a_rejected_image_is_still_found_by_a_later_forget(memory: VisualMemory) -> None:
    """Its correction must go with it."""
    memory.remember([ingest("bad", subjects=("ada",), payload=ImagePayload(b"no image"))])
    memory.correct([correction("bad", "ada's cat")])
    assert memory.forget(forget("subject", "ada")).images == 1
    assert held(memory, "bad").corrected is None


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _odd_images() -> dict[str, bytes]:
    red = Image.new("RGB", (4, 4), RED)
    palette = red.convert("P", palette=Image.Palette.ADAPTIVE)
    return {
        "cmyk": _saved(red.convert("CMYK"), "JPEG"),
        "palette with transparency": _saved(palette, "PNG", transparency=200),
        "animation": _saved(palette, "GIF", save_all=True, append_images=[palette.copy()]),
        "grey and alpha": _saved(Image.new("LA", (4, 4), (90, 255)), "PNG"),
        "16 bits": _saved(Image.new("I;16", (4, 4), 40_000), "PNG"),
        "one bit": _saved(Image.new("1", (4, 4), 1), "PNG"),
        "floats": _saved(Image.fromarray(np.eye(4, dtype=np.float32)), "TIFF"),
        "webp with alpha": _saved(red.convert("RGBA"), "WEBP", lossless=True),
        "one pixel": _saved(Image.new("RGB", (1, 1), RED), "BMP"),
    }


@pytest.mark.parametrize("kind", _odd_images())
def test_odd_images_are_embedded(memory: VisualMemory, kind: str) -> None:
    payload = ImagePayload(_odd_images()[kind])
    assert memory.remember([ingest("i0", payload=payload)]) == [Merged(won=True)]
    assert np.linalg.norm(stored(memory, "i0")) == pytest.approx(1, abs=1e-3)


def test_images_of_a_batch_are_embedded_together() -> None:
    embedder = Colours()
    memory = VisualMemory(exact(), embedder)
    memory.remember([ingest(f"i{n}") for n in range(5)])
    assert embedder.batches == [5]


# Ready vectors


def vector(*elements: float, embedder: str = Colours.digest) -> VectorPayload:
    return VectorPayload(np.array(elements, np.float32), embedder)


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e20, 1e38])
def test_a_ready_vector_is_normalised(memory: VisualMemory, scale: float) -> None:
    assert memory.remember([ingest("i0", payload=vector(3 * scale, 0, 0))]) == [Merged(won=True)]
    assert stored(memory, "i0") == pytest.approx([1, 0, 0])


def test_a_ready_vector_is_not_changed_in_place(memory: VisualMemory) -> None:
    given = vector(3, 4, 0)
    memory.remember([ingest("i0", payload=given)])
    assert given.vector.tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (vector(1, 0, 0, embedder="another"), Reason.OTHER_EMBEDDER),
        (vector(1, 0), Reason.WRONG_DIMENSION),
        (vector(1, 0, 0, 0), Reason.WRONG_DIMENSION),
        (vector(1, float("nan"), 0), Reason.NOT_FINITE),
        (vector(1, float("-inf"), 0), Reason.NOT_FINITE),
        (vector(0, 0, 0), Reason.ZERO_VECTOR),
        (vector(0, -0.0, 0), Reason.ZERO_VECTOR),
    ],
)
def test_a_vector_this_memory_cannot_take_is_rejected_alone(
    memory: VisualMemory, payload: VectorPayload, reason: Reason
) -> None:
    good = vector(0, 1, 0)
    first, second = memory.remember([ingest("bad", payload=payload), ingest("i0", payload=good)])
    assert isinstance(first, Rejected)
    assert first.reason is reason
    assert second == Merged(won=True)
    asked, answered = memory.recall([Query(payload), Query(good)])
    assert isinstance(asked, Rejected)
    assert asked.reason is reason
    assert isinstance(answered, Prediction)
    assert answered.vote.label == "cat"


def test_a_memory_without_an_embedder_takes_vectors_and_rejects_images() -> None:
    memory = VisualMemory(exact(), None)
    image, ready = memory.remember([ingest("i0"), ingest("i1", payload=vector(1, 0, 0))])
    assert isinstance(image, Rejected)
    assert image.reason is Reason.NO_EMBEDDER
    assert ready == Merged(won=True)


# Forgetting


@pytest.mark.parametrize(
    "request_", [forget("image", "i0"), forget("subject", "ada"), forget("label", "cat")]
)
def test_a_forget_erases_what_it_names_and_nothing_else(
    memory: VisualMemory, request_: Forget
) -> None:
    memory.remember([ingest("i0", subjects=("ada",)), ingest("i1", label="dog", source="archive")])
    done = memory.forget(request_)
    assert (done.first_seen, done.until, done.images) == (FORGOTTEN_AT, UNTIL, 1)
    assert not done.repeated
    assert visible(memory) == {"i1": "dog"}
    assert held(memory, "i0").outbox == {ingest("i0", subjects=("ada",)).address}


def test_a_source_is_forgotten_whole(memory: VisualMemory) -> None:
    memory.remember([ingest(f"i{n}") for n in range(5)] + [ingest("other", source="archive")])
    assert memory.forget(forget("source", "camera")).images == 5
    assert visible(memory) == {"other": "cat"}


def test_only_images_that_showed_something_are_counted(memory: VisualMemory) -> None:
    memory.remember([ingest(f"i{n}", subjects=("ada",)) for n in range(3)])
    assert memory.forget(forget("image", "i1")).images == 1
    assert memory.forget(forget("subject", "ada")).images == 2
    assert memory.forget(forget("source", "camera")).images == 0


def test_a_forget_tells_whether_the_memory_ever_heard_of_what_it_names(
    memory: VisualMemory,
) -> None:
    """Also of what shows nothing (any more): only a name that was never there is a slip."""
    memory.remember([ingest("i0", subjects=("ada",)), ingest("i1", payload=ImagePayload(b"?"))])
    memory.correct([correction("later", "dog")])
    never = [("image", "i9"), ("subject", "Ada"), ("source", "cam"), ("label", "cats")]
    assert [memory.forget(forget(*name)).matched for name in never] == [0, 0, 0, 0]
    again = [memory.forget(forget(*name)) for name in never]
    assert [(done.repeated, done.matched) for done in again] == [(True, 0)] * 4
    known = {("label", "cat"): 1, ("subject", "ada"): 1, ("source", "camera"): 2}
    known |= {("image", name): 1 for name in ("i0", "i1", "later")}
    assert {name: memory.forget(forget(*name)).matched for name in known} == known


def test_a_name_in_another_form_of_unicode_is_the_same_name(memory: VisualMemory) -> None:
    """As a Mac's files have it: the accents apart."""
    composed, apart = "José", "Jose\u0301"
    for n, kind in enumerate(("image", "subject", "source", "label")):
        time = 100 * n
        memory.remember(
            [ingest(composed, time=time, label=apart, source=apart, subjects=(composed,))]
        )
        assert visible(memory) == {composed: composed}
        assert memory.forget(forget(kind, apart, time=time)).images == 1
        assert visible(memory) == {}


def test_a_forget_names_its_stages_in_order(memory: VisualMemory) -> None:
    times = itertools.count(now_us())
    with patch("memory.service.now_us", lambda: next(times)):
        done = memory.forget(forget("subject", "ada"))
    assert done.first_seen < done.fenced < done.erased


def test_a_permanent_forget_is_for_ever(memory: VisualMemory) -> None:
    done = memory.forget(forget("subject", "ada", permanent=True))
    assert done.until == FOREVER
    event = ingest("i0", subjects=("ada",), time=FOREVER - 1)
    assert memory.remember([event]) == [Refused(FOREVER)]


@pytest.mark.parametrize("kind", ["subject", "source", "image"])
def test_what_comes_after_a_forget_is_refused_up_to_its_end_and_then_taken(
    memory: VisualMemory, kind: str
) -> None:
    memory.forget(forget(kind, {"subject": "ada", "source": "camera", "image": "i0"}[kind]))
    late, new = (ingest("i0", time=time, subjects=("ada",)) for time in (UNTIL, UNTIL + 1))
    assert memory.remember([late]) == [Refused(UNTIL)]
    assert visible(memory) == {}
    assert memory.remember([new]) == [Merged(won=True)]
    assert visible(memory) == {"i0": "cat"}


def test_a_correction_of_a_forgotten_image_is_refused(memory: VisualMemory) -> None:
    memory.forget(forget("image", "i0"))
    assert memory.correct([correction("i0", "dog", time=UNTIL)]) == [Refused(UNTIL)]
    assert memory.correct([correction("i0", "dog", time=UNTIL + 1)]) == [Merged(won=True)]


def test_what_is_forgotten_costs_no_decoding_and_no_embedding(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Never(Colours):
        def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
            pytest.fail("embedded")

    def never(data: bytes, limits: ImageLimits) -> Image.Image:
        pytest.fail("decoded")

    monkeypatch.setattr("memory.embedders.payloads.decode", never)
    memory = VisualMemory(exact(), Never(), fence_log=facts, clock_skew=SKEW)
    memory.forget(forget("subject", "ada"))
    memory.forget(forget("image", "i1"))
    events = [ingest("i0", subjects=("ada",)), ingest("i1")]
    assert memory.remember(events) == [Refused(UNTIL), Refused(UNTIL)]


def test_what_is_forgotten_is_refused_whatever_its_vector(facts: Facts) -> None:
    memory = VisualMemory(exact(), Colours(), fence_log=facts, clock_skew=SKEW)
    memory.forget(forget("subject", "ada"))
    zero = VectorPayload(np.zeros(3, np.float32), Colours().digest)
    refused, rejected = memory.remember(
        [ingest("i0", subjects=("ada",), payload=zero), ingest("i1", payload=zero)]
    )
    assert refused == Refused(UNTIL)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is Reason.ZERO_VECTOR


@pytest.mark.parametrize("kind", ["subject", "source", "image"])
@pytest.mark.parametrize("interrupted", ["enlist", "put", "admit"])
def test_a_forget_in_the_middle_of_an_ingest_ends_with_the_image_erased(
    kind: str, interrupted: str
) -> None:
    index, facts = exact(), Facts()
    journaled = Journaled(index, [])
    forgetting = VisualMemory(index, None, fence_log=facts, clock_skew=SKEW)
    request = forget(kind, {"subject": "ada", "source": "camera", "image": "i0"}[kind])
    journaled.before[interrupted] = lambda: forgetting.forget(request)
    memory = VisualMemory(cast("MemoryIndex", journaled), Colours(), fence_log=facts)
    ready = VectorPayload(np.array([1, 0, 0], np.float32), Colours().digest)
    event = ingest("i0", subjects=("ada",), payload=ready if interrupted == "admit" else None)
    assert memory.remember([event]) == [Refused(UNTIL)]
    assert journaled.before == {}
    assert visible(memory) == {}


def test_an_ingest_in_the_middle_of_a_forget_ends_with_the_image_erased() -> None:
    """Whatever step of the forget it comes before."""
    for step in ("open_request", "fence", "images_with_selector", "close_request"):
        index, facts = exact(), Facts()
        journaled = Journaled(index, [])
        ingesting = VisualMemory(index, Colours(), fence_log=facts, clock_skew=SKEW)
        ingesting.remember([ingest("i0", subjects=("ada",))])
        event = ingest("i1", subjects=("ada",))
        journaled.before[step] = partial(ingesting.remember, [event])
        memory = VisualMemory(
            cast("MemoryIndex", journaled), None, fence_log=facts, clock_skew=SKEW
        )
        memory.forget(forget("subject", "ada"))
        assert journaled.before == {}
        assert visible(memory) == {}, step


# Facts of forgetting


def test_a_refused_event_leaves_its_postings_and_its_barrier_as_facts(
    memory: VisualMemory, facts: Facts
) -> None:
    memory.forget(forget("subject", "ada"))
    facts.all.clear()
    memory.remember([ingest("i0", subjects=("ada", "bob"))])
    index = memory.index
    image = index.image_key("i0")
    selectors = [
        index.selector_key(Selector(kind, value))
        for kind, value in [
            (SelectorKind.SUBJECT, "ada"),
            (SelectorKind.SUBJECT, "bob"),
            (SelectorKind.SOURCE, "camera"),
        ]
    ]
    assert facts.all == [
        Barrier(image, UNTIL),
        *(Posting(s, image) for s in sorted(selectors)),
    ]


def test_facts_are_told_once_however_often_a_forgotten_image_comes(
    memory: VisualMemory, facts: Facts
) -> None:
    memory.remember([ingest("i0", subjects=("ada", "bob"))])
    memory.forget(forget("image", "i0"))
    facts.all.clear()
    memory.remember([ingest("i0", subjects=("ada", "bob"), time=n) for n in range(50, 60)])
    assert facts.all == []
    memory.remember([ingest("i0", subjects=("eve",)), ingest("i0", subjects=("eve", "ada"))])
    eve = memory.index.selector_key(Selector(SelectorKind.SUBJECT, "eve"))
    assert facts.all == [Posting(eve, memory.index.image_key("i0"))]


def test_facts_that_no_log_took_are_told_by_the_repeat(memory: VisualMemory, facts: Facts) -> None:
    memory.forget(forget("subject", "ada"))
    facts.all.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "append", lambda _: _crash())
        with pytest.raises(Crash):
            memory.remember([ingest("i0", subjects=("ada",))])
    memory.remember([ingest("i0", subjects=("ada",))])
    assert [type(fact) for fact in facts.all] == [Barrier, Posting, Posting]


def test_an_image_of_too_many_subjects_is_rejected_and_the_rest_is_as_if_it_never_came(
    memory: VisualMemory, facts: Facts
) -> None:
    def of(part: int) -> Ingest:
        return ingest("i0", time=part, subjects=tuple(f"{part}-{n}" for n in range(MAX_SUBJECTS)))

    outcomes = [memory.remember([of(part)])[0] for part in range(20)]
    taken = MAX_SELECTORS // MAX_SUBJECTS
    assert [isinstance(outcome, Merged) for outcome in outcomes] == [n < taken for n in range(20)]
    assert {str(o.reason) for o in outcomes[taken:] if isinstance(o, Rejected)} == {
        "too-many-subjects"
    }
    assert memory.forget(forget("subject", f"{taken}-0")).images == 0
    assert memory.forget(forget("subject", "3-0")).images == 1
    told = [fact for fact in facts.all if isinstance(fact, Posting)]
    assert len(told) == len(set(told)) == taken * MAX_SUBJECTS + 1, "the source is one"


def test_a_merged_event_leaves_no_fact(memory: VisualMemory, facts: Facts) -> None:
    memory.remember([ingest("i0", subjects=("ada",))])
    memory.correct([correction("i0", "dog")])
    assert facts.all == []


@pytest.mark.parametrize("kind", ["subject", "source", "image", "label"])
def test_the_log_knows_what_was_forgotten_before_a_request_is_closed(kind: str) -> None:
    """A crash at any point must leave a log from which a memory forgets as much.

    From an open request, and a fence, it expands itself; but a label into what has it then.
    """
    journal: list[Any] = []
    index = Journaled(exact(), journal)
    memory = VisualMemory(
        cast("MemoryIndex", index), Colours(), fence_log=Facts(journal), clock_skew=SKEW
    )
    memory.remember([ingest(f"i{n}", subjects=("ada",)) for n in range(3)])
    journal.clear()
    value = {"subject": "ada", "source": "camera", "image": "i1", "label": "cat"}[kind]
    memory.forget(forget(kind, value))
    told: set[tuple[str, int]] = set()
    raised: set[tuple[str, int]] = set()
    fenced = False
    for line in of(journal, "open_request", "put", "close_request"):
        if isinstance(line, FenceFact):
            fenced = fenced or isinstance(line, Fence)
            if isinstance(line, Barrier):
                told.add((line.image, line.until))
            closed = isinstance(line, ClosedRequest)
            assert not closed or raised == told, "closed before it was carried out and told"
        elif line[0] != "close_request":
            puts: Sequence[Put] = line[1] if line[0] == "put" else line[3]
            raised |= {(put.image, put.barrier) for put in puts}
            assert raised <= told or kind != "label"
            assert not puts or fenced or kind in ("image", "label")
    assert len(raised) == (1 if kind == "image" else 3)
    last_fact, last_call = of(journal, "close_request")[-2:]
    assert isinstance(last_fact, ClosedRequest)
    assert last_call[0] == "close_request"


def test_what_a_request_names_alone_is_erased_in_the_first_call_and_told_after() -> None:
    journal: list[Any] = []
    index = cast("MemoryIndex", Journaled(exact(), journal))
    log = Mock(append=Mock(side_effect=Facts(journal).append))
    memory = VisualMemory(index, Colours(), fence_log=log, clock_skew=SKEW)
    memory.remember([ingest(f"i{n}") for n in range(3)])
    journal.clear()
    log.append.reset_mock()
    request = replace(forget("image", "i1"), more=(Selector(SelectorKind.IMAGE, "i0"),))
    assert memory.forget(request).images == 2
    first, *told = of(journal, "open_request", "put", "note_dying")
    images = sorted(map(index.image_key, ("i0", "i1")))
    assert first[0] == "open_request"
    assert first[3] == [Put(image, barrier=UNTIL) for image in images]
    *told_of, closed = told
    assert {fact.image for fact in told_of if isinstance(fact, Barrier)} == set(images)
    assert all(isinstance(one, Barrier | Posting) for one in told_of)
    assert isinstance(closed, ClosedRequest)
    log.append.assert_called_once()


class FactsAway(Facts):
    """A log that cannot be reached, until it can."""

    away = True

    def append(self, facts: Sequence[FenceFact]) -> None:
        if facts and self.away:
            raise Crash
        super().append(facts)


def test_a_forget_whose_fence_or_expansion_cannot_be_kept_erases_nothing() -> None:
    memory = VisualMemory(exact(), Colours(), fence_log=FactsAway(), clock_skew=SKEW)
    memory.remember([ingest("i0", subjects=("ada",))])
    for request in (forget("subject", "ada"), forget("label", "cat")):
        with pytest.raises(Crash):
            memory.forget(request)
        assert visible(memory) == {"i0": "cat"}


def test_a_named_image_is_erased_though_the_log_is_away_and_told_when_it_is_back() -> None:
    facts = FactsAway()
    memory = VisualMemory(exact(), Colours(), fence_log=facts, clock_skew=SKEW)
    memory.remember([ingest("i0", subjects=("ada",))])
    request = forget("image", "i0")
    for _ in range(2):
        with pytest.raises(Crash):
            memory.forget(request)
        assert visible(memory) == {}
    assert memory.index.open_requests() == 1
    facts.away = False
    done = memory.forget(request)
    assert not done.repeated
    image = memory.index.image_key("i0")
    assert Barrier(image, done.until) in facts.all
    assert sum(isinstance(fact, Posting) and fact.image == image for fact in facts.all) == 2


def test_a_new_memory_comes_to_the_same_state_from_the_facts_and_the_events(
    memory: VisualMemory, facts: Facts
) -> None:
    """Labels too, whose expansion lives in the facts alone; events may come in any order."""
    ingests = [
        ingest(f"i{n}", label=f"l{n % 3}", subjects=(f"s{n % 4}",), time=50 + n) for n in range(12)
    ]
    corrections = [correction(f"i{n}", "l1", time=70 + n) for n in (2, 3, 20)]
    requests = [forget("label", "l1"), forget("subject", "s0"), forget("image", "i5", time=101)]
    late = [ingest("late", subjects=("s0",), time=105), ingest("new", subjects=("s0",), time=200)]
    memory.remember(ingests)
    memory.correct(corrections)
    for request in requests:
        memory.forget(request)
    memory.remember(late)
    memory.forget(forget("subject", "s1", time=300, permanent=True))

    again = VisualMemory(exact(), Colours(), clock_skew=SKEW)
    again.apply(facts.all)
    again.correct(corrections[::-1])
    again.remember([*late, *ingests[::-1]])
    assert again.index.digests() == memory.index.digests()
    for request in requests:
        done = again.forget(request)
        assert (done.repeated, done.images, done.matched) == (True, 0, None)
    assert again.index.digests() == memory.index.digests()


def test_facts_reach_what_an_older_memory_shows(memory: VisualMemory, facts: Facts) -> None:
    """A memory restored from a backup holds what has been forgotten since."""
    older = VisualMemory(exact(), Colours(), clock_skew=SKEW)
    for held_by in (memory, older):
        held_by.remember([ingest("i0", subjects=("ada",)), ingest("i1")])
    memory.forget(forget("subject", "ada"))
    older.apply(facts.all)
    assert visible(older) == {"i1": "cat"}
    assert older.index.digests() == memory.index.digests()


def test_a_fence_alone_reaches_what_an_older_memory_lists(facts: Facts) -> None:
    """The worker that raised it may have ended before it told of any image."""
    index = exact()
    journaled = Journaled(index, [])
    memory = VisualMemory(cast("MemoryIndex", journaled), None, fence_log=facts, clock_skew=SKEW)
    older = VisualMemory(exact(), Colours(), clock_skew=SKEW)
    for held_by in (VisualMemory(index, Colours()), older):
        held_by.remember([ingest("i0", subjects=("ada",)), ingest("i1")])
    journaled.before["put"] = _crash
    with pytest.raises(Crash):
        memory.forget(forget("subject", "ada"))
    assert [type(fact) for fact in facts.all] == [Fence]
    older.apply(facts.all)
    assert visible(older) == {"i1": "cat"}


def test_a_rebuilt_memory_finds_an_image_by_what_only_a_refused_event_said(
    memory: VisualMemory, facts: Facts
) -> None:
    """The event itself is gone from the log by then; its image is not."""
    memory.forget(forget("subject", "ada"))
    memory.remember([ingest("i0", subjects=("ada", "bob"))])
    again = VisualMemory(exact(), Colours(), clock_skew=SKEW)
    again.apply(facts.all)
    for rebuilt in (memory, again):
        rebuilt.correct([correction("i0", "dog", time=UNTIL + 1)])
        assert rebuilt.forget(forget("subject", "bob", time=UNTIL + 5)).images == 1
    assert again.index.digests() == memory.index.digests()


# Requests that come again


def test_a_label_is_expanded_once_and_a_repeat_uses_all_that_was_found() -> None:
    """A correction that relabels an image between a crash and the repeat saves it not."""
    index, facts = exact(), Facts()
    journaled = Journaled(index, [])
    memory = VisualMemory(
        cast("MemoryIndex", journaled), Colours(), fence_log=facts, clock_skew=SKEW
    )
    memory.remember([ingest("i0"), ingest("i1"), ingest("i2", label="dog")])
    request = forget("label", "cat")
    journaled.before["put"] = _crash
    with pytest.raises(Crash):
        memory.forget(request)
    assert visible(memory) == {"i0": "cat", "i1": "cat", "i2": "dog"}
    memory.correct([correction("i0", "dog"), correction("i2", "cat")])
    done = memory.forget(request)
    assert not done.repeated
    assert visible(memory) == {}, "i0 bore the label when it was asked, i2 when it was asked again"


def test_what_is_alike_is_forgotten_whatever_its_label_and_only_what_was_there(
    memory: VisualMemory, facts: Facts
) -> None:
    near = {"i0": (1, 0, 0), "i1": (1, 0.1, 0), "pruned": (1, 0, 0.1), "far": (0, 1, 0)}
    memory.remember([ingest(name, label=name, payload=vector(*at)) for name, at in near.items()])
    memory.correct([Prune(make_stamp(70, "p"), "pruned", pruned=True)])
    request = Forget("around", Surroundings(("i0", "never"), 0.05), FORGOTTEN_AT)
    done = memory.forget(request)
    assert (done.images, done.matched, done.repeated) == (3, 3, False)
    assert visible(memory) == {"far": "far"}
    late = [ingest("i1", payload=vector(1, 0.1, 0)), ingest("new", payload=vector(1, 0, 0))]
    refused, merged = memory.remember(late)
    assert (refused, merged) == (Refused(UNTIL), Merged(won=True))
    assert memory.forget(request).repeated
    again = VisualMemory(exact(), Colours(), clock_skew=SKEW)
    again.apply(facts.all)
    again.remember([ingest("new", payload=vector(1, 0, 0)), *late])
    assert visible(again).keys() == {"new"}
    unknown = Forget("unknown", Surroundings(("never",), 0.5), FORGOTTEN_AT)
    assert memory.forget(unknown).matched == 0


@pytest.mark.parametrize("distance", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_a_distance_that_is_none_or_takes_all_is_refused(distance: float) -> None:
    with pytest.raises(Rejected, match="from 0 to less than 1"):
        Surroundings(("i0",), distance)


def test_digests_of_surroundings_tell_what_they_are_around(memory: VisualMemory) -> None:
    given = [(("i0", "i1"), 0.25), (("i0",), 0.25), (("i1",), 0.25), (("i0",), 0.5)]
    digests = {memory.index.selector_key(Surroundings(*one)) for one in given}
    assert len(digests) == len(given)
    assert memory.index.selector_key(Surroundings(("i1", "i0"), 0.25)) in digests


@pytest.mark.parametrize("images", [(), tuple(f"i{n}" for n in range(17))])
def test_too_few_and_too_many_images_to_forget_around_are_refused(images: tuple[str, ...]) -> None:
    with pytest.raises(Rejected, match="1 to 16 are allowed"):
        Surroundings(images, 0.1)


@pytest.mark.parametrize("kind", ["subject", "label"])
def test_a_forget_counts_what_others_erased_once_they_read_of_it(kind: str) -> None:
    """Who starts anew applies what the log says, before the request is carried out again."""
    index, facts = exact(), Facts()
    journaled = Journaled(index, [])
    memory = VisualMemory(
        cast("MemoryIndex", journaled), Colours(), fence_log=facts, clock_skew=SKEW
    )
    memory.remember([ingest("i0", subjects=("ada",)), ingest("other", label="dog")])
    request = forget(kind, {"subject": "ada", "label": "cat"}[kind])
    journaled.before["put"] = _crash
    with pytest.raises(Crash):
        memory.forget(request)
    VisualMemory(index, None).apply(facts.all)
    assert visible(memory) == {"other": "dog"}
    done = memory.forget(request)
    assert (done.images, done.matched, done.repeated) == (1, 1, False)


@pytest.mark.parametrize("closed", ["by itself", "by the log"])
@pytest.mark.parametrize("kind", ["subject", "image", "label"])
def test_a_forget_counts_what_it_erased_before_it_was_interrupted(kind: str, closed: str) -> None:
    """Also when who starts anew reads in the log that it is closed."""
    index, facts = exact(), Facts()
    journaled = Journaled(index, [])
    memory = VisualMemory(
        cast("MemoryIndex", journaled), Colours(), fence_log=facts, clock_skew=SKEW
    )
    memory.remember([ingest("i0", subjects=("ada",)), ingest("other", label="dog")])
    request = forget(kind, {"subject": "ada", "image": "i0", "label": "cat"}[kind])
    journaled.before["close_request"] = _crash
    with pytest.raises(Crash):
        memory.forget(request)
    assert visible(memory) == {"other": "dog"}
    if closed == "by the log":
        memory.apply(facts.all)
    for repeated in (closed == "by the log", True, True):
        done = memory.forget(request)
        assert (done.images, done.matched, done.repeated) == (1, 1, repeated)


def test_a_label_that_comes_back_is_kept_by_a_request_that_is_closed(memory: VisualMemory) -> None:
    memory.remember([ingest("i0")])
    request = forget("label", "cat")
    first = memory.forget(request)
    memory.remember([ingest("i1", time=60)])
    again = memory.forget(request)
    assert (first.images, again.images, again.matched) == (1, 1, 1)
    assert again.repeated
    assert again.until == first.until
    assert visible(memory) == {"i1": "cat"}


def test_a_request_forgets_all_that_it_names_and_counts_each_image_once(
    memory: VisualMemory, facts: Facts
) -> None:
    memory.remember(
        [
            ingest("i0", subjects=("ada", "bob")),
            ingest("i1", subjects=("bob",)),
            ingest("i2", label="dog"),
            ingest("i3", source="scanner"),
            ingest("i4"),
            ingest("i5"),
        ]
    )
    named = [("subject", "ada"), ("subject", "bob"), ("label", "dog"), ("source", "scanner")]
    named += [("image", "i4"), ("image", "nobody's")]
    first, *more = (Selector(SelectorKind(kind), value) for kind, value in named)
    done = memory.forget(Forget("r", first, FORGOTTEN_AT, more=tuple(more)))
    assert visible(memory) == {"i5": "cat"}
    assert (done.images, done.matched) == (5, 5)
    keys = {memory.index.selector_key(s) for s in (first, *more)}
    fenced = {fact.selector for fact in facts.all if isinstance(fact, Fence)}
    assert fenced == {key for key in keys if key.startswith(("subject:", "source:"))}
    late = [ingest("n0", subjects=("bob",)), ingest("n1", source="scanner"), ingest("i4")]
    assert all(isinstance(outcome, Refused) for outcome in memory.remember(late))
    assert memory.forget(Forget("r", first, FORGOTTEN_AT, more=tuple(more))).repeated


def test_a_repeat_at_a_later_time_keeps_the_first_ones_end(memory: VisualMemory) -> None:
    """A request copied to another partition or sent again is the request it was."""
    selector = Selector(SelectorKind.SUBJECT, "ada")
    memory.forget(Forget("r", selector, FORGOTTEN_AT))
    again = memory.forget(Forget("r", selector, FORGOTTEN_AT + 50))
    assert (again.first_seen, again.until) == (FORGOTTEN_AT, UNTIL)
    event = ingest("i0", subjects=("ada",), time=UNTIL + 1)
    assert memory.remember([event]) == [Merged(won=True)]


@pytest.mark.parametrize("step", ["fence", "images_with_selector", "put", "close_request"])
def test_a_forget_that_crashed_is_finished_by_its_repeat(step: str) -> None:
    index, facts = exact(), Facts()
    journaled = Journaled(index, [])
    memory = VisualMemory(
        cast("MemoryIndex", journaled), Colours(), fence_log=facts, clock_skew=SKEW
    )
    memory.remember([ingest("i0", subjects=("ada",))])
    journaled.before[step] = _crash
    with pytest.raises(Crash):
        memory.forget(forget("subject", "ada"))
    assert index.open_requests() == 1
    assert not memory.forget(forget("subject", "ada")).repeated
    assert index.open_requests() == 0
    assert visible(memory) == {}


# Recalling


def asked(memory: VisualMemory, *queries: Query) -> list[Prediction]:
    answers = memory.recall(queries)
    assert all(isinstance(answer, Prediction) for answer in answers), answers
    return cast("list[Prediction]", answers)


@pytest.fixture
def colours(memory: VisualMemory) -> VisualMemory:
    memory.remember(
        [
            ingest("red", label="red"),
            ingest("green", label="green", payload=ImagePayload(png(GREEN))),
            ingest("blue", label="blue", payload=ImagePayload(png(BLUE))),
        ]
    )
    return memory


def test_an_image_and_a_vector_are_answered_with_the_nearest(colours: VisualMemory) -> None:
    image, ready = asked(
        colours, Query(ImagePayload(png((250, 9, 0))), k=1), Query(vector(0, 0, 2), k=1)
    )
    assert (image.vote.label, ready.vote.label) == ("red", "blue")
    assert [n.image_id for n in image.vote.neighbors] == ["red"]
    assert image.embedder == Colours.digest


def test_an_item_is_no_neighbour_of_itself(colours: VisualMemory) -> None:
    (answer,) = asked(colours, Query(ItemRef("red"), k=3))
    assert {n.image_id for n in answer.vote.neighbors} == {"green", "blue"}


def test_an_item_that_is_unknown_or_forgotten_is_rejected_alone(colours: VisualMemory) -> None:
    colours.forget(forget("image", "red"))
    answers = colours.recall(
        [Query(ItemRef(i)) for i in ("green", "nobody", "red")] + [Query(ImagePayload(png(BLUE)))]
    )
    assert [isinstance(a, Prediction) for a in answers] == [True, False, False, True]
    reasons = [a.reason for a in answers if isinstance(a, Rejected)]
    assert reasons == [Reason.UNKNOWN_ITEM] * 2


def test_answers_come_in_the_order_of_the_questions(colours: VisualMemory) -> None:
    answers = colours.recall(
        [
            Query(vector(0, 1, 0), k=1),
            Query(ImagePayload(b"no image")),
            Query(ItemRef("blue"), k=1),
            Query(ImagePayload(png(RED)), k=2),
        ]
    )
    green, rejected, _, red = answers
    assert isinstance(green, Prediction)
    assert isinstance(red, Prediction)
    assert isinstance(rejected, Rejected)
    assert (green.vote.label, green.k, red.vote.label, red.k) == ("green", 1, "red", 2)
    assert len(red.vote.neighbors) == 2


def test_an_empty_memory_answers_with_nothing(memory: VisualMemory) -> None:
    (answer,) = asked(memory, Query(ImagePayload(png(RED))))
    assert answer.empty
    assert answer.vote.label is None
    assert answer.vote.shares == {}


def test_an_answer_names_the_positions_of_before_its_search() -> None:
    """Else it could claim to rest on what came after; of which adapter: test_index_contract.py."""
    index = exact()
    search = index.search_as_of

    def overtaken(*args: Any) -> Any:
        found = search(*args)
        index.advance({LogPartition("ingest-topic", 0): 8})
        return found

    index.search_as_of = overtaken  # type: ignore[assignment,method-assign]
    memory = VisualMemory(index, Colours(), logs={"ingest-topic": "image-ingest"})
    index.advance({LogPartition("ingest-topic", 0): 7, LogPartition("another", 3): 1})
    (answer,) = asked(memory, Query(ImagePayload(png(RED))))
    assert answer.as_of == (Position("image-ingest", "ingest-topic", 0, 7),)


@pytest.mark.parametrize("exact_", [True, False])
def test_whether_a_search_was_exact_is_passed_on(colours: VisualMemory, *, exact_: bool) -> None:
    class Estimate(Journaled):
        def search_as_of(self, *args: Any) -> Any:
            positions, found = self._index.search_as_of(*args)
            return positions, [SearchResult(result.hits, exact=exact_) for result in found]

    memory = VisualMemory(cast("MemoryIndex", Estimate(colours.index, [])), Colours())
    (answer,) = asked(memory, Query(ItemRef("red")))
    assert answer.exact is exact_


def test_an_answer_tells_how_long_each_stage_took(colours: VisualMemory) -> None:
    (answer,) = asked(colours, Query(ImagePayload(png(RED))))
    assert set(answer.timings) == {"embed", "search", "vote"}
    assert all(seconds >= 0 for seconds in answer.timings.values())


def test_stages_are_observed_where_they_happen() -> None:
    stages: list[str] = []
    memory = VisualMemory(exact(), Colours(), observe=lambda stage, _: stages.append(stage))
    memory.remember([ingest("i0")])
    assert stages == ["embed", "merge"]
    stages.clear()
    memory.recall([Query(ImagePayload(png(RED)))])
    assert stages == ["embed", "search", "vote"]
    stages.clear()
    memory.forget(forget("image", "i0"))
    assert "erase" in stages


def test_a_memory_in_one_process_needs_no_server_and_no_log() -> None:
    memory = VisualMemory(ExactIndex(embedder="mine", dim=2), VectorsOnly("mine", 2))
    cat = VectorPayload(np.array([1, 0.1], np.float32), "mine")
    memory.remember(
        [
            Ingest(make_stamp(1, "a"), "i0", "cat", "me", cat, "", subjects=("ada",)),
            Ingest(make_stamp(2, "b"), "i1", "cat", "me", cat, ""),
        ]
    )
    (answer,) = memory.recall([Query(cat)])
    assert isinstance(answer, Prediction)
    assert answer.vote.label == "cat"
    assert answer.as_of == ()
    done = memory.forget(Forget("r", Selector(SelectorKind.SUBJECT, "ada"), 3))
    assert isinstance(done, Forgotten)
    (answer,) = memory.recall([Query(cat)])
    assert isinstance(answer, Prediction)
    assert [n.image_id for n in answer.vote.neighbors] == ["i1"]
