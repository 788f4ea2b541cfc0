"""Signed receipts: Ed25519 over what they say, each naming the one before, so that none can go.

The signature is over the JSON object without `signature`, with sorted keys, no spaces, in UTF-8; the
digest by which the next names it is SHA-256 over the same with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec.structs import replace

from memory.errors import Misconfigured
from memory.model.text import canonical_json
from streams.contract.messages import Cancellation, KeyChange, Receipt
from streams.contract.strict_json import load_json

FIRST = "0" * 64
"""What the first of a chain names in place of one before it."""
_Linked = TypeVar("_Linked", bound=Receipt | Cancellation | KeyChange)


class SigningKey:
    """An Ed25519 key from its 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw().hex()
        self.id = key_id_of(self.public)

    def sign(self, said: bytes) -> str:
        return self._key.sign(said).hex()

    def link(self, message: _Linked, sequence: int, previous: str) -> _Linked:
        """The message as the next of a chain, signed."""
        linked = replace(message, sequence=sequence, previous=previous, key=self.id, signature=None)
        return replace(linked, signature=self.sign(canonical_json(linked)))


def key_id_of(public: str) -> str:
    """Names a public key, 64 hex digits: 16 of its SHA-256. Raises `Misconfigured`."""
    try:
        raw = bytes.fromhex(public)
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise Misconfigured("a public key is 64 hex digits") from None
    return hashlib.sha256(raw).hexdigest()[:16]


def verifies(said: bytes, signature: str, public: str) -> bool:
    """Whether a signature, hex, is that of a public key, hex, over what is said."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature), said
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def link_digest(said: bytes) -> str:
    """By which the next of a chain names this one: SHA-256 of its canonical JSON."""
    return hashlib.sha256(said).hexdigest()


class Chain:
    """Checks a chain from its first link on. `public` are the keys that are trusted from the start.

    Where one of them hands over to a new one, that is trusted too.
    """

    def __init__(self, public: Iterable[str]) -> None:
        self._keys = {key_id_of(key): key for key in public}
        self.sequence = 0
        self.last = FIRST

    def check(self, value: bytes) -> str | None:
        """What is wrong with the next of the chain, None where nothing is."""
        try:
            said = load_json(value.decode())
        except ValueError:
            return "it is not JSON"
        if not isinstance(said, dict) or not isinstance(said.get("signature"), str):
            return "it is not signed"
        fault = self._signature_fault(said)
        if fault is None and (said["sequence"], said["previous"]) != (self.sequence + 1, self.last):
            fault = (
                f"it is number {said['sequence']} and does not follow number {self.sequence}: one is "
                "missing, or the order is another"
            )
        if isinstance(said.get("sequence"), int):
            self.sequence, self.last = said["sequence"], link_digest(canonical_json(said))
        if fault is None and "next_key" in said:
            self._keys[key_id_of(said["next_key"])] = said["next_key"]
        return fault

    def _signature_fault(self, said: Mapping[str, Any]) -> str | None:
        names = ("sequence", "previous", "key")
        if not all(
            isinstance(said.get(name), kind)
            for name, kind in zip(names, (int, str, str), strict=True)
        ):
            return "it is in no chain"
        key = self._keys.get(said["key"])
        if key is None:
            return f"the key {said['key'][:16]!r} is not among the trusted ones"
        unsigned = {name: value for name, value in said.items() if name != "signature"}
        if verifies(canonical_json(unsigned), said["signature"], key):
            return None
        return "the signature is not that of what it says"
