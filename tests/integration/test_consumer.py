"""The consumer of the hot topic on a real Kafka: each of its known traps is a test here."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from app.engine.consumer import HotConsumer, MembershipLost
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.polling import until


class Reader:
    """An intake that notes what comes; `settle` marks at once what it takes."""

    def __init__(self, *, release: bool = True, settle: bool = True) -> None:
        self.consumer: HotConsumer
        self.offsets: dict[int, list[int]] = defaultdict(list)
        self.assignments: list[Sequence[TopicPartition]] = []
        self.losses: list[bool] = []
        self.fail_in = ""
        self._release = release
        self._settle = settle

    @property
    def count(self) -> int:
        return sum(map(len, self.offsets.values()))

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self.assignments.append(partitions)
        self._maybe_fail("assigned")
        if self._release:
            for partition in partitions:
                self.consumer.release(partition)

    def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        self._maybe_fail("take")
        for record in records:
            self.offsets[partition.partition].append(record.offset)
        if self._settle:
            self.consumer.mark(partition, records[-1].offset + 1)

    async def revoked(self, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        self.losses.append(lost)
        self._maybe_fail("revoked")
        for partition in partitions:
            self.consumer.release(partition)

    def _maybe_fail(self, where: str) -> None:
        if where == self.fail_in:
            raise RuntimeError(f"failed in {where}")


@asynccontextmanager
async def running(
    kafka: Kafka, settings: Settings, reader: Any, name: str = "worker-0", *, started: bool = True
) -> AsyncIterator[HotConsumer]:
    """A consumer that is stopped in the end, whatever it came to."""
    consumer = HotConsumer(kafka, settings, reader, name)
    reader.consumer = consumer
    if started:
        await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def produce(kafka: Kafka, settings: Settings, count: int, *, partition: int | None = None) -> None:
    """Writes `count` records, round the partitions or to one of them."""
    producer = kafka.producer()
    await producer.start()
    try:
        sends = [
            await producer.send(
                settings.topic("events"), b"%d" % number, partition=number % 4 if partition is None else partition
            )
            for number in range(count)
        ]
        await asyncio.gather(*sends)
    finally:
        await producer.stop()


async def test_nothing_comes_before_it_is_released(kafka: Kafka, settings: Settings) -> None:
    """Records of a partition wait until the intake has loaded its state, and then all come."""
    await produce(kafka, settings, 400)
    reader = Reader(release=False)
    async with running(kafka, settings, reader) as consumer:
        await until(lambda: bool(reader.assignments), "an assignment")
        await asyncio.sleep(0.5)

        assert reader.count == 0

        for partition in consumer.partitions:
            consumer.release(partition)
        await until(lambda: reader.count == 400, "all 400 records")


class Stuttering(Reader):
    """Holds after every batch, and lets go a little later."""

    def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        super().take(partition, records)
        self.consumer.hold(partition)
        asyncio.get_running_loop().call_later(0.005, self.consumer.release, partition)


async def test_holding_loses_and_repeats_nothing(kafka: Kafka, settings: Settings) -> None:
    """An intake that holds its partitions all the time still gets each record once and in order."""
    await produce(kafka, settings, 2000)
    reader = Stuttering()
    async with running(kafka, settings, reader):
        await until(lambda: reader.count >= 2000, "all 2,000 records")
        await asyncio.sleep(0.2)

    assert dict(reader.offsets) == {number: list(range(500)) for number in range(4)}


async def test_a_held_partition_does_not_stop_the_others(kafka: Kafka, settings: Settings) -> None:
    """While one partition is held with records waiting, the others are read to their end."""
    await produce(kafka, settings, 2000)
    reader = Reader(release=False)
    async with running(kafka, settings, reader) as consumer:
        await until(lambda: bool(reader.assignments), "an assignment")
        for partition in consumer.partitions[1:]:
            consumer.release(partition)
        await until(lambda: reader.count == 1500, "the records of three partitions")

        assert 0 not in reader.offsets


async def test_a_restart_begins_at_what_was_marked(kafka: Kafka, settings: Settings) -> None:
    """What was marked before the stop is committed; what was only taken comes again."""
    await produce(kafka, settings, 100, partition=0)
    first = Reader(settle=False)
    async with running(kafka, settings, first) as consumer:
        await until(lambda: first.count == 100, "all records")
        consumer.mark(consumer.partitions[0], 60)
    second = Reader()
    async with running(kafka, settings, second):
        await until(lambda: second.count == 40, "the 40 that were not marked")

    assert second.offsets[0] == list(range(60, 100))


@pytest.mark.parametrize("where", ["assigned", "take"])
async def test_a_defect_of_the_intake_ends_the_service(kafka: Kafka, settings: Settings, where: str) -> None:
    """An exception of the intake is not swallowed by the client: the service crashes, and so does its process."""
    await produce(kafka, settings, 4)
    reader = Reader()
    reader.fail_in = where
    async with running(kafka, settings, reader) as consumer:
        await until(lambda: consumer.crash_reason is not None, "a crash")

        assert str(consumer.crash_reason) == f"failed in {where}"


async def test_partitions_move_without_loss_or_repetition(kafka: Kafka, settings: Settings) -> None:
    """A second worker joins and leaves under way: each record is taken once, by one of the two."""
    first, second = Reader(), Reader()
    producing = asyncio.create_task(produce_slowly(kafka, settings, 1500))
    async with running(kafka, settings, first, "worker-0"):
        await until(lambda: first.count > 100, "the first records")
        async with running(kafka, settings, second, "worker-1"):
            await until(lambda: second.count > 100, "records at the second worker")
            await producing
            await until(lambda: first.count + second.count >= 1500, "all records")
    taken = sorted(
        (number, offset)
        for reader in (first, second)
        for number, offsets in reader.offsets.items()
        for offset in offsets
    )

    assert len(taken) == 1500
    assert len(set(taken)) == 1500


async def produce_slowly(kafka: Kafka, settings: Settings, count: int) -> None:
    """About 500 records a second."""
    producer = kafka.producer()
    await producer.start()
    try:
        for number in range(count):
            await producer.send(settings.topic("events"), b"x", partition=number % 4)
            await asyncio.sleep(0.002)
        await producer.flush()
    finally:
        await producer.stop()


async def test_two_workers_of_one_name_do_not_fence_each_other_for_ever(kafka: Kafka, settings: Settings) -> None:
    """The one that lost its place says so and ends, instead of taking it back."""
    first, second = Reader(), Reader()
    async with running(kafka, settings, first) as one:
        await until(lambda: bool(first.assignments), "an assignment")
        async with running(kafka, settings, second):
            await until(lambda: one.crash_reason is not None, "the end of the first")

            assert not isinstance(one.crash_reason, RuntimeError)
            assert True in first.losses or not isinstance(one.crash_reason, MembershipLost)


class Greedy(Reader):
    """Releases its partitions again while it is drained, as an engine does whose slots become free."""

    def __init__(self) -> None:
        super().__init__()
        self.after = 0
        self.draining = False

    def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        super().take(partition, records)
        self.after += self.draining

    async def revoked(self, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        self.draining = True
        await super().revoked(partitions, lost=lost)
        await asyncio.sleep(0.3)


async def test_a_release_while_draining_brings_nothing(kafka: Kafka, settings: Settings) -> None:
    """Between the revocation and the next assignment no record is handed out."""
    await produce(kafka, settings, 100)
    reader = Greedy()
    async with running(kafka, settings, reader):
        await until(lambda: reader.count == 100, "all records")
        await produce(kafka, settings, 4)
        await until(lambda: reader.count == 104, "the later ones")
    await produce(kafka, settings, 4)

    assert reader.after == 0
