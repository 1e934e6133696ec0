"""Instances: who is known, under which incarnation and token; and the nonce of the log of events."""

import secrets
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.config.errors import Conflict, TableError
from app.config.rows import LOG_KEY, Change, Owner, Row, instance_key, split, value
from app.config.table import ConfigTable
from app.settings import Settings

__all__ = ["Instance", "Instances", "TooManyInstances", "check_name", "ensure_log_id", "log_id", "new_instance"]

KIND = "instance"
MAX_NAME_LENGTH = 255
CACHED_INSTANCES = 10_000
MAX_TRIES = 20
FIRST_STATE = "close"
"""Until the first `connection.update` has passed (contract 5)."""


class TooManyInstances(TableError):
    """The limit SLUICE_MAX_INSTANCES is reached; none of the new ones was created. Raise it, or delete some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance as its row tells; `uuid` marks the incarnation, a name created again gets another one."""

    name: str
    uuid: str
    token: str = field(repr=False)
    created_at: str
    """ISO 8601 in UTC with milliseconds and Z."""
    integration: str | None = None
    number: str | None = None
    owner_jid: str | None = None
    profile_name: str | None = None
    profile_pic_url: str | None = None
    connection_status: str = FIRST_STATE
    owner: Owner = "api"
    source: str = ""
    offset: int = -1


class Instances:
    """The instances of a table, decoded and cached."""

    def __init__(self, table: ConfigTable, settings: Settings) -> None:
        self._table = table
        self._limit = settings.max_instances
        self._cache: OrderedDict[str, Instance | None] = OrderedDict()
        table.subscribe(self._forget)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._table.count(KIND, parts=2)

    def get(self, name: str) -> Instance | None:
        """The instance of that name, None when there is none; nothing is read beyond this process."""
        key = instance_key(name)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        row = self._table.get(key)
        instance = None if row is None else _instance(row)
        self._cache[key] = instance
        if len(self._cache) > CACHED_INSTANCES:
            self._cache.popitem(last=False)
        return instance

    async def ensure(self, names: Iterable[str], owner: Owner, source: str) -> None:
        """
        All of them exist when it returns; those that were missing were created in one batch.

        Raises TooManyInstances, and ValueError for a name that can be none (`check_name`); then none was created.
        """
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            if problem := check_name(name):
                raise ValueError(f"instance name {name!r:.300}: {problem}")
        for tries in range(MAX_TRIES):
            missing = [name for name in wanted if self.get(name) is None]
            if not missing:
                return
            if self.count + len(missing) > self._limit:
                raise TooManyInstances(
                    f"{len(missing)} new instances, but {self.count} of at most {self._limit} exist; none was "
                    "created. Raise SLUICE_MAX_INSTANCES or delete some"
                )
            try:
                await self._table.write(
                    [Change(instance_key(name), value(owner, source, new_instance()), -1) for name in missing]
                )
            except Conflict:
                # Somebody created one of them at the same moment: that one is no longer missing.
                if tries == MAX_TRIES - 1:
                    raise

    async def delete(self, name: str) -> bool:
        """Ends the rows of an instance and of its sections, in one batch; False when there was none."""
        key = instance_key(name)
        for tries in range(MAX_TRIES):
            rows = [row for row in (self._table.get(key), *self._table.scan(f"{key}/")) if row is not None]
            if not rows:
                return False
            try:
                await self._table.write([Change(row.key, None, row.offset) for row in rows])
            except Conflict:
                if tries == MAX_TRIES - 1:
                    raise
            else:
                return True
        raise AssertionError("the loop ends by itself")

    def _forget(self, keys: frozenset[str]) -> None:
        for key in keys:
            self._cache.pop(key, None)


def check_name(name: str) -> str | None:
    """What is wrong with a name for an instance, None when it is fine."""
    if not name:
        return "it is empty; 1 to 255 characters are wanted"
    if len(name) > MAX_NAME_LENGTH:
        return f"it has {len(name)} characters; at most {MAX_NAME_LENGTH} are wanted"
    for position, character in enumerate(name):
        # Cc are control characters; Cs are halves of a pair, which no UTF-8 can hold.
        if unicodedata.category(character) in ("Cc", "Cs"):
            return f"character {position + 1} is the control character U+{ord(character):04X}; leave it out"
    return None


def new_instance(
    *, token: str | None = None, integration: str | None = None, number: str | None = None
) -> dict[str, Any]:
    """The body of a new instance's row (keys as in contract 5); a token is made where none is given."""
    return {
        "uuid": str(uuid.uuid4()),
        "token": token or _token(),
        "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "integration": integration,
        "number": number,
        "ownerJid": None,
        "profileName": None,
        "profilePicUrl": None,
        "connectionStatus": FIRST_STATE,
    }


async def ensure_log_id(table: ConfigTable, created: bool) -> str:
    """
    The nonce of the log of events; `created` says that the caller has created `events` just now, so that positions
    start again and ids made of them must differ from all before.
    """
    row = table.get(LOG_KEY)
    if row is None or created:
        wanted = secrets.token_hex(4)

        def compute(current: Row | None) -> Mapping[str, Any]:
            if current is not None and not created:
                return current.value  # Another process was faster: its nonce is the one.
            return value("environment", "start", {"id": wanted})

        row = await table.update(LOG_KEY, compute)
    assert row is not None, "just written"
    return str(row.body["id"])


def log_id(table: ConfigTable) -> str:
    """The nonce of the log of events; TableError before `ensure_log_id` has been called by anybody."""
    row = table.get(LOG_KEY)
    if row is None:
        raise TableError(f"the table has no row {LOG_KEY}; run `sluice init`, which gives the log of events its id")
    return str(row.body["id"])


def _token() -> str:
    """128 random bits, looking like upstream's: a UUID in capitals."""
    digits = secrets.token_hex(16).upper()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _instance(row: Row) -> Instance:
    body = row.body
    return Instance(
        name=_name(split(row.key)),
        uuid=str(body["uuid"]),
        token=str(body["token"]),
        created_at=str(body["createdAt"]),
        integration=body.get("integration"),
        number=body.get("number"),
        owner_jid=body.get("ownerJid"),
        profile_name=body.get("profileName"),
        profile_pic_url=body.get("profilePicUrl"),
        connection_status=body.get("connectionStatus") or FIRST_STATE,
        owner=row.owner,
        source=row.source,
        offset=row.offset,
    )


def _name(parts: Sequence[str]) -> str:
    assert len(parts) == 2, parts
    return parts[1]
