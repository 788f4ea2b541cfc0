from .claims import ClaimFetcher, claim_of
from .embedders import VectorsOnly, load_embedder
from .errors import Misconfigured, Reason, Rejected, Unavailable, VisualMemoryError
from .exact.index import ExactIndex
from .images import ImageLimits
from .model.answers import Contribution, Flip, Neighbor, Position, Prediction, Vote, Why
from .model.events import (
    ClaimPayload,
    Correction,
    Forget,
    ImagePayload,
    Ingest,
    Selector,
    SelectorKind,
    VectorPayload,
)
from .model.outcomes import Forgotten, Merged, Refused
from .model.questions import Factors, ItemRef, Query, Rule, WhatIf
from .model.times import make_stamp
from .ports import Embedder, MemoryIndex
from .redis.connection import connect
from .redis.index import RedisIndex
from .service import VisualMemory

__all__ = [
    "ClaimFetcher",
    "ClaimPayload",
    "Contribution",
    "Correction",
    "Embedder",
    "ExactIndex",
    "Factors",
    "Flip",
    "Forget",
    "Forgotten",
    "ImageLimits",
    "ImagePayload",
    "Ingest",
    "ItemRef",
    "MemoryIndex",
    "Merged",
    "Misconfigured",
    "Neighbor",
    "Position",
    "Prediction",
    "Query",
    "Reason",
    "RedisIndex",
    "Refused",
    "Rejected",
    "Rule",
    "Selector",
    "SelectorKind",
    "Unavailable",
    "VectorPayload",
    "VectorsOnly",
    "VisualMemory",
    "VisualMemoryError",
    "Vote",
    "WhatIf",
    "Why",
    "claim_of",
    "connect",
    "load_embedder",
    "make_stamp",
]
