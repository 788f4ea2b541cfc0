"""Claims: events that name an image by its address and SHA-256 instead of carrying its bytes."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from memory.claims.addresses import (
    USUAL,
    AddressRules,
    checked_claim,
    read_address,
    read_prefix,
)
from memory.claims.files import read_file
from memory.claims.http import read_http
from memory.claims.limits import Deadline, Fetched, Limits
from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import ClaimPayload, ImagePayload, Payload, VectorPayload
from memory.ports import Fetch

ServerAddress = tuple[str, str, int]


def claim_of(uri: str, data: bytes) -> ClaimPayload:
    """A claim on bytes that are to be had at an address. Raises `Rejected`."""
    return checked_claim(ClaimPayload(uri, hashlib.sha256(data).hexdigest()))


def resolve_claims(
    payloads: Sequence[Payload],
    fetch: Fetch | None,
    observe: Callable[[str, float], None] = lambda _stage, _seconds: None,
) -> list[ImagePayload | VectorPayload | Rejected]:
    """Payloads with the bytes of claims in their place; without `fetch` claims are rejected.

    `observe` is told "fetch" and the seconds it took, if there are claims.
    """
    claims = [payload for payload in payloads if isinstance(payload, ClaimPayload)]
    started = time.perf_counter()
    found = iter(fetch(claims) if claims and fetch else ())
    if claims and fetch:
        observe("fetch", time.perf_counter() - started)
    off = Rejected(
        Reason.CLAIMS_OFF, "this memory takes no claims; send the image's bytes, or set a prefix"
    )
    resolved: list[ImagePayload | VectorPayload | Rejected] = []
    for payload in payloads:
        if isinstance(payload, ClaimPayload):
            data = next(found) if fetch else off
            resolved.append(data if isinstance(data, Rejected) else ImagePayload(data))
        else:
            resolved.append(payload)
    return resolved


class ClaimFetcher:
    """Fetches claims from the files and servers that an allow-list names; see memory.ports.Fetch.

    `prefixes` are URIs that end in a slash (file, http, https). A claim takes at most `timeout`
    seconds from the start of its fetching to its last byte, and `max_bytes`; up to `concurrency`
    are fetched side by side. Only with `private_addresses` may a host's name stand for an IP
    address that is not of the public internet. `rules` say what addresses may be, `tls`
    replaces the system's certificates. Raises `Misconfigured` for a prefix that cannot be one.
    """

    def __init__(
        self,
        prefixes: Sequence[str],
        *,
        max_bytes: int,
        timeout: float = 10.0,
        private_addresses: bool = False,
        concurrency: int = 8,
        rules: AddressRules = USUAL,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not prefixes:
            raise Misconfigured("claim_prefixes is empty: no claim could be fetched")
        self._prefixes = [read_prefix(prefix) for prefix in prefixes]
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._rules = rules
        self._private_addresses = private_addresses
        if tls is None and any(prefix.scheme == "https" for prefix in self._prefixes):
            tls = ssl.create_default_context()
        self._tls = tls
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="claim")

    def __call__(self, claims: Sequence[ClaimPayload]) -> list[bytes | Rejected]:
        """What each claim stands for, or why it is not to be had, in order.

        A server that once takes too long is not asked again in the same call, so that its other
        claims do not hold up everybody's.
        """
        late: set[ServerAddress] = set()
        fetching = [self._pool.submit(self._fetch, claim, late) for claim in claims]
        return [fetched.result() for fetched in fetching]

    def close(self) -> None:
        """Return when no fetch is under way."""
        self._pool.shutdown()

    def _fetch(self, claim: ClaimPayload, late: set[ServerAddress]) -> bytes | Rejected:
        try:
            fetched = self._read(claim, late)
        except Rejected as rejected:
            return rejected
        data = fetched.data
        if hashlib.sha256(data).hexdigest() != claim.digest:
            if fetched.encoded:
                return Rejected(
                    Reason.CLAIM_ENCODED,
                    "the claim's server sends the image compressed; have it sent as it is",
                )
            return Rejected(
                Reason.CLAIM_MISMATCH,
                "what the claim points to has another SHA-256 than the claim; it has changed, "
                "or the claim is wrong",
            )
        return data

    def _read(self, claim: ClaimPayload, late: set[ServerAddress]) -> Fetched:
        address = read_address(claim.uri, self._rules)
        prefix = next((p for p in self._prefixes if address.is_under(p)), None)
        if prefix is None:
            raise Rejected(
                Reason.CLAIM_NOT_ALLOWED,
                "the claim's address is under no prefix that this memory allows",
            )
        if address.server in late:
            raise Rejected(
                Reason.CLAIM_TIMEOUT,
                "the claim's server took too long for another claim; send the event again later",
            )
        limits = Limits(self._max_bytes, Deadline(time.monotonic() + self._timeout))
        try:
            if address.scheme == "file":
                return Fetched(read_file(address, prefix, limits))
            return read_http(
                address,
                limits,
                private_addresses=self._private_addresses,
                tls=self._tls if address.scheme == "https" else None,
            )
        except TimeoutError:
            late.add(address.server)
            raise Rejected(
                Reason.CLAIM_TIMEOUT,
                f"the claim could not be fetched in {self._timeout:g} s; send the event again "
                "later",
            ) from None
