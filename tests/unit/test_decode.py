"""From a record to an event, or to the reason why it is none."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.events.decode import decode
from app.events.event import Event, Poison

UPSERT = {"event": "messages.upsert", "data": {"key": {"remoteJid": "5511900000001@s.whatsapp.net"}}}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record as the consumer hands it over."""

    key: bytes | None = b"vendas"
    value: bytes | None = orjson.dumps(UPSERT)
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int = 3
    offset: int = 41
    timestamp: int | None = 1_767_225_600_123


def decoded(body: Any, **record: Any) -> Event:
    """The event of a record with this body."""
    return decode(Record(value=orjson.dumps(body), **record), "k7")


def reason(record: Record) -> str:
    """Why a record is none."""
    with pytest.raises(Poison) as caught:
        decode(record, "k7")
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def test_a_record_becomes_an_event() -> None:
    """Key, value, position and time of the record are the event's."""
    event = decode(Record(), "k7")
    assert event.instance == "vendas"
    assert event.name == "messages.upsert"
    assert event.data == UPSERT["data"]
    assert (event.id, event.given_id) == ("k7-3-41", False)
    assert (event.partition, event.offset, event.timestamp_ms) == (3, 41, 1_767_225_600_123)
    assert event.size == len(orjson.dumps(UPSERT))
    assert (event.sender, event.date_time, event.extra, event.only, event.config_offset) == (None, None, None, None, -1)


def test_optional_fields_are_taken() -> None:
    """All that a producer may say beside event and data arrives."""
    event = decoded(
        {
            "event": "MESSAGES_SET",
            "data": [],
            "id": 17,
            "sender": "5511900000001@s.whatsapp.net",
            "date_time": "2026-01-01T00:00:00.000Z",
            "extra": {"isLatest": True, "progress": 50},
            "only": ["websocket"],
        },
        headers=(("source", b"x"), ("config-offset", b"900")),
    )
    assert (event.name, event.id, event.given_id) == ("messages.set", "17", True)
    assert event.sender == "5511900000001@s.whatsapp.net"
    assert event.date_time == "2026-01-01T00:00:00.000Z"
    assert event.extra == {"isLatest": True, "progress": 50}
    assert event.only == ("websocket",)
    assert event.config_offset == 900


@pytest.mark.parametrize(
    ("body_id", "headers", "expected", "given_id"),
    [
        (None, (), "k7-3-41", False),
        ("", (), "k7-3-41", False),
        ("body", (), "body", True),
        (0, (), "0", True),
        ("body", (("id", b"header"),), "header", True),
        ("body", (("id", b""),), "body", True),
        (None, (("id", b"first"), ("id", b"last")), "last", True),
        (None, (("id", None),), "k7-3-41", False),
        ("pedido ação 👍", (), "pedido ação 👍", True),
    ],
)
def test_the_id_is_the_headers_then_the_bodys_then_the_position(
    body_id: Any, headers: Any, expected: str, given_id: bool
) -> None:
    """An event's id is its header, else its body's, else its place in the log."""
    event = decoded({**UPSERT, "id": body_id}, headers=headers)
    assert (event.id, event.given_id) == (expected, given_id)


def test_an_apikey_never_goes_on() -> None:
    """Neither the envelope's key nor one among the extra keys is found in the event."""
    event = decoded({**UPSERT, "apikey": "geheim", "extra": {"apikey": "geheim"}})
    assert event.extra is None
    assert "geheim" not in repr([getattr(event, slot) for slot in Event.__slots__])


def test_missing_data_is_null() -> None:
    """An event without data is one whose data is null, as in remove.instance."""
    assert decoded({"event": "remove.instance"}).data is None


