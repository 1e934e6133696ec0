"""JMESPath expressions: what they see, what is refused, and how their failures are told."""

from typing import Any

import pytest

from app.events.event import DEFAULT_ORDER_KEY, Event
from app.routing.expressions import ExpressionError, compile_expression, truthy
from app.routing.ordering import MAX_KEY_CHARACTERS, order_key
from app.routing.route import ShapeError


def event(data: Any) -> Event:
    """An event with this data."""
    return Event(
        instance="sales", name="messages.upsert", data=data, id="e-1", partition=3, offset=7, timestamp_ms=1, size=1
    )


def test_an_expression_sees_the_event_and_not_only_its_data() -> None:
    """Id, instance, event name and position can be asked for beside the data."""
    expression = compile_expression("{i: instance, e: event, id: id, p: position.offset, t: data.a[0]}", "shape")

    assert expression(event({"a": ["x"]})) == {"i": "sales", "e": "messages.upsert", "id": "e-1", "p": 7, "t": "x"}


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "empty"),
        ("  ", 0, "empty"),
        ("a.b[", 4, "ends too early"),
        ("a..b", 2, "'.'"),
        ("a[?b == #]", 8, "'#'"),
        ("a" * 5000, 4000, "at most 4000"),
        ("[" * 200, 64, "deep"),
        ("data.a[?lenght(b) > `1`]", 8, "no function lenght"),
        ("length(data, id)", 0, "takes 1 arguments, and was given 2"),
        ("join(',')", 0, "takes 2"),
    ],
)
def test_a_bad_expression_is_refused_with_its_position(text: str, position: int, words: str) -> None:
    """The error says at which character it goes wrong, and why."""
    with pytest.raises(ExpressionError, match=words) as caught:
        compile_expression(text, "shape")

    assert caught.value.position == position


def test_the_function_that_was_meant_is_named() -> None:
    """A slip in a function's name is found before the first event, with the right word."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression("lenght(data)", "shape")

    assert caught.value.near == "length"
    assert compile_expression("merge(data, data, data)", "shape")(event({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("text", ["length(data)", "sum(data.a)", "sort_by(data.a, &b)", "abs(data.s)"])
def test_an_expression_that_fails_on_an_event_is_a_shape_error(text: str) -> None:
    """The error names the expression, its purpose and the event's name, and never the event's content."""
    with pytest.raises(ShapeError) as caught:
        compile_expression(text, "`shape` of pipeline lake")(
            event(5 if "length" in text else {"a": "hunter2", "s": "hunter2"})
        )

    assert "`shape` of pipeline lake" in str(caught.value)
    assert text in str(caught.value)
    assert "messages.upsert" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "truth"),
    [(None, False), (False, False), ("", False), ([], False), ({}, False), (0, True), ("a", True), ([0], True)],
)
def test_truth_is_jmespaths(value: Any, truth: bool) -> None:
    """Zero is true, unlike in Python."""
    assert truthy(value) is truth


MESSAGE = {"key": {"remoteJid": "5511@s.whatsapp.net"}, "number": 5, "object": {"b": 1, "a": 2}}


@pytest.mark.parametrize(
    ("order", "key", "expected"),
    [
        ("chat", None, "5511@s.whatsapp.net"),
        ("instance", None, DEFAULT_ORDER_KEY),
        ("key", "data.key.remoteJid", "5511@s.whatsapp.net"),
        ("key", "data.number", "5"),
        ("key", "data.object", '{"a":2,"b":1}'),
        ("key", "data.absent", DEFAULT_ORDER_KEY),
    ],
)
def test_order_keys(order: Any, key: str | None, expected: str) -> None:
    """Each order names the key it promises; what an expression finds nothing for belongs to the instance."""
    function = order_key(order, key, "key")

    assert function is not None
    assert function(event(MESSAGE)) == expected


def test_no_order_has_no_key() -> None:
    """`order: none` needs no function, so nothing is computed for it."""
    assert order_key("none", None, "key") is None


def test_long_order_keys_are_told_apart_by_their_hash() -> None:
    """A key over the limit becomes short, and two of them stay two."""
    function = order_key("key", "data", "key")
    assert function is not None
    first, second = (function(event("x" * 1000 + last)) for last in "ab")

    assert first != second
    assert len(first) <= MAX_KEY_CHARACTERS
    assert first == function(event("x" * 1000 + "a"))
