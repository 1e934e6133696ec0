"""
Bodies of `set`: every spelling that clients are known to send becomes the one stored row (contract, section 3.5).

Pure: no clock, no randomness, no I/O; a body and a stored row are never changed. What a section has is declared in
`schemas/`, so nothing here knows a transport.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

import schemas
from app.events import catalogue
from schemas import Section, SectionField

MAX_EVENTS = 200
MAX_TEXT = 8192
"""Characters of a text whose section declares no limit."""

_MISSING: Any = object()
_BOOLEANS = {"true": True, "false": False}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_REFERENCE = re.compile(r"\$\{(env|file):")
_TYPES = {"string": str, "boolean": bool, "object": Mapping}


class BodyError(Exception):
    """A body that `set` refuses: one message a violation, in upstream's words and order (contract 2.1)."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = list(messages)


def normalise(
    transport: str,
    body: Any,
    stored: Mapping[str, Any] | None,
    *,
    instance_id: str,
    now: datetime,
    new_id: Callable[[], str],
    strict: bool = False,
) -> dict[str, Any]:
    """
    The row to store for a body, its keys in the order of contract 3.3, keys of ours behind them.

    `stored` is the row as it stands, None before any `set`: keys that the body leaves out keep its values. `strict`
    is contract 3.1: one spelling, a wrapper, no unknown events.

    Raises BodyError, and nothing else.
    """
    section = schemas.section(transport)
    if not isinstance(body, Mapping):
        raise BodyError(["instance is not of a type(s) object"])
    given = _Given(transport, section, body, strict=strict)
    before = stored or {}
    problems: list[str] = []
    values: dict[str, Any] = {}
    enabled = _enabled(given, problems)
    for field in section.fields:
        value = _value(given, field, problems)
        if value is not _MISSING:
            values[field.stored] = value
        elif field.stored in before or not field.ours:
            values[field.stored] = before.get(field.stored, field.default)
    events = _events(given, problems)
    problems += _required(given, before, enabled=enabled)
    if problems:
        raise BodyError(problems)
    listens = enabled or bool(values.get("keep"))
    if not listens:
        events = []
    elif events is None:
        events = list(before.get("events") or ())
    values |= {
        "id": before.get("id") or new_id(),
        "enabled": enabled,
        "events": events or (list(catalogue.ALL_EVENTS) if listens else []),
        "createdAt": before.get("createdAt") or timestamp(now),
        "updatedAt": timestamp(now),
        "instanceId": instance_id,
    }
    row = _ordered(section, values)
    if refused := list(_option_problems(transport, row)):
        raise BodyError(refused)
    return row


