"""
The parts of pipelines.yaml that a transport has a say in: the sections of `instances:` and the entries of `to:`.

What may stand there is declared in `schemas/`: nothing here knows a transport.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from re import compile as compile_pattern
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError, create_model

import schemas
from app.config.pipelines.model import InstanceEntry, SectionEntry, Spec, Target, event_faults, plain
from app.config.pipelines.problems import Fault, faults_of, nearest, refusal
from app.config.pipelines.references import reference_faults
from app.events import catalogue
from schemas import SectionField

MAX_INSTANCE_CHARACTERS = 255
"""The same limit that decoding sets to the key of an event."""
_CONTROL = compile_pattern("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TARGET_KEYS = ("name", "retry", "enabled", "keep")
_KINDS: Mapping[str, Any] = {"string": str, "boolean": bool, "object": dict[str, Any]}


def instance(name: str, raw: Any, line: int, lines: Mapping[str, int]) -> tuple[InstanceEntry | None, list[Fault]]:
    """One entry of `instances:`; `lines` has the line of each of its keys."""
    faults: list[Fault] = []
    if not name.strip() or len(name) > MAX_INSTANCE_CHARACTERS or _CONTROL.search(name):
        message = (
            f"no instance can have this name: 1 to {MAX_INSTANCE_CHARACTERS} characters without control characters"
        )
        faults.append(Fault((), "name.invalid", message, at_key=True))
    if raw is not None and not isinstance(raw, dict):
        faults.append(Fault((), "type.wrong", "the sections of an instance are a mapping"))
        return None, faults
    layout: str | None = None
    sections = {}
    for key, value in (raw or {}).items():
        if key == "layout":
            if isinstance(value, str):
                layout = value
            else:
                faults.append(Fault((key,), "type.wrong", "the name of a layout is wanted"))
        elif key in schemas.transports():
            entry, found = _section(key, value, lines.get(key, line))
            faults += [fault.below(key) for fault in found]
            if entry is not None:
                sections[key] = entry
        else:
            near = nearest(key, (*schemas.transports(), "layout"))
            message = f"`{key}` is no transport of this build, nor `layout`"
            faults.append(Fault((key,), "transport.unknown", message, near, at_key=True))
    if any(fault.severity == "error" for fault in faults):
        return None, faults
    return InstanceEntry(name=name, line=line, layout=layout, sections=sections), faults


def _section(transport: str, raw: Any, line: int) -> tuple[SectionEntry | None, list[Fault]]:
    section = schemas.section(transport)
    model = _section_model(transport)
    keys = tuple(field.alias or name for name, field in model.model_fields.items())
    faults = list(reference_faults(raw))
    if isinstance(raw, dict) and isinstance(raw.get("events"), list):
        faults += [fault.below("events") for fault in event_faults(raw["events"])]
    parsed, found = _salvaged(model.model_validate, raw, keys)
    faults += [_renamed(fault, section.fields) for fault in found]
    if parsed is None:
        return None, faults
    enabled: bool = parsed.enabled  # type: ignore[attr-defined]  # The model is made from the section's fields.
    given: tuple[str, ...] = parsed.events  # type: ignore[attr-defined]  # The same.
    fields = {}
    for index, field in enumerate(section.fields):
        present = f"field_{index}" in parsed.model_fields_set
        if field.required and enabled and field.accepts[0] not in raw:
            faults.append(Fault((), "key.missing", f"`{field.accepts[0]}` is missing here"))
        if present or not field.ours:
            fields[field.stored] = getattr(parsed, f"field_{index}")
    entry = SectionEntry(
        transport=transport,
        line=line,
        enabled=enabled,
        events=(given or catalogue.ALL_EVENTS) if enabled or fields.get("keep") else (),
        fields=fields,
    )
    if enabled:
        known = {fault.path[:1] for fault in faults if fault.severity == "error"}
        missing = () in known
        faults += [one for one in _options_of(entry, section.fields) if one.path[:1] not in known and not missing]
    return entry, faults


def _salvaged(
    validate: Callable[[Any], BaseModel], raw: Any, keys: tuple[str, ...]
) -> tuple[BaseModel | None, list[Fault]]:
    """A model of what is right in a mapping, so that the rest can be looked at too, and what is wrong with it."""
    try:
        return validate(raw), []
    except ValidationError as error:
        faults = faults_of(error, keys)
    if not isinstance(raw, dict):
        return None, faults
    wrong = {fault.path[0] for fault in faults if fault.path}
    try:
        return validate({key: value for key, value in raw.items() if key not in wrong}), faults
    except ValidationError:
        # What is missing was among the faults already.
        return None, faults


def _options_of(entry: SectionEntry, fields: tuple[SectionField, ...]) -> list[Fault]:
    """What the transport's own options have against a section's values."""
    row = {**entry.fields, "enabled": entry.enabled, "events": list(entry.events)}
    try:
        options = schemas.options(entry.transport).model_validate(schemas.section(entry.transport).to_options(row))
    except ValidationError as error:
        return [_as_written(fault, fields) for fault in faults_of(error)]
    refused = None if "${" in str(entry.fields) else options.refusal()
    return [_as_written(Fault(_named_in(refused, fields), "address.invalid", refused), fields)] if refused else []


def _named_in(refused: str, fields: tuple[SectionField, ...]) -> tuple[str, ...]:
    """The key that a refusal begins with, as transports word them (`url begins with ...`)."""
    word = refused.split(" ", 1)[0]
    return (word,) if any(word in field.accepts for field in fields) else ()


def _as_written(fault: Fault, fields: tuple[SectionField, ...]) -> Fault:
    """A fault of the options at the section's key that they came from."""
    if not fault.path:
        return fault
    for field in fields:
        if fault.path[0] in field.accepts:
            return Fault((field.accepts[0], *fault.path[1:]), fault.rule, fault.message, fault.near, fault.at_key)
    return Fault((), fault.rule, f"{fault.path[0]}: {fault.message}", fault.near)


