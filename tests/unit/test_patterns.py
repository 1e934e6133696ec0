"""Patterns of `where:`: what holds, what is refused, and that no event makes one raise."""

import math
import string
from collections.abc import Callable
from typing import Any

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events.event import Event
from app.routing.patterns import PatternError, compile_pattern


def event(data: Any, **fields: Any) -> Event:
    """An event with this data."""
    known: dict[str, Any] = {"instance": "sales", "name": "messages.upsert", "id": "e-1"}
    known |= {"partition": 0, "offset": 7, "timestamp_ms": 1, "size": 1}
    return Event(data=data, **(known | fields))


MESSAGE = {
    "key": {"remoteJid": "5511999@s.whatsapp.net", "fromMe": False, "id": "A"},
    "messageType": "conversation",
    "message": {"conversation": "I want a refund"},
    "messageTimestamp": 1700000000,
    "tags": ["new", "vip"],
    "presences": {"1@s.whatsapp.net": {"state": "composing"}},
    "participants": [{"jid": "a@lid"}, {"jid": "b@s.whatsapp.net"}],
    "nothing": None,
    "odd.key": 1,
}


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ({"data.messageType": "conversation"}, True),
        ({"data.messageType": "Conversation"}, False),
        ({"data.key.fromMe": False}, True),
        ({"data.key.fromMe": 0}, False),
        ({"data.messageTimestamp": 1700000000.0}, True),
        ({"data.messageTimestamp": "1700000000"}, False),
        ({"data.nothing": None}, True),
        ({"data.absent": None}, False),
        ({"data.messageType": "conversation", "data.key.fromMe": True}, False),
        ({"data.messageType": {"in": ["imageMessage", "conversation"]}}, True),
        ({"data.messageType": {"in": ["imageMessage"]}}, False),
        ({"data.key.fromMe": {"in": [0, "false"]}}, False),
        ({"data.nothing": {"in": [None, 1]}}, True),
        ({"data.messageType": {"not": "imageMessage"}}, True),
        ({"data.absent": {"not": "imageMessage"}}, True),
        ({"data.messageType": {"not": {"in": ["conversation"]}}}, False),
        ({"data.key.remoteJid": {"suffix": "@s.whatsapp.net"}}, True),
        ({"data.key.remoteJid": {"prefix": "5511", "suffix": "@g.us"}}, False),
        ({"data.key.fromMe": {"prefix": "5511"}}, False),
        ({"data.message.conversation": {"contains": "refund"}}, True),
        ({"data.tags": {"contains": "vip"}}, True),
        ({"data.tags": {"contains": "vi"}}, False),
        ({"data.message.conversation": {"regex": "(?i)REFUND|return"}}, True),
        ({"data.message.conversation": {"regex": "^refund"}}, False),
        ({"data.messageTimestamp": {"regex": "17"}}, False),
        ({"data.messageTimestamp": {"gte": 1700000000, "lt": 1700000001}}, True),
        ({"data.messageTimestamp": {"gt": 1700000000}}, False),
        ({"data.key.fromMe": {"lt": 5}}, False),
        ({"data.messageType": {"gte": "a", "lt": "d"}}, True),
        ({"data.messageType": {"gt": 5}}, False),
        ({"data.nothing": {"exists": True}}, True),
        ({"data.absent": {"exists": True}}, False),
        ({"data.absent": {"exists": False}}, True),
        ({"data.key": {"exists": True}}, True),
        ({"data.messageType": {"any": ["x", {"prefix": "conv"}]}}, True),
        ({"data.messageType": {"all": [{"prefix": "conv"}, {"suffix": "x"}]}}, False),
        ({"any": [{"data.messageType": "x"}, {"data.key.fromMe": False}]}, True),
        ({"any": [{"data.messageType": "x"}, {"data.key.fromMe": True}]}, False),
        ({"all": [{"data.messageType": "conversation"}, {"data.key.fromMe": False}]}, True),
        ({"not": {"data.key.fromMe": True}}, True),
        ({"not": {"data.key.fromMe": False, "data.messageType": "x"}}, True),
        ({"not": {"any": [{"data.key.fromMe": False}]}}, False),
        ({"data.tags.0": "new"}, True),
        ({"data.tags.2": {"exists": True}}, False),
        ({"data.participants.1.jid": {"suffix": "whatsapp.net"}}, True),
        ({"data.participants.*.jid": {"suffix": "@lid"}}, True),
        ({"data.participants.*.jid": "c"}, False),
        ({"data.participants.*.name": {"exists": True}}, False),
        ({"data.participants.*.name": {"exists": False}}, True),
        ({"data.presences.*.state": "composing"}, True),
        ({"data.messageType.*": "c"}, False),
        ({'data."odd.key"': 1}, True),
        ({'data.presences."1@s.whatsapp.net".state': "composing"}, True),
        ({"data.messageType.conversation": "x"}, False),
        ({"instance": {"prefix": "sal"}}, True),
        ({"event": "messages.upsert"}, True),
        ({"id": "e-1"}, True),
        ({"sender": {"exists": True}}, False),
        ({"date_time": {"exists": False}}, True),
        ({"data": {"exists": True}}, True),
    ],
)
def test_a_pattern_holds_or_not(pattern: dict[str, Any], holds: bool) -> None:
    """Each operator, path and group means what the room's README says."""
    assert compile_pattern(pattern)(event(MESSAGE)) is holds


