"""Requests as data subjects make them: OpenDSR 2.0."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from memory.errors import Reason, Rejected
from memory.model.events import Forget, Selector, SelectorKind, Surroundings
from streams.contract import encoding, forgetting
from streams.contract.forgetting import MAX_SELECTORS_OF_REQUEST, Cancel, Scheduled
from streams.contract.records import Marker, OutgoingRecord, Record
from streams.contract.signing import SigningKey

ID = "a7551968-d5d6-44b2-9831-815ac9017798"
NOW = 1_750_000_000_000_000
REQUEST: dict[str, Any] = {
    "regulation": "gdpr",
    "subject_request_id": ID,
    "subject_request_type": "erasure",
    "submitted_time": "2025-06-01T15:00:00Z",
    "subject_identities": [
        {"identity_type": "email", "identity_value": "ann@example.org", "identity_format": "raw"}
    ],
    "api_version": "2.0",
    "status_callback_urls": ["https://example.org/told"],
    "extensions": {"somebody.example": {"more": 1}},
}


def sent(event_id: str = ID, **changes: Any) -> OutgoingRecord:
    request = {name: value for name, value in (REQUEST | changes).items() if value is not None}
    return encoding.encode_subject_request(
        source="desk", event_id=event_id, time=NOW, request=request
    )


def read(record: OutgoingRecord) -> Forget | Scheduled | Cancel | Marker:
    stored = Record("forget-request", 0, 7, record.key, record.value, record.headers, NOW + 5)
    return forgetting.decode_forget(stored, clock_skew=0)


def decoded(record: OutgoingRecord) -> Forget:
    found = read(record)
    assert isinstance(found, Forget)
    return found


def subject(value: str) -> Selector:
    return Selector(SelectorKind.SUBJECT, value)


def identity(value: Any = "ann", kind: Any = "email", form: Any = "raw") -> dict[str, Any]:
    return {"identity_type": kind, "identity_value": value, "identity_format": form}


def test_an_identity_is_a_subject_and_the_log_says_when_it_came() -> None:
    record = sent()
    assert decoded(record) == Forget(
        request_id=record.key.decode(),
        selector=subject("ann@example.org"),
        time=NOW + 5,
        submitted=1_748_790_000_000_000,
        regulation="gdpr",
    )


def test_more_identities_and_selectors_are_one_request() -> None:
    extension = {"selectors": [{"image": "i0"}, {"subject": "ann"}], "permanent": True}
    found = decoded(
        sent(
            subject_identities=[identity("ann"), identity("bob", "controller_customer_id")],
            extensions={"visual-memory": extension},
        )
    )
    named = (subject("ann"), subject("bob"), Selector(SelectorKind.IMAGE, "i0"))
    assert found.selectors == named, "each once, in order"
    assert found.permanent


def test_selectors_alone_will_do() -> None:
    extension = {"visual-memory": {"selectors": [{"source": "camera"}]}}
    found = decoded(sent(subject_identities=[], extensions=extension))
    assert found.selectors == (Selector(SelectorKind.SOURCE, "camera"),)


@pytest.mark.parametrize("regulation", ["gdpr", "ccpa"])
def test_a_request_may_be_made_under_either_regulation(regulation: str) -> None:
    assert decoded(sent(regulation=regulation)).regulation == regulation


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject_request_type": "access"}, Reason.INVALID_PAYLOAD),
        ({"regulation": "none"}, Reason.INVALID_PAYLOAD),
        ({"regulation": None}, Reason.INVALID_PAYLOAD),
        ({"submitted_time": None}, Reason.INVALID_PAYLOAD),
        ({"submitted_time": "yesterday"}, Reason.INVALID_TIME),
        ({"submitted_time": 5}, Reason.INVALID_TIME),
        ({"subject_request_id": "no uuid"}, Reason.INVALID_ID),
        ({"subject_request_id": 5}, Reason.INVALID_ID),
        ({"subject_request_id": "a7551968-d5d6-14b2-9831-815ac9017798"}, Reason.INVALID_ID),
        ({"subject_request_id": "b7551968-d5d6-44b2-9831-815ac9017798"}, Reason.INVALID_ID),
        ({"subject_identities": []}, Reason.INVALID_SELECTOR),
        ({"subject_identities": {}}, Reason.INVALID_SELECTOR),
        ({"subject_identities": ["ann"]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [{"identity_type": "email"}]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [identity(form="sha256")]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [identity(5)]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [identity(" ann")]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [identity(kind="")]}, Reason.INVALID_SELECTOR),
        ({"subject_identities": [identity(kind=5)]}, Reason.INVALID_SELECTOR),
        (
            {
                "subject_identities": [
                    identity(f"n{n}") for n in range(MAX_SELECTORS_OF_REQUEST + 1)
                ]
            },
            Reason.INVALID_SELECTOR,
        ),
        ({"misspelt": 1}, Reason.INVALID_PAYLOAD),
        ({"extensions": []}, Reason.INVALID_PAYLOAD),
        ({"extensions": {"visual-memory": 1}}, Reason.INVALID_PAYLOAD),
        ({"extensions": {"visual-memory": {"selector": {}}}}, Reason.INVALID_PAYLOAD),
        ({"extensions": {"visual-memory": {"permanent": 1}}}, Reason.INVALID_PAYLOAD),
        ({"extensions": {"visual-memory": {"selectors": {}}}}, Reason.INVALID_SELECTOR),
        (
            {"extensions": {"visual-memory": {"selectors": [{"person": "x"}]}}},
            Reason.INVALID_SELECTOR,
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(
    changes: dict[str, Any], reason: Reason
) -> None:
    record = sent(**changes)
    for check in (decoded, forgetting.check_request):
        with pytest.raises(Rejected) as why:
            check(record)
        assert why.value.reason is reason
        assert "ann" not in why.value.detail


def test_a_request_that_is_to_be_sent_is_checked_as_it_will_be() -> None:
    forgetting.check_request(sent())
    assert json.loads(sent().value or b"")["regulation"] == "gdpr"


# Signed by the privacy desk

DESK, OTHER = (SigningKey(bytes(range(n, n + 32))) for n in (5, 6))


def taken(record: OutgoingRecord, *keys: str) -> bool:
    stored = Record("forget-request", 0, 7, record.key, record.value, record.headers, NOW + 5)
    try:
        forgetting.decode_forget(stored, clock_skew=0, keys=keys)
    except Rejected as why:
        if why.reason is not Reason.INVALID_SIGNATURE:
            raise
        return False
    return True


def test_with_keys_only_what_one_of_them_signed_is_taken() -> None:
    signed = forgetting.sign_request(sent(), DESK)
    assert taken(signed, DESK.public)
    assert taken(signed, OTHER.public, DESK.public)
    assert taken(signed)
    assert taken(sent())
    assert not taken(sent(), DESK.public)
    assert not taken(signed, OTHER.public)
    assert not taken(forgetting.sign_request(sent(), OTHER), DESK.public)


def test_a_signature_is_of_this_request_alone() -> None:
    signed = forgetting.sign_request(sent(), DESK)
    (name, signature) = signed.headers[-1]
    other = sent(subject_identities=[identity("bob")])
    assert not taken(replace(other, headers=(*other.headers, (name, signature))), DESK.public)
    elsewhere = "b7551968-d5d6-44b2-9831-815ac9017798"
    again = sent(elsewhere, subject_request_id=elsewhere)
    assert not taken(replace(again, headers=(*again.headers, (name, signature))), DESK.public)
    for garbled in (b"", b"00", b"no hex", signature[:-2]):
        assert not taken(replace(sent(), headers=(*sent().headers, (name, garbled))), DESK.public)


@pytest.mark.parametrize("kind", SelectorKind)
def test_the_plain_form_is_signed_too(kind: SelectorKind) -> None:
    plain = encoding.encode_forget(
        source="desk", event_id="f1", time=NOW, selector=Selector(kind, "x")
    )
    assert not taken(plain, DESK.public)
    signed = forgetting.sign_request(plain, DESK)
    assert taken(signed, DESK.public)
    again = encoding.encode_forget(
        source="desk", event_id="f2", time=NOW, selector=Selector(kind, "x")
    )
    assert not taken(replace(again, headers=(*again.headers, signed.headers[-1])), DESK.public)


@pytest.mark.parametrize("form", ["plain", "request"])
def test_what_is_alike_is_named_by_images_and_a_distance(form: str) -> None:
    around = Surroundings(("i1", "i0"), 0.25)
    if form == "plain":
        record = encoding.encode_forget(source="desk", event_id="e", time=NOW, selector=around)
    else:
        said = {"within": {"images": ["i0", "i1"], "distance": 0.25}}
        extension = {"selectors": [said, said]}
        record = sent(subject_identities=[], extensions={"visual-memory": extension})
    assert decoded(record).selectors == (Surroundings(("i0", "i1"), 0.25),)


@pytest.mark.parametrize(
    "within",
    [
        *(5, "i0", [], {}, {"images": ["i0"]}, {"distance": 0.1}),
        *({"images": "i0", "distance": 0.1}, {"images": [5], "distance": 0.1}),
        *({"images": [], "distance": 0.1}, {"images": ["i0"], "distance": "0.1"}),
        *({"images": ["i0"], "distance": True}, {"images": ["i0"], "distance": 1}),
        {"images": ["i0"], "distance": 0.1, "more": 1},
    ],
)
def test_surroundings_that_mean_nothing_are_refused(within: Any) -> None:
    made = encoding.encode_forget(source="desk", event_id="e", time=NOW, selector=subject("ann"))
    with pytest.raises(Rejected) as why:
        forgetting.check_request(
            replace(made, value=json.dumps({"selector": {"within": within}}).encode())
        )
    assert why.value.reason is Reason.INVALID_SELECTOR


# Later, and not at all


def test_both_forms_say_when_they_are_to_be_carried_out() -> None:
    plain = encoding.encode_forget(
        source="desk", event_id="e", time=NOW, selector=subject("ann"), not_before=NOW + 9
    )
    extension = {"not_before": "2025-06-15T15:06:40.000009Z"}
    for record in (plain, sent(extensions={"visual-memory": extension})):
        found = read(record)
        assert isinstance(found, Scheduled)
        assert (found.request.not_before, found.due) == (NOW + 9, None)
        due = replace(record, headers=(*record.headers, ("ce_due", b"said")))
        assert read(due) == Scheduled(found.request, "said")


def test_a_cancel_names_a_request_as_its_receipts_do() -> None:
    record = encoding.encode_cancel(source="desk", event_id="e", time=NOW, request_id="0f" * 32)
    assert read(record) == Cancel(record.key.decode(), "0f" * 32, NOW + 5)


@pytest.mark.parametrize("request_id", ["", "f" * 63, "F" * 64, "g" * 64, "a7551968", "f" * 65])
def test_a_cancel_of_what_is_no_id_is_refused(request_id: str) -> None:
    record = encoding.encode_cancel(source="desk", event_id="e", time=NOW, request_id=request_id)
    with pytest.raises(Rejected, match="cancel must be the id of a request") as why:
        forgetting.check_request(record)
    assert why.value.reason is Reason.INVALID_ID


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"cancel": 5}, "cancel must be the id"),
        ({"cancel": "0f" * 32, "selector": {"image": "i"}}, "fields are cancel"),
        ({"selector": {"image": "i"}, "not_before": 5}, "not_before must be an RFC 3339 time"),
        ({"selector": {"image": "i"}, "not_before": "tomorrow"}, "RFC 3339"),
        ({"selector": {"image": "i"}, "not_before": "2999-01-01T00:00:00Z"}, "November 2286"),
        ({"selector": {"image": "i"}, "not_before": None}, "not_before must be an RFC 3339 time"),
    ],
)
def test_a_time_or_a_cancel_that_is_none_is_refused(value: Any, said: str) -> None:
    made = encoding.encode_forget(source="desk", event_id="e", time=NOW, selector=subject("ann"))
    with pytest.raises(Rejected, match=said):
        forgetting.check_request(replace(made, value=json.dumps(value).encode()))