def _renamed(fault: Fault, fields: tuple[SectionField, ...]) -> Fault:
    """An unknown key that other programs write for one of ours, with the name that belongs here."""
    if fault.rule != "key.unknown":
        return fault
    key = fault.path[-1]
    meant = next((field.accepts[0] for field in fields if key in field.accepts), fault.near)
    return Fault(fault.path, fault.rule, fault.message, meant, fault.at_key)


def _subscriptions(names: tuple[str, ...]) -> tuple[str, ...]:
    errors = [fault for fault in event_faults(names) if fault.severity == "error"]
    if errors:
        raise refusal(*errors)
    return tuple(dict.fromkeys(catalogue.subscription(name) for name in names))


@cache
def _section_model(transport: str) -> type[BaseModel]:
    """The strict body of `set` for a transport, each key under its one name (contract 3.1)."""
    fields: dict[str, Any] = {
        "enabled": (bool, True),
        "events": (
            Annotated[tuple[str, ...], Field(strict=False, max_length=200), AfterValidator(_subscriptions)],
            (),
        ),
    }
    for index, field in enumerate(schemas.section(transport).fields):
        kind = _KINDS[field.kind]
        if field.max_length is not None:
            kind = Annotated[kind, Field(max_length=field.max_length)]
        optional = kind if field.kind == "boolean" else kind | None
        fields[f"field_{index}"] = (optional, Field(field.default, alias=field.accepts[0]))
    return create_model(f"{transport}_section", __base__=Spec, **fields)


def targets(raw: Any) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The entries of a `to:`, each as a Target's fields, and what is wrong with them."""
    if not isinstance(raw, list):
        return [], []
    faults: list[Fault] = []
    found: list[dict[str, Any]] = []
    places: list[int] = []
    for index, entry in enumerate(raw):
        target, wrong = _target(entry)
        faults += [fault.below(index) for fault in wrong]
        if target is not None:
            found.append(target)
            places.append(index)
    kinds = [target["transport"] for target in found]
    taken: dict[str, int] = {}
    for index, target in zip(places, found, strict=True):
        transport = target["transport"]
        if "name" not in target and kinds.count(transport) > 1:
            message = f"`{transport}` stands in this `to:` more than once, so each needs a `name:` of its own"
            faults.append(Fault((index, transport), "name.missing", message, at_key=True))
            continue
        name = target.setdefault("name", transport)
        if not isinstance(name, str):
            continue
        if name in taken:
            at: tuple[str | int, ...] = (index, "name") if "name" in raw[index] else (index, transport)
            faults.append(Fault(at, "name.duplicate", f"another destination here is called `{name}`"))
        taken.setdefault(name, index)
    return found, faults


def _target(entry: Any) -> tuple[dict[str, Any] | None, list[Fault]]:
    if not isinstance(entry, dict):
        return None, [Fault((), "type.wrong", "a destination is a mapping: its transport, and what that needs")]
    faults = []
    named = [key for key in entry if key in schemas.transports()]
    for key in entry:
        if key not in _TARGET_KEYS and key not in named:
            near = nearest(key, (*schemas.transports(), *_TARGET_KEYS))
            message = f"`{key}` is no transport of this build ({', '.join(schemas.transports())})"
            faults.append(Fault((key,), "transport.unknown", message, near, at_key=True))
    if len(named) > 1:
        message = f"one destination has one transport; `{named[1]}` needs an entry of its own"
        faults.append(Fault((named[1],), "transport.several", message, at_key=True))
    if not named:
        if not faults:
            faults.append(Fault((), "transport.missing", f"a transport is missing: {', '.join(schemas.transports())}"))
        return None, faults
    transport = named[0]
    given = {} if entry[transport] is None else entry[transport]
    faults += [fault.below(transport) for fault in _options_faults(transport, given)]
    fields = {key: entry[key] for key in _TARGET_KEYS if key in entry}
    try:
        Target.model_validate({"transport": transport, "options": {}, "name": transport, **fields})
    except ValidationError as error:
        faults += faults_of(error, _TARGET_KEYS)
    return {"transport": transport, "options": given if isinstance(given, dict) else {}, **fields}, faults


def _options_faults(transport: str, given: Any) -> Iterator[Fault]:
    if not isinstance(given, dict):
        yield Fault((), "type.wrong", "the options of a destination are a mapping")
        return
    yield from reference_faults(given)
    model = schemas.options(transport)
    options, faults = _salvaged(partial(plain, model), given, tuple(model.model_fields))
    yield from faults
    # An address with a reference in it is known where it is used only.
    refused = options.refusal() if isinstance(options, schemas.Options) and "${" not in str(given) else None
    if refused:
        word = refused.split(" ", 1)[0]
        yield Fault((word,) if word in given else (), "address.invalid", refused)
