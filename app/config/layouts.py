"""
Layouts: how things are spelled on the wire (contract, section 0). Nothing else knows a layout's name.

The two shipped layouts are the rows of one table, SHIPPED. A user adds more in pipelines.yaml (`layouts:`), each a set
of differences from one that is there. A name is made from a template: `{placeholder}` stands for its value, and
`{placeholder?text}` for its value with the text after it, or for nothing while the value is empty.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.events.catalogue import spellings

Mode = Literal["instance", "global", "single"]
"""
Whose destination it is: an instance's own; the one for all instances; the one for all instances and all events.
"""
Unset = Literal["defaults", "null"]
SwitchedOff = Literal["store", "ignore"]

DEFAULT = "documented"
MAX_TEMPLATE_LENGTH = 256
_CACHED_NAMES = 16_384
_EVENT_PLACEHOLDERS = ("instance", "upper", "snake", "kebab", "dotted", "queue")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(?:\?([^{}]*))?\}")


class LayoutError(Exception):
    """A layout that is not there or does not hold together; `where` is the path below `layouts:` in pipelines.yaml."""

    def __init__(self, message: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransportNames:
    """What one transport spells, as templates by the name of the thing."""

    instance: Mapping[str, str]
    everyone: Mapping[str, str] = field(default_factory=dict)
    """What differs where one destination serves all instances."""
    single: Mapping[str, str] = field(default_factory=dict)
    """What differs from `everyone` where it also serves all events."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """
    The placeholders that a setting or a section may give, and the templates that hold while none does. A template may
    use the placeholders that stand before it.
    """
    flags: Mapping[str, bool] = field(default_factory=dict)

    def templates(self, mode: Mode) -> Mapping[str, str]:
        """The templates of a mode."""
        if mode == "instance":
            return self.instance
        return {**self.instance, **self.everyone, **(self.single if mode == "single" else {})}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """One layout, complete."""

    name: str
    unset: Unset
    """What `find` answers before any `set`."""
    switched_off: SwitchedOff
    """What `set` does while its transport is off on the server: store and warn, or answer empty and store nothing."""
    transports: Mapping[str, TransportNames]

    def names(
        self,
        transport: str,
        *,
        instance: str,
        event: str,
        variables: Mapping[str, str | None] = MappingProxyType({}),
        mode: Mode = "instance",
    ) -> Mapping[str, str]:
        """
        What this transport spells for an event (wire name) of an instance, rendered; kept in a bounded cache.

        `variables` gives values for the placeholders that have a default (`exchange`, `prefix`, `subject`, `server`,
        as the layout has them); None, an empty text, and names that the layout does not use leave the default.

        Raises KeyError for a transport that the layout does not have.
        """
        entry = self.transports[transport]
        given = tuple((name, value) for name in entry.defaults if (value := variables.get(name)))
        return _rendered(entry, mode, instance, event, given)

    def flag(self, transport: str, name: str) -> bool:
        """Whether a transport does a thing in this layout; False for a thing it does not list."""
        return self.transports[transport].flags.get(name, False)


@lru_cache(maxsize=_CACHED_NAMES)
def _rendered(
    entry: TransportNames, mode: Mode, instance: str, event: str, given: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    values = {"instance": instance, **spellings(event)._asdict(), **dict(given)}
    for name, template in entry.defaults.items():
        if name not in values:
            values[name] = _fill(template, values)
    return MappingProxyType({name: _fill(template, values) for name, template in entry.templates(mode).items()})


def _fill(template: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text + (match[2] or "") if text else ""

    return _PLACEHOLDER.sub(value, template)


SHIPPED: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout(
                name="documented",
                unset="defaults",
                switched_off="store",
                transports={
                    "webhook": TransportNames(instance={"event": "{upper}", "suffix": "{snake}"}),
                    "websocket": TransportNames(
                        instance={
                            "event": "{upper}",
                            "namespace": "/{instance}",
                            "instance_event": "{instance}",
                            "any_event": "*",
                            "room_event": "evolution-event",
                            "global_event": "global-event",
                        },
                        everyone={"namespace": "/"},
                        flags={"on_unless_off": True, "root_events": True, "rooms": True},
                    ),
                    "rabbitmq": TransportNames(
                        instance={
                            "event": "{upper}",
                            "exchange": "{exchange}",
                            "routing_key": "{prefix}.{instance}.{upper}",
                            "binding_key": "{prefix}.{instance}.{upper}",
                            "queue": "{prefix}.{instance}.{upper}",
                        },
                        everyone={"binding_key": "{prefix}.*.{upper}", "queue": "{prefix}.global.{upper}"},
                        defaults={"exchange": "evolution", "prefix": "evolution"},
                    ),
                    "sqs": TransportNames(
                        instance={"event": "{upper}", "queue": "evolution-{instance}-{kebab}", "group": "{instance}"},
                        everyone={"queue": "{prefix}-{kebab}"},
                        single={"queue": "{prefix}-events"},
                        defaults={"prefix": "evolution"},
                        flags={"fifo": False},
                    ),
                    "kafka": TransportNames(
                        instance={"event": "{upper}", "topic": "{prefix}.{instance}.{kebab}", "key": "{instance}"},
                        everyone={"topic": "{prefix}.global.{kebab}", "key": "{instance}-{dotted}"},
                        defaults={"prefix": "evolution"},
                    ),
                    "nats": TransportNames(
                        instance={"event": "{upper}", "subject": "{subject}.{dotted}"},
                        defaults={"prefix": "evolution", "subject": "{prefix}.{instance}"},
                    ),
                    "pusher": TransportNames(instance={"event": "{upper}", "channel": "evolution.{instance}"}),
                },
            ),
            Layout(
                name="evolution-2.3",
                unset="null",
                switched_off="ignore",
                transports={
                    "webhook": TransportNames(instance={"event": "{dotted}", "suffix": "{kebab}"}),
                    "websocket": TransportNames(
                        instance={"event": "{dotted}", "namespace": "/{instance}"},
                        everyone={"namespace": "/"},
                        flags={"on_unless_off": False, "root_events": False, "rooms": False},
                    ),
                    "rabbitmq": TransportNames(
                        instance={
                            "event": "{dotted}",
                            "exchange": "{instance}",
                            "routing_key": "{dotted}",
                            "binding_key": "{queue}",
                            "queue": "{instance}.{queue}",
                        },
                        everyone={"exchange": "{exchange}", "binding_key": "{dotted}", "queue": "{prefix?.}{queue}"},
                        defaults={"exchange": "evolution_exchange", "prefix": ""},
                    ),
                    "sqs": TransportNames(
                        # Upstream sends three events to queues it never made (U3); the made ones are meant.
                        instance={"event": "{dotted}", "queue": "{instance}_{snake}.fifo", "group": "evolution"},
                        everyone={"queue": "{prefix}_{snake}.fifo", "group": "{server}-{snake}-{instance}"},
                        single={"queue": "{prefix}_singlequeue.fifo"},
                        defaults={"prefix": "global", "server": "evolution"},
                        flags={"fifo": True},
                    ),
                    "kafka": TransportNames(
                        instance={"event": "{dotted}", "topic": "{prefix}.{instance}.{queue}", "key": "{instance}"},
                        everyone={"topic": "{prefix}.global.{queue}", "key": "{instance}-{dotted}"},
                        defaults={"prefix": "evolution"},
                    ),
                    "nats": TransportNames(
                        instance={"event": "{dotted}", "subject": "{subject}.{dotted}"},
                        everyone={"subject": "{prefix?.}{dotted}"},
                        defaults={"prefix": "", "subject": "{instance}"},
                    ),
                    "pusher": TransportNames(instance={"event": "{dotted}", "channel": "{instance}"}),
                },
            ),
        )
    }
)
"""The table of contract 0, a row a layout."""


def find(name: str, own: Mapping[str, Layout] = MappingProxyType({})) -> Layout:
    """The layout of this name, one of the user's own before a shipped one; LayoutError with the nearest name."""
    layout = own.get(name) or SHIPPED.get(name)
    if layout is None:
        raise LayoutError(f"there is no layout {name!r}{_nearest(name, (*own, *SHIPPED))}")
    return layout


