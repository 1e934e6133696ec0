"""
pipelines.yaml into the table: one write, atomic in the log and in every reader, at start and whenever the file changes.

A bad file changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from mode import Service

from app.config import rows
from app.config.errors import Conflict, TableError
from app.config.instances import TooManyInstances
from app.config.pipelines import Loaded, Problem, load
from app.config.plan import Plan, plan
from app.config.rows import Row
from app.config.table import ConfigTable
from app.settings import Settings

log = structlog.get_logger(__name__)

LOOK_EVERY_SECS = 1.0
"""How often the file's time, size and inode are compared; mounted volumes and editors that rename tell nobody."""
MAX_TRIES = 20
"""Of one apply: each conflict means that somebody set one of the same rows in between."""
_SCANNED_AT_ONCE = 500
"""Rows read between two looks at anything else, some 5 ms."""
_RULE_UNREAD = "file.unreadable"
Stamp = tuple[int, int, int] | None
"""Modification time, size and inode; None for no file."""


async def apply(loaded: Loaded, table: ConfigTable, *, max_instances: int) -> Plan:
    """
    Makes the table say what the file says; the plan that was carried out, empty where nothing differed.

    Raises ValueError for a file with errors, TooManyInstances, TooLarge, Conflict after too many tries, and
    TableUnavailable.
    """
    if loaded.errors:
        raise ValueError(f"{loaded.file} has {len(loaded.errors)} errors; nothing of it is applied")
    for tries in range(MAX_TRIES):
        owned = [row async for row in _owned(table)]
        made = plan(loaded, table, owned, now=datetime.now(UTC))
        if not made.changes:
            return made
        _limit(made, table, max_instances)
        try:
            await table.write(made.changes)
        except Conflict:
            if tries == MAX_TRIES - 1:
                raise
        else:
            return made
    raise AssertionError("the loop ends by itself")


async def _owned(table: ConfigTable) -> AsyncIterator[Row]:
    """The rows that the file owns. The table may change meanwhile; then the write conflicts and all begins again."""
    number = 0
    for prefix in ("instance/", "pipeline/", "layout/", rows.DEFAULTS_KEY):
        for row in table.scan(prefix):
            number += 1
            if number % _SCANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if row.owner == "file":
                yield row


def _limit(made: Plan, table: ConfigTable, max_instances: int) -> None:
    new = sum(
        1
        for change in made.changes
        if change.base == -1 and len(rows.split(change.key)) == 2 and change.key.startswith("instance/")
    )
    there = table.count("instance", parts=2)
    if new and there + new > max_instances:
        raise TooManyInstances(
            f"The file has {new} new instances, but {there} of at most {max_instances} exist; nothing was applied. "
            "Raise SLUICE_MAX_INSTANCES or delete some"
        )


class FileWatcher(Service):
    """
    Keeps the table like the file. Start it when the table is ready.

    A missing file is fine unless SLUICE_PIPELINES names it; one that goes missing later changes nothing.
    """

    def __init__(
        self, table: ConfigTable, settings: Settings, *, look_every_secs: float = LOOK_EVERY_SECS, **options: Any
    ) -> None:
        super().__init__(**options)
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the file as it stands; while there are errors, what was applied last is in force."""
        self.failure: str | None = None
        """Why a good file could not be applied yet (Kafka away, too many instances); tried again at every look."""
        self.loaded = asyncio.Event()
        """Set once the file was looked at for the first time, whatever came of it."""
        self._table = table
        self._path: Path = settings.pipelines
        self._must_exist = "SLUICE_PIPELINES" in settings.given
        self._max_instances = settings.max_instances
        self._look_every_secs = look_every_secs
        self._told: str | None = None
        """The digest of the content whose problems were logged."""
        self._applied: str | None = None
        self._waiting: Loaded | None = None

    @Service.task
    async def _watch(self) -> None:
        await self._table.ready.wait()
        settled = before = await self._stamp()
        await self._look(first=True)
        self.loaded.set()
        while not self.should_stop:
            await self.sleep(self._look_every_secs)
            now = await self._stamp()
            # Half of a file that is just being written may be a good file: it has to stand still for one look.
            if now != settled and now == before and now is not None:
                settled = now
                await self._look()
            elif self._waiting is not None:
                await self._apply(self._waiting)
            before = now

    async def _stamp(self) -> Stamp:
        try:
            status = await asyncio.to_thread(self._path.stat)
        except OSError:
            # What cannot be asked for cannot be read either, and reading tells why.
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    async def _look(self, *, first: bool = False) -> None:
        loaded = await asyncio.to_thread(load, self._path)
        unread = any(problem.rule == _RULE_UNREAD for problem in loaded.problems)
        if first and unread and not self._must_exist and not await asyncio.to_thread(self._path.exists):
            log.info("pipelines.none", file=str(self._path))
            return
        self.problems = loaded.problems
        self._tell(loaded)
        self._waiting = None
        if not loaded.errors and loaded.digest != self._applied:
            await self._apply(loaded)

    def _tell(self, loaded: Loaded) -> None:
        """Logs what is wrong, once for each content."""
        if loaded.digest == self._told:
            return
        self._told = loaded.digest
        for problem in loaded.problems:
            level = log.error if problem.severity == "error" else log.warning
            level(
                "pipelines.problem",
                place=f"{problem.file}:{problem.line}:{problem.column}",
                rule=problem.rule,
                message=problem.message,
                near=problem.near,
            )
        if loaded.errors:
            log.error("pipelines.refused", file=str(self._path), errors=len(loaded.errors), in_force=self._applied)

    async def _apply(self, loaded: Loaded) -> None:
        try:
            made = await apply(loaded, self._table, max_instances=self._max_instances)
        except TableError as error:
            if str(error) != self.failure:
                log.warning("pipelines.not_applied", file=str(self._path), error=str(error))
            self.failure, self._waiting = str(error), loaded
            return
        self.failure, self._waiting, self._applied = None, None, loaded.digest
        for warning in made.warnings:
            log.warning("pipelines.taken_over", message=warning)
        log.info(
            "pipelines.applied",
            file=str(self._path),
            instances=len(loaded.instances),
            pipelines=len(loaded.pipelines),
            created=made.created,
            changed=made.changed,
            removed=made.removed,
        )
