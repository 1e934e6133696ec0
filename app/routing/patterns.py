"""
Patterns of `where:`, compiled once to closures that cost 0.1 to 1 us an event (design 5).

A pattern is a mapping, and every clause of it must hold. A clause is a dotted path with what its value must be, or a
group of patterns: `any:` (a list, one must hold), `all:` (a list, each must hold), `not:` (a pattern that must not).

A path begins with `data`, `event`, `instance`, `sender`, `id` or `date_time`. A step is a key, the index of a list
(`0`), or `*` for any element of a list and any value of an object; a key with a dot in it stands in double quotes.
The value is a scalar, which must be equal (JSON's equality: `true` is not 1, and 1 is 1.0), or operators, all of
which must hold for the same value; behind a `*` they must hold for at least one.

A path that leads nowhere matches nothing but `exists: false` and `not`. A value of another type than an operator is
for does not match. No event makes a pattern raise.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter, ge, gt, le, lt
from re import compile as compile_lexer
from typing import Any

import re2

from app.events.event import Event

Predicate = Callable[[Event], bool]
Test = Callable[[Any], bool]
Path = tuple[str | int, ...]
"""From the pattern to a part of it: keys and indices."""

MAX_REGEX_CHARACTERS = 1000
"""Longer ones are programs, and RE2 takes memory by their length."""
MAX_DEPTH = 16
"""Of groups in groups; each level is a Python call for each event."""

ROOTS = {"data": "data", "event": "name", "instance": "instance", "sender": "sender", "id": "id"}
ROOTS |= {"date_time": "date_time"}
"""Where a path may begin, and the attribute of an event that it reads."""

GROUPS = ("any", "all", "not")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
_STEP = compile_lexer(r'"([^"]+)"|([^."]+)')


class _Missing:
    """The value at the end of a path that leads nowhere; equal to nothing."""

    __slots__ = ()


MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a pattern: where in it, under which rule, in words, and the nearest right word."""

    path: Path
    rule: str
    message: str
    near: str | None = None
    at_key: bool = False
    """Whether the key at `path` is wrong, and not its value."""


