"""Names have one spelling, and none looks like another."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import Reason, Rejected
from memory.model.events import (
    MAX_ID,
    MAX_LABEL,
    Correction,
    Ingest,
    Selector,
    SelectorKind,
    VectorPayload,
)
from memory.model.questions import ItemRef
from memory.model.text import canonical_name
from memory.model.times import make_stamp

COMPOSED, DECOMPOSED = "José", "Jose\u0301"


def spelt(name: str) -> str:
    return canonical_name(name, what="the name", reason=Reason.INVALID_ID, limit=100)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (DECOMPOSED, COMPOSED),
        ("\u212bngström", "Ångström"),
        ("Screenshot 3.04\u202fPM.png", "Screenshot 3.04 PM.png"),
        ("Ada\u00a0Lovelace", "Ada Lovelace"),
        ("\u1112\u1161\u11ab", "한"),
        ("ﬁne ①", "ﬁne ①"),  # compatible, but not the same
    ],
)
def test_a_name_has_one_spelling(name: str, canonical: str) -> None:
    assert spelt(name) == spelt(canonical) == canonical


@pytest.mark.parametrize(
    "name",
    [
        *("👩‍❤️‍👩", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "👨🏽‍👩🏽‍👧", "🏳️‍🌈", "🧔🏻‍♂️", "👍🏽"),
        *("می‌خواهم", "क्‍ष", "葛\U000e0100"),
    ],
)
def test_what_shapes_a_sign_or_a_letter_stays(name: str) -> None:
    assert spelt(name) == name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cat\u200b", "ZERO WIDTH SPACE"),
        ("c\u200dat", "ZERO WIDTH JOINER"),
        ("猫\u200d", "ZERO WIDTH JOINER"),
        ("👩\u200d\u200d👩", "ZERO WIDTH JOINER"),
        ("cat\ufe0f", "VARIATION SELECTOR-16"),
        ("1\ufe0f", "VARIATION SELECTOR-16"),
        ("\ufeffcat", "ZERO WIDTH NO-BREAK SPACE"),
        ("gnp.\u202etac", "RIGHT-TO-LEFT OVERRIDE"),
        ("soft\u00adhyphen", "SOFT HYPHEN"),
        ("\u3164", "HANGUL FILLER"),
        ("a\u2028b", "LINE SEPARATOR"),
        ("\u2800a", "BRAILLE PATTERN BLANK"),
        ("a\U000e0061", "TAG LATIN SMALL LETTER A"),
        ("a\ufdd0", "unnamed"),
    ],
)
def test_what_cannot_be_seen_is_refused_and_named(name: str, found: str) -> None:
    with pytest.raises(Rejected, match=f"the name has .*{found}"):
        spelt(name)


NAMES = st.text(max_size=12) | st.text(
    st.sampled_from("aeE \u0301\u0327\u00a0\u2009é\u212b\u200d\ufe0f👩❤한\u1112\u1161"), max_size=8
)


@given(NAMES)
def test_all_forms_of_a_name_are_one(name: str) -> None:
    try:
        canonical = spelt(name)
    except Rejected:
        return
    assert spelt(canonical) == canonical
    for form in ("NFC", "NFD"):
        assert spelt(unicodedata.normalize(form, name)) == canonical


@pytest.mark.timeout(5)
def test_a_long_name_costs_no_time() -> None:
    """Marks in the wrong order are sorted one by one: a million of them would take hours."""
    with pytest.raises(Rejected, match="characters; at most 100 are allowed"):
        spelt("a" + "\u0301\u0327" * 500_000)
    assert spelt("\u1112\u1161\u11ab" * 100) == "한" * 100


def test_no_character_alone_is_blank() -> None:
    """Whatever Unicode calls a space, a control or a format sign is no name."""
    taken = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"):
            try:
                taken.append(spelt(chr(code)))
            except Rejected:
                continue
    # Of the format signs these are drawn: marks of numbers and verses, and signs of notation.
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    assert set(taken) <= {*map(chr, drawn), *map(chr, [*range(0x13430, 0x13456)])}, ascii(taken)


def test_every_name_an_event_has_is_spelt_so() -> None:
    event = Ingest(
        stamp=make_stamp(1, "i"),
        image_id=DECOMPOSED,
        label=DECOMPOSED,
        source=DECOMPOSED,
        payload=VectorPayload(np.ones(2, np.float32), "test"),
        payload_digest="",
        subjects=(DECOMPOSED, "ada"),
    )
    assert (event.image_id, event.label, event.source) == (COMPOSED,) * 3
    assert event.subjects == (COMPOSED, "ada")
    correction = Correction(make_stamp(1, "c"), DECOMPOSED, DECOMPOSED)
    assert (correction.image_id, correction.label) == (COMPOSED, COMPOSED)
    assert ItemRef(DECOMPOSED).image_id == COMPOSED
    for kind in SelectorKind:
        assert Selector(kind, DECOMPOSED).value == COMPOSED


@pytest.mark.parametrize("kind", SelectorKind)
def test_a_selector_is_as_long_as_what_it_names_may_be(kind: SelectorKind) -> None:
    """Else what was learnt could not be forgotten."""
    longest = MAX_LABEL if kind is SelectorKind.LABEL else MAX_ID
    assert Selector(kind, "x" * longest).value == "x" * longest
    with pytest.raises(Rejected) as refusal:
        Selector(kind, "x" * (longest + 1))
    assert refusal.value.reason is Reason.INVALID_SELECTOR
