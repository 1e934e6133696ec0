"""The table's reading verbs over a dict, for what routes by it, and the file that these tests route by."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from app.config import rows
from app.config.pipelines import parse
from app.config.plan import plan
from app.config.rows import Row
from app.events.event import Event
from app.routing.route import Route
from app.routing.router import Router


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
