"""Claims: an image's address and digest in place of its bytes, and how they are fetched."""

from memory.claims.fetcher import ClaimFetcher, claim_of

__all__ = ["ClaimFetcher", "claim_of"]
