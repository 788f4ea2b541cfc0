"""Texts: what an id or a label may be, and one text for one JSON value."""

from __future__ import annotations

import unicodedata
from typing import Final

import regex
from msgspec.json import Encoder

from memory.errors import Reason, Rejected

_CANONICAL: Final = Encoder(order="sorted")
_OTHER_SPACE = regex.compile(r"(?! )\p{Zs}")
_UNSEEN = regex.compile(
    r"\p{Default_Ignorable_Code_Point}|\p{Noncharacter_Code_Point}|[\p{Zl}\p{Zp}\u2800\ufff9-\ufffb]"
)
_SHAPING = regex.compile(
    # A selector of how the character before it looks, or joins two pictures into one.
    r"(?V1)(?<=[\p{Emoji}--[0-9#*]]|\p{Emoji_Modifier})[\ufe0e\ufe0f]?\u200d(?=\p{Emoji})"
    r"|(?<=[\p{Emoji}--[0-9#*]])[\ufe0e\ufe0f]"
    r"|(?<=[0-9#*])\ufe0f(?=\u20e3)"
    # The flags of regions.
    r"|(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f"
    # Variants of an ideograph or of a Mongolian letter.
    r"|(?<=\p{Han})[\ufe00-\ufe0f\U000e0100-\U000e01ef]|(?<=\p{Mongolian})[\u180b-\u180d]"
    # Whether letters of a script that joins them are joined.
    r"|(?<=\p{M}|\p{Arabic}|\p{Syriac}|\p{Mongolian}|\p{Nko})[\u200c\u200d](?=\p{L}|\p{M})"
)
"""What cannot be seen itself, but in how something else looks."""


def checked_text(value: str, *, what: str, reason: Reason, limit: int) -> str:
    """Return `value` unchanged, or raise `Rejected` naming what is wrong with it.

    Refused: empty, longer than `limit` characters, surrounding white space, control
    characters and lone surrogates.
    """
    stripped = value.strip()
    if not stripped:
        raise Rejected(reason, f"{what} is empty")
    if len(value) > limit:
        raise Rejected(reason, f"{what} has {len(value)} characters; at most {limit} are allowed")
    if value != stripped:
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


def canonical_name(value: str, *, what: str, reason: Reason, limit: int) -> str:
    """The one spelling of a name, or `Rejected` naming what is wrong with it.

    The spelling of RFC 8265's OpaqueString: every other space is the plain one, then Unicode's
    form NFC. Refused is what `checked_text` refuses, and what cannot be seen: two names that look
    alike would be two.
    """
    # A form that takes quadratic time, of a text that may be long; it shortens no text to a quarter.
    if value.isascii() or len(value) > 4 * limit:
        return checked_text(value, what=what, reason=reason, limit=limit)
    spelt = unicodedata.normalize("NFC", _OTHER_SPACE.sub(" ", value))
    checked_text(spelt, what=what, reason=reason, limit=limit)
    if _UNSEEN.search(spelt) and (unseen := _UNSEEN.search(_SHAPING.sub("", spelt))):
        name = unicodedata.name(unseen[0], "")
        raise Rejected(
            reason, f"{what} has a character that cannot be seen ({name or 'unnamed'}); remove it"
        )
    return spelt


def canonical_json(value: object) -> bytes:
    """One text for one value: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value)
