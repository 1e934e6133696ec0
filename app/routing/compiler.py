"""From rows of the table to routes: once for each instance and event name, then used for every such event."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from re import compile as compile_glob
from typing import Any

import orjson
from pydantic import ValidationError

import schemas
from app.config import layouts
from app.config.layouts import Layout, LayoutDifferences, LayoutError
from app.config.pipelines.model import Pipeline, Target
from app.config.rows import Row, section_key, split
from app.events import catalogue
from app.events.envelope import encode_envelope, without_base64
from app.events.event import Event
from app.routing.expressions import Expression, compile_expression, truthy
from app.routing.ordering import OrderKey, order_key
from app.routing.patterns import Predicate, compile_pattern
from app.routing.route import Route, ShapeError
from app.settings import Settings
from schemas._events import toggled

Encode = Callable[[Event], bytes]


def section_id(instance: str, transport: str) -> str:
    """The id of a section's destination; the name is escaped as in the row's key."""
    return f"section/{section_key(instance, transport).removeprefix('instance/')}"


def pipeline_id(pipeline: str, target: str) -> str:
    """The id of a pipeline's destination."""
    return f"pipeline/{pipeline}/{target}"


def global_id(transport: str) -> str:
    """The id of the destination that gets the events of every instance."""
    return f"global/{transport}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRows:
    """What the table has of one instance."""

    name: str
    uuid: str
    layout: str | None
    apikey: str | None
    """The token that envelopes carry, None unless tokens are exposed."""
    sections: Mapping[str, Mapping[str, Any]]
    """Stored rows by transport, references resolved as far as they can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPipeline:
    """A pipeline, as far as it is the same for all instances."""

    name: str
    source: str
    """Of its row: file and line."""
    events: frozenset[str]
    takes: Callable[[str], bool]
    """Whether it takes events of an instance of this name."""
    matches: Predicate | None
    shape: Encode | None
    order_key: OrderKey | None
    enabled: bool
    """Without it only targets that keep their positions are routed to."""
    targets: tuple[Target, ...]
    addresses: Mapping[str, str]
    """What envelopes show as `destination`, by target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalDestination:
    """One destination of a transport for the events of every instance, as the environment says (contract 11)."""

    transport: str
    events: frozenset[str]
    """Config names."""
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What holds for all instances."""

    pipelines: tuple[CompiledPipeline, ...]
    layout: str
    layouts: Mapping[str, Layout]
    retry: Mapping[str, Any]
    everyone: tuple[GlobalDestination, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    """What could not be compiled, by the row's key: written by another release, since this one checks before."""