class PatternError(ValueError):
    """A pattern that cannot be compiled; `faults` has all there is to say."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


def compile_pattern(pattern: Mapping[str, Any]) -> Predicate:
    """The predicate of a pattern; raises PatternError with every fault at once."""
    compiler = _Compiler()
    predicate = compiler.pattern(pattern, ())
    if compiler.faults:
        raise PatternError(tuple(compiler.faults))
    return predicate


class _Compiler:
    """Compiles one pattern and collects what is wrong; where something is, a predicate that never holds stands in."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def pattern(self, pattern: Any, at: Path) -> Predicate:
        if not isinstance(pattern, Mapping) or not pattern:
            return self._wrong(at, "pattern.type", "a pattern is a mapping with at least one clause")
        if len(at) > MAX_DEPTH:
            return self._wrong(at, "pattern.depth", f"groups stand in each other at most {MAX_DEPTH} deep")
        clauses = [self._clause(key, spec, (*at, key)) for key, spec in pattern.items()]
        return _every(clauses)

    def _clause(self, key: str, spec: Any, at: Path) -> Predicate:
        if key == "not":
            return _negated(self.pattern(spec, at))
        if key in GROUPS:
            if not isinstance(spec, list) or not spec:
                return self._wrong(at, "pattern.type", f"`{key}:` takes a list of patterns")
            members = [self.pattern(member, (*at, index)) for index, member in enumerate(spec)]
            return _some(members) if key == "any" else _every(members)
        steps = self._steps(key, at)
        return _applied(steps, self._test(spec, at))

    def _steps(self, path: str, at: Path) -> tuple[str, ...]:
        steps: list[str] = []
        position = 0
        while match := _STEP.match(path, position):
            steps.append(match[1] or match[2])
            position = match.end() + 1
            if match.end() < len(path) and path[match.end()] != ".":
                break
        if position != len(path) + 1:
            self._wrong(at, "pattern.path", f"`{path}` is not a dotted path", at_key=True)
            return ("data",)
        if steps[0] not in ROOTS:
            near = get_close_matches(steps[0], [*ROOTS, *GROUPS], n=1)
            message = f"a path begins with {', '.join(ROOTS)}; `{steps[0]}` is none of them"
            self._wrong(at, "pattern.path", message, near=near[0] if near else None, at_key=True)
            return ("data",)
        return tuple(steps)

    def _test(self, spec: Any, at: Path) -> Test:
        if len(at) > MAX_DEPTH:
            self._wrong(at, "pattern.depth", f"groups stand in each other at most {MAX_DEPTH} deep")
            return _never
        if not isinstance(spec, Mapping):
            return self._equal(spec, at)
        if not spec:
            self._wrong(at, "pattern.type", "operators are wanted, or a value")
            return _never
        return _every([self._operator(name, operand, (*at, name)) for name, operand in spec.items()])

    def _operator(self, name: str, operand: Any, at: Path) -> Test:
        compile_operator = _OPERATORS.get(name)
        if compile_operator is None:
            near = get_close_matches(name, _OPERATORS, n=1)
            message = f"`{name}` is not an operator; there are {', '.join(_OPERATORS)}"
            self._wrong(at, "pattern.operator", message, near=near[0] if near else None, at_key=True)
            return _never
        return compile_operator(self, operand, at)

    def _equal(self, operand: Any, at: Path) -> Test:
        if isinstance(operand, list):
            self._wrong(at, "pattern.type", "a list is no value to compare with; `{in: [...]}` asks for one of several")
            return _never
        if isinstance(operand, float) and not math.isfinite(operand):
            self._wrong(at, "pattern.type", "JSON has no such number")
            return _never
        return _equality(operand)

    def _in(self, operand: Any, at: Path) -> Test:
        if not isinstance(operand, list) or not operand or any(isinstance(one, (list, Mapping)) for one in operand):
            self._wrong(at, "pattern.type", "`in` takes a list of values")
            return _never
        if all(isinstance(one, str) for one in operand):
            texts = frozenset(operand)
            return lambda value: value.__class__ is str and value in texts
        return _some([self._equal(one, (*at, index)) for index, one in enumerate(operand)])

    def _not(self, operand: Any, at: Path) -> Test:
        return _negated(self._test(operand, at))

    def _any(self, operand: Any, at: Path) -> Test:
        return _some(self._tests("any", operand, at))

    def _all(self, operand: Any, at: Path) -> Test:
        return _every(self._tests("all", operand, at))

    def _tests(self, name: str, operand: Any, at: Path) -> list[Test]:
        if not isinstance(operand, list) or not operand:
            self._wrong(at, "pattern.type", f"`{name}` takes a list of values or operators")
            return [_never]
        return [self._test(member, (*at, index)) for index, member in enumerate(operand)]

    def _prefix(self, operand: Any, at: Path) -> Test:
        text = self._text("prefix", operand, at)
        return lambda value: value.__class__ is str and value.startswith(text)

    def _suffix(self, operand: Any, at: Path) -> Test:
        text = self._text("suffix", operand, at)
        return lambda value: value.__class__ is str and value.endswith(text)

    def _contains(self, operand: Any, at: Path) -> Test:
        equal = self._equal(operand, at)

        def contains(value: Any) -> bool:
            if value.__class__ is str:
                return operand.__class__ is str and operand in value
            return value.__class__ is list and any(equal(element) for element in value)

        return contains

    def _regex(self, operand: Any, at: Path) -> Test:
        text = self._text("regex", operand, at)
        if len(text) > MAX_REGEX_CHARACTERS:
            self._wrong(at, "pattern.regex", f"a regex has at most {MAX_REGEX_CHARACTERS} characters")
            return _never
        options = re2.Options()
        options.log_errors = False
        try:
            search = re2.compile(text, options).search
        except re2.error as error:
            reason = error.args[0]
            words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            self._wrong(at, "pattern.regex", f"not a regex that RE2 takes: {words}")
            return _never

        def found(value: Any) -> bool:
            if value.__class__ is not str:
                return False
            try:
                # Bytes spare the library the way back to places in the text, two thirds of its time.
                return search(value.encode()) is not None
            except UnicodeEncodeError:
                # A lone surrogate has no UTF-8, and so nothing that RE2 could find.
                return False

        return found

    def _exists(self, operand: Any, at: Path) -> Test:
        if not isinstance(operand, bool):
            self._wrong(at, "pattern.type", "`exists` is true or false")
            return _never
        return (lambda value: value is not MISSING) if operand else (lambda value: value is MISSING)

    def _gt(self, operand: Any, at: Path) -> Test:
        return self._compared("gt", operand, at)

    def _gte(self, operand: Any, at: Path) -> Test:
        return self._compared("gte", operand, at)

    def _lt(self, operand: Any, at: Path) -> Test:
        return self._compared("lt", operand, at)

    def _lte(self, operand: Any, at: Path) -> Test:
        return self._compared("lte", operand, at)

    def _compared(self, name: str, operand: Any, at: Path) -> Test:
        compare = _COMPARISONS[name]
        if isinstance(operand, str):
            return lambda value: value.__class__ is str and compare(value, operand)
        if isinstance(operand, bool) or not isinstance(operand, (int, float)) or not math.isfinite(operand):
            self._wrong(at, "pattern.type", f"`{name}` takes a number, or a text to compare texts with")
            return _never
        return lambda value: (value.__class__ is int or value.__class__ is float) and compare(value, operand)

    def _text(self, name: str, operand: Any, at: Path) -> str:
        if not isinstance(operand, str):
            self._wrong(at, "pattern.type", f"`{name}` takes a text")
            return ""
        return operand

    def _wrong(self, at: Path, rule: str, message: str, *, near: str | None = None, at_key: bool = False) -> Predicate:
        self.faults.append(Fault(at, rule, message, near, at_key))
        return _never


