"""The clients of the simulated Kafka, with as much of aiokafka's interface as the engine uses, and its errors."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndTimestamp

from tests.simulation.kafka import Broker
from tests.simulation.loop import Process

HEARTBEATS_A_SESSION = 4


class FencedInstance(KafkaError):
    """Another member has our static name."""


class SimulatedKafka:
    """In the place of `app.log.clients.Kafka`."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process

    def consumer(self, *_: str, group: str | None = None, **settings: Any) -> "Consumer":
        """A consumer, not started."""
        return Consumer(self._broker, self._process, group is not None, settings)

    def producer(self, **settings: Any) -> "Producer":
        """A producer, not started."""
        return Producer(self._broker, self._process, settings.get("transactional_id"))


class Consumer:
    """In the place of AIOKafkaConsumer, with a group or without."""

    def __init__(self, broker: Broker, process: Process, grouped: bool, settings: dict[str, Any]) -> None:
        self._broker = broker
        self._process = process
        self._grouped = grouped
        self._reset = settings.get("auto_offset_reset", "none")
        self._name = settings.get("group_instance_id", "")
        self._session_secs = settings.get("session_timeout_ms", 10_000) / 1000.0
        self._rebalance_secs = settings.get("rebalance_timeout_ms", 10_000) / 1000.0
        self._assigned: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._coordinator = SimpleNamespace(generation=-1)
        self._member_id = ""
        self._topic = ""
        self._listener: Any = None
        self._rejoin = asyncio.Event()
        self._failure: KafkaError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        await self._broker.ask(_nothing)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- membership

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        self._topic = topics[0]
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._coordinate()), loop.create_task(self._beat())]

    async def _coordinate(self) -> None:
        group = self._broker.group
        while True:
            if self._assigned or self._member_id:
                await self._listener.on_partitions_revoked(set(self._assigned))
            self._assigned, self._positions, self._paused = set(), {}, set()
            self._rejoin.clear()
            answer = await self._broker.ask(
                lambda: group.join(self._name, self._member_id, self._session_secs, self._rebalance_secs)
            )
            self._member_id, self._coordinator.generation, numbers = answer
            assigned = {TopicPartition(self._topic, number) for number in numbers}
            starts = await self._broker.ask(lambda assigned=assigned: self._starts(assigned))
            self._assigned, self._positions = assigned, starts
            await self._listener.on_partitions_assigned(assigned)
            self._changed.set()
            await self._rejoin.wait()

    def _starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {
            partition: self._broker.group.offsets.get(partition, self._broker.log(partition).start)
            for partition in sorted(partitions)
        }

    async def _beat(self) -> None:
        group = self._broker.group
        while True:
            await asyncio.sleep(self._session_secs / HEARTBEATS_A_SESSION)
            member_id, generation = self._member_id, self._coordinator.generation
            deaf = self._broker.loop.time() < self._broker.deaf_until.get(self._name, 0.0)
            if deaf or not member_id or self._rejoin.is_set():
                continue
            status = await self._broker.ask(
                lambda member_id=member_id, generation=generation: group.heartbeat(member_id, generation)
            )
            if (member_id, generation) != (self._member_id, self._coordinator.generation):
                continue
            if status == "unknown":
                if group_has(self._broker, self._name):
                    self._failure = FencedInstance(f"simulated: {self._name} is another member now")
                self._coordinator.generation = -1
                self._member_id = ""
            if status != "ok":
                self._rejoin.set()

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        for partition in offsets:
            if partition not in self._assigned:
                raise IllegalStateError(f"simulated: {partition} is not assigned")
        member_id, generation = self._member_id, self._coordinator.generation
        await self._broker.ask(lambda: self._broker.group.commit(member_id, generation, dict(offsets)))

    async def committed(self, partition: TopicPartition) -> int | None:
        found: int | None = await self._broker.ask(lambda: self._broker.group.offsets.get(partition))
        return found

    # -- assignment and places

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._assigned = set(partitions)
        self._positions = {}

    def assignment(self) -> set[TopicPartition]:
        return set(self._assigned)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._check(partition)
        self._positions[partition] = offset
        self._changed.set()

    def pause(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._check(partition)
            self._paused.add(partition)

    def resume(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._check(partition)
            self._paused.discard(partition)
        self._changed.set()

    async def position(self, partition: TopicPartition) -> int:
        self._check(partition)
        return self._positions[partition]

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        found: dict[TopicPartition, int] = await self._broker.ask(
            lambda: {partition: self._broker.log(partition).start for partition in wanted}
        )
        return found

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        found: dict[TopicPartition, int] = await self._broker.ask(
            lambda: {partition: self._broker.log(partition).end for partition in wanted}
        )
        return found

    async def offsets_for_times(
        self, times: dict[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        def find() -> dict[TopicPartition, OffsetAndTimestamp | None]:
            found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
            for partition, since in times.items():
                records = self._broker.log(partition).records
                first = next((record for record in records if record.timestamp >= since), None)
                found[partition] = OffsetAndTimestamp(first.offset, first.timestamp) if first is not None else None
            return found

        answer: dict[TopicPartition, OffsetAndTimestamp | None] = await self._broker.ask(find)
        return answer

    # -- reading

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int = 500
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000.0
        # What was fetched ahead is there at once; else a fetch is under way for a while.
        if self._broker.random.random() < 0.5:
            await asyncio.sleep(self._broker.random.random() * 0.003)
        while True:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            found = self._read(partitions, max_records)
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return found
            waits = [asyncio.ensure_future(self._changed.wait())]
            for partition in self._assigned:
                if partition in partitions or not partitions:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._broker.log(partition).changed.append(future)
                    waits.append(future)  # type: ignore[arg-type]
            try:
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _read(self, partitions: Sequence[TopicPartition], maximum: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        if self._broker.loop.time() < self._broker.away_until:
            return found
        for partition in sorted(self._assigned):
            if (partitions and partition not in partitions) or partition in self._paused or maximum <= 0:
                continue
            log = self._broker.log(partition)
            position = self._positions.get(partition, log.start)
            if position < log.start or position > log.end:
                if self._reset == "none":
                    raise OffsetOutOfRangeError({partition: position})
                position = log.start
            records = log.since(position, maximum)
            maximum -= len(records)
            # A position passes holes by itself.
            self._positions[partition] = records[-1].offset + 1 if records else max(position, log.end)
            if records:
                found[partition] = records
        return found

    def _check(self, partition: TopicPartition) -> None:
        if partition not in self._assigned:
            raise IllegalStateError(f"simulated: {partition} is not assigned")


def group_has(broker: Broker, name: str) -> bool:
    """Whether a member of that static name is in the group."""
    return any(member.name == name for member in broker.group._members.values())


@dataclass(slots=True)
class Batch:
    """Records that go together."""

    records: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def append(self, *, key: bytes, value: bytes | None, timestamp: Any, headers: Any = ()) -> object | None:  # noqa: ARG002  The client's.
        if len(self.records) >= 500:
            return None
        self.records.append((key, value))
        return self

    def close(self) -> None:
        """Takes no more."""


class Producer:
    """In the place of AIOKafkaProducer: with transactions, or plain."""

    def __init__(self, broker: Broker, process: Process, transactional_id: str | None) -> None:
        self._broker = broker
        self._process = process
        self._id = transactional_id
        self._epoch = -1

    async def start(self) -> None:
        transactional_id = self._id
        if transactional_id is not None:
            self._epoch = await self._broker.ask(lambda: self._broker.initialise(transactional_id))
        else:
            await self._broker.ask(_nothing)

    async def stop(self) -> None:
        """Nothing waits in here."""

    def create_batch(self) -> Batch:
        return Batch()

    async def begin_transaction(self) -> None:
        """The broker hears of it with the first batch."""

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        target = TopicPartition(topic, partition)
        records = [(target, key, value) for key, value in batch.records]
        return self._broker.ask(lambda: self._broker.write(self._id, self._epoch, records))

    async def commit_transaction(self) -> None:
        transactional_id = self._id
        assert transactional_id is not None
        await self._broker.ask(lambda: self._broker.commit_transaction(transactional_id, self._epoch))


def _nothing() -> None:
    """A request that only has to be answered."""
