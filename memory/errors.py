"""Every failure this package raises on purpose.

VisualMemoryError
├── Rejected        the input's fault: say why, carry on with the rest; never retried
├── Unavailable     a server's or the network's state: try the same again later
│   └── Moved       the memory was rebuilt meanwhile: go over to it, then do the whole again
└── Misconfigured   the operator's fault: refuse to start, naming the setting
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an event or a question was rejected. The values are part of the event contract."""

    EMPTY_PAYLOAD = "empty-payload"
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED_IMAGE = "truncated-image"
    UNSUPPORTED_IMAGE = "unsupported-image"
    IMAGE_TOO_LARGE = "image-too-large"
    INVALID_VECTOR = "invalid-vector"
    WRONG_DIMENSION = "wrong-dimension"
    NOT_FINITE = "not-finite"
    ZERO_VECTOR = "zero-vector"
    OTHER_EMBEDDER = "other-embedder"
    NO_EMBEDDER = "no-embedder"
    MISSING_HEADER = "missing-header"
    REPEATED_HEADER = "repeated-header"
    INVALID_HEADER = "invalid-header"
    WRONG_KEY = "wrong-key"
    UNKNOWN_TYPE = "unknown-type"
    UNKNOWN_VERSION = "unknown-version"
    UNKNOWN_CONTENT_TYPE = "unknown-content-type"
    INVALID_PAYLOAD = "invalid-payload"
    INVALID_ID = "invalid-id"
    INVALID_LABEL = "invalid-label"
    INVALID_SUBJECT = "invalid-subject"
    TOO_MANY_SUBJECTS = "too-many-subjects"
    INVALID_SOURCE = "invalid-source"
    INVALID_TIME = "invalid-time"
    TIME_AHEAD = "time-ahead"
    INVALID_SELECTOR = "invalid-selector"
    INVALID_K = "invalid-k"
    UNKNOWN_RULE = "unknown-rule"
    UNKNOWN_ITEM = "unknown-item"
    INVALID_EXCLUSION = "invalid-exclusion"
    UNKNOWN_EXCLUSION = "unknown-exclusion"
    NOTHING_LEFT = "nothing-left"
    INVALID_WEIGHT = "invalid-weight"
    UNKNOWN_PRUNING = "unknown-pruning"
    NOT_COUNTED = "not-counted"
    INVALID_THRESHOLD = "invalid-threshold"
    INVALID_SIGNATURE = "invalid-signature"
    FORGOTTEN = "forgotten"
    CLAIMS_OFF = "claims-off"
    INVALID_CLAIM = "invalid-claim"
    CLAIM_NOT_ALLOWED = "claim-not-allowed"
    CLAIM_PRIVATE_ADDRESS = "claim-private-address"
    CLAIM_LINK = "claim-link"
    CLAIM_NOT_A_FILE = "claim-not-a-file"
    CLAIM_MISSING = "claim-missing"
    CLAIM_DENIED = "claim-denied"
    CLAIM_REDIRECTED = "claim-redirected"
    CLAIM_ENCODED = "claim-encoded"
    CLAIM_TIMEOUT = "claim-timeout"
    CLAIM_UNAVAILABLE = "claim-unavailable"
    CLAIM_MISMATCH = "claim-mismatch"
    INTERNAL = "internal"


class VisualMemoryError(Exception):
    """Base of all errors raised on purpose."""


class Rejected(VisualMemoryError):
    """The input is at fault; `reason` is stable, `detail` tells a person what to do.

    `detail` never quotes ids, subjects, labels, payload bytes or a claim's address.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Unavailable(VisualMemoryError):
    """A server could not do it now; the same call may succeed later and is safe to repeat."""


class Moved(Unavailable):
    """Another generation of the memory answers now; `MemoryIndex.follow` goes over to it.

    What was done to the former one has to be done again from its beginning.
    """


class Misconfigured(VisualMemoryError):
    """A setting, a server's configuration or a topic breaks a promise; do not start."""
