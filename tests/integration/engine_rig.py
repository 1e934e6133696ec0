"""A worker's engine between a real Kafka and a real HTTP receiver: what the tests of the engine stand on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiokafka import TopicPartition

from app.config import rows
from app.config.instances import Instances
from app.config.table import ConfigTable
from app.engine.app import Engine
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.polling import WAIT_SECS


class Receiver:
    """An HTTP server that keeps what it got; `answer` decides the status of a request."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answer: Callable[[dict[str, Any]], int | Awaitable[int]] = lambda _: 200
        self.url = ""
        self.path = ""
        """Of the request that is being answered."""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.path = request.path
        status = self.answer(body)
        status = status if isinstance(status, int) else await status
        if status < 300:
            self.bodies.append(body)
            self.headers.append(request.headers)
        return web.Response(status=status)

    def marks(self) -> list[Any]:
        """The `data` of what was accepted, in order."""
        return [body["data"] for body in self.bodies]


class Rig:
    """The topics of one test, a table to write configuration with, a producer, and engines on demand."""

    def __init__(self, settings: Settings, kafka: Kafka, table: ConfigTable, producer: Any) -> None:
        self.settings = settings
        self.kafka = kafka
        self.table = table
        self.instances = Instances(table, settings)
        self.producer = producer

    async def configure(self, instance: str, url: str, **section: Any) -> int:
        """Gives an instance a webhook section; returns the offset from which it is in force."""
        await self.instances.ensure([instance], owner="api", source="test")
        body = {"url": url, "enabled": True, "events": ["MESSAGES_UPSERT"], "headers": None, **section}
        key = rows.section_key(instance, "webhook")
        row = self.table.get(key)
        base = row.offset if row is not None else -1
        return await self.table.write([rows.Change(key, rows.value("api", "test", body), base)])

    async def send(self, instance: str, data: Any, *, headers: Any = (), event: str = "messages.upsert") -> Any:
        """Puts one event into the log, always into partition 0; its metadata."""
        value = json.dumps({"event": event, "data": data}).encode()
        return await self.raw(value, instance.encode(), headers)

    async def raw(self, value: bytes | None, key: bytes | None, headers: Any = ()) -> Any:
        """Puts one record into partition 0 of the log."""
        return await self.producer.send_and_wait(
            self.settings.topic("events"), value, key=key, headers=list(headers), partition=0
        )

    @asynccontextmanager
    async def engine(self, number: int = 0) -> AsyncIterator[Engine]:
        """A worker's engine, running."""
        engine = Engine(self.settings, number)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()
            if engine.crash_reason is not None:
                raise engine.crash_reason

    async def read(self, topic: str, count: int) -> list[Any]:
        """The first `count` records of a topic of ours, by partition and offset."""
        consumer = self.kafka.consumer(auto_offset_reset="earliest")
        await consumer.start()
        found: list[Any] = []
        try:
            consumer.assign([TopicPartition(self.settings.topic(topic), number) for number in range(4)])
            async with asyncio.timeout(WAIT_SECS):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
        except TimeoutError:
            pytest.fail(f"{topic} has {len(found)} records, {count} are wanted")
        finally:
            await consumer.stop()
        return found
