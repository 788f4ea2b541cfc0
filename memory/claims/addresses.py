"""Which addresses a claim may name: rules about texts, before any file or server is asked.

An address that could be read in two ways is refused, not put right: what this module thinks it
names must be what a server or a file system will think.
"""

from __future__ import annotations

import ipaddress
import re
import string
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import ClaimPayload

MAX_URI = 2048
"""Characters of the longest address, unless an operator allows more."""
PORTS = {"file": 0, "http": 80, "https": 443}

_PRINTABLE = frozenset(string.printable) - frozenset(string.whitespace)
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?(#.*)?")
_AUTHORITY = re.compile(r"([a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What an operator decides of addresses.

    `encoded_slashes`: whether a part of a server's path may hold ``%2F``, as names in object stores
    do. A server that reads it as a slash names something else by it.
    """

    max_length: int = MAX_URI
    encoded_slashes: bool = False


WELL_FORMED = AddressRules(max_length=8192, encoded_slashes=True)
"""What no operator can allow is refused wherever it is seen."""
USUAL = AddressRules()


class _Malformed(Exception):
    """What is wrong with an address, to be said after its name."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address taken apart. `host` is in lower case, "" for a file; `port` is 0 for a file.

    `path` and `query` are as they were written, still percent-encoded.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def server(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def is_under(self, prefix: Address) -> bool:
        """Whether `prefix`, whose path ends in a slash, allows this address."""
        return (
            self.server == prefix.server
            and self.path.startswith(prefix.path)
            and self.path != prefix.path
        )


def read_address(uri: str, rules: AddressRules = USUAL) -> Address:
    """The address of a claim. Raises `Rejected`, which quotes nothing of it."""
    try:
        return _read(uri, rules)
    except _Malformed as malformed:
        raise Rejected(Reason.INVALID_CLAIM, f"the claim's address {malformed}") from None


def read_prefix(text: str) -> Address:
    """A prefix of the allow-list. Raises `Misconfigured`, which does not quote it."""
    try:
        if not text.endswith("/"):
            raise _Malformed("does not end in a slash; without one it would allow its neighbours")
        if text.lower() == "file:///":
            raise _Malformed("allows every file there is; name a folder")
        is_folder = text.lower().startswith("file:")
        found = _read(text[:-1] if is_folder else text, USUAL)
        path = f"{found.path}/" if is_folder else found.path
        if found.query:
            raise _Malformed("has a query; give only what every address starts with")
        if found.scheme not in PORTS:
            raise _Malformed("is neither file:// nor http:// nor https://")
        try:
            found.host.encode("idna")
        except UnicodeError:
            raise _Malformed("names no host that can be") from None
    except _Malformed as malformed:
        raise Misconfigured(
            f"a prefix in claim_prefixes {malformed}; write file:///folder/ or "
            "https://host/folder/, with a comma between two"
        ) from None
    return Address(found.scheme, found.host, found.port, path)


def checked_claim(claim: ClaimPayload) -> ClaimPayload:
    """The claim, if its digest and, by some rules, its address are well formed. Raises `Rejected`."""
    if not _DIGEST.fullmatch(claim.digest):
        raise Rejected(Reason.INVALID_CLAIM, "a claim's sha256 is 64 hex digits in lower case")
    read_address(claim.uri, WELL_FORMED)
    return claim


def is_public(host: str) -> bool:
    """Whether an IP address belongs to the public internet, as text of digits."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        # These carry an IPv4 address, which is where a packet may go in the end.
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address.sixtofour is not None or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _read(uri: str, rules: AddressRules) -> Address:
    _check_characters(uri, rules.max_length)
    if (parts := _PARTS.fullmatch(uri)) is None:
        raise _Malformed("does not start with a scheme, :// and an absolute path")
    scheme, authority, path, query = parts[1].lower(), parts[2].lower(), parts[3], parts[4] or ""
    if parts[5]:
        raise _Malformed("has a fragment (#); leave it out")
    if "@" in authority:
        raise _Malformed("has a user or a password in it; leave them out")
    if path is None:
        raise _Malformed("has no path")
    _check_path(path, encoded_slashes=rules.encoded_slashes and scheme != "file")
    if scheme == "file":
        if authority:
            raise _Malformed("of a file has a host; write file:/// and an absolute path")
        if query or "" in path[1:].split("/"):
            raise _Malformed("of a file has a query or an empty part in its path")
        return Address(scheme, "", 0, path)
    host, port = _host_and_port(authority, PORTS.get(scheme, 0))
    return Address(scheme, host, port, path, query)


def _check_characters(uri: str, max_length: int) -> None:
    if len(uri) > max_length:
        raise _Malformed(f"has {len(uri)} characters; at most {max_length} are allowed")
    if not _PRINTABLE.issuperset(uri):
        raise _Malformed("has more than printable ASCII; percent-encode the rest")
    if "\\" in uri:
        raise _Malformed("has a backslash")


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if (found := _AUTHORITY.fullmatch(authority)) is None:
        raise _Malformed("has no host, or one that is no host's name")
    port = int(found[2] or default)
    if port > 65535 or (found[2] and port == 0):
        raise _Malformed("has a port beyond 65535, or 0")
    return found[1], port


def _check_path(path: str, *, encoded_slashes: bool) -> None:
    if not _ESCAPED.fullmatch(path):
        raise _Malformed("has a broken percent-encoding")
    for part in path.split("/"):
        # A server behind another may decode once more than it should.
        layers = [part.encode()]
        while (decoded := unquote_to_bytes(layers[-1])) != layers[-1]:
            layers.append(decoded)
        for depth, layer in enumerate(layers):
            if any(piece.partition(b";")[0] in (b".", b"..") for piece in layer.split(b"/")):
                raise _Malformed("has . or .. as a part of its path, plain or encoded")
            if b"\\" in layer or (b"/" in layer and not (encoded_slashes and depth == 1)):
                raise _Malformed("has an encoded slash or backslash")
            if any(byte < 0x20 or byte == 0x7F for byte in layer):
                raise _Malformed("has an encoded control character")
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            raise _Malformed("is not UTF-8 where it is percent-encoded") from None
