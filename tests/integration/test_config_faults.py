"""The configuration table through the bad days of a Kafka: compaction in a hurry, and Kafka away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from app.config.table import ConfigTable, TableUnavailable
from app.embedded.errors import EmbeddedKafkaError
from app.embedded.kafka import EmbeddedKafka
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.config_tables import Opened, add, body, tables


@pytest.fixture
def opened(settings: Settings, kafka: Kafka, tmp_path: Path) -> Opened:
    """Tables of the test's topic, each with a store of a name, for `async with`; at their end when entered."""
    return tables(kafka, settings, tmp_path)


@pytest.fixture
async def hurried_cleaner(kafka: Kafka, settings: Settings) -> None:
    """Makes the test's topic one that is compacted within a second or two."""
    admin = kafka.admin()
    await admin.start()
    topic = settings.topic("config")
    await admin.delete_topics([topic])
    async with asyncio.timeout(20):
        while topic in await admin.list_topics():
            await asyncio.sleep(0.05)
    hurry = {
        "cleanup.policy": "compact",
        "segment.ms": "300",
        "max.compaction.lag.ms": "300",
        "min.cleanable.dirty.ratio": "0.0001",
        "max.message.bytes": str(16 << 20),
    }
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=hurry)])
    await admin.close()


async def all_records(kafka: Kafka, topic: str) -> list[Any]:
    """What the topic holds now."""
    consumer = kafka.consumer(auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        end = (await consumer.end_offsets([partition]))[partition]
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        found = []
        while await consumer.position(partition) < end:
            found += (await consumer.getmany(timeout_ms=200)).get(partition, [])
        return found
    finally:
        await consumer.stop()


@pytest.mark.usefixtures("hurried_cleaner")
async def test_a_fresh_load_after_compaction_is_the_same(opened: Opened, settings: Settings, kafka: Kafka) -> None:
    """Races, tombstones and repairs, then a compaction: a new process has the rows of those who read everything."""
    async with opened("a", repair_after_secs=0.3) as first, opened("b", repair_after_secs=0.3) as second:
        for _ in range(4):
            await asyncio.gather(
                *(table.update(f"layout/{n}", add) for table in (first, second) for n in range(10) for _ in range(3))
            )
            await first.update("layout/3", lambda _: None)
            await asyncio.sleep(0.4)
        written = first.position
        async with asyncio.timeout(60):
            while len(await all_records(kafka, settings.topic("config"))) > written // 2:
                await first.update("defaults", add)  # The active segment is never cleaned: it must roll.
                await asyncio.sleep(0.4)
        async with opened("c") as fresh:
            await first.barrier()
            await fresh.barrier()
            assert fresh.records_read < written
            assert {row.key: (row.value, row.offset) for row in fresh.scan("")} == {
                row.key: (row.value, row.offset) for row in first.scan("")
            }
            assert fresh.get("layout/0").body["number"] == 24
            await asyncio.gather(*(table.update("layout/0", add) for table in (first, second, fresh) for _ in range(9)))
            for table in (first, second, fresh):
                await table.barrier()
                assert table.get("layout/0").body["number"] == 51


async def test_kafka_goes_away_and_comes_back(
    tmp_path: Path,
    make_plain_settings: Callable[..., Settings],
    make_kafka: Callable[[Settings], Awaitable[Kafka]],
    missing: Callable[[str, str], NoReturn],
) -> None:
    """While Kafka is away all that needs it fails in bounded time and says what is known; then it goes on by itself."""
    settings = make_plain_settings(SLUICE_TABLE_TIMEOUT_SECS="1.5", SLUICE_PARTITIONS="1")
    broker = EmbeddedKafka(settings)
    try:
        await asyncio.to_thread(broker.start)
    except EmbeddedKafkaError as error:
        missing("the embedded Kafka", str(error))
    try:
        kafka = await make_kafka(settings)
        table = ConfigTable(kafka, settings, tmp_path / "a")
        await table.start()
        row = await table.update("defaults", lambda _: body(1))
        await asyncio.to_thread(broker.stop)
        with pytest.raises(TableUnavailable, match="when Kafka answers"):
            await table.barrier()
        with pytest.raises(TableUnavailable, match="written"):
            await table.update("defaults", lambda _: body(2))
        assert table.get("defaults") == row
        with pytest.raises(TableUnavailable, match="see that Kafka answers"):
            await ConfigTable(
                Kafka(brokers=table._kafka.brokers, max_event_bytes=1024, client_id="test"), settings, tmp_path / "b"
            ).start()
        await asyncio.to_thread(broker.start)

        async def update() -> None:
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(TableUnavailable):
                        await table.update("defaults", lambda _: body(3))
                        return

        await update()
        await table.barrier()
        assert table.get("defaults").body == {"number": 3}
        assert not table.crashed
        await table.stop()
    finally:
        await asyncio.to_thread(broker.stop)
