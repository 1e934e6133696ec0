"""
What must be delivered, worked out from the file and the events alone.

pipelines.yaml is read here as plain YAML, a section wants the events it lists, and only a pipeline's pattern,
expression and order key go through `app/routing`, whose compilers have tests of their own. The engine, the table and
the router have no part in it: that is what makes the demo a check.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from app.demo.checks import Expected
from app.demo.generator import GeneratedEvent
from app.events import catalogue
from app.events.event import Event
from app.events.ids import delivery_id
from app.routing.expressions import compile_expression, truthy
from app.routing.ordering import order_key
from app.routing.patterns import compile_pattern

TRANSPORT = "webhook"


class UnsupportedError(Exception):
    """The file has something that the demo cannot check; the message says what and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place that events must reach, and which."""

    id: str
    instances: tuple[str, ...]
    """Patterns of names."""
    events: frozenset[str]
    """Wire names; empty for all."""
    matches: Callable[[Event], bool]
    order_key: Callable[[Event], str] | None
    path: Callable[[str], str]
    """From an event's wire name to the path of its request."""

    def offered(self, event: GeneratedEvent) -> bool:
        """Whether it listens to the event's instance."""
        return any(fnmatchcase(event.instance, pattern) for pattern in self.instances)

    def wants(self, event: GeneratedEvent, event_id: str) -> Expected | None:
        """The delivery that must come of an event, or None."""
        if not self.offered(event) or (self.events and event.event not in self.events):
            return None
        decoded = _decoded(event, event_id)
        if not self.matches(decoded):
            return None
        return Expected(
            delivery_id=delivery_id(event_id, self.id, instance=event.instance),
            destination=self.id,
            path=self.path(event.event),
            # Without an order each event is a line of its own.
            order_key=event_id if self.order_key is None else self.order_key(decoded),
            instance=event.instance,
            event_id=event_id,
            event=event.event,
        )


def section(instance: str, body: Mapping[str, Any]) -> Destination:
    """The destination of an instance's section: `body` is what stands under `webhook:`, or in a `set`."""
    address = urlsplit(body["url"]).path
    by_events = bool(body.get("byEvents") or body.get("webhookByEvents"))
    return Destination(
        id=f"section/{instance}/{TRANSPORT}",
        instances=(instance,),
        events=_wire(body.get("events", ())),
        matches=_everything,
        order_key=order_key("chat", None, ""),
        path=_path(address, by_events=by_events),
    )


def from_file(path: Path, environment: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[Destination, ...]]:
    """The instances of a pipelines.yaml, and all destinations in it, with `${env:NAME}` resolved."""
    text = path.read_text(encoding="utf-8")
    for name, value in environment.items():
        text = text.replace(f"${{env:{name}}}", value)
    content = yaml.safe_load(text)
    instances = content.get("instances") or {}
    found = [
        section(name, sections[TRANSPORT])
        for name, sections in instances.items()
        if TRANSPORT in (sections or {}) and sections[TRANSPORT].get("enabled", True)
    ]
    for name, pipeline in (content.get("pipelines") or {}).items():
        if pipeline.get("enabled", True):
            found += _pipeline(name, pipeline)
    return tuple(instances), tuple(found)


def _pipeline(name: str, pipeline: Mapping[str, Any]) -> list[Destination]:
    source = pipeline["from"]
    order = pipeline.get("order", "chat")
    destinations = []
    for target in pipeline["to"]:
        (transport, options), *others = [item for item in target.items() if item[0] not in ("name", "retry", "enabled")]
        if others or transport != TRANSPORT:
            raise UnsupportedError(f"pipeline {name}: the demo has no receiver for {', '.join(dict(target))}")
        if not target.get("enabled", True):
            continue
        address = urlsplit(options["url"]).path
        destinations.append(
            Destination(
                id=f"pipeline/{name}/{target.get('name', transport)}",
                instances=tuple(source.get("instances", ("*",))),
                events=_wire(source["events"]),
                matches=_condition(pipeline.get("where")),
                order_key=order_key(order, pipeline.get("key"), name),
                path=_path(address, by_events=bool(options.get("by_events"))),
            )
        )
    return destinations


def _condition(where: Any) -> Callable[[Event], bool]:
    if where is None:
        return _everything
    if isinstance(where, str):
        expression = compile_expression(where, "where")
        return lambda event: truthy(expression(event))
    return compile_pattern(where)


def _everything(_: Event) -> bool:
    return True


def _wire(names: Any) -> frozenset[str]:
    return frozenset(catalogue.wire_name(name) or name for name in names)


def _path(address: str, *, by_events: bool) -> Callable[[str], str]:
    """By the documented layout an event's own address ends with a slash and its snake case (contract, section 0)."""

    def path(event: str) -> str:
        return f"{address}/{event.replace('.', '_').replace('-', '_')}" if by_events else address

    return path


def _decoded(event: GeneratedEvent, event_id: str) -> Event:
    return Event(
        instance=event.instance,
        name=event.event,
        data=event.data,
        id=event_id,
        partition=0,
        offset=0,
        timestamp_ms=0,
        size=0,
        sender=event.sender,
        date_time=event.date_time,
    )
