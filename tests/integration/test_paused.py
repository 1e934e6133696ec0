"""Destinations that are away, refuse, are paused, repaired, removed or renamed; on the real log."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine_rig import Receiver, Rig
from polling import until
from test_lanes import positions

from app.config import rows
from app.engine import controls

MakeRig = Callable[..., Awaitable[Rig]]


def event(mark: int, conversation: int) -> dict[str, Any]:
    """The data of a message in a conversation."""
    return {"key": {"remoteJid": f"{conversation}@s.whatsapp.net"}, "mark": mark}


@pytest.fixture
async def rig(make_rig: MakeRig) -> Rig:
    """A rig with three attempts and retries every second."""
    return await make_rig(
        WEBHOOK_RETRY_MAX_ATTEMPTS="3",
        WEBHOOK_RETRY_INITIAL_DELAY_SECONDS="1",
        WEBHOOK_RETRY_USE_EXPONENTIAL_BACKOFF="false",
        WEBHOOK_REQUEST_TIMEOUT_MS="1000",
    )


async def test_an_event_never_dies_of_a_destination_that_is_away(make_rig: MakeRig, receiver: Receiver) -> None:
    """With a single attempt allowed, events that met 503 many times arrive once the receiver is back."""
    rig = await make_rig(WEBHOOK_RETRY_MAX_ATTEMPTS="1")
    requests: list[Any] = []

    def away(body: dict[str, Any]) -> int:
        requests.append(body)
        return 503

    receiver.answer = away
    await rig.configure("sales", receiver.url)
    for mark in range(20):
        await rig.send("sales", event(mark, mark % 10))
    async with rig.engine():
        await until(lambda: len(requests) >= 25, "25 attempts")
        receiver.answer = lambda _: 200
        await until(lambda: len(receiver.bodies) >= 20, "everything")
        told = await rig.read("deliveries", 20)

    assert [json.loads(record.value)["end"] for record in told] == ["delivered"] * 20
    for conversation in range(10):
        marks = [mark["mark"] for mark in receiver.marks() if mark["mark"] % 10 == conversation]
        assert marks == [conversation, conversation + 10]


async def test_an_event_that_alone_is_answered_503_makes_way(rig: Rig, receiver: Receiver) -> None:
    """While others get through, the destination is well: the event has its attempts, and is dead-lettered."""
    receiver.answer = lambda body: 503 if body["data"]["mark"] == 0 else 200
    await rig.configure("sales", receiver.url)
    async with rig.engine():
        for mark in range(60):
            await rig.send("sales", event(mark, mark % 2))
            await asyncio.sleep(0.05)
        (letter,) = await rig.read("dead-letters", 1)
        await until(lambda: len(receiver.bodies) == 59, "the others")

    assert dict(letter.headers)["attempts"] == b"3"
    assert [mark["mark"] for mark in receiver.marks() if mark["mark"] % 2 == 0] == list(range(2, 60, 2))


async def test_an_event_that_never_gets_an_answer_does_not_keep_a_destination_shut(
    rig: Rig, receiver: Receiver
) -> None:
    """After an outage the probe goes round the conversations, so the first one that gets through opens it."""
    away = True

    async def hang() -> int:
        await asyncio.sleep(60)
        return 200

    def answer(body: dict[str, Any]) -> Any:
        if body["data"]["mark"] == 0:
            return hang()
        return 503 if away else 200

    receiver.answer = answer
    await rig.configure("sales", receiver.url)
    for mark in range(200):
        await rig.send("sales", event(mark, 0 if mark < 100 else mark % 5))
    async with rig.engine():
        await asyncio.sleep(4)
        away = False
        await until(lambda: len(receiver.bodies) >= 80, "the other conversations")
        for mark in range(200, 260):
            await rig.send("sales", event(mark, 1 + mark % 4))
            await asyncio.sleep(0.1)
        (letter,) = await rig.read("dead-letters", 1)
        await until(lambda: len(receiver.bodies) == 259, "everything else")

    assert dict(letter.headers)["kind"] == b"timeout"
    first = [mark["mark"] for mark in receiver.marks() if mark["mark"] < 100 or mark["mark"] % 5 == 0]
    assert [mark for mark in first if mark < 200] == [*range(1, 100), *range(100, 200, 5)]


async def pipeline(rig: Rig, name: str, url: str, *, renamed_from: str | None = None, **options: Any) -> None:
    """Writes a pipeline of all messages to one webhook, in the place of the one that it follows, if any."""
    target = {"transport": "webhook", "name": "hook", "options": {"url": url, **options}}
    body: dict[str, Any] = {"from": {"events": ["messages.upsert"]}, "to": [target]}
    changes = []
    if renamed_from is not None:
        body["renamed_from"] = renamed_from
        before = rig.table.get(rows.pipeline_key(renamed_from))
        assert before is not None
        changes.append(rows.Change(before.key, None, before.offset))
    row = rig.table.get(rows.pipeline_key(name))
    base = row.offset if row is not None else -1
    changes.append(rows.Change(rows.pipeline_key(name), rows.value("file", "test", body), base))
    await rig.instances.ensure(["sales"], owner="api", source="test")
    await rig.table.write(changes)


def control(rig: Rig, destination: str) -> rows.Row | None:
    """The row that says what was decided about a destination."""
    return rig.table.get(rows.control_key(destination))


async def test_a_destination_that_is_gone_stays_paused_for_the_next_worker(rig: Rig, receiver: Receiver) -> None:
    """After one 410 no worker sends anything more, until the address is repaired: then all arrives in order."""
    requests: list[str] = []

    def answer(_: dict[str, Any]) -> int:
        requests.append(receiver.path)
        return 410 if receiver.path == "/old" else 200

    receiver.answer = answer
    await rig.configure("sales", f"{receiver.url}/old")
    for mark in range(5):
        await rig.send("sales", event(mark, 0))
    async with rig.engine():
        await until(lambda: control(rig, "section/sales/webhook") is not None, "the row")
    for mark in range(5, 10):
        await rig.send("sales", event(mark, 0))
    async with rig.engine(1) as engine:
        await until(lambda: engine._agents["webhook"].paused == 1, "the next worker")
        await asyncio.sleep(0.5)

        assert requests == ["/old"]
        assert {position["state"] for position in (await positions(rig)).values()} == {"paused"}

        await rig.configure("sales", f"{receiver.url}/new")
        await until(lambda: len(receiver.bodies) == 10, "the backlog")
        await until(lambda: control(rig, "section/sales/webhook") is None, "the end of a void row")

    assert [mark["mark"] for mark in receiver.marks()] == list(range(10))


async def test_an_operator_pauses_and_resumes_all_workers(rig: Rig, receiver: Receiver) -> None:
    """A row stops two running workers, a change of the configuration does not end it, and its removal does."""
    await rig.configure("sales", receiver.url)
    await rig.configure("help", f"{receiver.url}/help")
    async with rig.engine(0) as first, rig.engine(1) as second:
        await until(lambda: {len(one._consumer.partitions) for one in (first, second)} == {2}, "two workers")
        await rig.send("sales", event(0, 0))
        await until(lambda: len(receiver.bodies) == 1, "the first")
        await controls.pause(rig.table, "section/sales/webhook", "maintenance", by="operator")
        await rig.configure("sales", f"{receiver.url}/other")
        for mark in range(1, 20):
            await rig.send("sales", event(mark, mark % 3))
        await rig.send("help", event(100, 0))
        await until(lambda: len(receiver.bodies) == 2, "the one that is not paused")
        await asyncio.sleep(0.5)

        assert [mark["mark"] for mark in receiver.marks()] == [0, 100]

        await controls.resume(rig.table, "section/sales/webhook")
        await until(lambda: len(receiver.bodies) == 21, "everything")

    marks = [mark["mark"] for mark in receiver.marks()[2:]]
    for conversation in range(3):
        assert [mark for mark in marks if mark % 3 == conversation] == [
            mark for mark in range(1, 20) if mark % 3 == conversation
        ]


async def test_nothing_but_rejections_pauses(rig: Rig, receiver: Receiver) -> None:
    """After three rejections in a row with none accepted the rest is kept, not dead-lettered."""
    receiver.answer = lambda _: 400
    await pipeline(rig, "lake", receiver.url, pause_after_rejections=3)
    for mark in range(12):
        await rig.send("sales", event(mark, 0))
    async with rig.engine():
        await until(lambda: control(rig, "pipeline/lake/hook") is not None, "the row")
        receiver.answer = lambda _: 200
        await rig.read("dead-letters", 3)
        await controls.resume(rig.table, "pipeline/lake/hook")
        await until(lambda: len(receiver.bodies) == 9, "the rest")

    assert [mark["mark"] for mark in receiver.marks()] == list(range(3, 12))


async def test_a_destination_without_a_success_is_disabled(rig: Rig, receiver: Receiver) -> None:
    """After `disable_after_secs` of failures the destination is paused, also when its worker was restarted."""
    receiver.answer = lambda _: 503
    await pipeline(rig, "lake", receiver.url, disable_after_secs=4)
    for mark in range(5):
        await rig.send("sales", event(mark, 0))
    async with rig.engine():
        await asyncio.sleep(2.5)

        assert control(rig, "pipeline/lake/hook") is None

    async with rig.engine():
        await until(lambda: control(rig, "pipeline/lake/hook") is not None, "the row")
        receiver.answer = lambda _: 200
        await controls.resume(rig.table, "pipeline/lake/hook")
        await until(lambda: len(receiver.bodies) == 5, "the backlog")

    assert [mark["mark"] for mark in receiver.marks()] == list(range(5))


async def test_a_removed_destination_leaves_nothing_behind(rig: Rig, receiver: Receiver) -> None:
    """A lane that is behind a dead destination is cancelled at once: told, counted, and its position is gone."""
    receiver.answer = lambda _: 503
    await rig.configure("sales", receiver.url)
    for mark in range(100):
        await rig.send("sales", event(mark, mark % 3))
    async with rig.engine():
        await until_state(rig, {"behind"})
        row = rig.table.get(rows.section_key("sales", "webhook"))
        assert row is not None
        await rig.table.write([rows.Change(row.key, None, row.offset)])
        told = await rig.read("deliveries", 1)
        await until_state(rig, set())

    assert {json.loads(record.value)["end"] for record in told} == {"cancelled"}


async def test_an_instance_created_again_inherits_nothing(rig: Rig, receiver: Receiver) -> None:
    """What waited for the deleted one is cancelled, and the new one gets what comes from then on."""
    receiver.answer = lambda _: 503
    await rig.configure("sales", receiver.url)
    await pipeline(rig, "lake", f"{receiver.url}/lake")
    for mark in range(50):
        await rig.send("sales", event(mark, 0))
    async with rig.engine():
        await until_state(rig, {"behind"}, lanes=2)
        await rig.instances.delete("sales")
        await rig.configure("sales", receiver.url)
        await until_state(rig, set())
        receiver.answer = lambda _: 200
        await rig.send("sales", event(50, 0))
        await until(lambda: len(receiver.bodies) == 2, "one event at two destinations")

    assert [mark["mark"] for mark in receiver.marks()] == [50, 50]


@pytest.mark.parametrize("running", [True, False])
async def test_a_renamed_pipeline_goes_on_where_it_stood(rig: Rig, receiver: Receiver, running: bool) -> None:
    """With `renamed_from` the backlog goes to the new name's destination, whether a worker runs meanwhile or not."""
    receiver.answer = lambda _: 200 if receiver.path == "/new" else 503
    await pipeline(rig, "lake", f"{receiver.url}/old")
    for mark in range(100):
        await rig.send("sales", event(mark, mark % 3))
    async with rig.engine():
        await until_state(rig, {"behind"})
        if running:
            await pipeline(rig, "sea", f"{receiver.url}/new", renamed_from="lake")
            await until(lambda: len(receiver.bodies) == 100, "the backlog")
    if not running:
        await pipeline(rig, "sea", f"{receiver.url}/new", renamed_from="lake")
        async with rig.engine():
            await until(lambda: len(receiver.bodies) == 100, "the backlog")
            await until_state(rig, set())

    marks = [mark["mark"] for mark in receiver.marks()]
    for conversation in range(3):
        assert [mark for mark in marks if mark % 3 == conversation] == list(range(conversation, 100, 3))