@pytest.mark.parametrize("data", [None, [], [1, [2]], "text", 5, True, {"key": None}, {"key": [1]}, {"key": {"a": {}}}])
def test_odd_data_does_not_match_and_does_not_raise(data: Any) -> None:
    """Data of any shape, where the pattern expects another one, just does not match."""
    for operator in ({"prefix": "a"}, {"regex": "a"}, {"gt": 1}, {"contains": "a"}, {"in": ["a"]}, "a"):
        assert compile_pattern({"data.key.a": operator})(event(data)) is False


def test_a_lone_surrogate_is_no_match_for_a_regex() -> None:
    """A text that has no UTF-8 is passed over by RE2 instead of stopping the partition."""
    assert compile_pattern({"data": {"regex": "."}})(event("\ud800")) is False


@pytest.mark.parametrize(
    ("pattern", "path", "rule", "near"),
    [
        ({}, (), "pattern.type", None),
        ({"dta.key": 1}, ("dta.key",), "pattern.path", "data"),
        ({"data..key": 1}, ("data..key",), "pattern.path", None),
        ({"data.": 1}, ("data.",), "pattern.path", None),
        ({'data."a"b': 1}, ('data."a"b',), "pattern.path", None),
        ({"data.x": {"prefx": "a"}}, ("data.x", "prefx"), "pattern.operator", "prefix"),
        ({"data.x": {}}, ("data.x",), "pattern.type", None),
        ({"data.x": [1, 2]}, ("data.x",), "pattern.type", None),
        ({"data.x": {"in": "a"}}, ("data.x", "in"), "pattern.type", None),
        ({"data.x": {"in": []}}, ("data.x", "in"), "pattern.type", None),
        ({"data.x": {"regex": "a(b"}}, ("data.x", "regex"), "pattern.regex", None),
        ({"data.x": {"regex": "(?=a)"}}, ("data.x", "regex"), "pattern.regex", None),
        ({"data.x": {"regex": "a" * 1001}}, ("data.x", "regex"), "pattern.regex", None),
        ({"data.x": {"exists": "yes"}}, ("data.x", "exists"), "pattern.type", None),
        ({"data.x": {"gt": True}}, ("data.x", "gt"), "pattern.type", None),
        ({"data.x": {"gt": None}}, ("data.x", "gt"), "pattern.type", None),
        ({"data.x": {"prefix": 5}}, ("data.x", "prefix"), "pattern.type", None),
        ({"any": {"data.x": 1}}, ("any",), "pattern.type", None),
        ({"any": [{"data.x": {"gt": []}}]}, ("any", 0, "data.x", "gt"), "pattern.type", None),
        ({"not": 5}, ("not",), "pattern.type", None),
    ],
)
def test_a_wrong_pattern_is_refused_at_its_place(
    pattern: dict[str, Any], path: tuple[str | int, ...], rule: str, near: str | None
) -> None:
    """The error names the part of the pattern that is wrong, and the word that was probably meant."""
    with pytest.raises(PatternError) as caught:
        compile_pattern(pattern)

    assert [(fault.path, fault.rule, fault.near) for fault in caught.value.faults] == [(path, rule, near)]


def test_all_faults_of_a_pattern_are_told_at_once() -> None:
    """Three mistakes in one pattern are three faults of one error."""
    with pytest.raises(PatternError) as caught:
        compile_pattern({"dta.x": 1, "data.y": {"prefx": 1, "regex": "("}})

    assert len(caught.value.faults) == 3


def test_groups_have_a_limit_in_depth() -> None:
    """A pattern nested a hundred deep is refused instead of ending in a recursion error."""
    pattern: dict[str, Any] = {"data.x": 1}
    for _ in range(100):
        pattern = {"not": pattern}
    with pytest.raises(PatternError, match="deep"):
        compile_pattern(pattern)


