"""The chain of receipts: what verifies, and each way in which one does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from memory.errors import Misconfigured
from memory.model.text import canonical_json
from streams.contract.messages import KeyChange, Receipt, SelectorDigest
from streams.contract.signing import FIRST, Chain, SigningKey, key_id_of, link_digest

KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))


def receipt(request: str, stage: str = "erased") -> Receipt:
    return Receipt(request, stage, {stage: 5}, SelectorDigest("subject", "subject:ä"), 9, 4)


def chained(
    messages: Sequence[Receipt | KeyChange], *, keys: Sequence[SigningKey] = ()
) -> list[bytes]:
    """Each as its record's value, signed by KEY or by the key at its place."""
    values: list[bytes] = []
    last = FIRST
    for n, message in enumerate(messages):
        key = keys[n] if keys else KEY
        values.append(canonical_json(key.link(message, n + 1, last)))
        last = link_digest(values[-1])
    return values


def faults(values: Sequence[bytes], *public: str) -> list[str | None]:
    chain = Chain(public or [KEY.public])
    return [chain.check(value) for value in values]


THREE = chained([receipt("a"), receipt("b"), receipt("a", "completed")])


def test_a_chain_verifies() -> None:
    assert faults(THREE) == [None] * 3


def test_what_a_link_was_made_of_before_is_not_part_of_it() -> None:
    once = KEY.link(receipt("a"), 1, FIRST)
    last = link_digest(canonical_json(once))
    again = KEY.link(replace(once, stage="completed"), 2, last)
    assert faults([canonical_json(once), canonical_json(again)]) == [None, None]


def test_a_receipt_altered_in_any_byte_fails() -> None:
    good = THREE[1]
    for place in range(len(good)):
        altered = bytearray(good)
        altered[place] ^= 1
        assert faults([THREE[0], bytes(altered), THREE[2]])[1] is not None, place


def test_one_that_is_missing_or_elsewhere_is_told() -> None:
    assert [bool(fault) for fault in faults([THREE[0], THREE[2]])] == [False, True]
    assert [bool(fault) for fault in faults(THREE[1:])] == [True, False]
    assert any(faults([THREE[1], THREE[0], THREE[2]]))
    assert any(faults([*THREE, THREE[2]]))


def test_one_of_another_chain_fails_though_its_signature_is_good() -> None:
    other = chained([receipt("x"), receipt("y")])
    assert [bool(fault) for fault in faults([THREE[0], other[1], THREE[2]])] == [False, True, True]


def test_a_signature_of_another_key_fails() -> None:
    values = chained([receipt("a"), receipt("b")], keys=[KEY, OTHER])
    assert faults(values)[0] is None
    assert "not among the trusted" in str(faults(values)[1])
    assert faults(values, KEY.public, OTHER.public) == [None, None]


def test_a_key_hands_over_to_the_next_and_none_to_itself() -> None:
    keys = [KEY, KEY, OTHER]
    values = chained([receipt("a"), KeyChange(OTHER.public, "vm"), receipt("b")], keys=keys)
    assert faults(values) == [None] * 3
    # Who has only the new key cannot bring it in.
    forged = chained(
        [receipt("a"), KeyChange(OTHER.public, "vm"), receipt("b")], keys=[KEY, OTHER, OTHER]
    )
    assert [bool(fault) for fault in faults(forged)] == [False, True, True]


def test_a_handover_that_was_altered_brings_no_key_in() -> None:
    values = chained([KeyChange(OTHER.public, "vm"), receipt("b")], keys=[KEY, OTHER])
    said = json.loads(values[0])
    said["next_key"] = SigningKey(bytes(32)).public
    assert all(faults([canonical_json(said), values[1]]))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"signature": 1}',
        b'{"signature": "00"}',
        b'{"signature": "00", "sequence": "1", "previous": "", "key": ""}',
        b'{"signature": "xx", "sequence": 1, "previous": "", "key": "%s"}' % KEY.id.encode(),
        THREE[0].replace(b'"sequence":1', b'"sequence":1,"sequence":1'),
    ],
)
def test_what_is_no_signed_receipt_is_said(value: bytes) -> None:
    assert faults([value])[0]


def test_a_public_key_is_64_digits() -> None:
    assert len(key_id_of(KEY.public)) == 16
    for text in ("", "00", "x" * 64):
        with pytest.raises(Misconfigured, match="64 hex digits"):
            key_id_of(text)


GUIDE = (Path(__file__).parents[2] / "docs" / "forgetting.md").read_text("utf-8")


def test_the_script_of_the_guide_verifies_and_needs_nothing_of_ours(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(script.splitlines()) <= 40
    assert not re.search(r"memory|streams", script)
    program, file = tmp_path / "verify.py", tmp_path / "receipts.jsonl"
    program.write_text(script)
    changed = chained(
        [receipt("ä"), KeyChange(OTHER.public, "vm"), receipt("ä", "completed")],
        keys=[KEY, KEY, OTHER],
    )

    def said(values: Sequence[bytes]) -> tuple[int, str]:
        file.write_bytes(b"".join(value + b"\n" for value in values))
        command = [sys.executable, "-I", str(program), str(file), KEY.public]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert said(changed) == (0, "3 receipts, all good\n")
    assert said(THREE) == (0, "3 receipts, all good\n")
    for bad in (
        [changed[0], changed[2]],
        [changed[1], changed[2]],
        [changed[0].replace(b'"images":4', b'"images":0'), *changed[1:]],
    ):
        code, text = said(bad)
        assert code == 1
        assert text.startswith("not good: ")
