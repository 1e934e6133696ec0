"""Bodies of `set`: what clients send, what is stored, what is refused and in which words (contract 2.1 and 3)."""

import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from app.config import bodies
from app.config.bodies import BodyError
from app.events.catalogue import ALL_EVENTS

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
URL = "https://crm.example.com/hook"
ENUM = f"is not one of enum values: {','.join(ALL_EVENTS)}"
CONTRACT_EVENTS = [
    "APPLICATION_STARTUP QRCODE_UPDATED MESSAGES_SET MESSAGES_UPSERT MESSAGES_EDITED MESSAGES_UPDATE MESSAGES_DELETE",
    "SEND_MESSAGE SEND_MESSAGE_UPDATE CONTACTS_SET CONTACTS_UPSERT CONTACTS_UPDATE PRESENCE_UPDATE CHATS_SET",
]


def stored(body: Any, before: Mapping[str, Any] | None = None, *, strict: bool = False, now: datetime = NOW) -> Any:
    """The row that a body of the webhook's `set` becomes."""
    return bodies.normalise("webhook", body, before, instance_id="uuid-1", now=now, new_id=lambda: "c1", strict=strict)


def refused(body: Any, before: Mapping[str, Any] | None = None, *, strict: bool = False) -> list[str]:
    """The messages with which a body is refused."""
    with pytest.raises(BodyError) as caught:
        stored(body, before, strict=strict)
    return caught.value.messages


def test_row() -> None:
    """A nested body becomes the row of contract 3.3, keys in order."""
    body = {
        "webhook": {
            "enabled": True,
            "url": URL,
            "headers": {"authorization": "Bearer x", "retries": 3},
            "byEvents": True,
            "base64": True,
            "events": ["MESSAGES_UPSERT"],
        }
    }
    expected = {
        "id": "c1",
        "url": URL,
        "headers": {"authorization": "Bearer x", "retries": 3},
        "enabled": True,
        "events": ["MESSAGES_UPSERT"],
        "webhookByEvents": True,
        "webhookBase64": True,
        "createdAt": "2026-01-02T03:04:05.678Z",
        "updatedAt": "2026-01-02T03:04:05.678Z",
        "instanceId": "uuid-1",
    }
    assert list(stored(body).items()) == list(expected.items())
    assert list(stored(body, strict=True).items()) == list(expected.items())


SAME = {"enabled": True, "url": URL, "events": ["MESSAGES_UPSERT"]}


@pytest.mark.parametrize(
    "body",
    [
        {"webhook": {**SAME, "byEvents": True, "base64": False}},
        {"webhook": {**SAME, "webhookByEvents": True, "webhookBase64": False}},
        {"webhook": {**SAME, "webhook_by_events": True, "webhook_base64": False}},
        {**SAME, "webhookByEvents": True, "webhookBase64": False},
        {**SAME, "webhook_by_events": True, "webhook_base64": False},
        {"webhook": {**SAME, "byEvents": True}, "url": "https://other.example.com"},
        {"webhook": {"url": URL, "byEvents": True, "events": ["messages.upsert"]}},
        {"url": URL, "byEvents": True, "events": [" Messages-Upsert "]},
        {"webhookUrl": URL, "webhookEvents": ["messages upsert"], "webhookByEvents": True, "webhookEnabled": True},
        {"webhook_url": URL, "webhook_events": ["MESSAGES_UPSERT"], "webhook_by_events": "true"},
        {
            "webhook": {"enabled": "true", "byEvents": "true", "base64": "false"},
            "url": URL,
            "events": ["MESSAGES_UPSERT"],
        },
        {"webhook": {**SAME, "byEvents": True, "headers": None, "base64": None, "somethingElse": {"a": 1}}},
        {"webhook": None, **SAME, "byEvents": True},
    ],
)
def test_spellings(body: dict[str, Any]) -> None:
    """Each spelling that clients are known to send stores the same row (contract 3.5)."""
    expected = stored({"webhook": {**SAME, "byEvents": True}})
    assert stored(body) == expected


def test_all_events() -> None:
    """An empty, missing or null list of an enabled section stands for all 31 names in the contract's order."""
    for events in ({"events": []}, {"events": None}, {}):
        row = stored({"webhook": {"enabled": True, "url": URL, **events}})
        assert row["events"] == list(ALL_EVENTS)
    assert len(ALL_EVENTS) == 31
    assert list(ALL_EVENTS[:14]) == " ".join(CONTRACT_EVENTS).split()


def test_disabled() -> None:
    """A disabled section loses its events and keeps all else; it needs no address."""
    before = stored({"webhook": {**SAME, "headers": {"a": "b"}}})
    row = stored({"webhook": {"enabled": False}}, before)
    assert row == {**before, "enabled": False, "events": []}
    assert stored({"enabled": False})["url"] == ""
    assert stored({"url": "", "enabled": False})["events"] == []


