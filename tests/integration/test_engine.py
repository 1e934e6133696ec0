"""The engine of a worker, whole, between a real Kafka and a real HTTP receiver."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.config import rows
from tests.integration.engine_rig import Receiver, Rig
from tests.integration.polling import until

QUICK_RETRIES = {"WEBHOOK_RETRY_MAX_ATTEMPTS": "3", "WEBHOOK_RETRY_INITIAL_DELAY_SECONDS": "1"}


@pytest.fixture
async def rig(make_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """A rig with quick retries."""
    return await make_rig(**QUICK_RETRIES)


async def test_an_event_reaches_its_receiver_and_the_ledger(rig: Rig, receiver: Receiver) -> None:
    """From the topic to the webhook in the documented envelope, with its end written down."""
    await rig.configure("sales", receiver.url)
    sent = await rig.send("sales", {"key": {"remoteJid": "1@s.whatsapp.net"}})
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == 1, "the delivery")
        (told,) = await rig.read("deliveries", 1)

    body = receiver.bodies[0]
    assert list(body) == ["event", "instance", "data", "destination", "date_time", "apikey"]
    assert body["event"] == "MESSAGES_UPSERT"
    assert body["instance"] == "sales"
    assert body["destination"] == receiver.url
    end = json.loads(told.value)
    assert told.key == b"sales"
    assert told.partition == sent.partition
    assert (end["end"], end["destination"], end["attempts"]) == ("delivered", "section/sales/webhook", 1)
    assert (end["partition"], end["offset"]) == (sent.partition, sent.offset)


POISON = [
    (b"not json", b"sales", "no JSON"),
    (b"[1]", b"sales", "a JSON object"),
    (b'{"data": 1}', b"sales", "`event`"),
    (b'{"event": 5}', b"sales", "`event`"),
    (b'{"event": "messages.upsert", "data": "\xff"}', b"sales", "no JSON"),
    (b'{"event": "messages.upsert", "data": "\\ud800"}', b"sales", "no JSON"),
    (b'{"event": "messages.upsert"}', None, "no key"),
    (b'{"event": "messages.upsert"}', b"\xff", "UTF-8"),
    (None, b"sales", "no value"),
]


async def test_poison_goes_to_the_dead_letters_and_hurts_nobody(rig: Rig, receiver: Receiver) -> None:
    """Each record that is no event is dead-lettered as it came, with the reason; its neighbours arrive."""
    await rig.configure("sales", receiver.url)
    for number, (value, key, _) in enumerate(POISON):
        await rig.raw(value, key)
        await rig.send("sales", number)
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == len(POISON), "the neighbours")
        letters = await rig.read("dead-letters", len(POISON))

    assert receiver.marks() == list(range(len(POISON)))
    for letter, (value, _, reason) in zip(letters, POISON, strict=True):
        headers = dict(letter.headers)
        assert letter.value == (value or b"")
        assert reason in headers["reason"].decode()
        assert headers["source-partition"] == b"0"


async def test_a_set_is_in_force_for_the_events_behind_it(rig: Rig, receiver: Receiver) -> None:
    """An event stamped with the table's offset is routed by that table, however late the worker's copy is."""
    async with rig.engine():
        for number in range(30):
            instance = f"instance-{number}"
            offset = await rig.configure(instance, receiver.url)
            await rig.send(instance, number, headers=[("config-offset", b"%d" % offset)])
        await until(lambda: len(receiver.bodies) == 30, "all deliveries")

    assert sorted(receiver.marks()) == list(range(30))


async def test_an_instance_exists_once_its_first_event_arrived(rig: Rig) -> None:
    """A name that only Kafka has told of gets its row, and its event is counted as filtered."""
    await rig.send("from-kafka", 1)
    async with rig.engine():
        await until(lambda: rig.instances.get("from-kafka") is not None, "the row")

    row = rig.table.get(rows.instance_key("from-kafka"))
    assert row is not None
    assert row.owner == "event"


async def test_more_instances_than_allowed_are_dead_lettered(make_rig: Callable[..., Awaitable[Rig]]) -> None:
    """Beyond SLUICE_MAX_INSTANCES an event of a new name is kept as a dead letter that says so."""
    rig = await make_rig(SLUICE_MAX_INSTANCES="1")
    await rig.send("first", 1)
    async with rig.engine():
        await until(lambda: rig.instances.get("first") is not None, "the first")
        await rig.send("second", 2)
        (letter,) = await rig.read("dead-letters", 1)

    assert letter.key == b"second"
    assert "SLUICE_MAX_INSTANCES" in dict(letter.headers)["reason"].decode()


async def test_an_event_sent_twice_is_delivered_once(rig: Rig, receiver: Receiver) -> None:
    """The second record with the same id is dropped, also when the worker was restarted between them."""
    await rig.configure("sales", receiver.url)
    await rig.send("sales", 1, headers=[("id", b"event-1")])
    await rig.send("sales", 2, headers=[("id", b"event-1")])
    await rig.send("sales", 3, headers=[("id", b"event-3")])
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == 2, "two deliveries")
    await rig.send("sales", 4, headers=[("id", b"event-3")])
    await rig.send("sales", 5)
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == 3, "the last")

    assert receiver.marks() == [1, 3, 5]


async def test_a_poison_event_makes_way_after_its_attempts(rig: Rig, receiver: Receiver) -> None:
    """It is tried as often as the policy says, dead-lettered, and its conversation goes on in order."""
    attempts: list[Any] = []

    def answer(body: dict[str, Any]) -> int:
        if body["data"]["mark"] == 0:
            attempts.append(body)
            return 500
        return 200

    receiver.answer = answer
    await rig.configure("sales", receiver.url)
    for mark in range(4):
        await rig.send("sales", {"key": {"remoteJid": "1@s.whatsapp.net"}, "mark": mark})
    await rig.send("sales", {"key": {"remoteJid": "2@s.whatsapp.net"}, "mark": 9})
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == 4, "the others")
        (letter,) = await rig.read("dead-letters", 1)

    assert len(attempts) == 3
    assert [mark["mark"] for mark in receiver.marks()] == [9, 1, 2, 3]
    headers = dict(letter.headers)
    assert headers["destination"] == b"section/sales/webhook"
    assert (headers["kind"], headers["attempts"]) == (b"server_error", b"3")


async def test_order_is_kept_while_every_third_attempt_fails(
    make_rig: Callable[..., Awaitable[Rig]], receiver: Receiver
) -> None:
    """Ten conversations, each in order at the receiver, with failures all over them."""
    rig = await make_rig(WEBHOOK_RETRY_INITIAL_DELAY_SECONDS="1")
    requests = iter(range(1_000_000))
    receiver.answer = lambda _: 500 if next(requests) % 3 == 0 else 200
    await rig.configure("sales", receiver.url)
    for mark in range(100):
        await rig.send("sales", {"key": {"remoteJid": f"{mark % 10}@s.whatsapp.net"}, "mark": mark})
    async with rig.engine():
        await until(lambda: len(receiver.bodies) == 100, "all 100")

    for conversation in range(10):
        marks = [mark["mark"] for mark in receiver.marks() if mark["mark"] % 10 == conversation]
        assert marks == list(range(conversation, 100, 10))


async def test_a_refusal_for_good_is_dead_lettered_at_once(rig: Rig, receiver: Receiver) -> None:
    """One attempt, and the dead letter names the kind."""
    receiver.answer = lambda _: 404
    await rig.configure("sales", receiver.url)
    await rig.send("sales", 1)
    async with rig.engine():
        (letter,) = await rig.read("dead-letters", 1)

    headers = dict(letter.headers)
    assert (headers["kind"], headers["attempts"]) == (b"rejected", b"1")


async def test_a_destination_that_is_gone_is_paused_until_its_address_changes(rig: Rig, receiver: Receiver) -> None:
    """410 keeps everything, writes down why, and a repaired address gets the backlog in order."""
    receiver.answer = lambda _: 410 if receiver.path == "/old" else 200
    await rig.configure("sales", f"{receiver.url}/old")
    for mark in range(5):
        await rig.send("sales", mark)
    async with rig.engine():
        (position,) = await rig.read("lanes", 1)
        await rig.configure("sales", f"{receiver.url}/new")
        await until(lambda: len(receiver.bodies) == 5, "the backlog")

    written = json.loads(position.value)
    assert (written["state"], written["feed"]) == ("paused", 0)
    assert "410" in written["reason"]
    assert receiver.marks() == [0, 1, 2, 3, 4]


async def test_a_removed_destination_cancels_what_waits_for_it(
    make_rig: Callable[..., Awaitable[Rig]], receiver: Receiver
) -> None:
    """What stood behind a failing event is told as cancelled once the section is gone."""
    rig = await make_rig(WEBHOOK_RETRY_INITIAL_DELAY_SECONDS="1")
    attempts: list[Any] = []

    def answer(body: dict[str, Any]) -> int:
        attempts.append(body)
        return 503

    receiver.answer = answer
    await rig.configure("sales", receiver.url)
    for mark in range(3):
        await rig.send("sales", mark)
    async with rig.engine():
        await until(lambda: bool(attempts), "an attempt")
        key = rows.section_key("sales", "webhook")
        row = rig.table.get(key)
        assert row is not None
        await rig.table.write([rows.Change(key, None, row.offset)])
        told = await rig.read("deliveries", 3)

    assert [json.loads(record.value)["end"] for record in told] == ["cancelled"] * 3


async def test_a_private_address_is_refused(make_rig: Callable[..., Awaitable[Rig]], receiver: Receiver) -> None:
    """Nothing goes to loopback unless allowed; the lane is paused and names the setting."""
    rig = await make_rig(SLUICE_EGRESS_ALLOW="10.99.0.0/16")
    await rig.configure("sales", receiver.url)
    await rig.send("sales", 1)
    async with rig.engine():
        (position,) = await rig.read("lanes", 1)

    written = json.loads(position.value)
    assert written["state"] == "paused"
    assert "SLUICE_EGRESS_ALLOW" in written["reason"]
    assert receiver.bodies == []


async def test_full_slots_hold_the_partition_until_they_free(
    make_rig: Callable[..., Awaitable[Rig]], receiver: Receiver
) -> None:
    """A receiver that hangs stops reading at the limit of slots, and everything arrives once it answers again."""
    gate = asyncio.Event()

    async def hang() -> int:
        await gate.wait()
        return 200

    receiver.answer = lambda _: hang()
    rig = await make_rig(SLUICE_SLOTS="100")
    await rig.configure("sales", receiver.url)
    sends = [
        await rig.producer.send(
            rig.settings.topic("events"),
            json.dumps({"event": "messages.upsert", "data": mark}).encode(),
            key=b"sales",
            partition=0,
        )
        for mark in range(1500)
    ]
    await asyncio.gather(*sends)
    async with rig.engine() as engine:
        await until(lambda: engine.slots >= 100, "full slots")
        await asyncio.sleep(0.3)

        assert engine.slots < 600

        gate.set()
        await until(lambda: len(receiver.bodies) == 1500, "all 1,500")

    assert receiver.marks() == list(range(1500))


async def test_a_handover_doubles_and_loses_nothing(rig: Rig, receiver: Receiver) -> None:
    """Three engines after one another, each stopped with much under way and waiting: each event arrives once."""

    async def slow() -> int:
        await asyncio.sleep(0.1)
        return 200

    receiver.answer = lambda _: slow()
    await rig.configure("sales", receiver.url)
    for mark in range(300):
        await rig.send("sales", {"key": {"remoteJid": f"{mark % 50}@s.whatsapp.net"}, "mark": mark})
    for wanted in (60, 180, 300):
        async with rig.engine():
            await until(lambda: len(receiver.bodies) >= wanted, f"{wanted} deliveries")  # noqa: B023  Awaited here.

    marks = [mark["mark"] for mark in receiver.marks()]
    assert sorted(marks) == list(range(300))
    for conversation in range(50):
        assert [mark for mark in marks if mark % 50 == conversation] == list(range(conversation, 300, 50))