def _template(text: str) -> str:
    rest = _PLACEHOLDER.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError(
            "a brace stands alone; placeholders are written {instance}, or {prefix?.} for a value and a dot"
        )
    return text


Template = Annotated[str, Field(max_length=MAX_TEMPLATE_LENGTH), AfterValidator(_template)]


class TransportDifferences(BaseModel):
    """What a layout of the user's own spells differently for one transport."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: dict[str, Template] = Field({}, description="Templates by name, for an instance's own destination.")
    global_names: dict[str, Template] = Field({}, description="The same where one destination serves all instances.")
    single_names: dict[str, Template] = Field({}, description="The same where it also serves all events.")
    defaults: dict[str, Template] = Field({}, description="What placeholders stand for while no setting gives a value.")
    flags: dict[str, bool] = Field({}, description="Things that are done or not done.")


class LayoutDifferences(BaseModel):
    """A layout of the user's own in pipelines.yaml (`layouts:`): what differs from its base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(DEFAULT, description="The layout it starts from, a shipped one or another of the file.")
    unset: Unset | None = Field(None, description="What `find` answers before any `set`.")
    switched_off: SwitchedOff | None = Field(None, description="What `set` does while its transport is off.")
    transports: dict[str, TransportDifferences] = Field({}, description="Differences by transport.")