def test_a_disabled_section_that_is_kept_keeps_its_events() -> None:
    """With `keep` it is paused, not removed: its subscriptions stand, and the key of ours is shown when set."""
    before = stored({"webhook": SAME})
    row = stored({"webhook": {"enabled": False, "keep": True}}, before)

    assert row == {**before, "enabled": False, "keep": True}
    assert "keep" not in before


def test_partial_update() -> None:
    """Keys that a body leaves out keep their values; only `updatedAt` moves."""
    before = stored({"webhook": {**SAME, "headers": {"a": "b"}, "byEvents": True}})
    row = stored({"webhook": {"enabled": True, "url": "https://new.example.com"}}, before, now=NOW.replace(year=2027))
    assert row == {**before, "url": "https://new.example.com", "updatedAt": "2027-01-02T03:04:05.678Z"}
    assert stored({"events": ["call"]}, before)["url"] == URL


def test_headers_cleared() -> None:
    """Headers go with null or an empty object."""
    before = stored({"webhook": {**SAME, "headers": {"a": "b"}}})
    assert stored({"webhook": {**SAME, "headers": None}}, before)["headers"] is None
    assert stored({"webhook": {**SAME, "headers": {}}}, before)["headers"] == {}


@pytest.mark.parametrize(
    ("sent", "kept", "unknown"),
    [
        ("groups.update", "GROUPS_UPDATE", False),
        ("GROUP_UPDATE", "GROUP_UPDATE", False),
        ("group-participants.update", "GROUP_PARTICIPANTS_UPDATE", False),
        ("NEW_TOKEN", "NEW_TOKEN", False),
        ("contacts.delete", "CONTACTS_DELETE", True),
        ("PRESENCE", "PRESENCE", True),
    ],
)
def test_event_names(sent: str, kept: str, unknown: bool) -> None:
    """Names are echoed as sent but for case and separators; unknown ones are kept and told."""
    row = stored({**SAME, "events": [sent, sent]})
    assert row["events"] == [kept, kept]
    assert bodies.unknown_events(row) == ([kept, kept] if unknown else [])


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (None, ["instance is not of a type(s) object"]),
        ([], ["instance is not of a type(s) object"]),
        ("text", ["instance is not of a type(s) object"]),
        (7, ["instance is not of a type(s) object"]),
        ({}, ['instance requires property "webhook"']),
        ({"hello": 1}, ['instance requires property "webhook"']),
        ({"webhook": "https://crm.example.com"}, ["webhook is not of a type(s) object"]),
        ({"webhook": [1]}, ["webhook is not of a type(s) object"]),
        ({"webhook": {"enabled": True}}, ['webhook requires property "url"']),
        ({"webhook": {"enabled": True, "url": ""}}, ['The "url" cannot be empty']),
        ({"webhook": {"enabled": "yes", "url": URL}}, ["webhook.enabled is not of a type(s) boolean"]),
        ({"webhook": {"enabled": 1, "url": URL}}, ["webhook.enabled is not of a type(s) boolean"]),
        ({"webhook": {**SAME, "url": 7}}, ["webhook.url is not of a type(s) string"]),
        ({"webhook": {**SAME, "byEvents": "perhaps"}}, ["webhook.byEvents is not of a type(s) boolean"]),
        ({"webhook": {**SAME, "headers": []}}, ["webhook.headers is not of a type(s) object"]),
        ({"webhook": {**SAME, "events": "MESSAGES_UPSERT"}}, ["webhook.events is not of a type(s) array"]),
        ({"webhook": {**SAME, "events": {"0": "CALL"}}}, ["webhook.events is not of a type(s) array"]),
        (
            {"webhook": {**SAME, "events": [7, None]}},
            [f"webhook.events[{n}] is not of a type(s) string" for n in (0, 1)],
        ),
        ({"webhook": {**SAME, "events": ["CALL", ""]}}, [f"webhook.events[1] {ENUM}"]),
        ({"webhook": {**SAME, "events": ["CALL\r\n"]}}, [f"webhook.events[0] {ENUM}"]),
        ({"webhook": {**SAME, "events": ["CALL"] * 201}}, ["webhook.events does not meet maximum length of 200"]),
        ({"webhook": {**SAME, "url": "h" * 2049}}, ["webhook.url does not meet maximum length of 2048"]),
        (
            {"webhook": {"enabled": 1, "url": [], "byEvents": 2}},
            [
                "webhook.enabled is not of a type(s) boolean",
                "webhook.url is not of a type(s) string",
                "webhook.byEvents is not of a type(s) boolean",
            ],
        ),
        (
            {"webhook": {**SAME, "url": "http://a/\r\nHost: b"}},
            ["webhook.url has a line break or another control character"],
        ),
    ],
)
def test_refused(body: Any, messages: list[str]) -> None:
    """What is wrong with a body is said in upstream's words, all at once."""
    assert refused(body) == messages


