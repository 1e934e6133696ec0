"""
One partition of `lanes`: the transactional producer that writes it, and what is read from it (fencing.md).

The transactional id is the partition's, so that a new assignee's start fences whoever wrote before.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import TypeAdapter

from app.engine.pending import Put
from app.engine.position import LanePosition, decode
from app.log.clients import Kafka

log = structlog.get_logger()

TRANSACTION_TIMEOUT_SECS = 10.0
"""The broker ends a transaction that stays open for longer; we give it up then too."""
START_SECS = 10.0
STEP_SECS = 10.0
"""Longest time that reading may take without getting on."""
BATCH_BYTES = 1_048_000
"""Most bytes of a batch, and one batch is one transaction: just under what the topic takes."""
POSITION_BYTES = 1_000_000
"""Most bytes of one record, key and value."""
FETCH_MS = 50
FETCH_RECORDS = 500
MAX_REASON_CHARACTERS = 300

_SHAPE = TypeAdapter(LanePosition)


class Transactions:
    """
    Whoever started last for a partition may write it; anybody before gets an error and has written nothing since.

    After an error of any kind it must not be used again: make another one.
    """

    def __init__(self, kafka: Kafka, lanes: TopicPartition) -> None:
        self._lanes = lanes
        self._producer = kafka.producer(
            transactional_id=f"{lanes.topic}-{lanes.partition}",
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT_SECS * 1000),
            request_timeout_ms=int(TRANSACTION_TIMEOUT_SECS * 1000),
            # A start waits for the predecessor's open transaction in such steps: 44 ms in all, not 127.
            retry_backoff_ms=20,
            max_batch_size=BATCH_BYTES,
            linger_ms=0,
        )

    async def start(self) -> None:
        """Fences all others; what they committed can be read when this returns. TimeoutError after START_SECS."""
        async with asyncio.timeout(START_SECS):
            await self._producer.start()

    async def write(self, puts: Sequence[Put]) -> None:
        """
        All are durable and visible at once when this returns.

        After an error they are or they are not, all of them; TimeoutError after TRANSACTION_TIMEOUT_SECS.
        """
        producer = self._producer
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT_SECS):
                await producer.begin_transaction()
                batch = producer.create_batch()
                for put in puts:
                    appended = batch.append(key=put.key, value=put.value, timestamp=None)
                    assert appended is not None, "sizes are bounded before"
                batch.close()
                acknowledged = await producer.send_batch(batch, self._lanes.topic, partition=self._lanes.partition)
                # Before the commit: a refused batch that nobody awaits does not abort its transaction.
                await acknowledged
                await producer.commit_transaction()
        except BaseException:
            self._look_at_failure()
            raise

    async def stop(self) -> None:
        """Lets go of the connections. A transaction under way is ended by the next start, or by the broker."""
        try:
            await self._producer.stop()
        except (KafkaError, OSError, TimeoutError) as error:
            log.info("positions.producer_stopped", partition=self._lanes.partition, error=repr(error))

    def _look_at_failure(self) -> None:
        # Private, and optional: what failed besides and nobody looked at is logged as an error when it is freed.
        transaction = getattr(self._producer, "_txn_manager", None)
        accumulator = getattr(self._producer, "_message_accumulator", None)
        waiters = [getattr(transaction, "_transaction_waiter", None)]
        for batches in getattr(accumulator, "_batches", {}).values():
            waiters += [getattr(batch, "_drain_waiter", None) for batch in batches]
        for waiter in waiters:
            if waiter is not None and waiter.done() and not waiter.cancelled():
                waiter.exception()


@dataclass(slots=True)
class Loaded:
    """What stands in a partition of `lanes`, by key: the newest value that can be read, and the bytes it came as."""

    positions: dict[bytes, LanePosition] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)
    skipped: int = 0
    """Records that are no positions."""


async def load(kafka: Kafka, lanes: TopicPartition) -> Loaded:
    """
    Everything committed before the call.

    A record that is no position is passed over, logged and counted; an older one of its key stays valid. Raises the
    client's errors, and TimeoutError when Kafka stops answering.
    """
    # The first question about a topic fails for want of metadata and is asked again after the backoff.
    consumer = kafka.consumer(
        isolation_level="read_committed", retry_backoff_ms=10, request_timeout_ms=int(STEP_SECS * 1000)
    )
    try:
        async with asyncio.timeout(STEP_SECS):
            await consumer.start()
            end = (await consumer.end_offsets([lanes]))[lanes]  # The last stable offset, for this isolation level.
            begin = (await consumer.beginning_offsets([lanes]))[lanes]
        loaded = Loaded()
        if begin < end:
            consumer.assign([lanes])
            consumer.seek(lanes, begin)
            await _read(consumer, lanes, begin, end, loaded)
    finally:
        await consumer.stop()
    return loaded


async def _read(consumer: AIOKafkaConsumer, lanes: TopicPartition, begin: int, end: int, loaded: Loaded) -> None:
    position, got_on_at = begin, time.monotonic()
    # Not "until the last record came": the end may be markers, or records that compaction has taken.
    while position < end:
        fetched = await consumer.getmany(lanes, timeout_ms=FETCH_MS, max_records=FETCH_RECORDS)
        for record in fetched.get(lanes, ()):
            if record.offset < end:
                _apply(record, loaded)
        await asyncio.sleep(0)  # What was fetched ahead comes without suspending.
        before, position = position, await consumer.position(lanes)
        if position > before:
            got_on_at = time.monotonic()
        elif time.monotonic() - got_on_at > STEP_SECS:
            raise TimeoutError(
                f"{lanes.topic} {lanes.partition} was read up to {position} of {end} and no further in {STEP_SECS:g} s"
            )


def _apply(record: ConsumerRecord, loaded: Loaded) -> None:
    key, value = record.key, record.value
    if key is None:
        _skip(record, loaded, "it has no key")
        return
    if value is None:
        loaded.positions.pop(key, None)
        loaded.values.pop(key, None)
        return
    try:
        position = _position(key, value)
    except ValueError as error:
        _skip(record, loaded, " ".join(str(error).split())[:MAX_REASON_CHARACTERS])
        return
    loaded.positions[key] = position
    loaded.values[key] = value


def _position(key: bytes, value: bytes) -> LanePosition:
    position = decode(value)
    _SHAPE.validate_json(value, strict=True)
    if position.key != key:
        raise ValueError(f"it tells of the lane {position.key!r}")
    return position


def _skip(record: ConsumerRecord, loaded: Loaded, reason: str) -> None:
    loaded.skipped += 1
    log.warning(
        "positions.skipped", partition=record.partition, offset=record.offset, key=str(record.key), reason=reason
    )
