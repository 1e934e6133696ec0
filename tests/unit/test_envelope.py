"""The envelope: its keys, their order, and what stands in them."""

from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app.events.envelope import date_time, encode_envelope, envelope, without_base64
from app.events.event import Event

WEBHOOK = ("event", "instance", "data", "destination", "date_time", "sender", "server_url", "apikey")
QUEUE = ("event", "instance", "data", "server_url", "date_time", "sender", "apikey")
SQS = ("event", "instance", "dataType", "data", "server", "server_url", "date_time", "sender", "apikey")


def event(**changes: Any) -> Event:
    """An event whose producer said all there is to say."""
    given: dict[str, Any] = {
        "instance": "vendas",
        "name": "messages.upsert",
        "data": {"key": {"id": "1"}},
        "id": "e1",
        "partition": 0,
        "offset": 0,
        "timestamp_ms": 1_767_225_600_007,
        "size": 10,
        "sender": "5511900000001@s.whatsapp.net",
    }
    return Event(**{**given, **changes})


def test_the_webhooks_envelope_is_exact_to_the_byte() -> None:
    """Keys, their order and their values are what the contract says (7.1)."""
    body = encode_envelope(
        event(),
        keys=schemas.envelope_keys("webhook"),
        event_name="MESSAGES_UPSERT",
        server_url="https://sluice.example.com",
        values={"destination": "https://crm.example.com/hook"},
    )
    assert body == (
        b'{"event":"MESSAGES_UPSERT","instance":"vendas","data":{"key":{"id":"1"}},'
        b'"destination":"https://crm.example.com/hook","date_time":"2026-01-01T00:00:00.007Z",'
        b'"sender":"5511900000001@s.whatsapp.net","server_url":"https://sluice.example.com","apikey":null}'
    )


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (WEBHOOK, {"destination": "x"}),
        (QUEUE, {}),
        ((*QUEUE, "timestamp"), {}),
        (("id", *QUEUE), {}),
        (SQS, {"dataType": "json", "server": "evolution"}),
    ],
)
def test_the_keys_stand_in_the_order_they_are_given_in(keys: tuple[str, ...], values: dict[str, str]) -> None:
    """Each transport's keys stand in that transport's order."""
    made = envelope(event(), keys=keys, event_name="x", server_url="u", apikey="k", values=values)
    assert tuple(made) == keys
    assert made["apikey"] == "k"


def test_what_is_unknown_is_absent_but_for_the_apikey() -> None:
    """Sender and server_url are left out when unknown; apikey is null."""
    made = envelope(event(sender=None), keys=WEBHOOK, event_name="x", values={"destination": "d"})
    assert tuple(made) == ("event", "instance", "data", "destination", "date_time", "apikey")
    assert made["apikey"] is None


def test_the_logs_time_and_the_id_can_be_had() -> None:
    """A transport whose envelope names them gets the log's time as a number, and the event's id."""
    made = envelope(event(), keys=("timestamp", "id"), event_name="x")
    assert made == {"timestamp": 1_767_225_600_007, "id": "e1"}


def test_a_value_that_nobody_gave_is_an_error() -> None:
    """A key without a value is refused by name, not sent without it."""
    with pytest.raises(KeyError, match="destination"):
        envelope(event(), keys=WEBHOOK, event_name="x")


def test_extra_keys_stand_first_and_override_nothing() -> None:
    """An event's extra keys come before all others; those that the envelope has are dropped, absent ones too."""
    extra = {"isLatest": True, "event": "forged", "apikey": "forged", "sender": "forged", "progress": 5}
    made = envelope(event(extra=extra, sender=None), keys=QUEUE, event_name="x")
    assert list(made)[:3] == ["isLatest", "progress", "event"]
    assert "forged" not in made.values()
    assert "sender" not in made


def test_named_values_win() -> None:
    """What is given by name stands in place of what is known of the event."""
    made = envelope(event(), keys=("data",), event_name="x", values={"data": {"fileUrl": "u"}})
    assert made == {"data": {"fileUrl": "u"}}


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        (None, "2026-01-01T00:00:00.007Z"),
        ("2025-12-31T23:59:58.123Z", "2025-12-31T23:59:58.123Z"),
        ("2025-12-31T23:59:58Z", "2025-12-31T23:59:58.000Z"),
        ("2025-12-31T20:59:58.123456-03:00", "2025-12-31T23:59:58.123Z"),
        ("20251231T235958Z", "2025-12-31T23:59:58.000Z"),
        ("2025-12-31T23:59:58.123", "2026-01-01T00:00:00.007Z"),
        ("2025-12-31", "2026-01-01T00:00:00.007Z"),
        ("ontem", "2026-01-01T00:00:00.007Z"),
        ("0001-01-01T00:00:00+23:00", "2026-01-01T00:00:00.007Z"),
        ("1" * 500, "2026-01-01T00:00:00.007Z"),
    ],
)
def test_the_time_is_true_utc(given_time: str | None, expected: str) -> None:
    """A producer's time counts when it is one and has a zone; else the log's does (C19)."""
    assert date_time(event(date_time=given_time)) == expected


@given(st.text(max_size=45), st.integers(0, 253_402_300_799_999))
def test_there_is_always_a_time_of_one_form(text: str, timestamp_ms: int) -> None:
    """Whatever the producer says, the time has 24 characters and a Z."""
    made = date_time(event(date_time=text, timestamp_ms=timestamp_ms))
    assert len(made) == 24
    assert made.endswith("Z")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"message": {"base64": "AAAA", "mediaUrl": "u"}}, {"message": {"mediaUrl": "u"}}),
        ({"key": {}, "message": {"base64": ""}, "z": 1}, {"key": {}, "message": {}, "z": 1}),
        ({"message": {"imageMessage": {"base64": "AAAA"}}}, {"message": {"imageMessage": {"base64": "AAAA"}}}),
        ({"message": "base64"}, {"message": "base64"}),
        ({"base64": "AAAA"}, {"base64": "AAAA"}),
        ([{"message": {"base64": "AAAA"}}], [{"message": {"base64": "AAAA"}}]),
        (None, None),
    ],
)
def test_base64_is_left_out_without_touching_the_event(data: Any, expected: Any) -> None:
    """The media's base64 goes, all else stays in its order, and the shared data is not changed."""
    before = deepcopy(data)
    made = without_base64(data)
    assert orjson.dumps(made) == orjson.dumps(expected)
    assert data == before
