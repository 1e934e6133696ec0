"""The real embedded Kafka, one for the whole run; each test has topics of its own by a prefix of its own."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn

import pytest
from aiohttp import web

from app import settings as settings_module
from app.config.instances import ensure_log_id
from app.config.table import ConfigTable
from app.embedded.errors import EmbeddedKafkaError
from app.embedded.kafka import EmbeddedKafka
from app.embedded.progress import reporter
from app.log.clients import Kafka, connect
from app.log.topics import ensure
from app.settings import Settings
from tests.integration.engine_rig import Receiver, Rig


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str, str], NoReturn]) -> Iterator[str]:
    """The address of a real Kafka, `127.0.0.1:PORT`, up for the whole run."""
    environment = {name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ}
    environment["SLUICE_DATA_DIR"] = str(tmp_path_factory.mktemp("broker"))
    kafka = EmbeddedKafka(settings_module.read(environment), progress=reporter())
    try:
        address = kafka.start()
    except EmbeddedKafkaError as error:
        missing("the embedded Kafka", str(error))
    yield address
    kafka.stop()


@pytest.fixture
def make_settings(broker: str, make_plain_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings of a test's own on the shared Kafka, 4 partitions: `make_settings(SLUICE_SLOTS="100") -> Settings`."""

    def make(**environment: str) -> Settings:
        return make_plain_settings(**{"SLUICE_BROKERS": broker, "SLUICE_PARTITIONS": "4", **environment})

    return make


@pytest.fixture
def make_kafka() -> Callable[[Settings], Awaitable[Kafka]]:
    """A function of settings that is awaited: Kafka, with the five topics of those settings in place."""

    async def make(settings: Settings) -> Kafka:
        kafka = connect(settings, "test")
        await ensure(kafka, settings, embedded=True)
        return kafka

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """`make_settings()`, for who needs nothing special."""
    return make_settings()


@pytest.fixture
async def kafka(settings: Settings, make_kafka: Callable[[Settings], Awaitable[Kafka]]) -> Kafka:
    """Kafka with the five topics of `settings` in place."""
    return await make_kafka(settings)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a port of its own."""
    server = Receiver()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def make_rig(
    make_settings: Callable[..., Settings], make_kafka: Callable[[Settings], Awaitable[Kafka]]
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Makes rigs with the settings given, and stops them in the end."""
    closing: list[Any] = []

    async def make(**environment: str) -> Rig:
        settings = make_settings(**environment)
        kafka = await make_kafka(settings)
        table = ConfigTable(kafka, settings, settings.data_dir / "test" / "table")
        await table.start()
        closing.append(table)
        await table.ready.wait()
        await ensure_log_id(table, created=True)
        producer = kafka.producer()
        await producer.start()
        closing.append(producer)
        return Rig(settings, kafka, table, producer)

    yield make
    for part in reversed(closing):
        await part.stop()
