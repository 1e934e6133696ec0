"""What the demo expects of a file and an event, worked out without the engine."""

from pathlib import Path

import pytest

from app.demo.expectations import Destination, UnsupportedError, from_file, section
from app.demo.generator import GeneratedEvent

FILE = """
version: 1
instances:
  sales:
    webhook: {url: "${env:DEMO_RECEIVER}/crm", byEvents: true, events: [MESSAGES_UPSERT, GROUP_PARTICIPANTS_UPDATE]}
  support:
    webhook: {url: "${env:DEMO_RECEIVER}/off", enabled: false, events: [MESSAGES_UPSERT]}
pipelines:
  inbound:
    from: {instances: ["sal*"], events: [messages.upsert]}
    where: {data.key.fromMe: false}
    order: instance
    to:
      - webhook: {url: "${env:DEMO_RECEIVER}/lake"}
      - name: second
        webhook: {url: "${env:DEMO_RECEIVER}/second"}
"""


def _event(name: str = "messages.upsert", *, instance: str = "sales", own: bool = False) -> GeneratedEvent:
    return GeneratedEvent(
        instance=instance,
        event=name,
        data={"key": {"remoteJid": "1@s.whatsapp.net", "fromMe": own}},
        sender=None,
        date_time="2026-01-01T00:00:00.000Z",
        conversation="1@s.whatsapp.net",
        sequence=1,
    )


@pytest.fixture
def destinations(tmp_path: Path) -> dict[str, Destination]:
    """The destinations of FILE, by id."""
    path = tmp_path / "pipelines.yaml"
    path.write_text(FILE)
    instances, found = from_file(path, {"DEMO_RECEIVER": "http://127.0.0.1:9"})
    assert instances == ("sales", "support")
    return {destination.id: destination for destination in found}


def test_every_enabled_destination_is_found(destinations: dict[str, Destination]) -> None:
    """Sections that are on and all of a pipeline's destinations, by their ids."""
    assert set(destinations) == {"section/sales/webhook", "pipeline/inbound/webhook", "pipeline/inbound/second"}


@pytest.mark.parametrize(
    ("event", "paths"),
    [
        pytest.param(_event(), {"/crm/messages_upsert", "/lake", "/second"}, id="wanted by all"),
        pytest.param(_event(own=True), {"/crm/messages_upsert"}, id="pattern refuses"),
        pytest.param(_event("group-participants.update"), {"/crm/group_participants_update"}, id="section only"),
        pytest.param(_event("call"), set(), id="nobody lists it"),
        pytest.param(_event(instance="salt"), {"/lake", "/second"}, id="other instance of the pattern"),
        pytest.param(_event(instance="support"), set(), id="section is off"),
    ],
)
def test_an_event_is_expected_where_it_is_wanted(
    destinations: dict[str, Destination], event: GeneratedEvent, paths: set[str]
) -> None:
    """Sections want what they list, pipelines what their pattern lets through, each at its path."""
    found = [destination.wants(event, "run/e1") for destination in destinations.values()]
    assert {expected.path for expected in found if expected} == paths


def test_order_is_expected_where_it_is_promised(destinations: dict[str, Destination]) -> None:
    """A section keeps a conversation's order, a pipeline what its `order:` says."""
    in_section = destinations["section/sales/webhook"].wants(_event(), "e1")
    in_pipeline = destinations["pipeline/inbound/webhook"].wants(_event(), "e1")
    assert in_section is not None
    assert in_pipeline is not None
    assert (in_section.order_key, in_pipeline.order_key) == ("1@s.whatsapp.net", "")


def test_what_was_set_over_the_api_is_expected_like_a_section() -> None:
    """The body of a `set` is a section."""
    destination = section("shop", {"url": "http://127.0.0.1:9/shop", "events": ["MESSAGES_UPSERT"]})
    expected = destination.wants(_event(instance="shop"), "e1")
    assert expected is not None
    assert (expected.destination, expected.path) == ("section/shop/webhook", "/shop")


def test_a_file_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    """A destination that the demo has no receiver for is an error, not a silent gap."""
    path = tmp_path / "pipelines.yaml"
    path.write_text("pipelines: {lake: {from: {events: [call]}, to: [{kafka: {topic: lake}}]}}")
    with pytest.raises(UnsupportedError, match="lake: the demo has no receiver for kafka"):
        from_file(path, {})
