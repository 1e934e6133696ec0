"""Rows that pause destinations: which hold, which are void, and what `keep` does to routes and destinations."""

from collections.abc import Callable

import pytest
from table_rows import Rows

from app.config import rows
from app.config.pipelines import parse
from app.engine.controls import KEPT, Controls, Touched, pause_body
from app.routing.router import Router
from app.settings import Settings

SALES = "section/sales/webhook"
SECTION = {"url": "https://a.example", "enabled": True, "events": ["MESSAGES_UPSERT"]}
LAKE = """
pipelines:
  lake:
    from: {events: [messages.upsert]}
    to:
      - {webhook: {url: "https://l.example"}, name: first}
      - {webhook: {url: "https://l.example"}, name: second, enabled: false, keep: true}
      - {webhook: {url: "https://l.example"}, name: third, enabled: false}
"""


@pytest.fixture
def table() -> Rows:
    """A table with an instance and its section."""
    table = Rows()
    table.put(rows.instance_key("sales"), {"uuid": "one"})
    table.put(rows.section_key("sales", "webhook"), SECTION)
    return table


@pytest.fixture
def router(table: Rows, make_plain_settings: Callable[..., Settings]) -> Router:
    """A router on it."""
    return Router(table, make_plain_settings())


def pause(table: Rows, destination: str, **more: object) -> None:
    """Writes a row that pauses a destination."""
    table.put(rows.control_key(destination), {**pause_body(table, destination, "because", by="test"), **more})


def test_an_operators_pause_stands_until_it_is_taken_away(table: Rows, router: Router) -> None:
    """A change of the section does not end it; its removal does."""
    controls = Controls(table, router)
    pause(table, SALES)
    table.put(rows.section_key("sales", "webhook"), {**SECTION, "url": "https://b.example"})

    assert controls.reason(SALES) == "because"

    table.put(rows.control_key(SALES), None)

    assert controls.reason(SALES) == ""


def test_a_workers_pause_ends_with_the_configuration_it_was_for(table: Rows, router: Router) -> None:
    """It holds for the row it saw, and is void from the next one on, or when the row is gone."""
    controls = Controls(table, router)
    pause(table, SALES, config=table.offset)

    assert controls.reason(SALES) == "because"

    table.put(rows.section_key("sales", "webhook"), {**SECTION, "url": "https://b.example"})

    assert controls.reason(SALES) == ""


def test_a_pause_is_not_inherited_by_another_incarnation(table: Rows, router: Router) -> None:
    """An instance that was created again under its name is not paused, even by an operator's row."""
    controls = Controls(table, router)
    pause(table, SALES)
    table.put(rows.instance_key("sales"), {"uuid": "two"})

    assert controls.reason(SALES) == ""


def test_a_change_touches_the_destinations_it_can_concern(table: Rows, router: Router) -> None:
    """A control row one, a section one, an instance its sections, a pipeline all of its own."""
    controls = Controls(table, router)

    assert controls.touched({rows.control_key("pipeline/lake/first")}) == Touched(frozenset({"pipeline/lake/first"}))
    assert controls.touched({rows.section_key("sales", "webhook")}) == Touched(frozenset({SALES}))
    assert SALES in controls.touched({rows.instance_key("sales")}).ids
    assert controls.touched({rows.pipeline_key("lake")}).prefixes == ("pipeline/lake/",)
    assert controls.touched({"meta/log"}) == Touched(frozenset())


def test_a_destination_of_any_name_has_one_row(table: Rows, router: Router) -> None:
    """Names with slashes and blanks come back as they were."""
    destination = "section/a%2Fb%20c/webhook"

    assert rows.split(rows.control_key(destination)) == ("control", destination)
    assert Controls(table, router).touched({rows.control_key(destination)}).ids == {destination}


def test_what_is_switched_off_and_kept_is_routed_to_and_paused(table: Rows, router: Router) -> None:
    """With `keep` routes and destination stay; without it they are gone."""
    table.apply(LAKE)
    controls = Controls(table, router)
    destinations = [route.destination for route in router.routes("sales", "messages.upsert") or ()]

    assert destinations == [SALES, "pipeline/lake/first", "pipeline/lake/second"]
    assert [controls.reason(f"pipeline/lake/{name}") for name in ("first", "second")] == ["", KEPT]
    assert router.destination("pipeline/lake/second") is not None
    assert router.destination("pipeline/lake/third") is None

    table.put(rows.section_key("sales", "webhook"), {**SECTION, "enabled": False, "keep": True})

    assert controls.reason(SALES) == KEPT
    assert router.destination(SALES) is not None

    table.put(rows.section_key("sales", "webhook"), {**SECTION, "enabled": False})

    assert controls.reason(SALES) == ""
    assert router.destination(SALES) is None


def test_a_pipeline_that_is_switched_off_keeps_what_says_so(table: Rows, router: Router) -> None:
    """`enabled: false` of the pipeline leaves the targets with `keep` paused, and removes the others."""
    table.apply(LAKE.replace("  lake:\n", "  lake:\n    enabled: false\n"))

    assert router.destination("pipeline/lake/first") is None
    assert router.kept("pipeline/lake/second")


def test_a_section_in_the_file_keeps_its_events_while_it_is_switched_off() -> None:
    """`keep` stands beside `enabled`; without it a section that is switched off has no events."""
    text = "version: 1\ninstances: {sales: {webhook: {enabled: false, keep: %s, events: [messages.upsert]}}}"
    kept, removed = (parse((text % word).encode()) for word in ("true", "false"))

    assert kept.errors == removed.errors == ()
    assert kept.instances["sales"].sections["webhook"].events == ("MESSAGES_UPSERT",)
    assert removed.instances["sales"].sections["webhook"].events == ()


def test_a_renamed_pipeline_has_a_successor(table: Rows, router: Router) -> None:
    """The new name's destination follows the old one's once the old pipeline is gone, where it has the same target."""
    table.apply(LAKE)

    assert router.successor("pipeline/lake/first") is None

    table.apply(LAKE.replace("  lake:\n", "  sea:\n    renamed_from: lake\n"))

    assert router.successor("pipeline/lake/first") == "pipeline/sea/first"
    assert router.successor("pipeline/lake/other") is None
    assert router.successor("pipeline/river/first") is None