_OPERATORS: Mapping[str, Callable[[_Compiler, Any, Path], Test]] = {
    name: getattr(_Compiler, f"_{name}")
    for name in ("in", "not", "prefix", "suffix", "contains", "regex", "exists", "any", "all", "gt", "gte", "lt", "lte")
}


def _never(_value: Any) -> bool:
    return False


def _equality(operand: Any) -> Test:
    if operand is None or isinstance(operand, bool):
        return lambda value: value is operand
    if isinstance(operand, str):
        return lambda value: value.__class__ is str and value == operand
    return lambda value: value.__class__ is not bool and value == operand


def _negated(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not test(value)


def _every(tests: list[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda value: first(value) and second(value)

    def every(value: Any) -> bool:
        for test in tests:  # noqa: SIM110  A generator for each event costs as much as the tests.
            if not test(value):
                return False
        return True

    return every


def _some(tests: list[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    if len(tests) == 1:
        return tests[0]

    def some(value: Any) -> bool:
        for test in tests:  # noqa: SIM110  A generator for each event costs as much as the tests.
            if test(value):
                return True
        return False

    return some


def _applied(steps: tuple[str, ...], test: Test) -> Predicate:
    """The test of the value at the end of a path."""
    root = attrgetter(ROOTS[steps[0]])
    rest = steps[1:]
    if not rest:
        # Of the roots only `data` is always there; the others are absent where the producer gave none.
        if steps[0] == "data":
            return lambda event: test(event.data)
        return lambda event: test(MISSING if (value := root(event)) is None else value)
    if all(step != "*" and not step.isdigit() for step in rest):
        return _by_keys(root, rest, test)

    def anywhere(event: Event) -> bool:
        reached = False
        for value in _reached(root(event), rest):
            reached = True
            if test(value):
                return True
        return not reached and test(MISSING)

    return anywhere


def _by_keys(root: Callable[[Event], Any], keys: tuple[str, ...], test: Test) -> Predicate:
    """The usual path, of keys alone: indexing as it comes is twice as quick as looking first."""

    def by_keys(event: Event) -> bool:
        value = root(event)
        try:
            for key in keys:
                value = value[key]
        except (KeyError, TypeError):
            value = MISSING
        return test(value)

    return by_keys


def _reached(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """Every value that a path with indices and stars leads to."""
    for index, step in enumerate(steps):
        if step == "*":
            elements = value.values() if value.__class__ is dict else value if value.__class__ is list else ()
            for element in elements:
                yield from _reached(element, steps[index + 1 :])
            return
        if value.__class__ is dict and step in value:
            value = value[step]
        elif value.__class__ is list and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return
    yield value
