"""The ways of pipelines: which events they take, what they make of them, in what order."""

from collections.abc import Callable
from typing import Any

import pytest
from table_rows import LAKE, SALES, Rows, destinations, event, found

from app.routing.route import ShapeError
from app.routing.router import Router
from app.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture
def table() -> Rows:
    """An empty table."""
    return Rows()


@pytest.fixture
def router(table: Rows, make_plain_settings: MakeSettings) -> Router:
    """A router on it."""
    return Router(table, make_plain_settings(SERVER_URL="https://sluice.example"))


def test_a_pipeline_takes_events_by_instance_and_name(router: Router, table: Rows) -> None:
    """Globs choose instances, names choose events, and each destination is a way of its own, after the sections."""
    table.apply(SALES + LAKE)

    assert destinations(router) == ["section/sales/webhook", "pipeline/lake/first", "pipeline/lake/second"]
    assert destinations(router, "call") == ["pipeline/lake/first", "pipeline/lake/second"]
    assert destinations(router, "call", "bare") == []
    assert destinations(router, "presence.update") == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"message": {"conversation": "hé"}, "messageTimestamp": 5},
            b'{"id":"e-1","text":"h\xc3\xa9","at":5,"from":"sales"}',
        ),
        ({"message": {"imageMessage": {}}}, b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
        (None, b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
        ([{"message": 1}], b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
    ],
)
def test_a_shape_makes_the_body(router: Router, table: Rows, data: Any, expected: bytes) -> None:
    """What a pipeline's expression makes of an event goes over the wire byte for byte, absent parts as null."""
    table.apply(SALES + LAKE)

    assert found(router, "call")[0].encode(event(data)) == expected


def test_a_pipeline_matches_and_orders_as_it_says(router: Router, table: Rows) -> None:
    """Pattern and key come from the file; a section keeps the order of conversations."""
    table.apply(SALES + LAKE)
    section, lake, _ = found(router)
    message = event({"key": {"fromMe": False, "id": "A1", "remoteJid": "5@s.whatsapp.net"}})

    assert lake.matches is not None
    assert lake.matches(message)
    assert not lake.matches(event({"key": {"fromMe": True}}))
    assert lake.order_key is not None
    assert lake.order_key(message) == "A1"
    assert section.order_key is not None
    assert section.order_key(message) == "5@s.whatsapp.net"


def test_a_failing_shape_is_an_error_that_names_the_pipeline(router: Router, table: Rows) -> None:
    """A shape over the limit, or one that fails, is told as such and does not stop the partition."""
    table.apply(
        SALES + "pipelines: {p: {from: {events: [call]}, shape: 'length(data)', to: [{webhook: {url: 'http://x'}}]}}"
    )

    with pytest.raises(ShapeError, match="pipeline p"):
        found(router, "call")[0].encode(event(5))


def test_a_shape_larger_than_an_event_may_be_is_refused(table: Rows, make_plain_settings: MakeSettings) -> None:
    """An expression that repeats its input cannot make bodies without limit."""
    table.apply(
        SALES + "pipelines: {p: {from: {events: [call]}, shape: '[data, data]', to: [{webhook: {url: 'http://x'}}]}}"
    )
    router = Router(table, make_plain_settings(SLUICE_MAX_EVENT_BYTES="1024"))

    with pytest.raises(ShapeError, match="more than an event may have"):
        found(router, "call")[0].encode(event("x" * 800))


def test_a_condition_that_fails_on_an_event_does_not_hold(router: Router, table: Rows) -> None:
    """A JMESPath `where` over data of another type matches nothing, like a pattern, and does not raise."""
    table.apply(
        SALES
        + "pipelines: {p: {from: {events: [call]}, where: \"contains(data.a, 'x')\", to: [{webhook: {url: 'http://x'}}]}}"
    )
    matches = found(router, "call")[0].matches

    assert matches is not None
    assert matches(event({"a": "xy"}))
    assert not matches(event({"a": 5}))
