"""What a memory in Redis was made with, and the law's functions beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

from memory.errors import Misconfigured
from memory.model.vectors import Vector
from memory.ports import Embedder
from memory.redis.connection import key_id

LAW_VERSION = "1"
"""What the memory's state means; another one needs a new memory."""
FUNCTIONS_VERSION = 11
"""Of the functions' code (VERSION in law.lua): a newer one also serves older programs."""
LIBRARY = "visual_memory_v1"
GENERATION = "1"
"""Of a new memory. It stands behind the namespace in every key of what a memory holds; each rebuild
takes the next number.
"""
MADE_WITH = ("embedder", "embedder_name", "dim", "algorithm", "dtype", "generation")
"""What a memory's `meta` says of a generation; of one being rebuilt with ``next_`` before it."""


def load_law(client: redis.Redis) -> None:
    """Put this program's functions into Redis, unless newer ones are there: `Misconfigured`."""
    source = files("memory.redis").joinpath("law.lua").read_text("utf-8")
    raw: Any = client
    loaded = raw.function_list(LIBRARY, withcode=True)
    if loaded:
        found = dict(zip(loaded[0][::2], loaded[0][1::2], strict=True))
        if found[b"library_code"] == source.encode():
            return
        version = int(raw.fcall_ro("vm1_version", 0))
        if version > FUNCTIONS_VERSION:
            raise Misconfigured(
                f"Redis holds version {version} of this memory's functions, this program brings "
                f"{FUNCTIONS_VERSION}; upgrade the program"
            )
    try:
        raw.function_load(source, replace=True)
    except redis.exceptions.NoPermissionError:
        raise Misconfigured(
            f"Redis does not hold version {FUNCTIONS_VERSION} of this memory's functions, and this "
            "user may not load them; let one that may open the memory first"
        ) from None


def open_schema(
    client: redis.Redis,
    *,
    namespace: str,
    hmac_key: bytes,
    embedder: Embedder | None,
    algorithm: str,
    dtype: str,
) -> Schema:
    """What the memory of a namespace holds; decided now if there is none and `embedder` is given.

    Raises `Misconfigured`, naming both values, when it was made with others.
    """
    if not re.fullmatch(r"[\w:.-]+", namespace, re.ASCII):
        # Braces would decide the cluster slot, and * ? [ ] match others' keys in SCAN.
        raise Misconfigured(
            f"the namespace {namespace!r} may have letters, digits and _ : . - only"
        )
    load_law(client)
    wanted = {"law": LAW_VERSION, "hmac_key_id": key_id(hmac_key)}
    if embedder is not None:
        wanted |= made_with(embedder, algorithm, dtype)
    meta = f"{namespace}:meta"
    raw: Any = client
    found = read_meta(client, namespace)
    if embedder is not None and not {*wanted, "generation"} <= found.keys():
        pairs = [part for pair in {**wanted, "generation": GENERATION}.items() for part in pair]
        reply = [part.decode() for part in raw.fcall("vm1_claim", 1, meta, *pairs)]
        found = dict(zip(reply[::2], reply[1::2], strict=True))
    if not found:
        raise Misconfigured(
            f"there is no memory under the namespace {namespace!r}; start an ingest "
            "worker first, it makes one"
        )
    for name, value in wanted.items():
        if name != "embedder_name" and found.get(name) != value:
            raise Misconfigured(
                f"this memory was made with {name} = {found.get(name)}, the settings "
                f"say {value}; use the former or another namespace"
            )
    return schema_of(found)


def made_with(embedder: Embedder, algorithm: str, dtype: str) -> dict[str, str]:
    """What `meta` says of a generation that is made so, but for its number."""
    return {
        "embedder": embedder.digest,
        "embedder_name": embedder.name,
        "dim": str(embedder.dim),
        "algorithm": algorithm,
        "dtype": dtype,
    }


def read_meta(client: redis.Redis, namespace: str) -> dict[str, str]:
    """What a memory was made with and which of its generations are in use; empty if there is none."""
    raw: Any = client
    found = raw.hgetall(f"{namespace}:meta")
    return {name.decode(): value.decode() for name, value in found.items()}


def schema_of(meta: Mapping[str, str], prefix: str = "") -> Schema:
    """The generation that answers; with the prefix ``next_`` the one being rebuilt."""
    return Schema(
        embedder=meta[f"{prefix}embedder"],
        dim=int(meta[f"{prefix}dim"]),
        algorithm=meta[f"{prefix}algorithm"],
        dtype=meta[f"{prefix}dtype"],
        generation=meta[f"{prefix}generation"],
    )


ELEMENT_TYPES: Mapping[str, type[np.floating[Any]]] = {"FLOAT16": np.float16, "FLOAT32": np.float32}


@dataclass(frozen=True, slots=True)
class Schema:
    """What an index holds and how it searches."""

    embedder: str
    dim: int
    algorithm: str
    dtype: str
    generation: str

    @property
    def exact(self) -> bool:
        return self.algorithm == "FLAT"

    @property
    def element(self) -> np.dtype[np.floating[Any]]:
        """Stored vectors' element type, little-endian."""
        return np.dtype(ELEMENT_TYPES[self.dtype]).newbyteorder("<")

    def quantise(self, vector: Vector) -> npt.NDArray[np.floating[Any]]:
        """The vector in the index's element type."""
        return vector.astype(self.element)

    def decode_vector(self, blob: bytes) -> Vector:
        """A stored vector as float32, shape (dim,)."""
        return np.frombuffer(blob, self.element).astype(np.float32)
