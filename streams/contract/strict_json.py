"""JSON with one meaning for one text."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def load_json(text: str) -> Any:
    """A JSON value with one meaning: no repeated names, no NaN, no lone surrogates.

    Raises ValueError.
    """
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_json)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "\\ud" in text.lower():
        # An escape can smuggle in half a character, which no later digest could encode.
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there more than once")
    return found


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
