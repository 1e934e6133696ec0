"""What is wrong with a pipelines.yaml, each with its place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

Severity = Literal["error", "warning"]
Path = tuple[str | int, ...]
"""From the top of the document to a value: keys and indices."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, and where; lines and columns count from 1, and are 0 for the file as a whole."""

    file: str
    line: int
    column: int
    severity: Severity
    rule: str
    """A stable name, for who filters: `key.unknown`."""
    message: str
    near: str | None = None
    """The nearest right word, where there is one."""

    def __str__(self) -> str:
        hint = f"; did you mean `{self.near}`?" if self.near else ""
        kind = "warning: " if self.severity == "warning" else ""
        return f"{self.file}:{self.line}:{self.column}: {kind}{self.message}{hint} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem before its place is known: the path to the value says where."""

    path: Path
    rule: str
    message: str
    near: str | None = None
    at_key: bool = False
    """Whether the key is wrong, and not its value."""
    offset: int = 0
    """How many characters into a text it goes wrong."""
    severity: Severity = "error"

    def below(self, *path: str | int) -> "Fault":
        """The same fault, seen from further up."""
        return Fault((*path, *self.path), self.rule, self.message, self.near, self.at_key, self.offset, self.severity)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one, if any does."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def refusal(*faults: Fault) -> PydanticCustomError:
    """An error that a validator raises to name several faults at once, each with its path below the value."""
    return PydanticCustomError("faults", "{count} faults", {"count": len(faults), "faults": faults})


def faults_of(error: ValidationError, known_keys: Sequence[str] = ()) -> list[Fault]:
    """The faults that pydantic found, with those that our validators packed into one error laid out again."""
    faults: list[Fault] = []
    for detail in error.errors(include_url=False):
        path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
        if kind == "faults":
            faults += [fault.below(*path) for fault in context["faults"]]
        elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
            key = str(path[-1])
            faults.append(Fault(path, "key.unknown", f"`{key}` is no key here", nearest(key, known_keys), at_key=True))
        elif kind == "missing":
            faults.append(Fault(path[:-1], "key.missing", f"`{path[-1]}` is missing here"))
        else:
            faults.append(Fault(path, *_words(kind, detail["msg"], detail["input"], context)))
    return faults


_WANTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS = {
    "too_short": "at least {min_length} is wanted here, there are {actual_length}",
    "too_long": "at most {max_length} are allowed here",
    "string_too_short": "at least {min_length} character is wanted",
    "string_too_long": "at most {max_length} characters are allowed",
    "string_pattern_mismatch": "1 to 100 letters, digits, dots, underscores or hyphens, a letter or digit first",
    "greater_than": "more than {gt} is wanted",
    "greater_than_equal": "{ge} or more is wanted",
    "less_than": "less than {lt} is wanted",
    "less_than_equal": "{le} or less is wanted",
}
_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def _words(kind: str, message: str, given: Any, context: dict[str, Any]) -> tuple[str, str, str | None]:
    """Rule, message and the nearest right word for one of pydantic's own errors. Values are not shown: secrets are."""
    if kind in _WANTED:
        near = _BOOLEANS.get(given.lower()) if kind == "bool_type" and isinstance(given, str) else None
        return "type.wrong", f"{_WANTED[kind]} is wanted here, this is {_kind(given)}", near
    if kind == "literal_error":
        expected = str(context.get("expected", ""))
        choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return "value.unknown", f"one of {', '.join(choices)} is wanted", nearest(str(given), choices)
    if kind in _LIMITS:
        return "value.limit", _LIMITS[kind].format(**context), None
    return "value.invalid", message.removeprefix("Value error, "), None


def _kind(value: Any) -> str:
    kinds: tuple[tuple[Any, str], ...] = (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a text"),
        (list, "a list"),
        (dict, "a mapping"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), "empty")
