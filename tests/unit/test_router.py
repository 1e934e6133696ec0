"""The router: which ways events go, and that changed rows take effect, and no others."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from table_rows import LAKE, SALES, Rows, destinations, event, found

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


def test_an_unknown_instance_has_no_routes_at_all(router: Router, table: Rows) -> None:
    """None says that the instance does not exist; nothing is an instance that wants nothing."""
    table.apply(SALES)

    assert router.routes("nobody", "messages.upsert") is None
    assert router.routes("bare", "messages.upsert") == ()
    assert router.routes("off", "messages.upsert") == ()
    assert router.routes("sales", "call") == ()


def test_a_section_gets_the_events_it_subscribed_to(router: Router, table: Rows) -> None:
    """Aliases of an event's name count, as the catalogue says."""
    table.apply(SALES)

    assert destinations(router) == ["section/sales/webhook"]
    assert destinations(router, "groups.update") == ["section/sales/webhook"]


def test_a_section_writes_the_envelope_of_its_layout(router: Router, table: Rows) -> None:
    """The instance's own layout wins over the one of all."""
    table.apply(SALES)
    (sales,), (support,) = found(router), found(router, instance="support")

    assert sales.encode(event({"a": 1}, sender="1@s.whatsapp.net")) == (
        b'{"event":"MESSAGES_UPSERT","instance":"sales","data":{"a":1},"destination":"http://crm/in",'
        b'"date_time":"2025-01-02T03:04:05.678Z","sender":"1@s.whatsapp.net",'
        b'"server_url":"https://sluice.example","apikey":null}'
    )
    assert (sales.names["suffix"], support.names["suffix"]) == ("messages_upsert", "messages-upsert")
    assert orjson.loads(support.encode(event(instance="support")))["event"] == "messages.upsert"
    assert sales.instance_id == table.rows["instance/sales"].body["uuid"]


def test_the_token_stands_in_the_envelope_only_when_exposed(table: Rows, make_plain_settings: MakeSettings) -> None:
    """`apikey` is null unless the operator wants tokens in payloads (contract 0, ruling 3)."""
    table.apply(SALES)
    exposed = Router(table, make_plain_settings(AUTHENTICATION_EXPOSE_IN_FETCH_INSTANCES="true"))
    body = orjson.loads(found(exposed)[0].encode(event()))

    assert body["apikey"] == table.rows["instance/sales"].body["token"]


@pytest.mark.parametrize(("flag", "there"), [("true", True), ("false", False)])
def test_media_stand_in_the_body_only_when_asked_for(router: Router, table: Rows, flag: str, there: bool) -> None:
    """The section's `base64` decides, and the event itself is left as it is."""
    table.apply(f"instances: {{sales: {{webhook: {{url: 'http://x', base64: {flag}}}}}}}")
    data = {"message": {"base64": "QQ==", "caption": "x"}}
    body = orjson.loads(found(router)[0].encode(event(data)))

    assert ("base64" in body["data"]["message"]) is there
    assert data["message"]["base64"] == "QQ=="


def test_an_event_meant_for_other_transports_does_not_match(router: Router, table: Rows) -> None:
    """`only` on an event restricts the transports that may have it (contract 7.2)."""
    table.apply(SALES)
    (route,) = found(router)

    assert route.matches is None or route.matches(event())
    assert route.matches is not None
    assert not route.matches(event(only=("websocket",)))
    assert route.matches(event(only=("webhook", "websocket")))


def test_a_pipeline_of_another_release_is_left_out_and_told(router: Router, table: Rows) -> None:
    """A row that this release does not understand stops neither the others nor the process."""
    table.apply(SALES + LAKE)
    table.put("pipeline/zebra", {"from": {"planets": ["mars"]}})

    assert destinations(router, "call") == ["pipeline/lake/first", "pipeline/lake/second"]
    assert list(router.problems) == ["pipeline/zebra"]
    assert router.destination("pipeline/zebra/webhook") is None


