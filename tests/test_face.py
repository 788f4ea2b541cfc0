"""The public names: what others import, listed here so that none comes or goes unseen."""

from __future__ import annotations

import memory
import streams.client

MEMORY = {
    *("ClaimFetcher", "ClaimPayload", "Contribution", "Correction", "Embedder", "ExactIndex"),
    *("Factors", "Flip", "Forget"),
    *("Forgotten", "ImageLimits", "ImagePayload", "Ingest", "ItemRef", "MemoryIndex", "Merged"),
    *("Misconfigured", "Neighbor", "Position", "Prediction", "Query", "Reason", "RedisIndex"),
    *("Refused", "Rejected", "Rule", "Selector", "SelectorKind", "Unavailable", "VectorPayload"),
    *("VectorsOnly", "VisualMemory", "VisualMemoryError", "Vote", "claim_of", "connect"),
    *("WhatIf", "Why", "load_embedder", "make_stamp"),
}
CLIENT = {
    *(
        "Answer",
        "Factors",
        "Findings",
        "ForgetRequest",
        "MemoryClient",
        "Misconfigured",
        "Neighbor",
        "Pending",
    ),
    *("Position", "Receipt", "Rejected", "Rejection", "Rejections", "Selector"),
    *("Unavailable", "WhatIf"),
}


def test_the_library_has_these_names() -> None:
    assert set(memory.__all__) == MEMORY
    for name in MEMORY:
        assert getattr(memory, name).__module__.startswith("memory.")


def test_the_client_has_these_names() -> None:
    """All that an application needs to send, to ask, and to handle what comes back."""
    assert set(streams.client.__all__) == CLIENT
    for name in CLIENT:
        assert getattr(streams.client, name).__module__.startswith(("memory.", "streams."))
