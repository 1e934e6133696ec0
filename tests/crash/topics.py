"""What the scenarios do to topics behind the engine's back: forced compaction, a log that begins later, a look."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata

AT_ONCE = {"segment.ms": "500", "max.compaction.lag.ms": "500", "min.cleanable.dirty.ratio": "0.0001"}
"""The cleaner comes soon; `delete.retention.ms` stays as it is (fencing.md, What we build, 3)."""
AFTER_30_SECS = {"segment.ms": "500", "min.compaction.lag.ms": "30000", "max.compaction.lag.ms": "31000"}
TOPIC_SOURCE = 1
"""Of a configuration entry: set on the topic itself."""


@asynccontextmanager
async def admin_of(brokers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for one purpose."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def compact(brokers: str, topic: str, settings: Mapping[str, str] = AT_ONCE) -> None:
    """Makes the cleaner go over a topic again and again."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    async with admin_of(brokers) as admin:
        entries = (await admin.describe_configs([resource]))[0].resources[0][4]
        # Altering replaces everything, so what the topic was made with is said again.
        kept = {entry[0]: entry[1] for entry in entries if entry[3] == TOPIC_SOURCE}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {**kept, **settings})])


async def cut(brokers: str, topic: str, share: float) -> int:
    """Moves the start of every partition forward by a share of what it holds; how many records are gone."""
    async with reader(brokers, topic) as (consumer, partitions):
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
    starts = {
        partition: begins[partition] + int((ends[partition] - begins[partition]) * share) for partition in partitions
    }
    async with admin_of(brokers) as admin:
        await admin.delete_records(
            {partition: RecordsToDelete(before_offset=start) for partition, start in starts.items()}
        )
    return sum(starts[partition] - begins[partition] for partition in partitions)


async def unread(brokers: str, topic: str, group: str) -> int:
    """How many records of a topic the group has not acknowledged."""
    async with reader(brokers, topic) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
    async with admin_of(brokers) as admin:
        offsets: Mapping[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group)
    return sum(ends[partition] - (offsets[partition].offset if partition in offsets else 0) for partition in partitions)


async def contents(brokers: str, topic: str) -> tuple[dict[bytes, dict[str, Any]], int, int]:
    """Of a compacted topic: the newest values but tombstones, how many records there are, how many there ever were."""
    found: dict[bytes, dict[str, Any]] = {}
    records = 0
    async with reader(brokers, topic) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                for record in batch:
                    records += 1
                    if record.value is None:
                        found.pop(record.key, None)
                    else:
                        found[record.key] = json.loads(record.value)
    return found, records, sum(ends.values())


@asynccontextmanager
async def reader(brokers: str, topic: str) -> AsyncIterator[tuple[AIOKafkaConsumer, list[TopicPartition]]]:
    """A consumer of all partitions without a group, and the partitions."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        async with admin_of(brokers) as admin:
            (description,) = await admin.describe_topics([topic])
        partitions = [TopicPartition(topic, each["partition"]) for each in description["partitions"]]
        consumer.assign(partitions)
        yield consumer, partitions
    finally:
        await consumer.stop()
