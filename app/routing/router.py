"""The compiled table: which ways an event goes, and what a destination is just now. Read for every event."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError

import schemas
from app.config import secrets
from app.config.pipelines.model import Pipeline, Target
from app.config.pipelines.problems import faults_of
from app.config.rows import DEFAULTS_KEY, Row, instance_key, pipeline_key, section_key, split
from app.config.secrets import SecretError
from app.events import catalogue
from app.routing.compiler import InstanceRows, Shared, compile_routes, compile_shared, pipeline_id, section_id
from app.routing.route import Destination, Route
from app.settings import Settings
from schemas import Options, Retry

CACHED_INSTANCES = 10_000
"""Instances whose routes are kept compiled; 3 KB and more each. The one not asked for longest goes first."""
CACHED_DESTINATIONS = 50_000
"""Destinations that are kept with their secrets resolved; some 2 KB each."""
CACHED_UNKNOWN_EVENTS = 64
"""Event names outside the catalogue that are kept for one instance: producers can make up any number."""
_SHARED = ("pipeline", "layout", "global", DEFAULTS_KEY)


class Table(Protocol):
    """What is read of the table of rows."""

    def get(self, key: str) -> Row | None:
        """The row of a key."""

    def scan(self, prefix: str) -> Iterator[Row]:
        """The rows whose keys begin so."""

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> Any:
        """Has the callback called with the keys of rows that changed, after they did."""


class Router:
    """
    Routes and destinations as the table stands, kept until a row they were made of changes.

    `routes` is one or two lookups for an event whose like was seen before. Neither call ever raises for what stands in
    the table.
    """

    def __init__(
        self,
        table: Table,
        settings: Settings,
        *,
        cached_instances: int = CACHED_INSTANCES,
        cached_destinations: int = CACHED_DESTINATIONS,
    ) -> None:
        self._table = table
        self._settings = settings
        self._cached_instances = cached_instances
        self._cached_destinations = cached_destinations
        self._routes: OrderedDict[str, _InstanceRoutes] = OrderedDict()
        self._destinations: OrderedDict[str, Destination] = OrderedDict()
        self._shared: Shared | None = None
        table.subscribe(self._changed)

    @property
    def problems(self) -> Mapping[str, str]:
        """Rows that this release cannot read, with the reason, by key; what they say is left out."""
        return self._for_all().problems

    def routes(self, instance: str, event_name: str) -> tuple[Route, ...] | None:
        """The ways of an event of an instance; empty where nobody wants it, None where there is no such instance."""
        compiled = self._routes.get(instance)
        if compiled is None:
            compiled = self._instance(instance)
            if compiled is None:
                return None
        else:
            self._routes.move_to_end(instance)
        routes = compiled.by_event.get(event_name)
        return self._compile(compiled, event_name) if routes is None else routes

    def destination(self, destination_id: str) -> Destination | None:
        """The destination with its secrets resolved, as the table stands; None once it was removed or switched off."""
        known = self._destinations.get(destination_id)
        if known is not None:
            return known
        found = self._destination(destination_id)
        # One with a problem is looked at again each time, so that a secret's file that appears heals it.
        if found is not None and found.problem is None:
            self._destinations[destination_id] = found
            if len(self._destinations) > self._cached_destinations:
                self._destinations.popitem(last=False)
        return found

    def kept(self, destination_id: str) -> bool:
        """Whether a destination is switched off but keeps its positions: nothing is sent, and nothing is cancelled."""
        kind, *names = split(destination_id)
        if kind == "section" and len(names) == 2:
            row = self._table.get(section_key(names[0], names[1]))
            return row is not None and not row.body.get("enabled") and bool(row.body.get("keep"))
        if kind == "pipeline" and len(names) == 2:
            spec, target = self._spec(names[0], names[1])
            return spec is not None and target is not None and target.keep and not (spec.enabled and target.enabled)
        return False

    def successor(self, destination_id: str) -> str | None:
        """The destination that a pipeline's was renamed to; None where it is still there, or nobody took its place."""
        kind, *names = split(destination_id)
        if kind != "pipeline" or len(names) != 2 or self._table.get(pipeline_key(names[0])) is not None:
            return None
        for row in self._table.scan("pipeline/"):
            if row.body.get("renamed_from") == names[0]:
                found = pipeline_id(split(row.key)[1], names[1])
                return found if self.destination(found) is not None else None
        return None

    def instance_id(self, name: str) -> str | None:
        """The uuid of an instance as it is now; None where there is none."""
        row = self._table.get(instance_key(name))
        return str(row.body.get("uuid", "")) if row is not None else None

    # -- routes

    def _instance(self, name: str) -> "_InstanceRoutes | None":
        own = self._table.get(instance_key(name))
        if own is None:
            return None
        sections = {}
        for row in self._table.scan(f"{instance_key(name)}/"):
            transport = split(row.key)[-1]
            if transport in schemas.transports():
                sections[transport] = _as_far_as_possible(row.body) if row.owner == "file" else row.body
        rows = InstanceRows(
            name=name,
            uuid=str(own.body.get("uuid", "")),
            layout=own.body.get("layout"),
            apikey=own.body.get("token") if self._settings.expose_tokens else None,
            sections=sections,
        )
        compiled = self._routes[name] = _InstanceRoutes(rows)
        if len(self._routes) > self._cached_instances:
            self._routes.popitem(last=False)
        return compiled

    def _compile(self, compiled: "_InstanceRoutes", event_name: str) -> tuple[Route, ...]:
        routes = compile_routes(compiled.rows, event_name, self._for_all(), self._settings)
        if not catalogue.is_known(event_name):
            compiled.unknown += 1
            if compiled.unknown > CACHED_UNKNOWN_EVENTS:
                compiled.by_event.clear()
                compiled.unknown = 1
        compiled.by_event[event_name] = routes
        return routes

    def _for_all(self) -> Shared:
        if self._shared is None:
            self._shared = compile_shared(
                self._table.scan("pipeline/"),
                self._table.scan("layout/"),
                self._table.get(DEFAULTS_KEY),
                self._settings,
                _as_far_as_possible,
            )
        return self._shared

    # -- destinations

    def _destination(self, destination_id: str) -> Destination | None:
        kind, *names = split(destination_id)
        if kind == "section" and len(names) == 2:
            return self._section(destination_id, names[0], names[1])
        if kind == "pipeline" and len(names) == 2:
            return self._target(destination_id, names[0], names[1])
        if kind == "global" and len(names) == 1:
            return self._global(destination_id, names[0])
        return None

    def _section(self, destination_id: str, instance: str, transport: str) -> Destination | None:
        row = self._table.get(section_key(instance, transport))
        if (
            row is None
            or not (row.body.get("enabled") or row.body.get("keep"))
            or transport not in schemas.transports()
        ):
            return None
        if self._table.get(instance_key(instance)) is None:
            return None
        # References are resolved in the row, since a transport may look at a value while it makes its options of it.
        section = schemas.section(transport)
        return self._made(destination_id, transport, lambda: section.to_options(_resolved(row)))

    def _target(self, destination_id: str, pipeline: str, name: str) -> Destination | None:
        spec, target = self._spec(pipeline, name)
        if spec is None or target is None or not ((target.enabled and spec.enabled) or target.keep):
            return None
        options = target.options
        return self._made(destination_id, target.transport, lambda: _all_resolved(options), spec.retry, target.retry)

    def _spec(self, pipeline: str, name: str) -> tuple[Pipeline | None, Target | None]:
        """A pipeline as its row says, and its target of that name."""
        row = self._table.get(pipeline_key(pipeline))
        if row is None:
            return None, None
        try:
            spec = Pipeline.stored(row.body)
        except ValidationError:
            return None, None
        return spec, next((target for target in spec.to if target.name == name), None)

    def _global(self, destination_id: str, transport: str) -> Destination | None:
        for entry in self._for_all().everyone:
            if entry.transport == transport:
                return self._made(destination_id, transport, partial(dict, entry.options))
        return None

    def _made(
        self,
        destination_id: str,
        transport: str,
        given: Callable[[], Mapping[str, Any]],
        *retries: Mapping[str, Any],
    ) -> Destination:
        """A destination of these options, or one that says what is wrong with them."""
        model = schemas.options(transport)
        environment = self._settings.transports.get(transport, {})
        defaults = {name: environment[name] for name in model.model_fields if environment.get(name) is not None}
        problem: str | None = None
        try:
            options = model.model_validate({**defaults, **given()})
            problem = options.refusal()
        except SecretError as error:
            options, problem = _unusable(model), str(error)
        except ValidationError as error:
            words = "; ".join(
                f"{'.'.join(map(str, fault.path)) or 'options'}: {fault.message}" for fault in faults_of(error)
            )
            options, problem = _unusable(model), words
        return Destination(
            id=destination_id,
            transport=transport,
            options=options,
            retry=self._retry(environment, *retries),
            problem=problem,
        )

    def _retry(self, environment: Mapping[str, Any], *overlays: Mapping[str, Any]) -> Retry:
        """The environment's figures, under the file's defaults, under the pipeline's own."""
        given = {name: environment.get(f"retry_{name}") for name in Retry.model_fields}
        values = {name: value for name, value in given.items() if value is not None}
        for overlay in (self._for_all().retry, *overlays):
            values.update(overlay)
        return Retry.model_validate(values)

    # -- changes

    def _changed(self, keys: frozenset[str]) -> None:
        """Forgets what was made of these rows, and no more."""
        for key in keys:
            kind, *names = split(key)
            if kind in _SHARED:
                self._shared = None
                self._routes.clear()
                self._destinations.clear()
                return
            if kind == "instance" and names:
                self._routes.pop(names[0], None)
                for transport in names[1:] or schemas.transports():
                    self._destinations.pop(section_id(names[0], transport), None)


class _InstanceRoutes:
    """The rows of one instance, and its routes by event name, compiled as events come."""

    __slots__ = ("by_event", "rows", "unknown")

    def __init__(self, rows: InstanceRows) -> None:
        self.rows = rows
        self.by_event: dict[str, tuple[Route, ...]] = {}
        self.unknown = 0
        """How many of them are of names outside the catalogue."""


def _resolved(row: Row) -> Mapping[str, Any]:
    """A section with its references replaced; raises SecretError. Only the file may refer to the operator's secrets."""
    return _all_resolved(row.body) if row.owner == "file" else row.body


def _all_resolved(data: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = secrets.resolve_all(dict(data))
    return found


def _as_far_as_possible(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data for routing, which needs its address for the envelope only: better none than no event at all."""
    try:
        return _all_resolved(data)
    except SecretError:
        return {key: "" if isinstance(value, str) and "${" in value else value for key, value in data.items()}


def _unusable(model: type[Options]) -> Options:
    """Options that stand in where the real ones cannot be made: nobody sends by them."""
    required: dict[str, Any] = {name: "" for name, info in model.model_fields.items() if info.is_required()}
    return model.model_construct(None, **required)
