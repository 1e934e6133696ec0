"""The topic `lanes` after the cleaner went over it."""

import asyncio
import time
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.engine.position import LanePosition
from app.engine.positions import Positions
from app.engine.transactions import Transactions
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.lane_positions import Group, behind, found, records, running
from tests.integration.polling import WAIT_SECS


async def test_all_is_found_after_compaction(kafka: Kafka, settings: Settings) -> None:
    """After the cleaner went over `lanes`, aborted transactions included, a fresh load gives what was written last."""
    partition, lanes = TopicPartition(settings.topic("events"), 2), TopicPartition(settings.topic("lanes"), 2)
    admin = kafka.admin()
    await admin.start()
    try:
        await _compact_at_once(admin, lanes.topic)
        group = Group()
        expected: dict[bytes, LanePosition] = {}
        async with running(kafka, settings, group) as positions:
            await positions.acquire(partition, 0)
            for feed in range(12):
                for number in range(40):
                    position = behind(number, feed)
                    if (number + feed) % 7 == 0:
                        expected.pop(position.key, None)
                        positions.put(partition, position.key, None, urgent=True)
                    else:
                        expected[position.key] = position
                        positions.put(partition, position.key, position, urgent=True)
                await positions.flush(partition)
                if feed % 4 == 1:
                    await _leave_open(kafka, lanes)
                await asyncio.sleep(0.3)
            written = len(await records(kafka, settings, partition))
            await _until_compacted(kafka, settings, partition, positions, expected, written)

        assert (group.losses, positions.figures.reopened) == ([], 3)
        assert await found(kafka, settings, partition) == expected
    finally:
        await admin.close()


async def _compact_at_once(admin: Any, topic: str) -> None:
    """Makes the cleaner come soon. `delete.retention.ms` stays: see fencing.md, What we build, 3."""
    entries = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))[0].resources[0][4]
    configs = {entry[0]: entry[1] for entry in entries}
    assert configs["delete.retention.ms"] == "172800000"
    await admin.alter_configs(
        [
            ConfigResource(
                ConfigResourceType.TOPIC,
                topic,
                {
                    "cleanup.policy": "compact",
                    "delete.retention.ms": configs["delete.retention.ms"],
                    "segment.ms": "500",
                    "max.compaction.lag.ms": "500",
                    "min.cleanable.dirty.ratio": "0.0001",
                },
            )
        ]
    )


async def _leave_open(kafka: Kafka, lanes: TopicPartition) -> None:
    """Fences the writer, sends a position and goes away before the commit: the writer's next start aborts that."""
    transactions = Transactions(kafka, lanes)
    await transactions.start()
    producer = transactions._producer
    await producer.begin_transaction()
    stray = behind(3, 999)
    await producer.send_and_wait(lanes.topic, key=stray.key, value=stray.encode(), partition=lanes.partition)
    await transactions.stop()


async def _until_compacted(
    kafka: Kafka,
    settings: Settings,
    partition: TopicPartition,
    positions: Positions,
    expected: dict[bytes, LanePosition],
    written: int,
) -> None:
    """Goes on writing, since the last segment is never compacted, until half of all records are gone."""
    deadline = time.monotonic() + 2 * WAIT_SECS
    feed = 1000
    while len(await records(kafka, settings, partition)) > written // 2:
        assert time.monotonic() < deadline, "the cleaner did not come"
        feed += 1
        expected[behind(0, feed).key] = behind(0, feed)
        positions.put(partition, behind(0, feed).key, behind(0, feed), urgent=True)
        await positions.flush(partition)
        await asyncio.sleep(0.8)
