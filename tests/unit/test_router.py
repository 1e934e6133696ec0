"""The router: which ways events go, what is written for them, and that changed rows take effect and no others."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.config import rows
from app.config.pipelines import parse
from app.config.plan import plan
from app.config.rows import Row
from app.events.event import Event
from app.routing.route import Route, ShapeError
from app.routing.router import Router
from app.settings import Settings

MakeSettings = Callable[..., Settings]


class Rows:
    """The table's three reading verbs over a dict."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.callbacks: list[Callable[[frozenset[str]], None]] = []
        self.offset = 0
        self.scans = 0

    def get(self, key: str) -> Row | None:
        return self.rows.get(key)

    def scan(self, prefix: str) -> Iterator[Row]:
        self.scans += 1
        return iter([row for key, row in sorted(self.rows.items()) if key.startswith(prefix)])

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> None:
        self.callbacks.append(callback)

    def put(self, key: str, body: dict[str, Any] | None) -> None:
        """Writes or deletes one row and tells of it."""
        self.write({key: None if body is None else rows.value("api", "test", body)})

    def write(self, values: dict[str, Any]) -> None:
        """Writes rows and tells of them at once."""
        for key, value in values.items():
            self.offset += 1
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = Row(key, orjson.loads(orjson.dumps(value)), self.offset)
        for callback in self.callbacks:
            callback(frozenset(values))

    def apply(self, text: str) -> None:
        """Makes the table say what a file says."""
        loaded = parse(f"version: 1\n{text}".encode())
        assert loaded.errors == ()
        owned = [row for row in self.rows.values() if row.owner == "file"]
        made = plan(loaded, self, owned, now=datetime.now(UTC))
        self.write({change.key: change.value for change in made.changes})


@pytest.fixture
def table() -> Rows:
    """An empty table."""
    return Rows()


@pytest.fixture
def router(table: Rows, make_plain_settings: MakeSettings) -> Router:
    """A router on it."""
    return Router(table, make_plain_settings(SERVER_URL="https://sluice.example"))


def event(data: Any = None, *, name: str = "messages.upsert", instance: str = "sales", **fields: Any) -> Event:
    """An event."""
    known: dict[str, Any] = {"id": "e-1", "partition": 0, "offset": 7, "timestamp_ms": 1735787045678, "size": 1}
    return Event(instance=instance, name=name, data=data, **(known | fields))


def found(router: Router, name: str = "messages.upsert", instance: str = "sales") -> tuple[Route, ...]:
    """The routes of an event of an instance that exists."""
    routes = router.routes(instance, name)
    assert routes is not None
    return routes


def destinations(router: Router, name: str = "messages.upsert", instance: str = "sales") -> list[str]:
    """Where an event goes."""
    return [route.destination for route in found(router, name, instance)]


SALES = """
instances:
  sales: {webhook: {url: "http://crm/in", byEvents: true, events: [MESSAGES_UPSERT, GROUP_UPDATE]}}
  support: {layout: evolution-2.3, webhook: {url: "http://help/in", events: [MESSAGES_UPSERT]}}
  off: {webhook: {url: "http://off", enabled: false}}
  bare: {}
"""


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


LAKE = """
pipelines:
  lake:
    from: {instances: ["s*"], events: [messages.upsert, call]}
    where: {data.key.fromMe: false}
    shape: "{id: id, text: data.message.conversation, at: data.messageTimestamp, from: instance}"
    order: key
    key: data.key.id
    retry: {max_attempts: 3}
    to:
      - webhook: {url: "http://lake", timeout_secs: 7}
      - {name: second, webhook: {url: "http://second"}, retry: {max_attempts: 5, initial_delay_secs: 1}}
"""
LAKE = LAKE.replace('- webhook: {url: "http://lake"', '- name: first\n        webhook: {url: "http://lake"')


