"""`POST /{transport}/set/{instance}`, `GET /{transport}/find/{instance}`: for every transport (contract, section 3)."""

import secrets
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError

import schemas
from app.api import errors, reading
from app.api.auth import Keys, given_key
from app.api.reading import Room, Share
from app.config import bodies, layouts, rows
from app.config.bodies import BodyError
from app.config.instances import Instance, Instances
from app.config.layouts import Layout, LayoutDifferences, LayoutError
from app.config.rows import Row
from app.config.table import ConfigTable
from app.settings import Settings

log = structlog.get_logger(__name__)

_LETTERS = string.ascii_lowercase + string.digits


class Sections:
    """What one instance wants of one transport, as its owner says over HTTP."""

    def __init__(self, settings: Settings, keys: Keys, table: ConfigTable, instances: Instances, room: Room) -> None:
        self._settings = settings
        self._keys = keys
        self._table = table
        self._instances = instances
        self._room = room

    async def set(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        """201 with the row as it is stored: durable, and visible on every node, when it is answered."""
        transport = path["transport"]
        instance = self._instances.get(path["instance"])
        if instance is None:
            # Made on another node a moment ago, perhaps.
            await self._table.barrier()
        instance = self._guarded(request, path["instance"])
        share = Share(self._room)
        try:
            content = await reading.read(request, share, self._settings.max_event_bytes)
            body = reading.parse(request.headers, content)
            off = self._switched_off(transport)
            if off and self._layout(instance).switched_off == "ignore":
                return web.Response(status=201, headers={"Content-Type": errors.CONTENT_TYPE})
            row = await self._store(transport, instance, body)
        finally:
            share.release()
        warnings = [f"the event {name} is not known; it is kept" for name in bodies.unknown_events(row)]
        if off:
            warnings.append(f"{transport} is switched off on this server; this takes effect when it is switched on")
        answer = bodies.answer(transport, row)
        return errors.json(answer | {"warnings": warnings} if warnings else answer, 201)

    async def find(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        """200 with the stored row; before any `set` what the layout says. It sees every `set` answered anywhere."""
        transport = path["transport"]
        await self._table.barrier()
        instance = self._guarded(request, path["instance"])
        layout = self._layout(instance)
        if self._switched_off(transport) and layout.switched_off == "ignore":
            return web.Response(status=200, headers={"Content-Type": errors.CONTENT_TYPE})
        row = self._table.get(rows.section_key(instance.name, transport))
        if row is not None and _of(row, instance):
            return errors.json(bodies.answer(transport, row.body))
        unset = schemas.section(transport).unset
        return errors.json(None if layout.unset == "null" else bodies.answer(transport, unset))

    def _guarded(self, request: web.Request, name: str) -> Instance:
        """The instance: unknown answers 404 even without a key, then the key counts (contract, section 2)."""
        instance = self._instances.get(name)
        if instance is None:
            raise errors.unknown_instance(name)
        self._keys.require(given_key(request.headers), instance.token)
        return instance

    async def _store(self, transport: str, instance: Instance, body: Any) -> Mapping[str, Any]:
        now = datetime.now(UTC)
        source = f"POST /{transport}/set/{instance.name}"

        def compute(row: Row | None) -> Mapping[str, Any]:
            if row is not None and row.owner == "file":
                raise errors.conflict(
                    f'The {transport} of "{instance.name}" is declared in {row.source} and changes there only'
                )
            before = row.body if row is not None and _of(row, instance) else None
            stored = bodies.normalise(
                transport,
                body,
                before,
                instance_id=instance.uuid,
                now=now,
                new_id=_new_id,
                strict=self._settings.strict_bodies,
            )
            return rows.value("api", source, stored)

        try:
            written = await self._table.update(rows.section_key(instance.name, transport), compute)
        except BodyError as error:
            raise errors.violations(error.messages) from error
        assert written is not None, "a section is written, not deleted"
        log.info("section.set", instance=instance.name, transport=transport, offset=written.offset)
        return written.body

    def _switched_off(self, transport: str) -> bool:
        """Whether the server's settings switch this transport off (contract 3.2); one without a switch is on."""
        return self._settings.transports[transport].get("enabled", True) is False

    def _layout(self, instance: Instance) -> Layout:
        """The instance's layout, else that of pipelines.yaml, else that of the settings."""
        own = self._table.get(rows.instance_key(instance.name))
        defaults = self._table.get(rows.DEFAULTS_KEY)
        name = (own and own.body.get("layout")) or (defaults and defaults.body.get("layout")) or self._settings.layout
        if name in layouts.SHIPPED:
            return layouts.SHIPPED[name]
        try:
            differences = {
                rows.split(row.key)[1]: LayoutDifferences.model_validate(dict(row.body))
                for row in self._table.scan(rows.layout_key(""))
            }
            return layouts.find(str(name), layouts.build(differences))
        except (LayoutError, ValidationError) as error:
            # Another release wrote it: as in routing, it falls back rather than refuse.
            log.warning("layout.not_understood", layout=name, why=str(error))
            return layouts.SHIPPED[layouts.DEFAULT]


def _of(row: Row, instance: Instance) -> bool:
    """Whether a row is of this incarnation; a name that was made again inherits nothing."""
    return row.body.get("instanceId") == instance.uuid


def _new_id() -> str:
    """A text in the form of upstream's ids: `c` and 24 letters and digits."""
    return "c" + "".join(secrets.choice(_LETTERS) for _ in range(24))
