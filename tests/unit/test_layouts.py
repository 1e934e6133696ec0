"""How names are spelled on the wire: the two shipped layouts, and those of users."""

from typing import Any

import pytest
from pydantic import ValidationError

import schemas
from app.config import layouts
from app.config.layouts import LayoutDifferences, LayoutError, Mode

UPSERT = "messages.upsert"
JOIN = "group-participants.update"


def names(layout: str, transport: str, mode: Mode = "instance", event: str = JOIN, **variables: str | None) -> Any:
    """What a shipped layout spells."""
    found = layouts.find(layout)
    return dict(found.names(transport, instance="vendas", event=event, variables=variables, mode=mode))


@pytest.mark.parametrize(
    ("transport", "mode", "variables", "expected"),
    [
        ("webhook", "instance", {}, {"event": "GROUP_PARTICIPANTS_UPDATE", "suffix": "group_participants_update"}),
        ("webhook", "global", {}, {"event": "GROUP_PARTICIPANTS_UPDATE", "suffix": "group_participants_update"}),
        (
            "rabbitmq",
            "instance",
            {"exchange": None, "prefix": ""},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "exchange": "evolution",
                "routing_key": "evolution.vendas.GROUP_PARTICIPANTS_UPDATE",
                "binding_key": "evolution.vendas.GROUP_PARTICIPANTS_UPDATE",
                "queue": "evolution.vendas.GROUP_PARTICIPANTS_UPDATE",
            },
        ),
        (
            "rabbitmq",
            "global",
            {"exchange": "hub", "prefix": "p"},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "exchange": "hub",
                "routing_key": "p.vendas.GROUP_PARTICIPANTS_UPDATE",
                "binding_key": "p.*.GROUP_PARTICIPANTS_UPDATE",
                "queue": "p.global.GROUP_PARTICIPANTS_UPDATE",
            },
        ),
        (
            "sqs",
            "instance",
            {"prefix": "p"},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "queue": "evolution-vendas-group-participants-update",
                "group": "vendas",
            },
        ),
        (
            "sqs",
            "global",
            {"prefix": "p"},
            {"event": "GROUP_PARTICIPANTS_UPDATE", "queue": "p-group-participants-update", "group": "vendas"},
        ),
        ("sqs", "single", {}, {"event": "GROUP_PARTICIPANTS_UPDATE", "queue": "evolution-events", "group": "vendas"}),
        (
            "kafka",
            "instance",
            {},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "topic": "evolution.vendas.group-participants-update",
                "key": "vendas",
            },
        ),
        (
            "kafka",
            "global",
            {"prefix": "p"},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "topic": "p.global.group-participants-update",
                "key": "vendas-group-participants.update",
            },
        ),
        (
            "nats",
            "instance",
            {"prefix": "p"},
            {"event": "GROUP_PARTICIPANTS_UPDATE", "subject": "p.vendas.group-participants.update"},
        ),
        (
            "nats",
            "instance",
            {"subject": "crm.events"},
            {"event": "GROUP_PARTICIPANTS_UPDATE", "subject": "crm.events.group-participants.update"},
        ),
        ("pusher", "instance", {}, {"event": "GROUP_PARTICIPANTS_UPDATE", "channel": "evolution.vendas"}),
        (
            "websocket",
            "global",
            {},
            {
                "event": "GROUP_PARTICIPANTS_UPDATE",
                "namespace": "/",
                "instance_event": "vendas",
                "any_event": "*",
                "room_event": "evolution-event",
                "global_event": "global-event",
            },
        ),
    ],
)
def test_documented(transport: str, mode: Mode, variables: dict[str, str], expected: dict[str, str]) -> None:
    """The default layout spells what the documents say (contract, section 0)."""
    assert names("documented", transport, mode, **variables) == expected


