"""`control/{destination}` rows: pauses that every worker obeys, whoever asked for them (design 4 and 6)."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from mode import Service

from app.config import rows
from app.config.bodies import timestamp
from app.config.errors import TableError
from app.config.rows import Row
from app.routing.compiler import section_id
from schemas import transports

log = structlog.get_logger()

RETRY_SECS = 5.0
"""Between two tries to write when Kafka does not answer; meanwhile the pause holds in this worker."""
MAX_WAITING = 10_000
"""Pauses that wait to be written; one more holds in this worker only."""
KEPT = "switched off, and kept (`enabled: false` with `keep: true`)"


class Table(Protocol):
    """What is needed of the table of rows."""

    def get(self, key: str) -> Row | None:
        """The row of a key."""

    async def update(self, key: str, compute: Callable[[Row | None], Mapping[str, Any] | None]) -> Row | None:
        """Writes what `compute` makes of the current row, None to delete it."""


class Kept(Protocol):
    """What is needed of the router."""

    def kept(self, destination_id: str) -> bool:
        """Whether a destination is switched off but keeps its positions."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Some destinations: by their ids, and by what the ids of others begin with."""

    ids: frozenset[str]
    prefixes: tuple[str, ...] = ()


class Controls(Service):
    """
    Why destinations stand still, by the table's rows; and the rows that this worker adds.

    A row with `config` was written by a worker, and is void once the destination's own row is a newer one: a repaired
    destination goes on everywhere. An operator's has none, and stands until it is taken away. A row of another
    incarnation of the instance is void too.
    """

    def __init__(self, table: Table, router: Kept, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._table = table
        self._router = router
        self._waiting: dict[str, dict[str, Any] | None] = {}
        self._asked = asyncio.Event()

    def reason(self, destination_id: str) -> str:
        """Why nothing is sent to a destination, "" if something may be."""
        row = self._table.get(rows.control_key(destination_id))
        if row is not None and self._holds(destination_id, row):
            return str(row.body.get("reason") or "paused")
        return KEPT if self._router.kept(destination_id) else ""

    def pause(self, destination_id: str, reason: str) -> None:
        """Tells all workers, as soon as Kafka takes it, that the destination as it is now is paused."""
        if len(self._waiting) < MAX_WAITING:
            body = pause_body(self._table, destination_id, reason, by="worker")
            self._waiting[destination_id] = {**body, "config": self._config(destination_id)}
            self._asked.set()

    def touched(self, keys: Iterable[str]) -> Touched:
        """The destinations that a change of these rows can pause, resume or change."""
        found: set[str] = set()
        pipelines: set[str] = set()
        for key in keys:
            kind, *names = rows.split(key)
            if kind == "control" and names:
                found.add(names[0])
                self._clean(names[0])
            elif kind == "instance" and len(names) == 2:
                found.add(section_id(names[0], names[1]))
                self._clean(section_id(names[0], names[1]))
            elif kind == "instance" and names:
                found.update(section_id(names[0], transport) for transport in transports())
            elif kind == "pipeline" and names:
                pipelines.add(f"pipeline/{names[0]}/")
        return Touched(frozenset(found), tuple(pipelines))

    def _clean(self, destination_id: str) -> None:
        """Has a row taken away that is void."""
        row = self._table.get(rows.control_key(destination_id))
        if row is not None and not self._holds(destination_id, row) and len(self._waiting) < MAX_WAITING:
            self._waiting.setdefault(destination_id, None)
            self._asked.set()

    def _holds(self, destination_id: str, row: Row) -> bool:
        body = row.body
        if body.get("state") != "paused" or body.get("instance_id") != _instance_id(self._table, destination_id):
            return False
        config = body.get("config")
        return config is None or -1 < self._config(destination_id) <= config

    def _config(self, destination_id: str) -> int:
        """The offset of the destination's own row: 0 for one that the environment makes, -1 where there is none."""
        key = _own_row(destination_id)
        if key is None:
            return 0
        row = self._table.get(key)
        return row.offset if row is not None else -1

    @Service.task
    async def _write(self) -> None:
        while not self.should_stop:
            await self.wait(self._asked)
            self._asked.clear()
            for destination_id, body in list(self._waiting.items()):
                if self.should_stop:
                    return
                try:
                    await self._write_one(destination_id, body)
                except TableError as error:
                    log.warning("control.unwritten", destination=destination_id, error=str(error))
                    await self.sleep(RETRY_SECS)
                    self._asked.set()
                    break
                if self._waiting.get(destination_id) is body:
                    del self._waiting[destination_id]

    async def _write_one(self, destination_id: str, body: dict[str, Any] | None) -> None:
        """Writes a pause unless one holds already; without a body takes away a row that is void."""

        def compute(row: Row | None) -> Mapping[str, Any] | None:
            if row is not None and self._holds(destination_id, row):
                raise _Settled
            return None if body is None else rows.value("api", "worker", body)

        try:
            await self._table.update(rows.control_key(destination_id), compute)
        except _Settled:
            return


class _Settled(Exception):
    """The row that stands there is as good."""


def pause_body(table: Table, destination_id: str, reason: str, *, by: str) -> dict[str, Any]:
    """The body of a row that pauses a destination until it is taken away."""
    return {
        "state": "paused",
        "reason": reason,
        "since": timestamp(datetime.now(UTC)),
        "by": by,
        "instance_id": _instance_id(table, destination_id),
    }


async def pause(table: Table, destination_id: str, reason: str, *, by: str) -> None:
    """Pauses a destination everywhere until `resume`; raises what `ConfigTable.update` raises."""
    body = pause_body(table, destination_id, reason, by=by)
    await table.update(rows.control_key(destination_id), lambda _: rows.value("api", by, body))


async def resume(table: Table, destination_id: str) -> None:
    """Lets a destination go on everywhere, whoever paused it; raises what `ConfigTable.update` raises."""
    await table.update(rows.control_key(destination_id), lambda _: None)


def _own_row(destination_id: str) -> str | None:
    """The key of the row that makes a destination, None where the environment does."""
    kind, *names = rows.split(destination_id)
    if kind == "section" and len(names) == 2:
        return rows.section_key(names[0], names[1])
    return rows.pipeline_key(names[0]) if kind == "pipeline" and names else None


def _instance_id(table: Table, destination_id: str) -> str | None:
    """The incarnation that a destination belongs to; None for one of all instances."""
    kind, *names = rows.split(destination_id)
    row = table.get(rows.instance_key(names[0])) if kind == "section" and names else None
    return str(row.body.get("uuid", "")) if row is not None else None
