"""Durable lanes: receivers that are away, conversations that fail, restarts in between; on the real log."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import TopicPartition

from tests.integration.engine_rig import Receiver, Rig
from tests.integration.polling import until

MakeRig = Callable[..., Awaitable[Rig]]


async def committed(rig: Rig) -> int:
    """What the workers' group has committed for partition 0; -1 when nothing."""
    admin = rig.kafka.admin()
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(rig.settings.topic("workers"))
    finally:
        await admin.close()
    found = offsets.get(TopicPartition(rig.settings.topic("events"), 0))
    return found.offset if found is not None else -1


async def until_committed(rig: Rig, offset: int) -> None:
    """Returns when everything below `offset` is acknowledged."""
    async with asyncio.timeout(20):
        while await committed(rig) < offset:
            await asyncio.sleep(0.1)


def event(mark: int, conversation: int) -> dict[str, Any]:
    """The data of a message in a conversation."""
    return {"key": {"remoteJid": f"{conversation}@s.whatsapp.net"}, "mark": mark}


async def send_all(rig: Rig, count: int, *, conversations: int = 10, first: int = 0) -> None:
    """Sends `count` messages round the conversations, all to partition 0."""
    sends = []
    for mark in range(first, first + count):
        value = json.dumps({"event": "messages.upsert", "data": event(mark, mark % conversations)}).encode()
        sends.append(await rig.producer.send(rig.settings.topic("events"), value, key=b"sales", partition=0))
        if len(sends) == 500:
            await asyncio.gather(*sends)
            sends.clear()
    await asyncio.gather(*sends)


def in_order(receiver: Receiver, count: int, conversations: int = 10) -> None:
    """Everything arrived once, and in order within each conversation."""
    marks = [mark["mark"] for mark in receiver.marks()]
    assert sorted(marks) == list(range(count))
    for conversation in range(conversations):
        assert [mark for mark in marks if mark % conversations == conversation] == list(
            range(conversation, count, conversations)
        )


async def positions(rig: Rig) -> dict[bytes, dict[str, Any]]:
    """What stands in `lanes` now."""
    consumer = rig.kafka.consumer(auto_offset_reset="earliest", isolation_level="read_committed")
    await consumer.start()
    found: dict[bytes, dict[str, Any]] = {}
    try:
        partitions = [TopicPartition(rig.settings.topic("lanes"), number) for number in range(4)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    if record.value is None:
                        found.pop(record.key, None)
                    else:
                        found[record.key] = json.loads(record.value)
    finally:
        await consumer.stop()
    return found


@pytest.fixture
async def rig(make_rig: MakeRig) -> Rig:
    """A rig whose retries come every second."""
    return await make_rig(WEBHOOK_RETRY_INITIAL_DELAY_SECONDS="1", WEBHOOK_RETRY_USE_EXPONENTIAL_BACKOFF="false")


async def test_a_receiver_that_is_away_holds_nobody(rig: Rig, receiver: Receiver) -> None:
    """While it answers 503 the log is acknowledged to its end; afterwards everything arrives once and in order."""
    receiver.answer = lambda _: 503
    await rig.configure("sales", receiver.url)
    await send_all(rig, 2000)
    async with rig.engine():
        await until_committed(rig, 2000)

        assert receiver.bodies == []

        receiver.answer = lambda _: 200
        await until(lambda: len(receiver.bodies) >= 2000, "the backlog")
        await send_all(rig, 100, first=2000)
        await until(lambda: len(receiver.bodies) >= 2100, "what came after it")

    in_order(receiver, 2100)
    assert await positions(rig) == {}


async def test_a_backlog_survives_its_worker(rig: Rig, receiver: Receiver) -> None:
    """A worker that stops while a receiver is away leaves the backlog to the next: nothing is lost or doubled."""
    receiver.answer = lambda _: 503
    await rig.configure("sales", receiver.url)
    await send_all(rig, 1000)
    async with rig.engine():
        await until_committed(rig, 1000)
    (position,) = (await positions(rig)).values()

    assert (position["state"], position["feed"]) == ("behind", 0)

    await send_all(rig, 100, first=1000)
    receiver.answer = lambda _: 200
    async with rig.engine():
        await until(lambda: len(receiver.bodies) >= 1100, "the backlog")
        await until_committed(rig, 1100)
        await asyncio.sleep(1.0)

    in_order(receiver, 1100)


async def test_a_failing_conversation_parks_alone(rig: Rig, receiver: Receiver) -> None:
    """One conversation fails, the nine others go on and are acknowledged; then it goes on in order."""
    receiver.answer = lambda body: 500 if body["data"]["mark"] % 10 == 3 else 200
    await rig.configure("sales", receiver.url)
    await send_all(rig, 500)
    async with rig.engine():
        await until(lambda: len(receiver.bodies) >= 450, "the other conversations")
        await until_committed(rig, 500)
        (position,) = (await positions(rig)).values()

        assert position["state"] == "live"
        assert position["parked"] == {"3@s.whatsapp.net": 3}

        receiver.answer = lambda _: 200
        await until(lambda: len(receiver.bodies) >= 500, "the one that failed")
        await send_all(rig, 100, first=500)
        await until(lambda: len(receiver.bodies) >= 600, "what came after it")

    in_order(receiver, 600)


async def test_a_parked_conversation_survives_its_worker(rig: Rig, receiver: Receiver) -> None:
    """The next worker goes on with it where it stood, and doubles nothing of the others."""
    receiver.answer = lambda body: 500 if body["data"]["mark"] % 10 == 3 else 200
    await rig.configure("sales", receiver.url)
    await send_all(rig, 200)
    async with rig.engine():
        await until(lambda: len(receiver.bodies) >= 180, "the other conversations")
        await until_committed(rig, 200)
    receiver.answer = lambda _: 200
    await send_all(rig, 100, first=200)
    async with rig.engine():
        await until(lambda: len(receiver.bodies) >= 300, "all")
        await asyncio.sleep(1.0)

    in_order(receiver, 300)


async def test_a_slow_receiver_does_not_hold_the_commit(rig: Rig, receiver: Receiver) -> None:
    """An answer that takes eight seconds: what it did not answer yet is written down, and the commit goes on."""

    async def slow() -> int:
        await asyncio.sleep(8)
        return 200

    receiver.answer = lambda body: slow() if body["data"]["mark"] == 0 else 200
    await rig.configure("sales", receiver.url)
    await send_all(rig, 100)
    async with rig.engine():
        async with asyncio.timeout(7):
            while await committed(rig) < 100:
                await asyncio.sleep(0.1)

        assert len(receiver.bodies) == 90

        await until(lambda: len(receiver.bodies) >= 100, "the slow conversation")

    in_order(receiver, 100)
