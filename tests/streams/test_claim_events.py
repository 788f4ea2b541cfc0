"""Events that bring a claim on an image in the place of its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from memory.claims import claim_of
from memory.errors import Misconfigured, Reason, Rejected
from memory.model.events import ClaimPayload, ImagePayload, Ingest, Payload
from memory.model.questions import Query
from streams.bootstrap import claim_fetcher
from streams.client import MemoryClient
from streams.config.settings import Settings, load
from streams.contract import decoding, encoding, questions
from streams.contract.messages import QueryEvent
from streams.contract.payloads import read_payload, write_payload
from streams.contract.records import CLAIM, OutgoingRecord, Record

PAGE = (Path(__file__).parents[2] / "docs" / "claim-checks.md").read_text("utf-8")
NOW = 1_750_000_000_123_456
DATA = b"an image's bytes"
URI = "https://good.example/images/customer-4.png?token=a"
CLAIMED = claim_of(URI, DATA)


def sent(payload: Payload) -> OutgoingRecord:
    return encoding.encode_ingest(
        source="camera", event_id="e-1", time=NOW, image_id="img-1", label="cat", payload=payload
    )


def received(outgoing: OutgoingRecord) -> Record:
    return Record(str(outgoing.topic), 0, 1, outgoing.key, outgoing.value, outgoing.headers, NOW)


def ingested(payload: Payload) -> Ingest:
    event = decoding.decode_ingest(received(sent(payload)), "topic-id", clock_skew=0)
    assert isinstance(event, Ingest)
    return event


def test_a_claim_is_written_as_its_contract_says() -> None:
    record = sent(CLAIMED)
    assert dict(record.headers)["content-type"] == b"application/vnd.visual-memory.claim+json"
    assert json.loads(record.value or b"") == {
        "uri": URI,
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }


def test_an_image_is_the_same_event_by_its_bytes_and_by_a_claim() -> None:
    by_bytes, by_claim = ingested(ImagePayload(DATA)), ingested(CLAIMED)
    assert by_claim.payload == CLAIMED
    assert by_claim.payload_digest == by_bytes.payload_digest == hashlib.sha256(DATA).hexdigest()
    assert by_claim.stamp == by_bytes.stamp


def test_the_same_image_from_another_address_is_the_same_event() -> None:
    assert ingested(claim_of("file:///data/a.png", DATA)).stamp == ingested(CLAIMED).stamp


def test_a_question_may_bring_a_claim() -> None:
    outgoing = encoding.encode_query(
        source="app", event_id="q-1", time=NOW, query=Query(CLAIMED), reply_partition=0
    )
    event = questions.decode_query(received(outgoing), partitions=1)
    assert isinstance(event, QueryEvent)
    assert isinstance(event.query, Query)
    assert event.query.payload == CLAIMED


def body(**changes: Any) -> bytes:
    fields = {"uri": URI, "sha256": CLAIMED.digest, **changes}
    return json.dumps({name: value for name, value in fields.items() if value != ""}).encode()


@pytest.mark.parametrize("content_type", [CLAIM, CLAIM.upper(), f"{CLAIM}; charset=utf-8"])
def test_a_claim_is_known_by_its_media_type(content_type: str) -> None:
    assert read_payload(body(), content_type, None) == CLAIMED


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.EMPTY_PAYLOAD),
        (b"\xff", Reason.INVALID_PAYLOAD),
        (b"{", Reason.INVALID_PAYLOAD),
        (b"[]", Reason.INVALID_PAYLOAD),
        (body()[:-1] + b', "uri": "https://good.example/b"}', Reason.INVALID_PAYLOAD),
        (b"{}", Reason.INVALID_CLAIM),
        (body(uri=""), Reason.INVALID_CLAIM),
        (body(sha256=""), Reason.INVALID_CLAIM),
        (body(uri=7), Reason.INVALID_CLAIM),
        (body(sha256=None), Reason.INVALID_CLAIM),
        (body(headers={"Cookie": "token"}), Reason.INVALID_CLAIM),
        (body(sha256=CLAIMED.digest.upper()), Reason.INVALID_CLAIM),
        (body(sha256=CLAIMED.digest[1:]), Reason.INVALID_CLAIM),
        (body(sha256=CLAIMED.digest + "\n"), Reason.INVALID_CLAIM),
        (body(uri=URI + "#a"), Reason.INVALID_CLAIM),
        (body(uri="https://good.example/customer-4/../a"), Reason.INVALID_CLAIM),
        (body(uri=URI.ljust(8193, "a")), Reason.INVALID_CLAIM),
        (body(uri=URI + "\ud800"), Reason.INVALID_PAYLOAD),
    ],
)
def test_a_malformed_claim_is_rejected_and_not_quoted(value: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        read_payload(value, CLAIM, None)
    assert caught.value.reason is reason
    for private in ("customer", "token", "example", CLAIMED.digest):
        assert private not in str(caught.value)


@pytest.mark.parametrize(
    "claim",
    [ClaimPayload("a.png", CLAIMED.digest), ClaimPayload(URI, "0"), ClaimPayload("", "")],
)
def test_a_claim_that_would_be_rejected_is_not_sent(claim: ClaimPayload) -> None:
    with pytest.raises(Rejected) as caught:
        write_payload(claim, CLAIM)
    assert caught.value.reason is Reason.INVALID_CLAIM


def test_the_client_refuses_a_malformed_claim_before_it_connects() -> None:
    with MemoryClient("localhost:1", source="app") as client:
        with pytest.raises(Rejected, match="scheme"):
            client.ingest(ClaimPayload("a.png", CLAIMED.digest), id="a", label="cat")
        with pytest.raises(Rejected, match="64 hex digits"):
            client.ask(ClaimPayload(URI, "0"))


def test_without_a_prefix_nothing_is_fetched() -> None:
    assert claim_fetcher(load()) is None


def test_prefixes_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL_MEMORY_CLAIM_PREFIXES", "file:///data/, https://good.example/")
    settings = load()
    assert settings.claim_prefixes == ("file:///data/", "https://good.example/")
    fetcher = claim_fetcher(settings)
    assert fetcher is not None
    fetcher.close()


def test_a_malformed_prefix_is_told_with_what_to_write() -> None:
    with pytest.raises(Misconfigured, match=r"claim_prefixes .* write file:///folder/"):
        claim_fetcher(load(claim_prefixes="/data/images"))


def test_the_page_names_every_reason_for_which_a_claim_is_rejected() -> None:
    told = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(told) == sorted([r for r in Reason if "claim" in r] + [Reason.IMAGE_TOO_LARGE])


def test_the_page_names_every_setting_of_claims_with_its_default() -> None:
    told = dict(re.findall(r"^\| `VISUAL_MEMORY_(\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    assert {name for name in Settings.model_fields if name.startswith("claim")} <= {
        name.lower() for name in told
    }
    made = load(**{name.lower(): value for name, value in told.items() if value != "none"})
    assert made == load()


def test_the_claim_on_the_page_is_one() -> None:
    (example,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    assert isinstance(read_payload(example.encode(), CLAIM, None), ClaimPayload)
