"""Who may write positions: several writers of one partition on a real Kafka, and Kafka away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from app.embedded.kafka import EmbeddedKafka
from app.engine import faults, partition_writer, transactions
from app.engine.position import LanePosition
from app.engine.positions import NotAssigned, Positions
from app.log.clients import Kafka, connect
from app.log.topics import ensure
from app.settings import Settings
from tests.integration.polling import WAIT_SECS, until


class Group:
    """Stands for the group: `assignee` is who holds the partition, and everybody asks under a name."""

    def __init__(self, assignee: str) -> None:
        self.assignee = assignee
        self.asked: list[str] = []
        self.losses: list[tuple[str, str]] = []
        self.failing: set[str] = set()

    def member(self, name: str) -> "Member":
        return Member(self, name)


class Member:
    """One worker as its positions see it."""

    def __init__(self, group: Group, name: str) -> None:
        self._group = group
        self._name = name
        self.frozen = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def still_assigned(self, partition: TopicPartition, offset: int) -> bool:
        assert (partition.partition, offset) == (1, 7)
        self._group.asked.append(self._name)
        self.frozen.set()
        await self.go_on.wait()
        if self._name in self._group.failing:
            self._group.failing.discard(self._name)
            raise KafkaConnectionError
        return self._group.assignee == self._name

    def lost(self, partition: TopicPartition, reason: str) -> None:
        assert partition.partition == 1
        self._group.losses.append((self._name, reason))


class Worker:
    """A member with its positions; what became durable is noted in `durable`."""

    def __init__(self, positions: Positions, member: Member, partition: TopicPartition) -> None:
        self.positions = positions
        self.member = member
        self.partition = partition
        self.durable: list[int] = []

    async def acquire(self) -> dict[bytes, LanePosition]:
        return dict(await self.positions.acquire(self.partition, 7))

    def put(self, feed: int, lane: int = 1) -> None:
        self.positions.put(
            self.partition,
            position(feed, lane).key,
            position(feed, lane),
            lambda: self.durable.append(feed),
            urgent=True,
        )

    async def flush(self) -> None:
        await asyncio.wait_for(self.positions.flush(self.partition), WAIT_SECS)


Workers = Callable[[Group, str], AbstractAsyncContextManager[Worker]]
Point = Callable[[str, Callable[[], None]], None]


def position(feed: int, lane: int = 1) -> LanePosition:
    """A position of lane number `lane`."""
    return LanePosition(
        instance="sales", instance_id="a1b2", destination=f"destination-{lane}", state="behind", feed=feed
    )


@pytest.fixture
def point() -> Iterator[Point]:
    """`point(name, action)` makes the fault point of that name call `action` once."""
    actions: dict[str, Callable[[], None]] = {}

    def hook(name: str) -> None:
        if action := actions.pop(name, None):
            action()

    faults.install(hook)
    yield actions.__setitem__
    faults.install(None)


@pytest.fixture
def workers(kafka: Kafka, settings: Settings) -> Workers:
    """`workers(group, name)` is a context in which that worker runs; a defect in it fails the test."""

    @asynccontextmanager
    async def run(group: Group, name: str) -> AsyncIterator[Worker]:
        member = group.member(name)
        positions = Positions(kafka, settings, member.still_assigned, member.lost)
        await positions.start()
        try:
            yield Worker(positions, member, TopicPartition(settings.topic("events"), 1))
        finally:
            await positions.stop()
        assert not positions.crashed

    return run


async def test_a_worker_that_was_replaced_writes_no_more(workers: Workers) -> None:
    """What it puts after the new assignee has loaded never becomes durable; it is told once that it lost."""
    group = Group("first")
    async with workers(group, "first") as first, workers(group, "second") as second:
        await first.acquire()
        first.put(100)
        await first.flush()
        group.assignee = "second"

        assert await second.acquire() == {position(100).key: position(100)}

        second.put(200)
        await second.flush()
        first.put(101)
        first.put(5, lane=2)
        with pytest.raises(NotAssigned):
            await first.flush()
        with pytest.raises(NotAssigned):
            first.put(102)
        second.put(201)
        await second.flush()

        assert first.durable == [100]
        assert [name for name, _ in group.losses] == ["first"]
        assert second.durable == [200, 201]
        assert second.positions.figures.reopened == 0

    group.assignee = "third"
    async with workers(group, "third") as third:
        assert await third.acquire() == {position(201).key: position(201)}


async def test_a_worker_that_slept_before_the_check_hurts_nobody(workers: Workers) -> None:
    """It may fence the assignee, but is refused before it writes; the assignee goes on and nothing is lost."""
    group = Group("late")
    async with workers(group, "late") as late, workers(group, "rightful") as rightful:
        late.member.go_on.clear()
        acquiring = asyncio.ensure_future(late.acquire())
        await asyncio.wait_for(late.member.frozen.wait(), WAIT_SECS)
        group.assignee = "rightful"
        await rightful.acquire()
        rightful.put(1)
        await rightful.flush()
        late.member.go_on.set()
        with pytest.raises(NotAssigned):
            await acquiring

        # And the sleeper that wakes before it has initialised: then it is the assignee that is fenced.
        for feed in range(2, 5):
            with pytest.raises(NotAssigned):
                await late.acquire()
            rightful.put(feed)
            rightful.put(feed * 10, lane=feed)
            await rightful.flush()

        assert rightful.durable == [1, 2, 20, 3, 30, 4, 40]
        assert rightful.positions.figures.reopened == 3
        assert group.losses == []

    group.assignee = "next"
    async with workers(group, "next") as following:
        assert {found.feed for found in (await following.acquire()).values()} == {4, 20, 30, 40}


async def test_a_transaction_whose_answer_was_lost_is_written_again(workers: Workers, point: Point) -> None:
    """Committed without our knowing: that is no foreign write, and who waits is told after the repetition."""
    group = Group("only")

    def fail() -> None:
        raise KafkaConnectionError("the answer was lost")

    async with workers(group, "only") as only:
        await only.acquire()
        only.put(1)
        await only.flush()
        point("positions.written", fail)
        only.put(2)
        only.put(3, lane=2)
        await only.flush()
        point("positions.write", fail)
        only.put(4)
        await only.flush()

        assert only.durable == [1, 2, 3, 4]
        assert only.positions.figures.reopened == 2
        assert group.losses == []


async def test_a_newer_value_that_came_during_a_failure_wins(workers: Workers, point: Point) -> None:
    """What was under way when it failed is not written over what was put meanwhile, and both are told durable."""
    group = Group("only")
    async with workers(group, "only") as only:
        await only.acquire()

        def fail() -> None:
            only.put(2)
            raise KafkaConnectionError("failed while a newer value came")

        point("positions.write", fail)
        only.put(1)
        await until(lambda: only.durable == [1, 2], "both to be told")

        assert only.positions.figures.written == 1

    group.assignee = "next"
    async with workers(group, "next") as following:
        assert await following.acquire() == {position(2).key: position(2)}


async def test_positions_that_somebody_else_wrote_are_not_written_over(
    kafka: Kafka, settings: Settings, workers: Workers
) -> None:
    """After an error the partition holds what we did not write: we let go of it, whatever the group says."""
    group = Group("only")
    async with workers(group, "only") as only:
        await only.acquire()
        only.put(1)
        await only.flush()
        # A stranger: fences us, and writes past all checks.
        lanes = TopicPartition(settings.topic("lanes"), 1)
        stranger = transactions.Transactions(kafka, lanes)
        await stranger.start()
        await stranger.write([partition_writer.Put(position(9).key, position(9).encode(), urgent=True)])
        await stranger.stop()
        only.put(2)
        with pytest.raises(NotAssigned, match="somebody else"):
            await only.flush()

        assert only.durable == [1]
        assert [name for name, _ in group.losses] == ["only"]


async def test_the_group_that_does_not_answer_is_asked_again(workers: Workers) -> None:
    """An error of the check is no answer: neither is the partition lost, nor is it written."""
    group = Group("only")
    group.failing = {"only"}
    async with workers(group, "only") as only:
        await only.acquire()
        group.failing = {"only"}
        group.assignee = "other"
        async with workers(group, "other") as other:
            await other.acquire()
            only.put(1)
            with pytest.raises(NotAssigned):
                await only.flush()

        assert group.asked.count("only") == 4
        assert only.durable == []
        assert only.positions.figures.failures == 3


async def test_a_release_while_it_is_acquired_ends_that(workers: Workers) -> None:
    """A partition revoked while it loads is not ours afterwards, and can be acquired again at once."""
    group = Group("only")
    async with workers(group, "only") as only:
        only.member.go_on.clear()
        acquiring = asyncio.ensure_future(only.acquire())
        await asyncio.wait_for(only.member.frozen.wait(), WAIT_SECS)
        await only.positions.release(only.partition, write=False)
        only.member.go_on.set()
        assert await only.acquire() == {}
        with pytest.raises(NotAssigned):
            await acquiring
        only.put(1)
        await only.flush()

        assert only.durable == [1]


@pytest.mark.usefixtures("broker")
async def test_writes_wait_while_kafka_does_not_answer(
    make_plain_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Kafka frozen for longer than a transaction may take nothing is told durable; afterwards everything is."""
    monkeypatch.setattr(transactions, "TRANSACTION_TIMEOUT_SECS", 1.0)
    monkeypatch.setattr(transactions, "START_SECS", 1.0)
    settings = make_plain_settings(SLUICE_PARTITIONS="2")
    embedded = EmbeddedKafka(settings)
    await asyncio.to_thread(embedded.start)
    try:
        kafka = connect(settings, "test")
        await ensure(kafka, settings)
        member = Group("only").member("only")
        positions = Positions(kafka, settings, member.still_assigned, member.lost)
        await positions.start()
        only = Worker(positions, member, TopicPartition(settings.topic("events"), 1))
        await only.acquire()
        only.put(1)
        await only.flush()
        state = embedded.home.read()
        assert state is not None
        assert state.process is not None
        os.kill(state.process.pid, signal.SIGSTOP)
        only.put(2)
        only.put(3, lane=2)
        await until(lambda: positions.figures.failures >= 3, "three attempts")

        assert only.durable == [1]

        os.kill(state.process.pid, signal.SIGCONT)
        await only.flush()

        assert only.durable == [1, 2, 3]
        await positions.stop()
    finally:
        await asyncio.to_thread(embedded.stop)
