"""Texts: what an id or a label may be, and one text for one JSON value."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence

from memory.errors import Reason, Rejected


def checked_text(value: str, *, what: str, reason: Reason, limit: int) -> str:
    """Return `value` unchanged, or raise `Rejected` naming what is wrong with it.

    Refused: empty, longer than `limit` characters, surrounding white space, control
    characters and lone surrogates.
    """
    if not value.strip():
        raise Rejected(reason, f"{what} is empty")
    if len(value) > limit:
        raise Rejected(reason, f"{what} has {len(value)} characters; at most {limit} are allowed")
    if value != value.strip():
        raise Rejected(reason, f"{what} has white space around it; strip it")
    if value.isprintable():
        return value
    for position, character in enumerate(value):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise Rejected(
                reason,
                f"{what} has a control character at position {position}; remove it",
            )
    return value


def canonical_json(value: Mapping[str, object] | Sequence[object]) -> str:
    """One text for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
