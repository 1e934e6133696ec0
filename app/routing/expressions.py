"""
JMESPath expressions of pipelines.yaml, compiled once: 6 to 10 us an event (design 5).

An expression sees what `Event.view` shows: `id`, `instance`, `event`, `data`, `sender`, `date_time`, `position`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import IncompleteExpressionError, JMESPathError, LexerError, ParseError
from jmespath.functions import Functions
from jmespath.parser import ParsedResult

from app.events.event import Event
from app.routing.route import ShapeError

MAX_EXPRESSION_CHARACTERS = 4000
"""The parser is recursive, and what is longer than a page belongs into the receiver."""
MAX_NESTING = 64
"""Of brackets: a deeper expression would come to the end of Python's stack, here or while it runs."""
_CACHED = 4096


class ExpressionError(ValueError):
    """
    An expression that cannot be compiled; `position` is the character where it goes wrong, from 0, and `near` the word
    that was probably meant.
    """

    def __init__(self, reason: str, position: int, near: str | None = None) -> None:
        super().__init__(reason)
        self.position = position
        self.near = near


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression, and what it is for (`shape of pipeline lake`), which its errors name."""

    text: str
    purpose: str
    parsed: ParsedResult

    def __call__(self, event: Event) -> Any:
        """What it makes of an event: JSON data. Raises ShapeError."""
        try:
            return self.parsed.search(event.view())
        except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            # Only the error's kind: its text may quote the event, and a dead letter's reason is read by operators.
            reason = _reason(error)
            raise ShapeError(f"{self.purpose}: `{_short(self.text)}` failed on {event.name}: {reason}") from error


def compile_expression(text: str, purpose: str) -> Expression:
    """The compiled form of an expression; raises ExpressionError with the position."""
    return Expression(text, purpose, _parsed(text))


def truthy(value: Any) -> bool:
    """JMESPath's truth: false are null, false, and the empty text, list and object; 0 is true."""
    return not (value is None or value is False or (isinstance(value, (str, list, dict)) and not value))


@lru_cache(maxsize=_CACHED)
def _parsed(text: str) -> ParsedResult:
    """One parse for all who wrote the same; the library's own cache is smaller than a full file."""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        reason = f"an expression has at most {MAX_EXPRESSION_CHARACTERS} characters"
        raise ExpressionError(reason, MAX_EXPRESSION_CHARACTERS)
    if not text.strip():
        raise ExpressionError("an expression is wanted, this is empty", 0)
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_NESTING:
            raise ExpressionError(f"brackets stand in each other at most {MAX_NESTING} deep", position)
    try:
        parsed = jmespath.compile(text)
    except (ParseError, LexerError) as error:
        position = min(getattr(error, "lex_position", 0) or 0, len(text))
        raise ExpressionError(_words(error), position) from error
    except (JMESPathError, ValueError, RecursionError) as error:
        raise ExpressionError(str(error) or type(error).__name__, 0) from error
    _functions(text, parsed.parsed)
    return parsed


def _functions(text: str, tree: Any) -> None:
    """Refuses calls of functions that there are not: the library would notice while it runs, on an event."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        waiting += [child for child in node.get("children", ()) if isinstance(child, dict)]
        if node.get("type") != "function_expression":
            continue
        name, given = node["value"], len(node["children"])
        position = max(text.find(f"{name}("), 0)
        signature = Functions.FUNCTION_TABLE.get(name, {}).get("signature")
        if signature is None:
            near = get_close_matches(name, Functions.FUNCTION_TABLE, n=1)
            raise ExpressionError(f"there is no function {name}()", position, near[0] if near else None)
        variadic = bool(signature) and signature[-1].get("variadic", False)
        if given < len(signature) or (given > len(signature) and not variadic):
            raise ExpressionError(f"{name}() takes {len(signature)} arguments, and was given {given}", position)


def _words(error: ParseError | LexerError) -> str:
    """The parser's complaint in one line, without the expression it repeats."""
    if isinstance(error, LexerError):
        return f"cannot read {error.token_value!r}: {error.message}" if error.message else "cannot be read"
    if isinstance(error, IncompleteExpressionError):
        return "ends too early"
    return f"{error.msg[:1].lower()}{error.msg[1:]}, at {error.token_value!r}"


def _reason(error: BaseException) -> str:
    return type(error).__name__ if not isinstance(error, JMESPathError) else _kind(error)


def _kind(error: JMESPathError) -> str:
    function = getattr(error, "function_name", None)
    expected = getattr(error, "expected_types", None)
    if function and expected:
        return f"{function}() takes {', '.join(expected)}, and was given {getattr(error, 'actual_type', 'another')}"
    return type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
