"""Which addresses a claim may name."""

from __future__ import annotations

import pytest

from memory.claims.addresses import (
    USUAL,
    WELL_FORMED,
    Address,
    AddressRules,
    checked_claim,
    is_public,
    read_address,
    read_prefix,
)
from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import ClaimPayload

SECRET = "customer-4"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("file:///data/a.png", Address("file", "", 0, "/data/a.png")),
        ("HTTPS://Good.Example/A.png", Address("https", "good.example", 443, "/A.png")),
        ("http://good.example:80/a", Address("http", "good.example", 80, "/a")),
        ("http://10.1.2.3:9000/b/a", Address("http", "10.1.2.3", 9000, "/b/a")),
        ("https://[2001:db8::1]/a", Address("https", "[2001:db8::1]", 443, "/a")),
        ("https://h/a%20b?X-Sig=a%2Fb", Address("https", "h", 443, "/a%20b", "?X-Sig=a%2Fb")),
    ],
)
def test_an_address_is_taken_apart(uri: str, address: Address) -> None:
    assert read_address(uri) == address


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a.png",
        "/data/a.png",
        "data:image/png;base64,AAAA",
        "file:/data/a.png",
        "file://host/data/a.png",
        "file:///data//a.png",
        "file:///data/sub/",
        "file:///data/a.png?x",
        "https://good.example",
        "https:///a.png",
        "https://good.example:0/a",
        "https://good.example:65536/a",
        "https://good.example:a/a",
        "https://-good.example/a",
        "https://good.example./a",
        "https://user:password@good.example/a",
        "https://user@good.example/a",
        "https://good.example\\@evil.example/a",
        "https://good.example/images/../a",
        "https://good.example/images/./a",
        "https://good.example/images/..",
        "https://good.example/images/%2e%2e/a",
        "https://good.example/images/.%2E/a",
        "https://good.example/images/%252e%252e/a",
        "https://good.example/images/..;x/a",
        "https://good.example/images/..%3bx/a",
        "https://good.example/images/..%2fa",
        "https://good.example/images/..%5ca",
        "https://good.example/images/a%2Fb",
        "https://good.example/images/a%252Fb",
        "https://good.example/images/a%5Cb",
        "https://good.example/images\\a",
        "https://good.example/images/a%00.png",
        "https://good.example/images/a%7f.png",
        "https://good.example/images/a%0d%0aHost:x",
        "https://good.example/images/a%zz",
        "https://good.example/images/a%",
        "https://good.example/images/%c0%ae%c0%ae/a",
        "https://good.example/images/a#part",
        "https://good.example/images/a#",
        "https://good.example/images/a b",
        "https://good.example/images/a\r\nHost: x",
        "https://good.example/images/a\x00",
        "https://good.example/images/ä.png",
        "https://good.example/" + "a" * 2048,
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused_and_not_quoted(uri: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_address(uri.replace("images", SECRET))
    assert caught.value.reason is Reason.INVALID_CLAIM
    assert SECRET not in str(caught.value)
    assert "example" not in str(caught.value)


def test_the_longest_address_is_taken() -> None:
    assert read_address("https://h/".ljust(2048, "a")).path == "/".ljust(2039, "a")


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("file:///data/images/a.png", "file:///data/images/"),
        ("file:///data/images/sub/a.png", "FILE:///data/images/"),
        ("https://good.example/images/a.png", "https://Good.Example/images/"),
        ("https://good.example:443/images/a.png", "https://good.example/images/"),
        ("https://good.example/a.png", "https://good.example:443/"),
        ("http://[::1]:8080/a.png", "http://[::1]:8080/"),
        ("file:///data/my%20images/a.png", "file:///data/my%20images/"),
    ],
)
def test_a_prefix_allows_what_is_under_it(uri: str, prefix: str) -> None:
    assert read_address(uri).is_under(read_prefix(prefix))


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("file:///data/images-private/a.png", "file:///data/images/"),
        ("file:///data/image", "file:///data/images/"),
        ("file:///data/images", "file:///data/images/"),
        ("file:///DATA/images/a.png", "file:///data/images/"),
        ("https://good.example.evil.com/a.png", "https://good.example/"),
        ("https://evil.com/good.example/a.png", "https://good.example/"),
        ("https://evilgood.example/a.png", "https://good.example/"),
        ("http://good.example/a.png", "https://good.example/"),
        ("https://good.example:8443/a.png", "https://good.example/"),
        ("https://good.example/other/a.png", "https://good.example/images/"),
        ("https://good.example/images/", "https://good.example/images/"),
        ("https://good.example/a.png", "file:///good.example/"),
        ("https://evil.com/a?https://good.example/a.png", "https://good.example/"),
    ],
)
def test_a_prefix_does_not_allow_what_only_looks_like_it(uri: str, prefix: str) -> None:
    assert not read_address(uri).is_under(read_prefix(prefix))


@pytest.mark.parametrize(
    "prefix",
    [
        "/data/images/",
        "images/",
        "file:///",
        "file:///data/images",
        "file:///data/images//",
        "file:///data/../images/",
        "file://host/data/",
        "https://good.example",
        "https://good.example/images",
        "https:///images/",
        "https://user:pa55@good.example/",
        "https://good.example/?a/",
        "https://good.example/#a/",
        "https://" + "a" * 64 + ".example/",
        "ftp://good.example/images/",
        "s3://bucket/images/",
        "*/",
        "https://*.good.example/",
    ],
)
def test_a_malformed_prefix_is_refused_with_the_setting_and_what_to_write(prefix: str) -> None:
    with pytest.raises(
        Misconfigured, match=r"claim_prefixes .* write file:///folder/ or"
    ) as caught:
        read_prefix(prefix)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"],
)
def test_an_address_of_the_public_internet_is_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_a_private_local_or_reserved_address_is_known_in_all_its_forms(address: str) -> None:
    assert not is_public(address)


ALLOWING = AddressRules(max_length=4096, encoded_slashes=True)


def test_an_encoded_slash_may_be_allowed_for_servers() -> None:
    for uri in ("https://h/o/a%2Fb", "https://h/o/a%2fb%2Fc?q", "https://h/" + "a" * 4000):
        assert read_address(uri, ALLOWING).path.startswith("/")
        assert checked_claim(ClaimPayload(uri, "0" * 64)).uri == uri
        with pytest.raises(Rejected):
            read_address(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://h/o/..%2Fa",
        "https://h/o/a%2F..%2Fb",
        "https://h/o/a%2F%2e%2e",
        "https://h/o/a%2F..;x%2Fb",
        "https://h/o/a%252Fb",
        "https://h/o/a%5Cb",
        "file:///o/a%2Fb",
        "https://h/" + "a" * 8192,
    ],
)
def test_what_climbs_or_is_read_twice_is_refused_all_the_same(uri: str) -> None:
    for rules in (USUAL, ALLOWING, WELL_FORMED):
        with pytest.raises(Rejected):
            read_address(uri, rules)
    with pytest.raises(Rejected):
        checked_claim(ClaimPayload(uri, "0" * 64))