def compile_shared(
    pipelines: Iterable[Row],
    own_layouts: Iterable[Row],
    defaults: Row | None,
    settings: Settings,
    resolved: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> Shared:
    """
    What the rows that concern every instance come to; `resolved` gives options with their references replaced.

    A row that this release cannot read is left out and told in `problems`.
    """
    problems: dict[str, str] = {}
    compiled = []
    for row in pipelines:
        try:
            spec = Pipeline.stored(row.body)
        except ValidationError as error:
            problems[row.key] = (
                f"{row.source or row.key}: not understood by this release ({error.error_count()} faults)"
            )
            continue
        if spec.enabled or any(target.keep for target in spec.to):
            compiled.append(_pipeline(split(row.key)[1], row.source, spec, settings.max_event_bytes, resolved))
    body = defaults.body if defaults else {}
    return Shared(
        pipelines=tuple(compiled),
        layout=str(body.get("layout") or settings.layout),
        layouts=_layouts(own_layouts, problems),
        retry=dict(body.get("retry") or {}),
        everyone=tuple(_everyone(settings)),
        problems=problems,
    )


def compile_routes(instance: InstanceRows, event_name: str, shared: Shared, settings: Settings) -> tuple[Route, ...]:
    """The ways of one event of one instance: its sections, then what goes to everyone, then pipelines by their name."""
    compiler = _Compiler(instance, event_name, shared, settings)
    return (*compiler.sections(), *compiler.everyone(), *compiler.pipelines())


class _Compiler:
    """Compiles the routes of one (instance, event name)."""

    def __init__(self, instance: InstanceRows, event_name: str, shared: Shared, settings: Settings) -> None:
        self._instance = instance
        self._event_name = event_name
        self._shared = shared
        self._settings = settings
        self._layout = shared.layouts.get(instance.layout or shared.layout) or _layout_or_default(shared)

    def sections(self) -> Iterable[Route]:
        for transport, row in self._instance.sections.items():
            subscribed: Iterable[str] = row.get("events") or ()
            if (row.get("enabled") or row.get("keep")) and any(
                catalogue.covers(name, self._event_name) for name in subscribed
            ):
                options = schemas.section(transport).to_options(row)
                destination = section_id(self._instance.name, transport)
                yield self._route(destination, transport, options, row, address=_address(transport, options))

    def everyone(self) -> Iterable[Route]:
        for entry in self._shared.everyone:
            if not any(catalogue.covers(name, self._event_name) for name in entry.events):
                continue
            # A receiver tells instances apart by their own address, so that is what stands there (contract 8).
            row = self._instance.sections.get(entry.transport)
            own = _address(entry.transport, schemas.section(entry.transport).to_options(row)) if row else ""
            address = own or _address(entry.transport, entry.options)
            yield self._route(
                global_id(entry.transport), entry.transport, entry.options, {}, address=address, mode="global"
            )

    def pipelines(self) -> Iterable[Route]:
        for pipeline in self._shared.pipelines:
            if self._event_name not in pipeline.events or not pipeline.takes(self._instance.name):
                continue
            for target in pipeline.targets:
                if (target.enabled and pipeline.enabled) or target.keep:
                    yield self._route(
                        pipeline_id(pipeline.name, target.name),
                        target.transport,
                        target.options,
                        target.options,
                        address=pipeline.addresses[target.name],
                        pipeline=pipeline,
                    )

    def _route(
        self,
        destination: str,
        transport: str,
        options: Mapping[str, Any],
        row: Mapping[str, Any],
        *,
        address: str,
        mode: layouts.Mode = "instance",
        pipeline: CompiledPipeline | None = None,
    ) -> Route:
        names = self._names(transport, row, mode)
        encode = pipeline.shape if pipeline else None
        return Route(
            destination=destination,
            instance_id=self._instance.uuid,
            names=names,
            matches=_with_only(transport, pipeline.matches if pipeline else None),
            encode=encode or self._envelope(transport, options, names, address),
            order_key=pipeline.order_key if pipeline else _CHAT,
        )

    def _names(self, transport: str, row: Mapping[str, Any], mode: layouts.Mode) -> Mapping[str, str]:
        given = {**self._settings.transports.get(transport, {}), **row}
        variables = {name: value for name, value in given.items() if isinstance(value, str)}
        try:
            return self._layout.names(
                transport, instance=self._instance.name, event=self._event_name, variables=variables, mode=mode
            )
        except KeyError:
            # A transport that no layout speaks of has nothing to spell but the event.
            return {"event": self._event_name}

    def _envelope(self, transport: str, options: Mapping[str, Any], names: Mapping[str, str], address: str) -> Encode:
        keys = schemas.envelope_keys(transport)
        values: dict[str, Any] = {"destination": address} if "destination" in keys else {}
        event_name = names["event"]
        server_url, apikey = self._settings.server_url, self._instance.apikey

        def encode(event: Event) -> bytes:
            return encode_envelope(
                event, keys=keys, event_name=event_name, server_url=server_url, apikey=apikey, values=values
            )

        def encode_without_media(event: Event) -> bytes:
            data = without_base64(event.data)
            if data is event.data:
                return encode(event)
            return encode_envelope(
                event,
                keys=keys,
                event_name=event_name,
                server_url=server_url,
                apikey=apikey,
                values={**values, "data": data},
            )

        return encode if _keeps_media(transport, options) else encode_without_media


_CHAT = order_key("chat", None, "")


def _with_only(transport: str, matches: Predicate | None) -> Predicate:
    """The pattern, and the event's own list of transports that may have it (upstream's raw `call`)."""
    if matches is None:
        return lambda event: event.only is None or transport in event.only
    return lambda event: (event.only is None or transport in event.only) and matches(event)


def _keeps_media(transport: str, options: Mapping[str, Any]) -> bool:
    """Whether `data.message.base64` stays in the envelope: the destination's flag, where its transport has one."""
    flag = schemas.options(transport).model_fields.get("base64")
    return flag is None or bool(options.get("base64", flag.default))


def _pipeline(
    name: str,
    source: str,
    spec: Pipeline,
    max_bytes: int,
    resolved: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> CompiledPipeline:
    purpose = f"pipeline {name}"
    return CompiledPipeline(
        name=name,
        source=source,
        events=frozenset(spec.source.events),
        takes=_glob(spec.source.instances),
        matches=_where(spec.where, purpose),
        shape=_shape(compile_expression(spec.shape, f"`shape` of {purpose}"), max_bytes) if spec.shape else None,
        order_key=order_key(spec.order, spec.key, f"`key` of {purpose}"),
        enabled=spec.enabled,
        targets=spec.to,
        addresses={target.name: _address(target.transport, resolved(target.options)) for target in spec.to},
    )


def _glob(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """All globs of a pipeline as one expression, made by the standard library's own translation."""
    if "*" in patterns:
        return lambda _name: True
    matched = compile_glob("|".join(f"(?:{translate(pattern)})" for pattern in patterns)).match
    return lambda name: matched(name) is not None


def _where(where: Any, purpose: str) -> Predicate | None:
    if where is None:
        return None
    if isinstance(where, dict):
        return compile_pattern(where)
    expression = compile_expression(where, f"`where` of {purpose}")

    def holds(event: Event) -> bool:
        try:
            return truthy(expression(event))
        except ShapeError:
            # As in a pattern: what is asked of a value of another type does not hold.
            return False

    return holds


def _shape(expression: Expression, max_bytes: int) -> Encode:
    def encode(event: Event) -> bytes:
        try:
            body = orjson.dumps(expression(event))
        except TypeError as error:
            raise ShapeError(f"{expression.purpose}: the result cannot be written as JSON") from error
        if len(body) > max_bytes:
            reason = f"the result has {len(body)} bytes, more than an event may have ({max_bytes})"
            raise ShapeError(f"{expression.purpose}: {reason}")
        return body

    return encode


def _layouts(rows: Iterable[Row], problems: dict[str, str]) -> Mapping[str, Layout]:
    """The shipped layouts and the user's own."""
    differences = {}
    for row in rows:
        try:
            differences[split(row.key)[1]] = LayoutDifferences.model_validate(row.body)
        except ValidationError as error:
            problems[row.key] = f"{row.source}: not understood by this release ({error.error_count()} faults)"
    try:
        return {**layouts.SHIPPED, **layouts.build(differences)}
    except LayoutError as error:
        problems["layout"] = str(error)
        return layouts.SHIPPED


def _layout_or_default(shared: Shared) -> Layout:
    """The layout of all, or the one that everything falls back to: an unknown name stops no event."""
    return shared.layouts.get(shared.layout) or shared.layouts[layouts.DEFAULT]


def _everyone(settings: Settings) -> Iterable[GlobalDestination]:
    """The global destinations: every `global_...` setting of a transport is an option of its destination."""
    for transport, values in settings.transports.items():
        if not values.get("global_enabled"):
            continue
        options = {
            name.removeprefix("global_"): value
            for name, value in values.items()
            if name.startswith("global_") and name != "global_enabled" and value is not None
        }
        yield GlobalDestination(transport=transport, events=toggled(values), options=options)


def _address(transport: str, options: Mapping[str, Any]) -> str:
    """What the envelope shows as `destination`: the transport's own word for its address, or nothing."""
    text: Callable[[Any], str] | None = getattr(schemas.module(transport), "destination_text", None)
    if text is None:
        return ""
    try:
        return text(schemas.options(transport).model_validate(dict(options)))
    except ValidationError:
        return ""
