"""`POST /events/{instance}`: one event or a list of them, answered once the log has them for good."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from app.api import errors, reading
from app.api.auth import Keys, given_key
from app.api.producer import Encoded, EventProducer, NotStoredError, OutcomeUnknownError
from app.api.quota import Quota
from app.api.reading import Room, Share
from app.config.instances import Instances, log_id
from app.config.table import ConfigTable
from app.events.decode import decode
from app.events.event import Event, Poison
from app.observe import metrics
from app.settings import Settings

MAX_EVENTS = 10_000
"""Of one list."""
READ_AT_ONCE = 200
"""Events of a list between two looks at anything else, some 2 ms."""
SOURCE = b"http"


@dataclass(frozen=True, slots=True)
class _Record:
    """An event on its way to the log, as the one that reads it there will see it."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = 0
    offset: int = 0
    timestamp: int | None = None


class Ingest:
    """Takes events over HTTP. Nothing of a list is stored where one of its events is wrong."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        table: ConfigTable,
        instances: Instances,
        producer: EventProducer,
        room: Room,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._table = table
        self._instances = instances
        self._producer = producer
        self._room = room
        self._quota = Quota(settings.ingest_events_per_second)
        self._accepted = metrics.counter("sluice_ingested_events_total")

    async def post(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        """202 with the ids and positions of all events, in their order."""
        name = path["instance"]
        known = await self._guard(request, name)
        share = Share(self._room)
        try:
            content = await reading.read(request, share, self._settings.max_event_bytes)
            bodies = _bodies(reading.parse_json(content))
            wait_secs = self._quota.take(name, len(bodies))
            if wait_secs:
                raise errors.too_many(
                    f'the instance "{name}" may send {self._settings.ingest_events_per_second:g} events a second '
                    "(SLUICE_INGEST_EVENTS_PER_SECOND); nothing was stored",
                    wait_secs,
                )
            single = isinstance(bodies, tuple)
            read = []
            for place, body in enumerate(bodies):
                read.append(self._read(name, body, None if single else place))
                if place % READ_AT_ONCE == READ_AT_ONCE - 1:
                    await asyncio.sleep(0)
            if not read:
                return errors.json({"accepted": 0, "ids": [], "positions": []}, 202)
            if not known:
                await self._instances.ensure((name,), owner="event", source=f"POST /events/{name}")
            return await self._append(name, read, share)
        finally:
            share.release()

    async def _guard(self, request: web.Request, name: str) -> bool:
        """Whether the instance is known. An unknown one is for the global key; for any other it does not exist."""
        instance = self._instances.get(name)
        key = given_key(request.headers)
        if instance is None and not self._keys.is_global(key):
            # Made on another node a moment ago, perhaps.
            await self._table.barrier()
            instance = self._instances.get(name)
            if instance is None:
                raise errors.unknown_instance(name)
        if instance is not None:
            self._keys.require(key, instance.token)
        return instance is not None

    def _read(self, instance: str, body: Any, place: int | None) -> tuple[Event, bytes]:
        """The event as the engine will understand it, and its bytes; ApiError names its place in the list."""
        if isinstance(body, dict) and "apikey" in body:
            body = {key: value for key, value in body.items() if key != "apikey"}
        try:
            value = orjson.dumps(body)
            event = decode(_Record(instance.encode(), value), "")
        except (Poison, TypeError) as error:
            reason = error.reason if isinstance(error, Poison) else f"the event cannot be written as JSON: {error}"
            raise errors.violations([reason if place is None else f"[{place}]: {reason}"]) from error
        if len(value) > self._settings.max_event_bytes:
            raise errors.too_large(
                f"{'the event' if place is None else f'event [{place}]'} has {len(value)} bytes, "
                f"{self._settings.max_event_bytes} are the most (SLUICE_MAX_EVENT_BYTES)"
            )
        if event.extra != body.get("extra") and body.get("extra"):
            value = orjson.dumps({**body, "extra": event.extra or {}})
        return event, value

    async def _append(self, name: str, read: Sequence[tuple[Event, bytes]], share: Share) -> web.Response:
        # Stamped last: what this process has applied by now is what the event may be routed by.
        applied = b"%d" % (self._table.position - 1)
        common = (("source", SOURCE), ("config-offset", applied))
        events = [
            Encoded(value, (("id", event.id.encode()), *common) if event.given_id else common) for event, value in read
        ]
        try:
            positions = await self._producer.append(name, events, share)
        except NotStoredError as error:
            raise errors.unavailable(f"{error}; nothing was stored, try again") from error
        except OutcomeUnknownError as error:
            raise errors.unavailable(
                f"{error}. The outcome is unknown: they may be stored or not. Send them again with the same `id` "
                "each, and none is delivered twice"
            ) from error
        self._accepted.add(len(events))
        log = log_id(self._table)
        ids = [
            event.id if event.given_id else f"{log}-{position.partition}-{position.offset}"
            for (event, _), position in zip(read, positions, strict=True)
        ]
        shown = [{"partition": position.partition, "offset": position.offset} for position in positions]
        return errors.json({"accepted": len(ids), "ids": ids, "positions": shown}, 202)


def _bodies(parsed: Any) -> Sequence[Any]:
    """A tuple of the one event, or the list of them."""
    if isinstance(parsed, dict):
        return (parsed,)
    if not isinstance(parsed, list):
        raise errors.violations(["instance is not of a type(s) object,array"])
    if len(parsed) > MAX_EVENTS:
        raise errors.too_large(f"the list has {len(parsed)} events, {MAX_EVENTS} are the most")
    return parsed