@pytest.mark.parametrize("timestamp", [None, -1, 1 << 62])
def test_a_time_that_is_none_counts_as_the_beginning(timestamp: int | None) -> None:
    """A record's time is within what a date can hold."""
    assert decode(Record(timestamp=timestamp), "k7").timestamp_ms == 0


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (Record(key=None), "no key"),
        (Record(key=b""), "key is empty"),
        (Record(key=b"  "), "key is empty"),
        (Record(key=b"ven\xffdas"), "no UTF-8, byte 3"),
        (Record(key=b"a\nb"), "control characters"),
        (Record(key=b"x" * 256), "longer than 255"),
        (Record(key=b"x" * 100_000), "longer than 255"),
        (Record(value=None), "no value"),
        (Record(value=b""), "no JSON"),
        (Record(value=b'{"event":\n x}'), "line 2, column 2"),
        (Record(value=b'{"event":"a","data":"\xff"}'), "not valid UTF-8"),
        (Record(value=rb'{"event":"a","data":"\ud800"}'), "surrogate"),
        (Record(value=b"[]"), "an array"),
        (Record(value=b"null"), "missing or null"),
        (Record(value=b'"event"'), "a text"),
        (Record(value=b"12"), "a number"),
        (Record(value=b"{}"), "`event` is missing"),
        (Record(value=b'{"event":true}'), "`event` is a boolean"),
        (Record(value=b'{"event":""}'), "`event` is ''"),
        (Record(value=b'{"event":"a/../b"}'), "'a/../b'"),
        (Record(value=b'{"event":"call","id":1.5}'), "`id` is a number"),
        (Record(value=b'{"event":"call","id":true}'), "`id` is a boolean"),
        (Record(value=b'{"event":"call","id":{}}'), "`id` is an object"),
        (Record(value=b'{"event":"call","id":"a\\r\\nX: y"}'), "control characters"),
        (Record(value=b'{"event":"call","id":"%s"}' % (b"x" * 513)), "513 characters"),
        (Record(value=b'{"event":"call","sender":5}'), "`sender` is a number"),
        (Record(value=b'{"event":"call","sender":"%s"}' % (b"x" * 513)), "`sender` has 513"),
        (Record(value=b'{"event":"call","date_time":5}'), "`date_time` is a number"),
        (Record(value=b'{"event":"call","extra":[]}'), "`extra` is an array"),
        (Record(value=b'{"event":"call","only":"websocket"}'), "`only` is a text"),
        (Record(value=b'{"event":"call","only":[1]}'), "`only` is an array"),
        (Record(value=orjson.dumps({"event": "call", "only": ["x"] * 65})), "65 transports"),
        (Record(value=b'{"event":"call","data":' + b"[" * 260 + b"]" * 260 + b"}"), "252 levels"),
        (Record(value=b'{"event":"call","data":' + b"[" * 99_999), "no JSON"),
        (Record(headers=(("id", b"\xff"),)), "header `id` is no UTF-8"),
        (Record(headers=(("id", b"a\x00"),)), "header `id` has control"),
        (Record(headers=(("config-offset", b"x"),)), "config-offset"),
        (Record(headers=(("config-offset", None),)), "config-offset"),
        (Record(headers=(("config-offset", b"9" * 19),)), "config-offset"),
    ],
)
def test_what_is_no_event_says_why(record: Record, said: str) -> None:
    """Each record that is no event has a reason that names the part, short and in ASCII."""
    why = reason(record)
    assert said in why
    assert len(why) < 300
    assert why.isascii()


@pytest.mark.parametrize("field", ["id", "sender", "date_time", "extra", "only"])
def test_null_counts_as_not_given(field: str) -> None:
    """An optional field that is null is the same as one that is missing."""
    assert getattr(decoded({**UPSERT, field: None}), field) == getattr(decoded(UPSERT), field)


@given(
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.lists(st.tuples(st.sampled_from(["id", "config-offset", "x"]), st.none() | st.binary(max_size=30)), max_size=3),
)
@example(b"vendas", b"\xef\xbb\xbf{}", [])
def test_arbitrary_bytes_are_an_event_or_poison(key: Any, value: Any, headers: Any) -> None:
    """No record raises anything but Poison."""
    try:
        event = decode(Record(key=key, value=value, headers=tuple(headers)), "k7")
    except Poison:
        return
    assert event.name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["event", "data", "id", "sender", "date_time", "extra", "only"]), JSON))
def test_arbitrary_objects_are_an_event_or_poison(body: dict[str, Any]) -> None:
    """No object raises anything but Poison, and what becomes an event keeps its data."""
    try:
        event = decoded({"event": "messages.upsert", **body})
    except Poison:
        return
    assert event.data == orjson.loads(orjson.dumps(body.get("data")))
