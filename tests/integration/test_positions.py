"""Positions of lanes on a real Kafka: what is put, what becomes of it, and what is found again."""

import asyncio

import pytest
from aiokafka import TopicPartition

from app.engine.position import LanePosition, lane_key
from app.engine.positions import NotAssigned, Positions, PositionTooLarge
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.lane_positions import Group, behind, found, records, running
from tests.integration.polling import WAIT_SECS, until


@pytest.fixture
def partition(settings: Settings) -> TopicPartition:
    """One partition of `events`."""
    return TopicPartition(settings.topic("events"), 2)


async def test_what_was_flushed_is_found_again(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """A new assignee finds every position as it was put last, with all it tells."""
    whole = behind(1, 500, reason="unreachable", attempts=3, first_failed_at=1.5, next_attempt_at=2.5)
    parked = LanePosition(
        instance="sales",
        instance_id="a1b2",
        destination="destination-2",
        state="live",
        parked={"4915@s.whatsapp.net": 77, "ключ": 12},
    )
    async with running(kafka, settings) as positions:
        assert await positions.acquire(partition, 0) == {}
        positions.put(partition, whole.key, behind(1, 400))
        positions.put(partition, whole.key, whole)
        positions.put(partition, parked.key, parked)
        await positions.flush(partition)
        await positions.release(partition, write=False)

    assert await found(kafka, settings, partition) == {whole.key: whole, parked.key: parked}


async def test_a_lane_that_is_done_is_not_found(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """After its tombstone a lane has no position, and its neighbour has."""
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        positions.put(partition, behind(1, 5).key, behind(1, 5))
        positions.put(partition, behind(2, 6).key, behind(2, 6))
        await positions.flush(partition)
        positions.put(partition, behind(1, 5).key, None)
        await positions.release(partition, write=True)

    assert await found(kafka, settings, partition) == {behind(2, 6).key: behind(2, 6)}


async def test_a_value_is_taken_as_it_is_when_it_is_put(
    kafka: Kafka, settings: Settings, partition: TopicPartition
) -> None:
    """Keys that park after a put do not come into the position that was put."""
    parked = {"chat": 5}
    position = LanePosition(instance="sales", instance_id="a", destination="d", state="live", parked=parked)
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        positions.put(partition, position.key, position)
        parked["later"] = 1
        await positions.flush(partition)

    assert [dict(position.parked) for position in (await found(kafka, settings, partition)).values()] == [{"chat": 5}]


@pytest.mark.parametrize("urgent", [True, False])
async def test_puts_of_one_lane_become_few_records(
    kafka: Kafka, settings: Settings, partition: TopicPartition, *, urgent: bool
) -> None:
    """A thousand puts of one lane are a handful of records, the last is the newest, and everyone is told."""
    told: list[int] = []
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        for feed in range(1000):
            position = behind(1, feed)
            positions.put(partition, position.key, position, lambda feed=feed: told.append(feed), urgent=urgent)
            if feed % 100 == 0:
                await asyncio.sleep(0)
        await positions.flush(partition)

    assert sorted(told) == list(range(1000))
    written = await records(kafka, settings, partition)
    assert len(written) <= 5
    assert written[-1] == (behind(1, 999).key, behind(1, 999).encode())


async def test_checkpoints_of_one_lane_are_paced(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """Who waits for nothing is written once and then not again at once; an urgent put of the same lane is."""
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        positions.put(partition, behind(1, 1).key, behind(1, 1))
        await until(lambda: positions.waiting(partition) == 0, "the first checkpoint")
        positions.put(partition, behind(1, 2).key, behind(1, 2))
        durable = asyncio.Event()
        positions.put(partition, behind(2, 9).key, behind(2, 9), durable.set, urgent=True)
        await asyncio.wait_for(durable.wait(), WAIT_SECS)

        assert positions.waiting(partition) == 1

        positions.put(partition, behind(1, 3).key, behind(1, 3), urgent=True)
        await until(lambda: positions.waiting(partition) == 0, "the urgent one")

    assert [key for key, _ in await records(kafka, settings, partition)] == [
        behind(1, 0).key,
        behind(2, 0).key,
        behind(1, 0).key,
    ]


async def test_many_lanes_share_a_transaction(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """Five hundred positions put together are one transaction, 501 are two."""
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        for number in range(500):
            positions.put(partition, behind(number, 1).key, behind(number, 1), urgent=True)
        await positions.flush(partition)

        assert (positions.figures.transactions, positions.figures.written) == (1, 500)

        for number in range(501):
            positions.put(partition, behind(number, 2).key, behind(number, 2), urgent=True)
        await positions.flush(partition)

        assert (positions.figures.transactions, positions.figures.written) == (3, 1001)

    assert {position.feed for position in (await found(kafka, settings, partition)).values()} == {1, 2} - {1}


async def test_large_positions_are_written_and_too_large_ones_refused(
    kafka: Kafka, settings: Settings, partition: TopicPartition
) -> None:
    """A lane with thousands of parked keys is written; one beyond the limit is refused in words that help."""

    def parking(keys: int, number: int = 1) -> LanePosition:
        return LanePosition(
            instance="sales",
            instance_id="a1b2",
            destination=f"destination-{number}",
            state="live",
            parked={f"{key:040}@s.whatsapp.net": key for key in range(keys)},
        )

    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        for number in range(4):
            positions.put(partition, parking(0, number).key, parking(14_000, number), urgent=True)
        await positions.flush(partition)
        with pytest.raises(PositionTooLarge, match=r"20000 keys"):
            positions.put(partition, parking(0).key, parking(20_000))

    assert [len(position.parked) for position in (await found(kafka, settings, partition)).values()] == [14_000] * 4


async def test_what_is_not_ours_is_not_taken(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """Before a partition is acquired and after it was released nothing is taken; a key must be the position's."""
    group = Group()
    async with running(kafka, settings, group) as positions:
        with pytest.raises(NotAssigned):
            positions.put(partition, behind(1, 1).key, behind(1, 1))
        await positions.acquire(partition, 1234)
        with pytest.raises(ValueError, match="other"):
            positions.put(partition, lane_key("a1b2", "other"), behind(1, 1))
        with pytest.raises(ValueError, match="release"):
            await positions.acquire(partition, 0)
        await positions.release(partition, write=True)
        await positions.release(partition, write=True)
        with pytest.raises(NotAssigned):
            positions.put(partition, behind(1, 1).key, behind(1, 1))
        with pytest.raises(NotAssigned):
            await positions.flush(partition)

    assert (group.offsets, group.losses) == ([1234], [])


async def test_release_without_writing_drops_what_waits(
    kafka: Kafka, settings: Settings, partition: TopicPartition
) -> None:
    """What was put right before such a release is never written, never told durable, and who flushes is told."""
    told: list[str] = []
    async with running(kafka, settings) as positions:
        await positions.acquire(partition, 0)
        positions.put(partition, behind(1, 1).key, behind(1, 1), lambda: told.append("durable"), urgent=True)
        flush = asyncio.ensure_future(positions.flush(partition))
        await asyncio.sleep(0)
        await positions.release(partition, write=False)
        with pytest.raises(NotAssigned):
            await flush

    assert told == []
    assert await found(kafka, settings, partition) == {}


async def test_loading_skips_what_is_no_position(kafka: Kafka, settings: Settings, partition: TopicPartition) -> None:
    """Records that are no positions are passed over and counted; an older position of the same lane stays."""
    position = behind(1, 42)
    producer = kafka.producer()
    await producer.start()
    broken = [
        (position.key, b"not json"),
        (position.key, b"[]"),
        (position.key, b'{"format": 99}'),
        (position.key, b'{"format": 1, "destination": "d"}'),
        (position.key, position.encode().replace(b"42", b'"42"')),
        (lane_key("a1b2", "other"), position.encode()),
        (b"\xff", b"\xff"),
    ]
    try:
        for key, value in [(position.key, position.encode()), *broken, (b"never seen", None)]:
            await producer.send_and_wait(settings.topic("lanes"), key=key, value=value, partition=partition.partition)
    finally:
        await producer.stop()

    async with running(kafka, settings) as positions:
        assert await positions.acquire(partition, 0) == {position.key: position}
        assert positions.figures.skipped == len(broken)
        positions.put(partition, position.key, behind(1, 43))
        await positions.flush(partition)

    assert await found(kafka, settings, partition) == {position.key: behind(1, 43)}


async def test_a_defect_in_a_call_back_ends_the_service(
    kafka: Kafka, settings: Settings, partition: TopicPartition
) -> None:
    """Whoever is told and raises makes the worker start again; nobody goes on with half of what was told."""
    positions = Positions(kafka, settings, Group().still_assigned, Group().lost)
    await positions.start()
    try:
        await positions.acquire(partition, 0)

        def fail() -> None:
            raise RuntimeError("told")

        positions.put(partition, behind(1, 1).key, behind(1, 1), fail, urgent=True)
        await until(lambda: positions.crashed, "the service to crash")
        with pytest.raises(NotAssigned):
            await positions.flush(partition)
    finally:
        await positions.stop()
