"""What an apply of pipelines.yaml writes: no more than what differs, and nothing that is not the file's."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from app.config import rows
from app.config.pipelines import parse
from app.config.plan import Plan, plan
from app.config.rows import Row

NOW = datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ZULU = "2025-01-02T03:04:05.678Z"
FILE = """
version: 1
layout: evolution-2.3
defaults: {retry: {max_attempts: 4}}
layouts: {ours: {base: documented}}
instances:
  sales: {layout: ours, webhook: {url: "http://sales", events: [CALL]}}
  a/b: {webhook: {enabled: false}}
pipelines:
  lake: {from: {events: [call]}, to: [{webhook: {url: "http://lake"}}]}
"""


def planned(text: str, table: dict[str, Row], now: datetime = NOW) -> Plan:
    """The plan of a file that has nothing wrong with it."""
    loaded = parse(text.encode())
    assert loaded.problems == ()
    owned = [row for row in table.values() if row.owner == "file"]
    return plan(loaded, table, owned, now=now, new_id=lambda: "c0")


def applied(table: dict[str, Row], made: Plan) -> dict[str, Row]:
    """The table after a plan."""
    after = dict(table)
    for offset, change in enumerate(made.changes, start=100 + len(table)):
        assert change.base == (after[change.key].offset if change.key in after else -1)
        if change.value is None:
            del after[change.key]
        else:
            after[change.key] = Row(change.key, change.value, offset)
    return after


def table_of(*entries: tuple[str, rows.Owner, dict[str, Any]]) -> dict[str, Row]:
    """A table with these rows."""
    return {
        key: Row(key, rows.value(owner, "POST /webhook/set/sales", body), offset)
        for offset, (key, owner, body) in enumerate(entries)
    }


def keys(made: Plan) -> Iterable[str]:
    """The keys a plan writes."""
    return {change.key for change in made.changes}


def test_a_first_apply_writes_a_row_for_each_thing_the_file_says() -> None:
    """Instances, sections, pipelines, defaults and layouts each become a row with owner, file and line."""
    table = applied({}, planned(FILE, {}))

    assert set(table) == {
        "instance/sales",
        "instance/sales/webhook",
        "instance/a%2Fb",
        "instance/a%2Fb/webhook",
        "pipeline/lake",
        "layout/ours",
        "defaults",
    }
    assert {row.owner for row in table.values()} == {"file"}
    assert table["instance/sales"].source == "pipelines.yaml:7"
    assert table["instance/sales"].body["layout"] == "ours"
    assert table["defaults"].body == {"retry": {"max_attempts": 4}, "layout": "evolution-2.3"}


def test_a_section_is_stored_as_set_stores_it() -> None:
    """Keys stand in the order that `find` answers, with the instance's uuid (contract 3.3)."""
    table = applied({}, planned(FILE, {}))

    assert list(table["instance/sales/webhook"].body.items()) == [
        ("id", "c0"),
        ("url", "http://sales"),
        ("headers", None),
        ("enabled", True),
        ("events", ["CALL"]),
        ("webhookByEvents", False),
        ("webhookBase64", False),
        ("createdAt", ZULU),
        ("updatedAt", ZULU),
        ("instanceId", table["instance/sales"].body["uuid"]),
    ]


def test_the_same_file_again_writes_nothing() -> None:
    """A restart with an unchanged file leaves the topic alone."""
    table = applied({}, planned(FILE, {}))

    assert planned(FILE, table, LATER).changes == ()


def test_a_changed_value_writes_its_row_alone_and_keeps_what_was_made_first() -> None:
    """Id, creation time and the instance's uuid outlive a change; the time of update does not."""
    table = applied({}, planned(FILE, {}))
    made = planned(FILE.replace("http://sales", "http://other"), table, LATER)
    after = applied(table, made)["instance/sales/webhook"].body

    assert keys(made) == {"instance/sales/webhook"}
    assert (after["id"], after["createdAt"], after["updatedAt"]) == ("c0", ZULU, "2026-01-02T03:04:05.000Z")
    assert after["instanceId"] == table["instance/sales"].body["uuid"]


def test_a_line_that_moved_is_told_anew_but_is_no_update() -> None:
    """A refused `set` must name the right line; the section itself did not change."""
    table = applied({}, planned(FILE, {}))
    made = planned("\n" + FILE, table, LATER)
    after = applied(table, made)["instance/sales/webhook"]

    assert after.source == "pipelines.yaml:8"
    assert after.body["updatedAt"] == ZULU


def test_what_leaves_the_file_goes_but_instances_stay() -> None:
    """Sections, pipelines, defaults and layouts end with a tombstone; the instance becomes the API's."""
    table = applied({}, planned(FILE, {}))
    after = applied(table, planned("version: 1", table))

    assert set(after) == {"instance/sales", "instance/a%2Fb"}
    assert {row.owner for row in after.values()} == {"api"}
    assert after["instance/sales"].body["uuid"] == table["instance/sales"].body["uuid"]
    assert "layout" not in after["instance/sales"].body
    assert planned("version: 1", after).changes == ()


def test_rows_of_the_api_are_left_alone_unless_the_file_declares_them() -> None:
    """The file takes over what it declares, says so, and touches nothing else."""
    table = table_of(
        ("instance/sales", "api", {"uuid": "u-1", "token": "t"}),
        ("instance/sales/webhook", "api", {"id": "c9", "url": "http://old", "createdAt": "then"}),
        ("instance/other", "event", {"uuid": "u-2", "token": "t"}),
        ("instance/other/webhook", "api", {"id": "c8"}),
    )
    made = planned("version: 1\ninstances: {sales: {webhook: {url: 'http://sales'}}}", table)
    after = applied(table, made)

    assert keys(made) == {"instance/sales", "instance/sales/webhook"}
    assert made.warnings == (
        "pipelines.yaml:2: webhook of 'sales' was set through the API (POST /webhook/set/sales) and is ours now",
    )
    assert after["instance/sales"].body["uuid"] == "u-1"
    assert after["instance/sales/webhook"].body["instanceId"] == "u-1"
    assert after["instance/sales/webhook"].body["id"] == "c9"
    assert after["instance/other"] == table["instance/other"]


def test_references_are_stored_as_they_stand() -> None:
    """No secret reaches the topic: what is resolved is resolved where it is used."""
    made = planned(
        "version: 1\ninstances: {sales: {webhook: {url: '${env:HOME}/x', headers: {a: '${file:/etc/hostname}'}}}}", {}
    )
    body = applied({}, made)["instance/sales/webhook"].body

    assert body["url"] == "${env:HOME}/x"
    assert body["headers"] == {"a": "${file:/etc/hostname}"}