def answer(transport: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What `set` and `find` show of a stored row: the row, then its second spellings (contract 3.5)."""
    section = schemas.section(transport)
    shown = _ordered(section, row)
    return shown | {
        field.alias: shown[field.stored] for field in section.fields if field.alias and field.stored in shown
    }


def unknown_events(row: Mapping[str, Any]) -> list[str]:
    """The names in a row that the catalogue does not have: kept, since the next release may, and worth a warning."""
    return [name for name in row.get("events") or () if catalogue.subscribed(name) is None]


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and `Z`, as rows carry it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Given:
    """What a body says about a section, wherever and however it says it."""

    def __init__(self, transport: str, section: Section, body: Mapping[str, Any], *, strict: bool) -> None:
        self.transport = transport
        self.section = section
        self.strict = strict
        wrapper = body.get(transport, _MISSING)
        # The official Postman collection puts one transport's wrapper around the sections of others.
        others = [body[name] for name in schemas.transports() if isinstance(body.get(name), Mapping)]
        if isinstance(wrapper, Mapping):
            self.layers: tuple[Mapping[str, Any], ...] = (wrapper,) if strict else (wrapper, body)
        elif len(others) == 1 and not strict:
            self.layers = (*others, body)
        elif self._speaks(body) and not strict:
            self.layers = (body,)
        elif wrapper is _MISSING:
            raise BodyError([f'instance requires property "{transport}"'])
        else:
            raise BodyError([f"{transport} is not of a type(s) object"])

    def get(self, accepts: Sequence[str]) -> Any:
        """The value under the first of these spellings that is there, nested before flat; _MISSING for none."""
        spellings = accepts[:1] if self.strict else accepts
        for layer in self.layers:
            for spelling in spellings:
                value = layer.get(spelling, _MISSING)
                if value is not _MISSING:
                    return value
        return _MISSING

    def sent(self) -> frozenset[str]:
        """The keys of the innermost layer."""
        return frozenset(self.layers[0])

    def _speaks(self, body: Mapping[str, Any]) -> bool:
        """Whether some key of the section stands flat in the body."""
        spellings = {spelling for field in self.section.fields for spelling in field.accepts}
        return any(
            key in body for key in (*spellings, *_enabled_spellings(self.transport), *_event_spellings(self.transport))
        )


def _enabled_spellings(transport: str) -> tuple[str, ...]:
    return "enabled", f"{transport}Enabled", f"{transport}_enabled"


def _event_spellings(transport: str) -> tuple[str, ...]:
    return "events", f"{transport}Events", f"{transport}_events", "webhookEvents"


def _enabled(given: _Given, problems: list[str]) -> bool:
    transport = given.transport
    value = given.get(_enabled_spellings(transport))
    if value is _MISSING or (value is None and not given.strict):
        return True
    decided = value if isinstance(value, bool) else _boolean(value, strict=given.strict)
    if decided is None:
        problems.append(f"{transport}.enabled is not of a type(s) boolean")
        if not given.section.wrapper_required:
            problems.append(f"{transport}.enabled is not one of enum values: true,false")
    return decided is not False


def _value(given: _Given, field: SectionField, problems: list[str]) -> Any:
    path = f"{given.transport}.{field.accepts[0]}"
    value = given.get(field.accepts)
    if value is _MISSING:
        return _MISSING
    if value is None and not given.strict:
        # Null clears an object (U21); of the others it says nothing.
        return None if field.kind == "object" else _MISSING
    if field.kind == "boolean" and not isinstance(value, bool):
        decided = _boolean(value, strict=given.strict)
        if decided is not None:
            return decided
    if not isinstance(value, _TYPES[field.kind]):
        problems.append(f"{path} is not of a type(s) {field.kind}")
        return _MISSING
    if isinstance(value, str):
        problems += _text_problems(path, value, field.max_length or MAX_TEXT)
    if isinstance(value, Mapping):
        value = dict(value)
        for key, content in value.items():
            if _REFERENCE.search(str(key)) or (isinstance(content, str) and _REFERENCE.search(content)):
                problems.append(_no_reference(path))
                break
    return value


def _text_problems(path: str, text: str, limit: int) -> Iterator[str]:
    if len(text) > limit:
        yield f"{path} does not meet maximum length of {limit}"
    if _CONTROL.search(text):
        yield f"{path} has a line break or another control character"
    if _REFERENCE.search(text):
        yield _no_reference(path)


def _no_reference(path: str) -> str:
    # Whoever holds an instance's token could read this server's environment and files with one.
    return f"{path} has a reference to the environment or to a file; references are for pipelines.yaml only"


def _events(given: _Given, problems: list[str]) -> list[str] | None:
    """Names as they are stored; None when the body does not speak of events."""
    transport = given.transport
    value = given.get(_event_spellings(transport))
    if value is _MISSING:
        return None
    if value is None and not given.strict:
        return []
    path = f"{transport}.events"
    if not isinstance(value, list | tuple):
        problems.append(f"{path} is not of a type(s) array")
        return None
    if len(value) > MAX_EVENTS:
        problems.append(f"{path} does not meet maximum length of {MAX_EVENTS}")
        return None
    names = []
    for index, name in enumerate(value):
        if not isinstance(name, str):
            problems.append(f"{path}[{index}] is not of a type(s) string")
        elif (name not in catalogue.ALL_EVENTS) if given.strict else (catalogue.wire_name(name) is None):
            problems.append(f"{path}[{index}] is not one of enum values: {','.join(catalogue.ALL_EVENTS)}")
        else:
            names.append(catalogue.subscription(name))
    return names


def _required(given: _Given, before: Mapping[str, Any], *, enabled: bool) -> Iterator[str]:
    """What is missing, then what is empty where upstream looks for that: when nothing else was sent (contract 3.1)."""
    transport = given.transport
    required = [field for field in given.section.fields if field.required]
    if given.strict and given.get(("enabled",)) is _MISSING:
        yield f'{transport} requires property "enabled"'
    for field in required:
        value = given.get(field.accepts)
        absent = value is _MISSING or (value is None and not given.strict)
        if absent and (given.strict or (enabled and before.get(field.stored) in (None, ""))):
            yield f'{transport} requires property "{field.accepts[0]}"'
    if not enabled and not given.strict:
        return
    if given.sent() <= {"enabled", *(spelling for field in required for spelling in field.accepts)}:
        for field in required:
            if given.get(field.accepts) == "":
                yield f'The "{field.accepts[0]}" cannot be empty'


def _boolean(value: Any, *, strict: bool) -> bool | None:
    """A urlencoded boolean, which upstream refuses."""
    return _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) and not strict else None


def _ordered(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: values[key] for key in section.row_order if key in values}
    return row | {
        field.stored: values[field.stored] for field in section.fields if field.ours and field.stored in values
    }


def _option_problems(transport: str, row: Mapping[str, Any]) -> Iterator[str]:
    """What the transport's own options have against the row; what is still empty is for the day it is enabled."""
    options = schemas.section(transport).to_options(row)
    try:
        schemas.options(transport).model_validate(dict(options))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = ".".join(str(part) for part in problem["loc"]) or transport
            empty = not options.get(str(problem["loc"][0])) if problem["loc"] else False
            if row["enabled"] or not empty:
                yield f"{transport}.{name}: {problem['msg'].removeprefix('Value error, ')}"
