"""Destinations: options, retries and secrets as they stand at the moment of sending."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from table_rows import LAKE, SALES, Rows, destinations, event, found

from app.config import rows
from app.routing.router import Router
from app.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture
def table() -> Rows:
    """An empty table."""
    return Rows()


@pytest.fixture
def router(table: Rows, make_plain_settings: MakeSettings) -> Router:
    """A router on it."""
    return Router(table, make_plain_settings(SERVER_URL="https://sluice.example"))


def test_a_destination_has_options_and_retry_from_all_that_say_something(
    table: Rows, make_plain_settings: MakeSettings
) -> None:
    """Environment, then `defaults`, then the pipeline, then the destination: the nearest wins, field by field."""
    router = Router(table, make_plain_settings(WEBHOOK_REQUEST_TIMEOUT_MS="9000", WEBHOOK_RETRY_MAX_DELAY_SECONDS="77"))
    table.apply(SALES + LAKE + "defaults: {retry: {max_attempts: 8, jitter_factor: 0.5}}")
    section = router.destination("section/sales/webhook")
    first, second = router.destination("pipeline/lake/first"), router.destination("pipeline/lake/second")
    assert section is not None
    assert first is not None
    assert second is not None

    assert section.options.model_dump()["url"] == "http://crm/in"
    assert section.options.model_dump()["by_events"] is True
    assert [one.options.timeout_secs for one in (section, first, second)] == [9.0, 7.0, 9.0]
    assert [one.retry.max_attempts for one in (section, first, second)] == [8, 3, 5]
    assert [one.retry.initial_delay_secs for one in (section, first, second)] == [5.0, 5.0, 1.0]
    assert {one.retry.max_delay_secs for one in (section, first, second)} == {77.0}
    assert {one.retry.jitter_factor for one in (section, first, second)} == {0.5}
    assert section.problem is None


@pytest.mark.parametrize(
    "destination",
    [
        "section/nobody/webhook",
        "section/off/webhook",
        "section/sales/pigeon",
        "pipeline/lake/third",
        "pipeline/x/y",
        "global/webhook",
        "global/pigeon",
        "",
        "section",
        "a/b/c/d",
        "section/sales",
    ],
)
def test_a_destination_that_is_not_there_is_none(router: Router, table: Rows, destination: str) -> None:
    """Removed, switched off, never there or no id at all: nothing is to be sent."""
    table.apply(SALES + LAKE)

    assert router.destination(destination) is None


def test_references_are_resolved_when_a_destination_is_read(
    router: Router, table: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets stand in options only, and the envelope shows the resolved address."""
    monkeypatch.setenv("CRM", "http://crm.internal")
    table.apply("instances: {sales: {webhook: {url: '${env:CRM}/in', headers: {a: 'Bearer ${env:CRM}'}}}}")
    destination = router.destination("section/sales/webhook")
    assert destination is not None

    assert destination.options.model_dump()["url"] == "http://crm.internal/in"
    assert destination.options.model_dump()["headers"] == {"a": "Bearer http://crm.internal"}
    assert orjson.loads(found(router)[0].encode(event()))["destination"] == "http://crm.internal/in"


def test_only_the_file_can_refer_to_secrets(router: Router, table: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the API that looks like a reference is taken as it stands: tenants do not read the environment."""
    monkeypatch.setenv("OPERATORS_OWN", "hunter2")
    table.apply(SALES)
    url = "http://evil/${env:OPERATORS_OWN}"
    table.put("instance/sales/webhook", {"url": url, "enabled": True, "events": ["MESSAGES_UPSERT"]})
    destination = router.destination("section/sales/webhook")
    assert destination is not None

    assert destination.options.model_dump()["url"] == url
    assert orjson.loads(found(router)[0].encode(event()))["destination"] == url


def test_a_secret_that_is_not_there_is_a_problem_until_it_is(router: Router, table: Rows, tmp_path: Path) -> None:
    """The destination says what is missing, and is whole as soon as the file appears."""
    secret = tmp_path / "token"
    table.apply(f"instances: {{sales: {{webhook: {{url: 'http://x', headers: {{a: '${{file:{secret}}}'}}}}}}}}")
    before = router.destination("section/sales/webhook")
    secret.write_text("hunter2")
    after = router.destination("section/sales/webhook")
    assert before is not None
    assert after is not None

    assert before.problem is not None
    assert str(secret) in before.problem
    assert before.options.max_in_flight >= 1
    assert before.options.far_end is not None
    assert after.problem is None
    assert found(router)[0].encode(event())


@pytest.mark.parametrize("url", ["${env:ABSENT_HERE}/x", "ftp://x", "http://"])
def test_an_address_nobody_can_send_to_is_a_problem(router: Router, table: Rows, url: str) -> None:
    """Neither routes nor the destination raise for what stands in the table."""
    table.apply(SALES)
    body = {"url": url, "enabled": True, "events": ["MESSAGES_UPSERT"]}
    table.write({"instance/sales/webhook": rows.value("file", "pipelines.yaml:1", body)})
    destination = router.destination("section/sales/webhook")
    assert destination is not None

    assert destination.problem
    assert found(router)[0].encode(event())


def test_options_of_another_release_are_a_problem_without_their_values(router: Router, table: Rows) -> None:
    """Values of rows that do not validate are not repeated."""
    table.apply(SALES)
    body = {"url": ["hunter2"], "headers": {"a": ["hunter2"]}, "enabled": True, "events": ["MESSAGES_UPSERT"]}
    table.put("instance/sales/webhook", body)
    destination = router.destination("section/sales/webhook")
    assert destination is not None

    assert destination.problem
    assert "hunter2" not in destination.problem


def test_the_global_destination_gets_toggled_events_of_every_instance(
    table: Rows, make_plain_settings: MakeSettings
) -> None:
    """`WEBHOOK_GLOBAL_*` is one more way beside the instance's own, with the instance's address shown (contract 8)."""
    router = Router(
        table,
        make_plain_settings(
            WEBHOOK_GLOBAL_ENABLED="true", WEBHOOK_GLOBAL_URL="http://hub/all", WEBHOOK_EVENTS_MESSAGES_UPSERT="true"
        ),
    )
    table.apply(SALES)
    destination = router.destination("global/webhook")
    assert destination is not None

    assert destinations(router) == ["section/sales/webhook", "global/webhook"]
    assert destinations(router, instance="bare") == ["global/webhook"]
    assert destinations(router, "call") == []
    assert destination.options.model_dump()["url"] == "http://hub/all"
    shown = [
        orjson.loads(found(router, instance=name)[-1].encode(event()))["destination"] for name in ("sales", "bare")
    ]
    assert shown == ["http://crm/in", "http://hub/all"]