@pytest.mark.parametrize(
    "headers",
    [
        {"a\r\nb": "c"},
        {"a": "b\r\nc: d"},
        {"a": "\x00"},
        {"a": "\ud800"},
        {"": "b"},
        {"Host": "b"},
        {"a": {"b": "c"}},
        {"Content-Length": 1},
        {"x": "y", "X": "z"},
        {f"h{n}": "v" for n in range(65)},
    ],
)
def test_headers_refused(headers: dict[str, Any]) -> None:
    """Headers that could split a request, or that belong to the connection, are refused, enabled or not."""
    for enabled in (True, False):
        (message,) = refused({"webhook": {**SAME, "enabled": enabled, "headers": headers}})
        assert message.startswith("webhook.headers")


@pytest.mark.parametrize(
    "section", [{"url": "https://a/${env:AUTHENTICATION_API_KEY}"}, {"headers": {"a": "${file:/etc/passwd}"}}]
)
def test_references_refused(section: dict[str, Any]) -> None:
    """A body cannot refer to this server's environment or files: a tenant could read them with it."""
    (message,) = refused({"webhook": {**SAME, **section}})
    assert "pipelines.yaml only" in message


@pytest.mark.parametrize("url", ["notaurl", "ftp://files.example.com", " ", "http://[::1"])
def test_any_address(url: str) -> None:
    """The address is not checked for its form: it is stored and never delivered to, as upstream has it."""
    assert stored({"webhook": {**SAME, "url": url}})["url"] == url


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (SAME, ['instance requires property "webhook"']),
        ({"webhook": {"url": URL}}, ['webhook requires property "enabled"']),
        ({"webhook": {}}, ['webhook requires property "enabled"', 'webhook requires property "url"']),
        ({"webhook": {"enabled": "true", "url": URL}}, ["webhook.enabled is not of a type(s) boolean"]),
        ({"webhook": {**SAME, "events": ["messages.upsert"]}}, [f"webhook.events[0] {ENUM}"]),
        ({"webhook": {**SAME, "events": ["GROUPS_UPDATE"]}}, [f"webhook.events[0] {ENUM}"]),
        ({"webhook": {"enabled": True, "url": ""}}, ['The "url" cannot be empty']),
        ({"webhook": {**SAME, "headers": None}}, ["webhook.headers is not of a type(s) object"]),
    ],
)
def test_strict(body: dict[str, Any], messages: list[str]) -> None:
    """The strict form takes one spelling and the names of the list only (contract 3.1)."""
    assert refused(body, strict=True) == messages


def test_strict_ignores_spellings() -> None:
    """In the strict form the second spellings are unknown keys, and those are ignored."""
    row = stored({"webhook": {**SAME, "webhookByEvents": True}}, strict=True)
    assert row["webhookByEvents"] is False


def test_answer() -> None:
    """Answers carry the row, then its snake-case spellings."""
    row = stored({"webhook": {**SAME, "byEvents": True}})
    shown = bodies.answer("webhook", row)
    assert list(shown) == [*row, "webhook_by_events", "webhook_base64"]
    assert (shown["webhook_by_events"], shown["webhook_base64"]) == (True, False)
    assert bodies.answer("webhook", schemas.section("webhook").unset) == {
        "url": "",
        "enabled": False,
        "events": [],
        "webhookByEvents": False,
        "webhookBase64": False,
        "webhook_by_events": False,
        "webhook_base64": False,
    }


def test_round_trip() -> None:
    """What `find` answered can be sent to `set` again and changes nothing but the time."""
    row = stored({"webhook": {**SAME, "byEvents": True, "headers": {"a": "b"}, "events": ["contacts.delete", "CALL"]}})
    assert stored(json.loads(json.dumps(bodies.answer("webhook", row))), row) == row
    assert stored({"webhook": bodies.answer("webhook", row)}, row) == row


KEYS = st.sampled_from(
    ["webhook", "enabled", "events", "url", "headers", "byEvents", "base64", "webhook_by_events", "webhookUrl", "id"]
) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from([URL, "CALL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@given(body=JSON, before=st.booleans(), strict=st.booleans())
def test_any_body(body: Any, before: bool, strict: bool) -> None:
    """Whatever a body is, it is stored so that it can be read back, or refused; it is never changed."""
    row = stored({"webhook": {**SAME, "headers": {"a": "b"}}}) if before else None
    copies = copy.deepcopy((body, row))
    try:
        result = stored(body, row, strict=strict)
    except BodyError as error:
        messages = error.messages
        result = None
    if result is None:
        assert messages
    else:
        section = schemas.section("webhook")
        assert tuple(result) == section.row_order
        section.to_options(result)
        if result["enabled"]:
            schemas.options("webhook").model_validate(dict(section.to_options(result)))
    assert repr((body, row)) == repr(copies)
