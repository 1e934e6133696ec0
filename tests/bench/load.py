"""The events of the benches, and the two ways they get into Kafka: preloaded flat out, and at a steady rate."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

FILLER = ("Your order has left our house and will be with you between nine and noon tomorrow. " * 16384).encode()
"""1.3 MB of text, cut to size."""
BATCH_BYTES = 256 * 1024
TICK_SECS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """
    Messages of some instances, each with some conversations, sent round-robin over both.

    Event n belongs to instance `n % instances`; an instance's events go through its conversations in turn, and every
    conversation counts its own sequence from 1.
    """

    instances: int = 1000
    conversations: int = 5
    size_bytes: int = 1024
    """Of the record's value."""
    prefix: str = "bench-"

    def instance(self, number: int) -> str:
        """The name of an instance."""
        return f"{self.prefix}{number:04d}"

    def names(self) -> list[str]:
        """All instances' names."""
        return [self.instance(number) for number in range(self.instances)]

    def expected(self, events: int) -> int:
        """How many events each conversation has; `events` must be a multiple of all conversations."""
        assert events % (self.instances * self.conversations) == 0, "events must be a multiple of all conversations"
        return events // (self.instances * self.conversations)

    @property
    def all_conversations(self) -> int:
        """How many conversations there are in all."""
        return self.instances * self.conversations

    def make(self, partitions: int) -> Callable[[int], tuple[int, bytes, bytes]]:
        """A function from an event's number to its partition, key and value; the value carries the time of the call."""
        keys = [name.encode() for name in self.names()]
        partitioner = DefaultPartitioner()
        everywhere = list(range(partitions))
        homes = [partitioner(key, everywhere, everywhere) for key in keys]

        def make(number: int) -> tuple[int, bytes, bytes]:
            instance = number % self.instances
            turn = number // self.instances
            conversation = turn % self.conversations
            sequence = turn // self.conversations + 1
            now_ns = time.time_ns()
            head = (
                b'{"event":"messages.upsert","data":{"key":{"remoteJid":"55119%05d%03d@s.whatsapp.net",'
                b'"fromMe":false,"id":"3EB0%012X"},"pushName":"Bench %d","messageType":"conversation",'
                b'"messageTimestamp":%d,"source":"android","message":{"conversation":"'
                % (instance, conversation, number, conversation, now_ns // 1_000_000_000)
            )
            tail = b'"},"bench":"%d/%s-%d/%d/%d"}}' % (
                homes[instance],
                keys[instance],
                conversation,
                sequence,
                now_ns,
            )
            text = FILLER[: max(0, self.size_bytes - len(head) - len(tail))]
            return homes[instance], keys[instance], head + text + tail

        return make


async def preload(brokers: str, topic: str, workload: Workload, *, first: int, events: int) -> None:
    """Writes events `first` to `first + events` as fast as the broker takes them, in whole batches a partition."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all", max_request_size=4 * BATCH_BYTES)
    await producer.start()
    try:
        partitions = len(await producer.partitions_for(topic))
        make = workload.make(partitions)
        batches: dict[int, Any] = {}
        pending: set[asyncio.Future[Any]] = set()

        async def ship(partition: int) -> None:
            batch = batches.pop(partition)
            batch.close()
            pending.add(await producer.send_batch(batch, topic, partition=partition))
            done = {future for future in pending if future.done()}
            for future in done:
                future.result()
            pending.difference_update(done)

        sizes = [0] * partitions
        for number in range(first, first + events):
            partition, key, value = make(number)
            if sizes[partition] + len(value) + 256 > BATCH_BYTES // 2:
                await ship(partition)
                sizes[partition] = 0
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=None) is None:
                await ship(partition)
                batch = batches[partition] = producer.create_batch()
                sizes[partition] = 0
                batch.append(key=key, value=value, timestamp=None)
            sizes[partition] += len(value)
        for partition in list(batches):
            await ship(partition)
        for future in pending:
            await future
    finally:
        await producer.stop()


@dataclass(frozen=True, slots=True)
class Sent:
    """What a steady producer did."""

    events: int
    seconds: float
    latest_ms: float
    """The longest that an event was handed over after it was due: large values say that the producer was the limit."""


async def steady(
    brokers: str,
    topic: str,
    workload: Workload,
    *,
    first: int,
    events: int,
    per_second: float,
    on_progress: Callable[[int], None] | None = None,
) -> Sent:
    """Writes events `first` to `first + events` at a steady rate (linger 1 ms, acks all), and waits for all acks."""
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, acks="all", enable_idempotence=True, linger_ms=1, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    try:
        make = workload.make(len(await producer.partitions_for(topic)))
        loop = asyncio.get_running_loop()
        acks: list[asyncio.Future[Any]] = []
        sent = 0
        latest = 0.0
        begin = loop.time()
        while sent < events:
            due = min(events, int((loop.time() - begin) * per_second) + 1)
            while sent < due:
                latest = max(latest, loop.time() - begin - sent / per_second)
                partition, key, value = make(first + sent)
                acks.append(await producer.send(topic, value, key, partition))
                sent += 1
            if len(acks) > 10_000:
                # The oldest are long acknowledged: keeping them all would cost memory, waiting here costs nothing.
                for ack in acks[:5_000]:
                    await ack
                del acks[:5_000]
            if on_progress is not None:
                on_progress(sent)
            await asyncio.sleep(TICK_SECS)
        seconds = loop.time() - begin
        for ack in acks:
            await ack
        return Sent(events=sent, seconds=seconds, latest_ms=latest * 1000)
    finally:
        await producer.stop()