async def until_state(rig: Rig, states: set[str], *, lanes: int = 1) -> None:
    """Returns when so many lanes stand in `lanes`, in these states; none for an empty set."""
    async with asyncio.timeout(20):
        while True:
            found = [position["state"] for position in (await positions(rig)).values()]
            if set(found) == states and (not states or len(found) == lanes):
                return
            await asyncio.sleep(0.1)


async def test_what_is_switched_off_and_kept_goes_on_where_it_stood(rig: Rig, receiver: Receiver) -> None:
    """With `keep: true` a section that is switched off loses nothing, also what came while no worker ran."""
    await rig.configure("sales", receiver.url)
    async with rig.engine():
        await rig.send("sales", event(0, 0))
        await until(lambda: len(receiver.bodies) == 1, "the first")
        await rig.configure("sales", receiver.url, enabled=False, keep=True)
        for mark in range(1, 5):
            await rig.send("sales", event(mark, 0))
        await until_state(rig, {"paused"})
    await rig.send("sales", event(5, 0))
    async with rig.engine():
        await asyncio.sleep(1)

        assert len(receiver.bodies) == 1

        await rig.configure("sales", receiver.url, keep=True)
        await until(lambda: len(receiver.bodies) == 6, "what was kept")
        await rig.configure("sales", receiver.url, enabled=False)
        await rig.send("sales", event(6, 0))
        await rig.configure("sales", receiver.url)
        await until_state(rig, set())

    assert [mark["mark"] for mark in receiver.marks()] == list(range(6))


async def test_a_repaired_address_and_a_narrowed_filter_hold_for_the_backlog(rig: Rig, receiver: Receiver) -> None:
    """What waits goes to the new address at once, and what is not wanted any more is passed over."""
    receiver.answer = lambda _: 200 if receiver.path == "/new" else 503
    await rig.configure("sales", f"{receiver.url}/old", events=["MESSAGES_UPSERT", "CONTACTS_UPSERT"])
    for mark in range(40):
        name = "contacts.upsert" if mark % 2 else "messages.upsert"
        await rig.send("sales", event(mark, 0), event=name)
    async with rig.engine():
        await until_state(rig, {"behind"})
        await asyncio.sleep(3)
        await rig.configure("sales", f"{receiver.url}/new", events=["CONTACTS_UPSERT"])
        await until(lambda: len(receiver.bodies) >= 20, "the backlog")
        await until_state(rig, set())

    marks = [mark["mark"] for mark in receiver.marks()]
    assert [mark for mark in marks if mark % 2] == list(range(1, 40, 2))
    assert len(marks) <= 22