def build(differences: Mapping[str, LayoutDifferences]) -> Mapping[str, Layout]:
    """
    The layouts of the user's own, complete, by name.

    Raises LayoutError for the first that does not hold together: the name of a shipped layout, an unknown base, a
    circle of bases, an unknown transport, name, flag or placeholder.
    """
    built: dict[str, Layout] = {}

    def one(name: str, waiting: tuple[str, ...]) -> Layout:
        if name in built:
            return built[name]
        if name in SHIPPED:
            raise LayoutError(f"{name!r} is the name of a shipped layout; choose another", (name,))
        difference = differences[name]
        if difference.base in (*waiting, name):
            circle = " -> ".join((*waiting, name, difference.base))
            raise LayoutError(f"layouts go in a circle: {circle}; one must start from a shipped layout", (name, "base"))
        if difference.base in differences:
            base = one(difference.base, (*waiting, name))
        elif difference.base in SHIPPED:
            base = SHIPPED[difference.base]
        else:
            nearest = _nearest(difference.base, (*SHIPPED, *differences))
            raise LayoutError(f"there is no layout {difference.base!r} to start from{nearest}", (name, "base"))
        built[name] = _changed(name, base, difference)
        return built[name]

    for name in differences:
        one(name, ())
    return built


def _changed(name: str, base: Layout, difference: LayoutDifferences) -> Layout:
    transports = dict(base.transports)
    for transport, changes in difference.transports.items():
        where = (name, "transports", transport)
        if transport not in transports:
            raise LayoutError(f"there is no transport {transport!r}{_nearest(transport, transports)}", where)
        entry = transports[transport]
        _only_known(changes.names, entry.instance, (*where, "names"))
        _only_known(changes.global_names, entry.instance, (*where, "global_names"))
        _only_known(changes.single_names, entry.instance, (*where, "single_names"))
        _only_known(changes.flags, entry.flags, (*where, "flags"))
        _only_known(changes.defaults, entry.defaults, (*where, "defaults"))
        transports[transport] = changed = replace(
            entry,
            instance={**entry.instance, **changes.names},
            everyone={**entry.everyone, **changes.global_names},
            single={**entry.single, **changes.single_names},
            defaults={**entry.defaults, **changes.defaults},
            flags={**entry.flags, **changes.flags},
        )
        _placeholders(changes, changed, where)
    return replace(
        base,
        name=name,
        unset=difference.unset or base.unset,
        switched_off=difference.switched_off or base.switched_off,
        transports=transports,
    )


def _only_known(given: Mapping[str, object], known: Mapping[str, object], where: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise LayoutError(f"there is no {name!r} here{_nearest(name, known)}", (*where, name))


def _placeholders(changes: TransportDifferences, entry: TransportNames, where: tuple[str, ...]) -> None:
    groups = {"names": changes.names, "global_names": changes.global_names, "single_names": changes.single_names}
    usable = (*_EVENT_PLACEHOLDERS, *entry.defaults)
    for group, templates in groups.items():
        for name, template in templates.items():
            _check(template, usable, (*where, group, name))
    before = list(_EVENT_PLACEHOLDERS)
    for name, template in entry.defaults.items():
        _check(template, before, (*where, "defaults", name))
        before.append(name)


def _check(template: str, usable: tuple[str, ...] | list[str], where: tuple[str, ...]) -> None:
    for placeholder, _ in _PLACEHOLDER.findall(template):
        if placeholder not in usable:
            raise LayoutError(f"{{{placeholder}}} stands for nothing here{_nearest(placeholder, usable)}", where)


def _nearest(name: str, known: Mapping[str, object] | tuple[str, ...] | list[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}" if known else ""
