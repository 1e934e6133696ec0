"""Writes batches of records for the engine, and does not give up while the worker lives."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from mode import Service

from app.log.clients import Kafka

log = structlog.get_logger()

SHORTEST_BACKOFF_SECS = 0.1
LONGEST_BACKOFF_SECS = 5.0


class Record(NamedTuple):
    """One record to be written: key, value, headers."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Writer(Service):
    """An idempotent producer whose writes last until they are acknowledged by all in-sync replicas."""

    def __init__(self, kafka: Kafka, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()
        self.failures = 0
        """Writes that were not acknowledged and were made again."""

    async def on_start(self) -> None:
        """Connects."""
        self._producer = await self._connected()

    async def on_stop(self) -> None:
        """Lets go of the connection; what nobody awaits is not written."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def write(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """
        Returns when all records are durable, in their order.

        While Kafka is away it waits and tries again, at most every LONGEST_BACKOFF_SECS, for as long as the caller
        waits. Records may be doubled when an acknowledgement was lost; readers count by delivery id.
        MessageSizeTooLargeError is the caller's: no repetition would help.
        """
        backoff = SHORTEST_BACKOFF_SECS
        position = 0
        while position < len(records):
            producer = self._producer
            assert producer is not None
            batch = producer.create_batch()
            count = 0
            for record in records[position:]:
                appended = batch.append(
                    key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
                )
                if appended is None:
                    break
                count += 1
            try:
                acknowledged = await producer.send_batch(batch, topic, partition=partition)
                await acknowledged
            except MessageSizeTooLargeError:
                raise
            except KafkaError as error:
                self.failures += 1
                log.warning(
                    "write.failed",
                    topic=topic,
                    partition=partition,
                    records=count,
                    error=repr(error),
                    wait_secs=backoff,
                )
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2.0, LONGEST_BACKOFF_SECS)
                await self._renew(producer)
            else:
                position += count
                backoff = SHORTEST_BACKOFF_SECS

    async def _renew(self, failed: AIOKafkaProducer) -> None:
        """Another producer in place of one that failed: an idempotent one does not recover from every error."""
        async with self._renewing:
            current = self._producer
            if current is None or current is not failed:
                return
            try:
                fresh = await self._connected()
            except KafkaError as error:
                log.warning("write.reconnect_failed", error=repr(error))
                return
            self._producer = fresh
            await current.stop()

    async def _connected(self) -> AIOKafkaProducer:
        producer = self._kafka.producer()
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer
