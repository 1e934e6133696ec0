"""An environment variable, declared once: reading, validation, masking and the docs table derive from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def text(value: str) -> str:
    """The value as it stands."""
    return value


def flag(value: str) -> bool:
    """True only for exactly `true` (contract 11, parsing rules)."""
    return value == "true"


def flag_unless_false(value: str) -> bool:
    """True unless exactly `false`."""
    return value != "false"


def names(value: str) -> tuple[str, ...]:
    """A comma list; blanks around its members are dropped, empty members too."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """
    One environment variable.

    `parse` turns its text into a value and raises ValueError with what would be right; `default` is the value when it
    is unset. `field` is the attribute it is read into. A variable that is set but empty counts as unset, unless
    `empty_counts`: then `parse` gets the empty text.
    """

    name: str
    field: str
    description: str
    default: Any = None
    parse: Callable[[str], Any] = text
    unit: str = ""
    limit: str = ""
    example: str = ""
    default_text: str = ""
    """The default as the environment would say it, where the value's own text is another."""
    secret: bool = False
    empty_counts: bool = False


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """A whole number within limits."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"a whole number from {minimum} to {maximum} is wanted") from None
        if not minimum <= number <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum} is wanted")
        return number

    return parse


def integer_or_default(default: int) -> Callable[[str], int]:
    """The number that the text begins with; 0 and what is no number give the default (contract 11)."""

    def parse(value: str) -> int:
        digits = ""
        for character in value.strip():
            if not character.isdigit():
                break
            digits += character
        return int(digits or "0") or default

    return parse


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A number within limits."""

    def parse(value: str) -> float:
        try:
            result = float(value)
        except ValueError:
            raise ValueError(f"a number from {minimum} to {maximum} is wanted") from None
        if not minimum <= result <= maximum:
            raise ValueError(f"a number from {minimum} to {maximum} is wanted")
        return result

    return parse
