"""
The least that has to be written so that the table says what pipelines.yaml says (design 5). Pure.

The file owns what it declares. A section that the API had set becomes the file's, with a warning; what leaves the file
goes, except that an instance is never deleted by being left out: it goes on as one of the API's. A line that moved is
a change too, since a refused `set` names file and line.
"""

import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import schemas
from app.config import rows
from app.config.bodies import timestamp
from app.config.instances import new_instance
from app.config.pipelines import Loaded, SectionEntry
from app.config.rows import Change, Row

_BOOK_KEEPING = ("id", "createdAt", "updatedAt")
_DIGITS = string.digits + string.ascii_lowercase


class Reading(Protocol):
    """What is needed of the table of rows."""

    def get(self, key: str) -> Row | None:
        """The row of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be written so that the table says what the file says."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    created: int = 0
    changed: int = 0
    removed: int = 0


def plan(
    loaded: Loaded,
    table: Reading,
    owned: Iterable[Row],
    *,
    now: datetime,
    new_id: Callable[[], str] | None = None,
) -> Plan:
    """The least that has to be written; `owned` are the rows that the file owns as the table stands."""
    planner = _Planner(loaded, table, timestamp(now), new_id or _new_id)
    planner.instances()
    planner.pipelines()
    planner.defaults()
    planner.leftovers(owned)
    return planner.plan()


class _Planner:
    """Goes through the file, collects changes, and remembers which keys the file speaks of."""

    def __init__(self, loaded: Loaded, table: Reading, now: str, new_id: Callable[[], str]) -> None:
        self._loaded = loaded
        self._table = table
        self._now = now
        self._new_id = new_id
        self._changes: list[Change] = []
        self._warnings: list[str] = []
        self._spoken_of: set[str] = set()
        self._created = self._changed = self._removed = 0

    def plan(self) -> Plan:
        return Plan(
            changes=tuple(self._changes),
            warnings=tuple(self._warnings),
            created=self._created,
            changed=self._changed,
            removed=self._removed,
        )

    def instances(self) -> None:
        for name, entry in self._loaded.instances.items():
            key = rows.instance_key(name)
            row = self._table.get(key)
            body = dict(row.body) if row else new_instance()
            body.pop("layout", None)
            if entry.layout is not None:
                body["layout"] = entry.layout
            self._put(key, row, entry.line, body)
            for transport, section in entry.sections.items():
                self._section(name, transport, section, str(body["uuid"]))

    def pipelines(self) -> None:
        for name, entry in self._loaded.pipelines.items():
            key = rows.pipeline_key(name)
            self._put(key, self._table.get(key), entry.line, entry.spec.row())

    def defaults(self) -> None:
        body: dict[str, Any] = {}
        if self._loaded.retry:
            body["retry"] = dict(self._loaded.retry)
        if self._loaded.layout is not None:
            body["layout"] = self._loaded.layout
        if body:
            self._put(rows.DEFAULTS_KEY, self._table.get(rows.DEFAULTS_KEY), self._loaded.defaults_line, body)
        for name, layout in self._loaded.layouts.items():
            key = rows.layout_key(name)
            self._put(key, self._table.get(key), self._loaded.layout_lines[name], layout)

    def leftovers(self, owned: Iterable[Row]) -> None:
        """What the file owned and does not speak of any more."""
        for row in owned:
            if row.key in self._spoken_of:
                continue
            parts = rows.split(row.key)
            if parts[0] == "instance" and len(parts) == 2:
                body = {key: value for key, value in row.body.items() if key != "layout"}
                change = Change(row.key, rows.value("api", f"left {self._loaded.file}", body), row.offset)
                self._changed += 1
            else:
                change = Change(row.key, None, row.offset)
                self._removed += 1
            self._changes.append(change)

    def _section(self, name: str, transport: str, entry: SectionEntry, uuid: str) -> None:
        key = rows.section_key(name, transport)
        row = self._table.get(key)
        before = row.body if row else {}
        values = {**entry.fields, "enabled": entry.enabled, "events": list(entry.events), "instanceId": uuid}
        values["id"] = before.get("id") or self._new_id()
        values["createdAt"] = before.get("createdAt") or self._now
        same = {**before, **values} == before and not set(before) - set(values) - set(_BOOK_KEEPING)
        values["updatedAt"] = before.get("updatedAt", self._now) if same else self._now
        order = schemas.section(transport).row_order
        body = {key: values[key] for key in (*order, *(ours for ours in values if ours not in order))}
        if row is not None and row.owner != "file":
            origin = f" ({row.source})" if row.source else ""
            place = f"{self._loaded.file}:{entry.line}"
            self._warnings.append(f"{place}: {transport} of {name!r} was set through the API{origin} and is ours now")
        self._put(key, row, entry.line, body)

    def _put(self, key: str, row: Row | None, line: int, body: Mapping[str, Any]) -> None:
        self._spoken_of.add(key)
        value = rows.value("file", f"{self._loaded.file}:{line}", body)
        if row is None:
            self._created += 1
        elif row.value == value:
            return
        else:
            self._changed += 1
        self._changes.append(Change(key, value, -1 if row is None else row.offset))


def _new_id() -> str:
    """An id that looks like upstream's: `c` and 24 digits or small letters (contract 3.3)."""
    return "c" + "".join(secrets.choice(_DIGITS) for _ in range(24))