@pytest.mark.parametrize(
    ("transport", "mode", "variables", "expected"),
    [
        ("webhook", "instance", {}, {"event": JOIN, "suffix": "group-participants-update"}),
        (
            "rabbitmq",
            "instance",
            {"exchange": "hub", "prefix": "p"},
            {"event": JOIN, "exchange": "vendas", "routing_key": JOIN, "binding_key": JOIN, "queue": f"vendas.{JOIN}"},
        ),
        (
            "rabbitmq",
            "global",
            {},
            {
                "event": JOIN,
                "exchange": "evolution_exchange",
                "routing_key": JOIN,
                "binding_key": JOIN,
                "queue": JOIN,
            },
        ),
        (
            "rabbitmq",
            "global",
            {"exchange": "hub", "prefix": "p"},
            {"event": JOIN, "exchange": "hub", "routing_key": JOIN, "binding_key": JOIN, "queue": f"p.{JOIN}"},
        ),
        (
            "sqs",
            "instance",
            {},
            {"event": JOIN, "queue": "vendas_group_participants_update.fifo", "group": "evolution"},
        ),
        (
            "sqs",
            "global",
            {"server": "s1"},
            {
                "event": JOIN,
                "queue": "global_group_participants_update.fifo",
                "group": "s1-group_participants_update-vendas",
            },
        ),
        (
            "sqs",
            "single",
            {"prefix": "p"},
            {"event": JOIN, "queue": "p_singlequeue.fifo", "group": "evolution-group_participants_update-vendas"},
        ),
        ("kafka", "instance", {}, {"event": JOIN, "topic": f"evolution.vendas.{JOIN}", "key": "vendas"}),
        ("kafka", "global", {}, {"event": JOIN, "topic": f"evolution.global.{JOIN}", "key": f"vendas-{JOIN}"}),
        ("nats", "instance", {"prefix": "p"}, {"event": JOIN, "subject": f"vendas.{JOIN}"}),
        ("nats", "global", {}, {"event": JOIN, "subject": JOIN}),
        ("nats", "global", {"prefix": "p"}, {"event": JOIN, "subject": f"p.{JOIN}"}),
        ("pusher", "instance", {}, {"event": JOIN, "channel": "vendas"}),
        ("websocket", "instance", {}, {"event": JOIN, "namespace": "/vendas"}),
        ("websocket", "global", {}, {"event": JOIN, "namespace": "/"}),
    ],
)
def test_native(transport: str, mode: Mode, variables: dict[str, str], expected: dict[str, str]) -> None:
    """The second layout spells what the running upstream does (contract, sections 0, 8, 9 and 10)."""
    assert names("evolution-2.3", transport, mode, **variables) == expected


@pytest.mark.parametrize(
    ("layout", "unset", "switched_off", "on", "extras", "fifo"),
    [("documented", "defaults", "store", True, True, False), ("evolution-2.3", "null", "ignore", False, False, True)],
)
def test_what_a_layout_does(layout: str, unset: str, switched_off: str, *, on: bool, extras: bool, fifo: bool) -> None:
    """Besides names, a layout says what find, a switched-off set, and the flags of transports do."""
    found = layouts.find(layout)
    assert (found.unset, found.switched_off) == (unset, switched_off)
    assert found.flag("websocket", "on_unless_off") is on
    assert found.flag("websocket", "root_events") is extras
    assert found.flag("websocket", "rooms") is extras
    assert found.flag("sqs", "fifo") is fifo
    assert found.flag("webhook", "fifo") is False


def test_both_layouts_have_the_same_transports_and_all_that_there_are() -> None:
    """Whatever transport this build has, each layout names it."""
    transports = [set(layout.transports) for layout in layouts.SHIPPED.values()]
    assert transports[0] == transports[1] >= set(schemas.transports())
    assert layouts.DEFAULT in layouts.SHIPPED


def test_an_instance_name_is_not_a_template() -> None:
    """Braces in a value stand for themselves."""
    made = layouts.find("documented").names("nats", instance="{upper}", event=UPSERT, variables={"prefix": "{kebab}"})
    assert made["subject"] == "{kebab}.{upper}.messages.upsert"


