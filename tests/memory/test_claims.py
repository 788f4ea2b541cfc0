"""Claims fetched from real files and real servers, and what a memory makes of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from memory.claims import AddressRules, ClaimFetcher, claim_of, files, http
from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import ClaimPayload, Forget, Ingest, Selector, SelectorKind
from memory.model.outcomes import Merged, Refused
from memory.model.questions import Query
from memory.model.times import make_stamp
from memory.service import VisualMemory
from tests.memory.serving import Served, Site, scripted, site
from tests.memory.test_service import BLUE, RED, Colours, exact, png

DATA = b"an image's bytes"
LIMIT = 1 << 12
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture
def fetcher() -> Iterator[Callable[..., ClaimFetcher]]:
    """Makes fetchers that allow the loopback address, unless told otherwise."""
    made: list[ClaimFetcher] = []

    def make(*prefixes: str, **changes: Any) -> ClaimFetcher:
        settings: dict[str, Any] = {
            "max_bytes": LIMIT,
            "timeout": 10.0,
            "private_addresses": True,
            **changes,
        }
        made.append(ClaimFetcher(prefixes, **settings))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


def reason_of(found: Sequence[bytes | Rejected]) -> Reason:
    """The reason of the only outcome, after a look at what it must never tell."""
    (rejected,) = found
    assert isinstance(rejected, Rejected)
    for private in ("127.0.0.1", "customer", "token", "/a.png", "file:///"):
        assert private not in rejected.detail
    return rejected.reason


def fetch_one(fetcher: ClaimFetcher, uri: str, data: bytes = DATA) -> Sequence[bytes | Rejected]:
    return fetcher([ClaimPayload(uri, hashlib.sha256(data).hexdigest())])


# Servers


def test_an_image_is_fetched_from_an_allowed_server(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/images/a%20b.png?sig=x%2Fy"] = Served(DATA)
    uri = web.url("/images/a%20b.png?sig=x%2Fy")
    assert fetch_one(fetcher(web.url("/images/")), uri) == [DATA]


def test_a_body_in_chunks_is_fetched(fetcher: Callable[..., ClaimFetcher]) -> None:
    body = b"Transfer-Encoding: chunked\r\n\r\n4\r\nan i\r\n0c\r\nmage's bytes\r\n0\r\n\r\n"
    with scripted(OK + body) as server:
        assert fetch_one(fetcher(server.url("/")), server.url("/a.png")) == [DATA]


def test_a_request_brings_no_cookie_and_no_credentials_and_asks_for_the_bytes_as_they_are(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(DATA, headers={"Set-Cookie": "seen=1"})
    fetch = fetcher(web.url("/"))
    fetch_one(fetch, web.url("/a.png"))
    fetch_one(fetch, web.url("/a.png"))
    assert web.headers == {
        "Host": f"127.0.0.1:{web.port}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "visual-memory",
        "Connection": "close",
    }


def test_a_proxy_in_the_environment_is_not_used(
    web: Site, fetcher: Callable[..., ClaimFetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/a.png"] = Served(DATA)
    with scripted() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert fetch_one(fetcher(web.url("/")), web.url("/a.png")) == [DATA]
        assert proxy.connections == 0


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_rejection_says_what_to_do(
    status: int, web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(status=status, headers={"Location": web.url("/b.png")})
    web.pages["/b.png"] = Served(DATA)
    (rejected,) = found = fetch_one(fetcher(web.url("/")), web.url("/a.png"))
    assert reason_of(found) is Reason.CLAIM_REDIRECTED
    assert "put the final address in the event" in str(rejected)
    assert web.hits == ["/a.png"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, Reason.CLAIM_MISSING),
        (410, Reason.CLAIM_MISSING),
        (401, Reason.CLAIM_DENIED),
        (403, Reason.CLAIM_DENIED),
        (400, Reason.CLAIM_UNAVAILABLE),
        (429, Reason.CLAIM_UNAVAILABLE),
        (500, Reason.CLAIM_UNAVAILABLE),
        (503, Reason.CLAIM_UNAVAILABLE),
        (203, Reason.CLAIM_UNAVAILABLE),
    ],
)
def test_only_a_plain_success_is_one(
    status: int, reason: Reason, web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(DATA, status=status)
    assert reason_of(fetch_one(fetcher(web.url("/")), web.url("/a.png"))) is reason


def test_bytes_of_another_digest_are_refused(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(DATA)
    found = fetch_one(fetcher(web.url("/")), web.url("/a.png"), b"others")
    assert reason_of(found) is Reason.CLAIM_MISMATCH


def test_a_compressed_body_is_refused(web: Site, fetcher: Callable[..., ClaimFetcher]) -> None:
    packed = gzip.compress(DATA)
    web.pages["/a.png"] = Served(packed, headers={"Content-Encoding": "gzip"})
    found = fetch_one(fetcher(web.url("/")), web.url("/a.png"))
    assert reason_of(found) is Reason.CLAIM_ENCODED


def test_what_is_only_said_to_be_compressed_is_taken(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    """Stores repeat what an uploader once said of an object; the digest knows better."""
    web.pages["/a.png"] = Served(DATA, headers={"Content-Encoding": "aws-chunked"})
    assert fetch_one(fetcher(web.url("/")), web.url("/a.png")) == [DATA]


def test_an_operator_allows_encoded_slashes_and_long_addresses(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    path = "/o/2026%2F11%2Fa.png?sig=" + "x" * 3000
    web.pages[path] = Served(DATA)
    refused = fetch_one(fetcher(web.url("/")), web.url(path))
    assert reason_of(refused) is Reason.INVALID_CLAIM
    rules = AddressRules(max_length=4096, encoded_slashes=True)
    assert fetch_one(fetcher(web.url("/"), rules=rules), web.url(path)) == [DATA]


def test_an_image_of_the_greatest_size_is_fetched(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(bytes(LIMIT))
    assert fetch_one(fetcher(web.url("/")), web.url("/a.png"), bytes(LIMIT)) == [bytes(LIMIT)]


def test_a_length_over_the_limit_is_refused_before_the_body_comes(
    fetcher: Callable[..., ClaimFetcher],
) -> None:
    with scripted(OK + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1)) as server:
        found = fetch_one(fetcher(server.url("/")), server.url("/a.png"))
    assert reason_of(found) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (OK + b"\r\n", bytes(1 << 12)),
        (
            OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400\r\n%b\r\n" % bytes(1024),
        ),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", bytes(1 << 16)),
        (b"", b"HTTP/1.1 100 Continue\r\n" + b"A: %b\r\n" % bytes(1 << 15) + b"\r\n"),
    ],
    ids=["body", "chunks", "a chunk of a negative size", "provisional answers"],
)
def test_an_endless_answer_is_refused_at_the_limit(
    first: bytes, then: bytes, fetcher: Callable[..., ClaimFetcher]
) -> None:
    with scripted(first, then) as server:
        found = fetch_one(fetcher(server.url("/")), server.url("/a.png"))
    assert reason_of(found) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (OK, b"A: b\r\n"),
        (OK + b"A: ", b"b" * 1024),
        (b"", b"SSH-2.0\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"what\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", b"x"),
    ],
    ids=["headers", "a header", "no HTTP", "no chunk", "a chunk of less than nothing"],
)
def test_an_answer_that_is_no_http_is_refused(
    first: bytes, then: bytes, fetcher: Callable[..., ClaimFetcher]
) -> None:
    with scripted(first, then) as server:
        found = fetch_one(fetcher(server.url("/")), server.url("/a.png"))
    assert reason_of(found) is Reason.CLAIM_UNAVAILABLE


def test_a_body_cut_short_is_told_as_such(web: Site, fetcher: Callable[..., ClaimFetcher]) -> None:
    web.pages["/a.png"] = Served(DATA, length=len(DATA) + 1)
    found = fetch_one(fetcher(web.url("/")), web.url("/a.png"))
    assert reason_of(found) is Reason.CLAIM_UNAVAILABLE
    assert "before the image's end" in str(found[0])


def test_a_server_that_is_down_is_told_as_such(fetcher: Callable[..., ClaimFetcher]) -> None:
    with scripted() as server:
        uri = server.url("/a.png")
    found = fetch_one(fetcher(server.url("/")), uri)
    assert reason_of(found) is Reason.CLAIM_UNAVAILABLE
    assert "ECONNREFUSED" in str(found[0])


def test_a_host_that_nobody_knows_is_told_as_such(
    fetcher: Callable[..., ClaimFetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = fetch_one(fetcher("http://nobody.example/"), "http://nobody.example/a.png")
    assert reason_of(found) is Reason.CLAIM_UNAVAILABLE


@pytest.mark.parametrize(
    ("scheme", "first", "then"),
    [
        ("http", b"", b""),
        ("http", b"", b"H"),
        ("http", OK, b"A"),
        ("http", OK + b"\r\n", b"x"),
        ("http", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ("https", b"", b""),
        # A handshake record of 16 KiB that never comes to its end.
        ("https", b"\x16\x03\x03\x40\x00", b"\x02"),
    ],
    ids=["silence", "status", "header", "body", "chunks", "silence for TLS", "handshake"],
)
def test_a_server_that_takes_its_time_ends_at_the_deadline_whatever_drips(
    scheme: str, first: bytes, then: bytes, fetcher: Callable[..., ClaimFetcher]
) -> None:
    with scripted(first, then, pause=0.05) as server:
        fetch = fetcher(server.url("/", scheme), timeout=0.3)
        found = fetch_one(fetch, server.url("/a.png", scheme))
    assert reason_of(found) is Reason.CLAIM_TIMEOUT


def test_a_resolver_that_hangs_does_not_outlast_the_deadline(
    fetcher: Callable[..., ClaimFetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def hanging(*_: object, **__: object) -> list[object]:
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    found = fetch_one(fetcher("http://slow.example/", timeout=0.2), "http://slow.example/a.png")
    answered.set()
    assert reason_of(found) is Reason.CLAIM_TIMEOUT


def test_a_server_that_speaks_no_tls_is_told_nothing(
    fetcher: Callable[..., ClaimFetcher],
) -> None:
    with scripted(OK + b"\r\n") as server:
        found = fetch_one(fetcher(server.url("/", "https")), server.url("/a.png", "https"))
        assert b"GET" not in server.received
    assert reason_of(found) is Reason.CLAIM_UNAVAILABLE


@pytest.mark.parametrize(
    ("trusted", "certified", "named"),
    [
        (True, "localhost", None),
        (True, "images.example", "its certificate cannot be verified"),
        (False, "localhost", "its certificate cannot be verified"),
    ],
    ids=["its own", "another host's", "of an unknown authority"],
)
def test_only_a_certificate_of_the_host_itself_is_a_reason_to_talk(
    certified: str,
    named: str | None,
    fetcher: Callable[..., ClaimFetcher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trusted: bool,
) -> None:
    """By the certificates that the system trusts, as a worker takes them."""
    signing = trustme.CA()
    known = signing if trusted else trustme.CA()
    known.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signing.issue_cert(certified).configure_cert(tls)
    with site(tls) as web:
        web.pages["/a.png"] = Served(DATA)
        found = fetch_one(fetcher(web.url("/", "localhost")), web.url("/a.png", "localhost"))
        assert web.hits == ([] if named else ["/a.png"])
    if named is None:
        assert found == [DATA]
    else:
        assert reason_of(found) is Reason.CLAIM_UNAVAILABLE
        assert named in str(found[0])


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_of_a_private_address_is_not_even_connected_to(
    host: str, fetcher: Callable[..., ClaimFetcher]
) -> None:
    with scripted() as server:
        prefix = f"http://{host}:{server.port}/"
        fetch = fetcher(prefix, private_addresses=False)
        assert reason_of(fetch_one(fetch, f"{prefix}a.png")) is Reason.CLAIM_PRIVATE_ADDRESS
        assert server.connections == 0


def test_a_connection_that_ended_at_a_private_address_is_asked_nothing(
    fetcher: Callable[..., ClaimFetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should what was looked up and what was connected to ever differ."""
    answers = iter([True, False])
    monkeypatch.setattr(http, "is_public", lambda _: next(answers))
    with scripted() as server:
        fetch = fetcher(server.url("/"), private_addresses=False)
        found = fetch_one(fetch, server.url("/a.png"))
    assert reason_of(found) is Reason.CLAIM_PRIVATE_ADDRESS
    assert server.received == b""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/other/a.png", Reason.CLAIM_NOT_ALLOWED),
        ("/images-private/a.png", Reason.CLAIM_NOT_ALLOWED),
        ("/images/../a.png", Reason.INVALID_CLAIM),
        ("/images/%2e%2e/a.png", Reason.INVALID_CLAIM),
        ("/images/a.png#token", Reason.INVALID_CLAIM),
    ],
)
def test_what_is_under_no_prefix_is_never_asked_for(
    path: str, reason: Reason, web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    assert reason_of(fetch_one(fetcher(web.url("/images/")), web.url(path))) is reason
    assert web.hits == []


def test_a_malformed_prefix_is_a_fault_of_the_configuration(
    fetcher: Callable[..., ClaimFetcher],
) -> None:
    with pytest.raises(Misconfigured, match="does not end in a slash"):
        fetcher("https://good.example/images")


def test_without_a_prefix_there_is_no_fetcher(fetcher: Callable[..., ClaimFetcher]) -> None:
    with pytest.raises(Misconfigured, match="claim_prefixes is empty"):
        fetcher()


# Many at once


def test_claims_are_fetched_side_by_side_and_told_in_order(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    together = threading.Barrier(4)
    web.before = lambda: together.wait(5)
    bodies = [bytes([n]) for n in range(4)]
    for n, body in enumerate(bodies):
        web.pages[f"/{n}.png"] = Served(body)
    claims = [claim_of(web.url(f"/{n}.png"), body) for n, body in enumerate(bodies)]
    assert fetcher(web.url("/"), concurrency=4)(claims) == bodies


def test_no_more_are_fetched_at_once_than_is_allowed(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def count() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.02)
        with lock:
            running[0] -= 1

    web.before = count
    web.pages["/a.png"] = Served(DATA)
    claims = [claim_of(web.url("/a.png"), DATA)] * 6
    assert fetcher(web.url("/"), concurrency=2)(claims) == [DATA] * 6
    assert most[0] <= 2


def test_a_server_that_was_late_once_delays_a_batch_no_further(
    web: Site, fetcher: Callable[..., ClaimFetcher]
) -> None:
    web.pages["/a.png"] = Served(DATA)
    with scripted() as slow:
        fetch = fetcher(web.url("/"), slow.url("/"), concurrency=2, timeout=0.3)
        late = [claim_of(slow.url(f"/{n}.png"), DATA) for n in range(8)]
        found = fetch([*late, claim_of(web.url("/a.png"), DATA)])
        assert slow.connections == 2
    assert found[-1] == DATA
    assert {reason_of([outcome]) for outcome in found[:-1]} == {Reason.CLAIM_TIMEOUT}


def test_a_server_that_was_late_is_asked_again_for_the_next_batch(
    fetcher: Callable[..., ClaimFetcher],
) -> None:
    with scripted() as slow:
        fetch = fetcher(slow.url("/"), timeout=0.1)
        fetch_one(fetch, slow.url("/a.png"))
        fetch_one(fetch, slow.url("/a.png"))
        assert slow.connections == 2


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that is allowed, beside one that is not."""
    for name in ("images", "images-private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(DATA)
    return tmp_path / "images"


def file_reason(fetcher: Callable[..., ClaimFetcher], folder: Path, path: str) -> Reason:
    return reason_of(fetch_one(fetcher(f"{folder.as_uri()}/"), f"{folder.as_uri()}/{path}"))


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "sub/a b.png", "sub/ä?#%.png"])
def test_an_image_is_read_from_an_allowed_folder(
    name: str, folder: Path, fetcher: Callable[..., ClaimFetcher]
) -> None:
    (folder / "sub").mkdir()
    (folder / name).write_bytes(DATA)
    assert fetch_one(fetcher(f"{folder.as_uri()}/"), (folder / name).as_uri()) == [DATA]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no.png", Reason.CLAIM_MISSING),
        ("no/a.png", Reason.CLAIM_MISSING),
        ("a" * 300, Reason.CLAIM_MISSING),
        ("../images-private/a.png", Reason.INVALID_CLAIM),
        ("%2e%2e/images-private/a.png", Reason.INVALID_CLAIM),
        ("..%2fimages-private/a.png", Reason.INVALID_CLAIM),
        ("a.png%00", Reason.INVALID_CLAIM),
        ("sub", Reason.CLAIM_NOT_A_FILE),
        ("a.png/b.png", Reason.CLAIM_NOT_A_FILE),
        ("pipe", Reason.CLAIM_NOT_A_FILE),
        ("socket", Reason.CLAIM_NOT_A_FILE),
        ("out.png", Reason.CLAIM_LINK),
        ("in.png", Reason.CLAIM_LINK),
        ("nowhere.png", Reason.CLAIM_LINK),
        ("itself.png", Reason.CLAIM_LINK),
        ("out/a.png", Reason.CLAIM_LINK),
        ("large.png", Reason.IMAGE_TOO_LARGE),
    ],
)
def test_only_a_regular_file_under_the_folder_is_read(
    path: str, reason: Reason, folder: Path, fetcher: Callable[..., ClaimFetcher]
) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "out.png").symlink_to(folder.parent / "images-private" / "a.png")
    (folder / "out").symlink_to(folder.parent / "images-private")
    (folder / "in.png").symlink_to("a.png")
    (folder / "nowhere.png").symlink_to("no.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "large.png").write_bytes(bytes(LIMIT + 1))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
        assert file_reason(fetcher, folder, path) is reason


def test_the_neighbour_of_an_allowed_folder_is_not_allowed(
    folder: Path, fetcher: Callable[..., ClaimFetcher]
) -> None:
    neighbour = (folder.parent / "images-private" / "a.png").as_uri()
    found = fetch_one(fetcher(f"{folder.as_uri()}/"), neighbour)
    assert reason_of(found) is Reason.CLAIM_NOT_ALLOWED


def test_a_device_is_no_file(fetcher: Callable[..., ClaimFetcher]) -> None:
    assert file_reason(fetcher, Path("/dev"), "zero") is Reason.CLAIM_NOT_A_FILE


def test_a_file_that_tells_no_size_is_read_up_to_the_limit(
    fetcher: Callable[..., ClaimFetcher],
) -> None:
    process = Path(f"/proc/{os.getpid()}").as_uri()
    found = fetch_one(fetcher(f"{process}/", max_bytes=10), f"{process}/status")
    assert reason_of(found) is Reason.IMAGE_TOO_LARGE


def test_an_allowed_folder_may_itself_be_a_link(
    folder: Path, fetcher: Callable[..., ClaimFetcher]
) -> None:
    current = folder.parent / "current"
    current.symlink_to("images")
    assert fetch_one(fetcher(f"{current.as_uri()}/"), f"{current.as_uri()}/a.png") == [DATA]


def test_an_allowed_folder_that_is_not_there_is_no_missing_image(
    folder: Path, fetcher: Callable[..., ClaimFetcher]
) -> None:
    assert file_reason(fetcher, folder / "unmounted", "a.png") is Reason.CLAIM_UNAVAILABLE


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (lambda path: path.symlink_to("../images-private/a.png"), Reason.CLAIM_LINK),
        (os.mkfifo, Reason.CLAIM_NOT_A_FILE),
    ],
    ids=["link", "pipe"],
)
def test_what_is_swapped_in_during_the_check_is_not_read(
    put: Callable[[Path], None],
    reason: Reason,
    folder: Path,
    fetcher: Callable[..., ClaimFetcher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = folder / "a.png"
    check = files._check_regular

    def swapped(found: os.stat_result) -> None:
        check(found)
        image.unlink()
        put(image)

    monkeypatch.setattr(files, "_check_regular", swapped)
    assert file_reason(fetcher, folder, "a.png") is reason


# The memory


def event(image_id: str, payload: ClaimPayload, *, subjects: tuple[str, ...] = ()) -> Ingest:
    return Ingest(
        stamp=make_stamp(50, "camera", image_id),
        image_id=image_id,
        label=image_id,
        source="camera",
        payload=payload,
        payload_digest=payload.digest,
        subjects=subjects,
    )


@pytest.fixture
def claimed(web: Site) -> Callable[[str, bytes], ClaimPayload]:
    def put(name: str, data: bytes) -> ClaimPayload:
        web.pages[f"/{name}"] = Served(data)
        return claim_of(web.url(f"/{name}"), data)

    return put


def test_a_memory_learns_from_claims_and_answers_questions_by_claim(
    web: Site,
    fetcher: Callable[..., ClaimFetcher],
    claimed: Callable[[str, bytes], ClaimPayload],
) -> None:
    seen: dict[str, float] = {}
    memory = VisualMemory(
        exact(),
        Colours(),
        fetch=fetcher(web.url("/")),
        observe=seen.__setitem__,
    )
    red, blue = claimed("red", png(RED)), claimed("blue", png(BLUE))
    broken = claimed("broken", b"no image")
    wrong = ClaimPayload(red.uri, blue.digest)
    outcomes = memory.remember(
        [event("red", red), event("wrong", wrong), event("broken", broken), event("blue", blue)]
    )
    assert [o.reason if isinstance(o, Rejected) else o for o in outcomes] == [
        Merged(won=True),
        Reason.CLAIM_MISMATCH,
        Reason.NOT_AN_IMAGE,
        Merged(won=True),
    ]
    assert list(seen) == ["fetch", "embed", "merge"]
    assert all(0 < seconds < 60 for seconds in seen.values())
    found, refused = memory.recall([Query(red, k=1), Query(wrong, k=1)])
    assert not isinstance(found, Rejected)
    assert found.vote.label == "red"
    assert isinstance(refused, Rejected)


def test_a_memory_that_can_fetch_nothing_rejects_claims_and_says_so() -> None:
    memory = VisualMemory(exact(), Colours())
    claim = claim_of("https://good.example/a.png", DATA)
    (outcome,) = memory.remember([event("red", claim)])
    (answer,) = memory.recall([Query(claim)])
    for rejected in (outcome, answer):
        assert isinstance(rejected, Rejected)
        assert rejected.reason is Reason.CLAIMS_OFF


def test_nothing_is_fetched_for_what_is_forgotten(
    web: Site,
    fetcher: Callable[..., ClaimFetcher],
    claimed: Callable[[str, bytes], ClaimPayload],
) -> None:
    memory = VisualMemory(exact(), Colours(), fetch=fetcher(web.url("/")))
    memory.forget(Forget("r", Selector(SelectorKind.SUBJECT, "ada"), time=100))
    (outcome,) = memory.remember([event("red", claimed("red", png(RED)), subjects=("ada",))])
    assert isinstance(outcome, Refused)
    assert web.hits == []


def test_a_claim_is_made_from_bytes_and_an_address_that_can_be_one() -> None:
    claim = claim_of("https://good.example/a.png", DATA)
    assert claim.digest == hashlib.sha256(DATA).hexdigest()
    with pytest.raises(Rejected, match="password"):
        claim_of("https://user:password@good.example/a.png", DATA)
