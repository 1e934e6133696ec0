"""Positions for tests: a group that says who is the assignee, and what can be read from `lanes`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition

from app.engine.position import LanePosition
from app.engine.positions import Positions
from app.log.clients import Kafka
from app.settings import Settings


class Group:
    """Stands for the group: says who is the assignee, and notes what it was asked and who lost what."""

    def __init__(self) -> None:
        self.ours = True
        self.offsets: list[int] = []
        self.losses: list[str] = []
        self.failures: list[Exception] = []

    async def still_assigned(self, partition: TopicPartition, offset: int) -> bool:
        assert partition.partition >= 0
        self.offsets.append(offset)
        if self.failures:
            raise self.failures.pop()
        return self.ours

    def lost(self, partition: TopicPartition, reason: str) -> None:
        assert partition.partition >= 0
        self.losses.append(reason)


@asynccontextmanager
async def running(kafka: Kafka, settings: Settings, group: Group | None = None) -> AsyncIterator[Positions]:
    """Positions that are stopped in the end, whatever they came to; a defect in them fails the test."""
    group = group or Group()
    positions = Positions(kafka, settings, group.still_assigned, group.lost)
    await positions.start()
    try:
        yield positions
    finally:
        await positions.stop()
    assert not positions.crashed


def behind(number: int, feed: int, **fields: Any) -> LanePosition:
    """A position of the lane to destination `number`."""
    return LanePosition(
        instance="sales",
        instance_id="a1b2",
        destination=f"destination-{number}",
        state="behind",
        feed=feed,
        **fields,
    )


async def found(kafka: Kafka, settings: Settings, partition: TopicPartition) -> Mapping[bytes, LanePosition]:
    """What a new assignee finds."""
    async with running(kafka, settings) as positions:
        return await positions.acquire(partition, 0)


async def records(kafka: Kafka, settings: Settings, partition: TopicPartition) -> list[tuple[bytes, bytes | None]]:
    """All committed records of the partition of `lanes`, compacted ones excepted."""
    lanes = TopicPartition(settings.topic("lanes"), partition.partition)
    consumer = kafka.consumer(isolation_level="read_committed")
    await consumer.start()
    try:
        end = (await consumer.end_offsets([lanes]))[lanes]
        consumer.assign([lanes])
        consumer.seek(lanes, 0)
        read: list[tuple[bytes, bytes | None]] = []
        while await consumer.position(lanes) < end:
            fetched = await consumer.getmany(lanes, timeout_ms=50)
            read += [(record.key, record.value) for record in fetched.get(lanes, ())]
        return read
    finally:
        await consumer.stop()