def test_a_pipeline_takes_events_by_instance_and_name(router: Router, table: Rows) -> None:
    """Globs choose instances, names choose events, and each destination is a way of its own, after the sections."""
    table.apply(SALES + LAKE)

    assert destinations(router) == ["section/sales/webhook", "pipeline/lake/first", "pipeline/lake/second"]
    assert destinations(router, "call") == ["pipeline/lake/first", "pipeline/lake/second"]
    assert destinations(router, "call", "bare") == []
    assert destinations(router, "presence.update") == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"message": {"conversation": "hé"}, "messageTimestamp": 5},
            b'{"id":"e-1","text":"h\xc3\xa9","at":5,"from":"sales"}',
        ),
        ({"message": {"imageMessage": {}}}, b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
        (None, b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
        ([{"message": 1}], b'{"id":"e-1","text":null,"at":null,"from":"sales"}'),
    ],
)
def test_a_shape_makes_the_body(router: Router, table: Rows, data: Any, expected: bytes) -> None:
    """What a pipeline's expression makes of an event goes over the wire byte for byte, absent parts as null."""
    table.apply(SALES + LAKE)

    assert found(router, "call")[0].encode(event(data)) == expected


def test_a_pipeline_matches_and_orders_as_it_says(router: Router, table: Rows) -> None:
    """Pattern and key come from the file; a section keeps the order of conversations."""
    table.apply(SALES + LAKE)
    section, lake, _ = found(router)
    message = event({"key": {"fromMe": False, "id": "A1", "remoteJid": "5@s.whatsapp.net"}})

    assert lake.matches is not None
    assert lake.matches(message)
    assert not lake.matches(event({"key": {"fromMe": True}}))
    assert lake.order_key is not None
    assert lake.order_key(message) == "A1"
    assert section.order_key is not None
    assert section.order_key(message) == "5@s.whatsapp.net"


def test_a_failing_shape_is_an_error_that_names_the_pipeline(router: Router, table: Rows) -> None:
    """A shape over the limit, or one that fails, is told as such and does not stop the partition."""
    table.apply(
        SALES + "pipelines: {p: {from: {events: [call]}, shape: 'length(data)', to: [{webhook: {url: 'http://x'}}]}}"
    )

    with pytest.raises(ShapeError, match="pipeline p"):
        found(router, "call")[0].encode(event(5))


def test_a_shape_larger_than_an_event_may_be_is_refused(table: Rows, make_plain_settings: MakeSettings) -> None:
    """An expression that repeats its input cannot make bodies without limit."""
    table.apply(
        SALES + "pipelines: {p: {from: {events: [call]}, shape: '[data, data]', to: [{webhook: {url: 'http://x'}}]}}"
    )
    router = Router(table, make_plain_settings(SLUICE_MAX_EVENT_BYTES="1024"))

    with pytest.raises(ShapeError, match="more than an event may have"):
        found(router, "call")[0].encode(event("x" * 800))


def test_a_condition_that_fails_on_an_event_does_not_hold(router: Router, table: Rows) -> None:
    """A JMESPath `where` over data of another type matches nothing, like a pattern, and does not raise."""
    table.apply(
        SALES
        + "pipelines: {p: {from: {events: [call]}, where: \"contains(data.a, 'x')\", to: [{webhook: {url: 'http://x'}}]}}"
    )
    matches = found(router, "call")[0].matches

    assert matches is not None
    assert matches(event({"a": "xy"}))
    assert not matches(event({"a": 5}))


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
    ["section/nobody/webhook", "section/off/webhook", "section/sales/pigeon", "pipeline/lake/third", "pipeline/x/y"]
    + ["global/webhook", "global/pigeon", "", "section", "a/b/c/d", "section/sales"],
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
    table.put("instance/sales/webhook", {"url": url, "enabled": True, "events": ["MESSAGES_UPSERT"]})
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


def test_a_pipeline_of_another_release_is_left_out_and_told(router: Router, table: Rows) -> None:
    """A row that this release does not understand stops neither the others nor the process."""
    table.apply(SALES + LAKE)
    table.put("pipeline/zebra", {"from": {"planets": ["mars"]}})

    assert destinations(router, "call") == ["pipeline/lake/first", "pipeline/lake/second"]
    assert list(router.problems) == ["pipeline/zebra"]
    assert router.destination("pipeline/zebra/webhook") is None


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