def test_a_changed_section_takes_effect_at_once_and_others_stay_compiled(router: Router, table: Rows) -> None:
    """One instance's rows forget what was made of them, and of nothing else."""
    table.apply(SALES + LAKE)
    support = found(router, instance="support")
    other = router.destination("section/support/webhook")
    assert destinations(router, "call")[0] == "pipeline/lake/first"
    table.put("instance/sales/webhook", {"url": "http://new", "headers": None, "enabled": True, "events": ["CALL"]})
    destination = router.destination("section/sales/webhook")
    assert destination is not None

    assert destination.options.model_dump()["url"] == "http://new"
    assert destinations(router, "call")[0] == "section/sales/webhook"
    assert found(router, instance="support") is support
    assert router.destination("section/support/webhook") is other


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("pipeline/lake", None),
        ("defaults", {"layout": "evolution-2.3"}),
        ("layout/ours", {"base": "documented"}),
    ],
)
def test_what_concerns_all_instances_is_compiled_anew_for_all(
    router: Router, table: Rows, key: str, body: dict[str, Any] | None
) -> None:
    """Pipelines, defaults and layouts reach every instance at once."""
    table.apply(SALES + LAKE)
    before = found(router), found(router, instance="support")
    table.put(key, body)
    after = found(router), found(router, instance="support")

    assert before[0] is not after[0]
    assert before[1] is not after[1]


def test_the_default_layout_can_change(router: Router, table: Rows) -> None:
    """A new `layout:` spells the next event."""
    table.apply(SALES)
    before = found(router)[0].names["event"]
    table.apply("layout: evolution-2.3\n" + SALES)

    assert (before, found(router)[0].names["event"]) == ("MESSAGES_UPSERT", "messages.upsert")


def test_a_layout_of_the_users_own_is_used(router: Router, table: Rows) -> None:
    """What `layouts:` spells differently stands in names and envelopes."""
    table.apply(
        "layouts: {shout: {base: evolution-2.3, transports: {webhook: {names: {event: 'X_{upper}'}}}}}\n"
        "instances: {sales: {layout: shout, webhook: {url: 'http://x'}}}"
    )
    (route,) = found(router)

    assert (route.names["event"], route.names["suffix"]) == ("X_MESSAGES_UPSERT", "messages-upsert")
    assert orjson.loads(route.encode(event()))["event"] == "X_MESSAGES_UPSERT"


def test_rows_of_control_change_no_route(router: Router, table: Rows) -> None:
    """What does not concern routing leaves everything compiled."""
    table.apply(SALES)
    before = found(router)
    table.put("control/section/sales/webhook", {"paused": True})
    table.put("meta/log", {"id": "x"})

    assert found(router) is before


def test_a_deleted_instance_has_no_routes_and_no_destination(router: Router, table: Rows) -> None:
    """Its name may come back as another incarnation."""
    table.apply(SALES)
    first = found(router)[0].instance_id
    assert router.destination("section/sales/webhook") is not None
    table.write({"instance/sales": None, "instance/sales/webhook": None})

    assert router.routes("sales", "messages.upsert") is None
    assert router.destination("section/sales/webhook") is None
    table.apply(SALES)
    assert found(router)[0].instance_id != first


def test_names_with_slashes_and_blanks_are_instances_like_others(router: Router, table: Rows) -> None:
    """The id of their destination leads back to them."""
    table.apply("instances: {'a/b c': {webhook: {url: 'http://x', events: [CALL]}}, a: {webhook: {url: 'http://a'}}}")
    (destination_id,) = destinations(router, "call", "a/b c")
    destination = router.destination(destination_id)
    assert destination is not None

    assert destination_id == "section/a%2Fb%20c/webhook"
    assert destination.options.model_dump()["url"] == "http://x"
    assert destinations(router, "presence.update", "a/b c") == []


def test_caches_have_limits(table: Rows, make_plain_settings: MakeSettings) -> None:
    """The instance not asked for longest is compiled anew, the others are not; made-up event names do not pile up."""
    table.apply("instances:\n" + "\n".join(f"  i{number}: {{webhook: {{url: 'http://x'}}}}" for number in range(4)))
    router = Router(table, make_plain_settings(), cached_instances=2, cached_destinations=2)
    first = found(router, instance="i0")
    second = found(router, instance="i1")
    assert found(router, instance="i0") is first
    found(router, instance="i2")

    assert found(router, instance="i0") is first
    assert found(router, instance="i1") is not second
    for number in range(4):
        assert router.destination(f"section/i{number}/webhook") is not None
    for number in range(1000):
        assert router.routes("i1", f"made.up{number}") == ()


def test_a_known_event_costs_no_look_at_the_table(router: Router, table: Rows) -> None:
    """Once compiled, routes come from memory."""
    table.apply(SALES + LAKE)
    routes = found(router)
    scans = table.scans

    assert found(router) is routes
    assert table.scans == scans