def test_an_unknown_layout_names_the_nearest() -> None:
    """A misspelled layout is refused with the one that was probably meant."""
    with pytest.raises(LayoutError, match=r"'evolution-2.4'; did you mean 'evolution-2.3'\?"):
        layouts.find("evolution-2.4")


def build(**own: Any) -> Any:
    """Layouts as pipelines.yaml would give them."""
    return layouts.build({name: LayoutDifferences.model_validate(value) for name, value in own.items()})


def test_a_layout_of_ones_own_starts_from_another() -> None:
    """What a user's layout does not say stays as in its base, which may be another of the user's."""
    own = build(
        second={"base": "first", "transports": {"nats": {"defaults": {"prefix": "acme"}}}},
        first={"unset": "null", "transports": {"webhook": {"names": {"suffix": "{instance}/{upper}"}}}},
    )
    layout = layouts.find("second", own)
    assert layout.names("webhook", instance="a", event=UPSERT) == {
        "event": "MESSAGES_UPSERT",
        "suffix": "a/MESSAGES_UPSERT",
    }
    assert layout.names("nats", instance="a", event=UPSERT)["subject"] == "acme.a.messages.upsert"
    assert (layout.name, layout.unset, layout.switched_off) == ("second", "null", "store")
    assert layouts.find("documented", own).names("webhook", instance="a", event=UPSERT)["suffix"] == "messages_upsert"


@pytest.mark.parametrize(
    ("own", "where", "said"),
    [
        ({"documented": {}}, ("documented",), "shipped"),
        ({"a": {"base": "documentd"}}, ("a", "base"), "did you mean 'documented'"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, ("b", "base"), "a -> b -> a"),
        ({"a": {"base": "a"}}, ("a", "base"), "circle"),
        ({"a": {"transports": {"webhok": {}}}}, ("a", "transports", "webhok"), "did you mean 'webhook'"),
        (
            {"a": {"transports": {"webhook": {"names": {"sufix": "x"}}}}},
            ("a", "transports", "webhook", "names", "sufix"),
            "did you mean 'suffix'",
        ),
        (
            {"a": {"transports": {"webhook": {"names": {"suffix": "{prefix}"}}}}},
            ("a", "transports", "webhook", "names", "suffix"),
            "{prefix} stands for nothing here",
        ),
        (
            {"a": {"transports": {"nats": {"defaults": {"prefix": "{subject}"}}}}},
            ("a", "transports", "nats", "defaults", "prefix"),
            "{subject} stands for nothing here",
        ),
        (
            {"a": {"transports": {"sqs": {"flags": {"fifos": True}}}}},
            ("a", "transports", "sqs", "flags", "fifos"),
            "did you mean 'fifo'",
        ),
    ],
)
def test_a_layout_that_does_not_hold_together_is_refused(own: Any, where: tuple[str, ...], said: str) -> None:
    """What is wrong is said with its path in the file and the nearest right word."""
    with pytest.raises(LayoutError) as caught:
        build(**own)
    assert caught.value.where == where
    assert said in str(caught.value)


@pytest.mark.parametrize("template", ["{", "}", "{Upper}", "{upper", "{{upper}}", "{prefix?{upper}}", "x" * 257])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    """Braces that are no placeholder, and templates without end, are refused."""
    with pytest.raises(ValidationError):
        LayoutDifferences.model_validate({"transports": {"webhook": {"names": {"suffix": template}}}})


def test_names_are_rendered_once() -> None:
    """The same question has the same answer object, which cannot be changed."""
    layout = layouts.find("documented")
    first = layout.names("webhook", instance="a", event=UPSERT)
    assert layout.names("webhook", instance="a", event=UPSERT, variables={"prefix": "unused"}) is first
    with pytest.raises(TypeError):
        first["event"] = "x"
