"""Claims: an image's address and digest in place of its bytes, and how they are fetched."""

from memory.claims.addresses import AddressRules
from memory.claims.fetcher import ClaimFetcher, claim_of

__all__ = ["AddressRules", "ClaimFetcher", "claim_of"]
