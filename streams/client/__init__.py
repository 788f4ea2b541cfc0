"""The client for upstream applications: send images, corrections and forget-requests, and ask."""

from memory.errors import Misconfigured, Rejected, Unavailable
from memory.model.answers import Findings, Neighbor, Position
from memory.model.events import Selector
from memory.model.questions import Factors, WhatIf
from streams.client.client import MemoryClient
from streams.client.replies import Rejections
from streams.client.sending import ForgetRequest, Pending
from streams.contract.messages import Answer, Receipt, Rejection

__all__ = [
    "Answer",
    "Factors",
    "Findings",
    "ForgetRequest",
    "MemoryClient",
    "Misconfigured",
    "Neighbor",
    "Pending",
    "Position",
    "Receipt",
    "Rejected",
    "Rejection",
    "Rejections",
    "Selector",
    "Unavailable",
    "WhatIf",
]