ABSENT = object()
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.text("ab1", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=8,
)
_scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0]) | st.text("ab1", max_size=2)
_bounds = st.integers(-2, 2) | st.text("ab1", max_size=2)
_texts = st.text("ab1", max_size=2)
_specs = st.recursive(
    _scalars
    | st.fixed_dictionaries({"in": st.lists(_scalars, min_size=1, max_size=3)})
    | st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), _bounds, min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from(["prefix", "suffix"]), _texts, min_size=1, max_size=2)
    | st.fixed_dictionaries({"contains": _scalars})
    | st.fixed_dictionaries({"regex": st.sampled_from(["a", "^b", "1$", "[ab]+", "a|1"])})
    | st.fixed_dictionaries({"exists": st.booleans()}),
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.dictionaries(st.sampled_from(["any", "all"]), st.lists(inner, min_size=1, max_size=2), min_size=1)
    ),
    max_leaves=4,
)
_paths = st.lists(st.sampled_from(["a", "b", "0", "1", "*"]), max_size=3).map(lambda steps: ".".join(["data", *steps]))
_clauses = st.dictionaries(_paths, _specs, min_size=1, max_size=3)
_patterns = st.recursive(
    _clauses,
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.dictionaries(st.sampled_from(["any", "all"]), st.lists(inner, min_size=1, max_size=2), min_size=1)
    ),
    max_leaves=4,
)


def same(left: Any, right: Any) -> bool:
    """JSON's equality of scalars."""
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    kinds = [isinstance(one, str) for one in (left, right)]
    return kinds[0] == kinds[1] and not isinstance(left, (list, dict)) and left is not ABSENT and left == right


def naive_values(value: Any, steps: list[str]) -> list[Any]:
    """All values at the end of a path, written as it is explained."""
    if not steps:
        return [value]
    step, rest = steps[0], steps[1:]
    if step == "*":
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [found for one in inner for found in naive_values(one, rest)]
    if isinstance(value, dict) and step in value:
        return naive_values(value[step], rest)
    if isinstance(value, list) and step in string.digits and int(step) < len(value):
        return naive_values(value[int(step)], rest)
    return []


def naive_test(value: Any, spec: Any) -> bool:
    """What must be for one value, written as it is explained."""
    if not isinstance(spec, dict):
        return same(value, spec)
    return all(NAIVE[name](value, operand) for name, operand in spec.items())


NAIVE: dict[str, Callable[[Any, Any], bool]] = {
    "in": lambda value, operand: any(same(value, one) for one in operand),
    "not": lambda value, operand: not naive_test(value, operand),
    "any": lambda value, operand: any(naive_test(value, one) for one in operand),
    "all": lambda value, operand: all(naive_test(value, one) for one in operand),
    "exists": lambda value, operand: (value is not ABSENT) is operand,
    "prefix": lambda value, operand: isinstance(value, str) and value.startswith(operand),
    "suffix": lambda value, operand: isinstance(value, str) and value.endswith(operand),
    "regex": lambda value, operand: isinstance(value, str) and re2.search(operand, value) is not None,
    "contains": lambda value, operand: (
        any(same(one, operand) for one in value)
        if isinstance(value, list)
        else isinstance(value, str) and isinstance(operand, str) and operand in value
    ),
    "gt": lambda value, operand: comparable(value, operand) and value > operand,
    "gte": lambda value, operand: comparable(value, operand) and value >= operand,
    "lt": lambda value, operand: comparable(value, operand) and value < operand,
    "lte": lambda value, operand: comparable(value, operand) and value <= operand,
}
"""Each operator, written as it is explained."""


def comparable(value: Any, operand: Any) -> bool:
    """Whether both are texts or both are numbers."""
    kinds = [
        str if isinstance(one, str) else float if isinstance(one, (int, float)) else None for one in (value, operand)
    ]
    return kinds[0] is kinds[1] and kinds[0] is not None and not isinstance(value, bool)


def naive(pattern: dict[str, Any], data: Any) -> bool:
    """The whole pattern, slowly."""

    def clause(key: str, spec: Any) -> bool:
        if key == "any":
            return any(naive(one, data) for one in spec)
        if key == "all":
            return all(naive(one, data) for one in spec)
        if key == "not":
            return not naive(spec, data)
        values = naive_values(data, key.split(".")[1:]) or [ABSENT]
        return any(naive_test(value, spec) for value in values)

    return all(clause(key, spec) for key, spec in pattern.items())


@settings(max_examples=400, deadline=None)
@given(_patterns, _values)
def test_a_compiled_pattern_agrees_with_its_explanation(pattern: dict[str, Any], data: Any) -> None:
    """Closures and the slow evaluator written after the README say the same of any pattern and data."""
    assert compile_pattern(pattern)(event(data)) is naive(pattern, data)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8), _specs | _values, max_size=3))
def test_any_mapping_is_compiled_or_refused(pattern: dict[str, Any]) -> None:
    """Whatever stands under `where:`, the outcome is a predicate or a PatternError."""
    try:
        predicate = compile_pattern(pattern)
    except PatternError:
        return

    assert predicate(event({"a": math.inf})) in (True, False)
