"""What pipelines.yaml says once it is known to be right: values for the table, and the models that check them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.config.pipelines.problems import Fault, faults_of, nearest, refusal
from app.events import catalogue
from app.routing.expressions import ExpressionError, compile_expression
from app.routing.patterns import PatternError, compile_pattern
from schemas import Retry

MAX_TARGETS = 32
"""Of one pipeline: each is a lane of its own for every instance."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Of pipelines and destinations: they stand in ids, ledgers and metrics as they are."""


class Spec(BaseModel):
    """Strict in every type, and no key goes unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def event_faults(names: list[Any] | tuple[Any, ...]) -> list[Fault]:
    """
    What is wrong with a list of event names.

    A name that looks like one of the catalogue's is a slip and an error. Any other well-formed name may be an event of
    the next release: it is a warning, and matches a producer that sends exactly it (design, section 4).
    """
    faults = []
    known = [spelling for event in catalogue.EVENTS for spelling in (event.wire, event.config)]
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue
        wire = catalogue.wire_name(name)
        if wire is not None and catalogue.is_known(wire):
            continue
        near = nearest(name, known)
        if wire is None:
            faults.append(Fault((index,), "event.unknown", f"`{name}` is no event name", near))
        elif near:
            faults.append(Fault((index,), "event.unknown", f"there is no event `{name}`", near))
        else:
            message = f"no event `{name}` is known; only a producer that sends exactly this name will match"
            faults.append(Fault((index,), "event.unlisted", message, severity="warning"))
    return faults


def _events(names: tuple[str, ...]) -> tuple[str, ...]:
    errors = [fault for fault in event_faults(names) if fault.severity == "error"]
    if errors:
        raise refusal(*errors)
    return tuple(dict.fromkeys(catalogue.wire_name(name) or name for name in names))


def _expression(text: str) -> str:
    try:
        compile_expression(text, "")
    except ExpressionError as error:
        raise refusal(
            Fault((), "expression.syntax", f"not a JMESPath expression: {error}", error.near, offset=error.position)
        ) from error
    return text


def _where(where: Any) -> Any:
    if isinstance(where, str):
        return _expression(where)
    if not isinstance(where, dict):
        raise refusal(Fault((), "type.wrong", "a pattern (a mapping) or a JMESPath expression (a text) is wanted"))
    try:
        compile_pattern(where)
    except PatternError as error:
        raise refusal(
            *(Fault(one.path, one.rule, one.message, one.near, one.at_key) for one in error.faults)
        ) from error
    return where


def _retry(given: dict[str, Any]) -> dict[str, Any]:
    """Some of the fields of `Retry`; the rest comes from further up."""
    try:
        Retry.model_validate(given, strict=True)
    except ValidationError as error:
        raise refusal(*faults_of(error, tuple(Retry.model_fields))) from error
    return given


RetryOverlay = Annotated[dict[str, Any], AfterValidator(_retry)]
Expression = Annotated[str, AfterValidator(_expression)]
Name = Annotated[str, Field(pattern=NAME)]
Glob = Annotated[str, Field(min_length=1, max_length=255)]


class Source(Spec):
    """Which events a pipeline takes."""

    instances: Annotated[tuple[Glob, ...], Field(strict=False, min_length=1, max_length=1000)] = ("*",)
    """Names, in which `*`, `?` and `[...]` stand for others."""
    events: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=200), AfterValidator(_events)]
    """Wire names, once validated."""


class Target(Spec):
    """One entry of `to:`: a destination."""

    transport: str
    name: Name
    options: dict[str, Any]
    """As written: secrets are references still."""
    retry: RetryOverlay = {}
    enabled: bool = True
    keep: bool = False
    """While it is switched off, here or with the whole pipeline: what comes waits in the log, nothing is cancelled."""


class Pipeline(Spec):
    """One entry of `pipelines:`."""

    description: str = Field("", max_length=1000)
    enabled: bool = True
    source: Source = Field(alias="from")
    where: Annotated[Any, AfterValidator(_where)] = None
    """A pattern, an expression, or None: every event."""
    shape: Expression | None = None
    """None: the layout's envelope."""
    order: Literal["chat", "instance", "key", "none"] = "chat"
    key: Expression | None = None
    retry: RetryOverlay = {}
    to: Annotated[tuple[Target, ...], Field(strict=False, min_length=1, max_length=MAX_TARGETS)]
    renamed_from: Name | None = None

    def row(self) -> dict[str, Any]:
        """The body of its row in the table: `Pipeline.stored` reads it again."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return body

    @classmethod
    def stored(cls, body: Mapping[str, Any]) -> "Pipeline":
        """The pipeline of a row; pydantic's ValidationError where it is not one that this release understands."""
        return cls.model_validate(body)


class Defaults(Spec):
    """What holds where nothing else is said."""

    retry: RetryOverlay = {}


class Case(Spec):
    """One entry of `tests:`: an event, and what each pipeline must make of it."""

    name: str = Field(min_length=1, max_length=200)
    given: dict[str, Any]
    expect: dict[str, Any]


class File(Spec):
    """The outermost keys; what stands under `instances`, `pipelines` and `layouts` is checked entry by entry."""

    version: Annotated[int, Field(ge=1, le=1)]
    layout: str | None = None
    layouts: dict[str, Any] | None = None
    defaults: Defaults = Defaults()
    instances: dict[str, Any] | None = None
    pipelines: dict[str, Any] | None = None
    tests: Annotated[tuple[Case, ...], Field(strict=False)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionEntry:
    """What the file says of one transport of one instance."""

    transport: str
    line: int
    enabled: bool
    events: tuple[str, ...]
    """Config names as `set` stores them: all of them where none was listed, none where it is switched off for good."""
    fields: Mapping[str, Any]
    """The transport's own, by their stored names; those of ours only where they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEntry:
    """One entry of `instances:`."""

    name: str
    line: int
    layout: str | None
    sections: Mapping[str, SectionEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineEntry:
    """One entry of `pipelines:`, with its name and line."""

    name: str
    line: int
    spec: Pipeline


def plain(model: type[BaseModel], data: Any) -> BaseModel:
    """Data as a transport's model, by JSON's types: a list may become a tuple, a text never a number."""
    return model.model_validate_json(orjson.dumps(data), strict=True)
