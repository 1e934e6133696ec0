"""What tests of the configuration table share: tables on a test's own topic, and who writes what no table would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.config.rows import Row, value
from app.config.table import ConfigTable
from app.log.clients import Kafka
from app.settings import Settings

Opened = Callable[..., Any]
"""`async with opened("a") as table`: a table with a store of that name, at its end."""


def tables(kafka: Kafka, settings: Settings, directory: Path) -> Opened:
    """Opens tables of one topic, each with a store of its own name below the directory."""

    @asynccontextmanager
    async def open_table(name: str, at: Settings = settings, **options: Any) -> AsyncIterator[ConfigTable]:
        table = ConfigTable(kafka, at, directory / name, **options)
        await table.start()
        try:
            await asyncio.wait_for(table.ready.wait(), 20)
            yield table
        finally:
            await table.stop()

    return open_table


def body(number: int) -> dict[str, Any]:
    """A row that holds a number."""
    return value("api", "test", {"number": number})


def add(row: Row | None) -> dict[str, Any]:
    """Computes one more than there was."""
    return body(row.body["number"] + 1 if row else 1)


async def until(holds: Callable[[], Any], within_secs: float = 20.0) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(within_secs):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def raw_producer(kafka: Kafka) -> AsyncIterator[Any]:
    """A producer that writes what no table would."""
    producer = kafka.producer(linger_ms=0)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
