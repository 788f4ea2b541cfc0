"""The client for upstream applications: send images, corrections and forget-requests, and ask."""

from streams.client.client import ForgetRequest, MemoryClient, Pending

__all__ = ["ForgetRequest", "MemoryClient", "Pending"]
