"""The configuration table on a real Kafka: durable, the same everywhere, and never a lost update."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from app.config.records import headers
from app.config.rows import Change, value
from app.config.table import Conflict, StoreLocked, TableUnavailable, TooLarge
from app.log.clients import Kafka
from app.settings import Settings
from tests.integration.config_tables import Opened, add, body, raw_producer, tables, until


@pytest.fixture
def opened(settings: Settings, kafka: Kafka, tmp_path: Path) -> Opened:
    """Tables of the test's topic, each with a store of a name, for `async with`; at their end when entered."""
    return tables(kafka, settings, tmp_path)


async def test_a_set_is_visible_everywhere_after_a_barrier(opened: Opened) -> None:
    """What one process was answered for, every other sees once it has asked where the log ends."""
    async with opened("a") as first, opened("b") as second:
        for number in range(20):
            row = await first.update("layout/x", lambda _, number=number: body(number))
            assert first.get("layout/x") == row
            await second.barrier()
            assert second.get("layout/x") == row
        assert [row.key for row in second.scan("layout/")] == ["layout/x"]
        assert second.position == first.position == 20


async def test_concurrent_updates_of_one_key_from_three_processes_lose_nothing(opened: Opened) -> None:
    """Each update computes from what the one before it left, whoever made that."""
    async with opened("a") as first, opened("b") as second, opened("c") as third:
        tables = (first, second, third)
        await asyncio.gather(*(table.update("defaults", add) for table in tables for _ in range(30)))
        for table in tables:
            await table.barrier()
            assert table.get("defaults").body["number"] == 90


async def test_a_hundred_updates_at_once(opened: Opened) -> None:
    """Many writers of one process, to one key and to many, all get through."""
    async with opened("a") as table:
        await asyncio.gather(
            *(table.update("defaults", add) for _ in range(100)),
            *(table.update(f"pipeline/{n}", lambda _, n=n: body(n)) for n in range(100)),
        )
        assert table.get("defaults").body["number"] == 100
        assert sorted(row.body["number"] for row in table.scan("pipeline/")) == list(range(100))
        assert table.count("pipeline") == 100


async def test_a_write_from_a_stale_base_is_refused_and_changes_nothing(opened: Opened) -> None:
    """Who computed from a row that is no longer current is told which key it was."""
    async with opened("a") as table:
        first = await table.update("defaults", lambda _: body(1))
        second = await table.update("defaults", lambda _: body(2))
        end = table.position
        with pytest.raises(Conflict) as caught:
            await table.write([Change("defaults", body(3), first.offset), Change("layout/y", body(3), -1)])
        assert caught.value.keys == ("defaults",)
        assert (table.get("defaults"), table.get("layout/y"), table.position) == (second, None, end)


async def test_a_lost_race_is_ignored_by_all_and_repaired(opened: Opened, settings: Settings, kafka: Kafka) -> None:
    """A record that lost stays without effect everywhere, and the accepted row is written again behind it."""
    async with opened("a", repair_after_secs=0.5) as first, opened("b", repair_after_secs=0.5) as second:
        row = await first.update("defaults", lambda _: body(1))
        await first.update("layout/gone", lambda _: body(1))
        await first.update("layout/gone", lambda _: None)
        async with raw_producer(kafka) as producer:
            for key in ("defaults", "layout/gone"):
                stale = headers(
                    base=-1 if key == "defaults" else 1, at=0, apply="other", index=0, count=1, repair=False
                )
                await producer.send_and_wait(settings.topic("config"), b'{"body":{}}', key=key.encode(), headers=stale)
        await second.barrier()
        assert second.get("defaults") == row
        assert second.get("layout/gone") is None
        await until(lambda: first.get("defaults").offset > row.offset and first.position >= 7)
        await second.barrier()
        for table in (first, second):
            assert (table.get("defaults").body, table.get("layout/gone")) == (row.body, None)
        async with opened("c") as third:
            assert third.get("defaults") == first.get("defaults")


async def test_a_batch_is_atomic_for_every_reader(opened: Opened, settings: Settings, kafka: Kafka) -> None:
    """One stale base voids all rows of an apply, and nobody ever sees half of one."""
    async with opened("a") as first, opened("b") as second:
        seen = []
        second.subscribe(seen.append)
        await first.write([Change(f"pipeline/{n}", body(0), -1) for n in range(2500)])
        await second.barrier()
        assert seen == [frozenset(f"pipeline/{n}" for n in range(2500))]
        assert (second.count("pipeline"), second.position) == (2500, 2500)
        async with raw_producer(kafka) as producer:
            batch = producer.create_batch()
            for index, (key, base) in enumerate((("pipeline/0", -1), ("pipeline/new", -1))):
                stamp = headers(base=base, at=0, apply="other", index=index, count=2, repair=False)
                batch.append(timestamp=None, key=key.encode(), value=b'{"body":{}}', headers=stamp)
            await (await producer.send_batch(batch, settings.topic("config"), partition=0))
        await second.barrier()
        assert (second.get("pipeline/0").body, second.get("pipeline/new")) == ({"number": 0}, None)


async def test_tombstones(opened: Opened) -> None:
    """A deleted row is gone everywhere, can be created again, and does not come back from its old base."""
    async with opened("a") as first, opened("b") as second:
        old = await first.update("defaults", lambda _: body(1))
        assert await first.update("defaults", lambda _: None) is None
        await second.barrier()
        assert second.get("defaults") is None
        with pytest.raises(Conflict):
            await second.write([Change("defaults", body(2), old.offset)])
        again = await second.update("defaults", lambda _: body(3))
        await first.barrier()
        assert first.get("defaults") == again
        assert await first.update("layout/never", lambda _: None) is None


async def test_a_restart_reads_only_the_rest(opened: Opened) -> None:
    """What stands in the store is not read again."""
    async with opened("a") as table:
        await table.write([Change(f"pipeline/{n}", body(n), -1) for n in range(500)])
    async with opened("b") as other:
        await other.update("defaults", lambda _: body(1))
    async with opened("a") as table:
        assert table.records_read == 1
        assert (table.get("pipeline/499").body["number"], table.count("pipeline")) == (499, 500)
        assert table.get("defaults").body["number"] == 1


def remove(store: Path) -> None:
    """All files are gone."""
    for path in store.iterdir():
        path.unlink()


def cut_current(store: Path) -> None:
    """The file that names all others points nowhere."""
    (store / "CURRENT").write_bytes(b"MANIFEST-\0\0\0")


def garble(store: Path) -> None:
    """A third of every file was overwritten."""
    for path in (*store.glob("*.log"), *store.glob("MANIFEST-*"), *store.glob("*.sst")):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : 2 * len(content) // 3] = b"\x5a" * (2 * len(content) // 3 - len(content) // 3)
        path.write_bytes(content)


def tear(store: Path) -> None:
    """The last write did not get to the disk whole."""
    for path in store.glob("*.log"):
        path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("damage", [remove, cut_current, garble, tear])
async def test_a_lost_or_damaged_store_is_made_good_from_the_topic(
    opened: Opened, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Whatever happened to the files, a start ends with the rows of the topic."""
    async with opened("a") as table:
        await table.write([Change(f"pipeline/{n}", body(n), -1) for n in range(200)])
        await table.update("defaults", lambda _: body(1))
        # The files as a kill would leave them: a proper stop moves all out of the log that is damaged here.
        shutil.copytree(tmp_path / "a", tmp_path / "killed")
    damage(tmp_path / "killed" / "config")
    async with opened("killed") as table:
        assert (table.count("pipeline"), table.get("defaults").body["number"]) == (200, 1)
        assert table.records_read > 0


async def test_the_store_of_another_topic_is_thrown_away(
    opened: Opened,
    kafka: Kafka,
    make_settings: Callable[..., Settings],
    make_kafka: Callable[[Settings], Awaitable[Kafka]],
) -> None:
    """A directory that served another topic, of another name or re-created under the same, brings no rows along."""
    async with opened("a") as table:
        await table.write([Change(f"pipeline/{n}", body(n), -1) for n in range(3)])
    elsewhere = make_settings()
    await make_kafka(elsewhere)
    async with opened("a", elsewhere) as table:
        assert list(table.scan("")) == []
        await table.update("defaults", lambda _: body(1))
    admin = kafka.admin()
    await admin.start()
    try:
        topic = elsewhere.topic("config")
        await admin.delete_topics([topic])
        async with asyncio.timeout(20):
            while topic in await admin.list_topics():
                await asyncio.sleep(0.05)
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    finally:
        await admin.close()
    async with raw_producer(kafka) as producer:
        for key in (b"layout/1", b"layout/2"):
            stamp = headers(base=-1, at=0, apply="x", index=0, count=1, repair=False)
            await producer.send_and_wait(topic, b'{"body":{}}', key=key, headers=stamp)
    async with opened("a", elsewhere) as table:
        assert [row.key for row in table.scan("")] == ["layout/1", "layout/2"]


async def test_two_processes_on_one_directory(opened: Opened) -> None:
    """The second one is told what is wrong and what to do."""
    async with opened("a"):
        with pytest.raises(StoreLocked, match="SLUICE_DATA_DIR"):
            async with opened("a"):
                pass


async def test_a_foreign_record_is_ignored(opened: Opened, settings: Settings, kafka: Kafka) -> None:
    """What somebody else wrote into the topic, without headers or JSON, harms nobody and is repaired."""
    async with opened("a", repair_after_secs=0.2) as table:
        row = await table.update("defaults", lambda _: body(1))
        async with raw_producer(kafka) as producer:
            await producer.send_and_wait(settings.topic("config"), b"{}", key=b"defaults")
            await producer.send_and_wait(settings.topic("config"), b"\xff", key=b"\xff\xfe")
        await table.barrier()
        assert table.get("defaults") == row
        await until(lambda: table.get("defaults").offset > row.offset)
        assert table.get("defaults").value == row.value


async def test_a_subscriber_that_raises_stops_the_table_loudly(opened: Opened) -> None:
    """A defect in who follows the table is not swallowed: the service crashes and says so to who waits."""

    def broken(keys: frozenset[str]) -> None:
        raise ZeroDivisionError(keys)

    async with opened("a") as table:
        table.subscribe(broken)
        with pytest.raises(TableUnavailable, match="stopped"):
            await table.update("defaults", lambda _: body(1))
        await until(lambda: table.crashed)
        assert isinstance(table.crash_reason, ZeroDivisionError)
        with pytest.raises(TableUnavailable, match="stopped"):
            await table.barrier()


async def test_a_batch_over_the_limit_is_refused(opened: Opened) -> None:
    """Rows that do not fit into one record batch are refused as a whole; those that just fit are written."""
    async with opened("a") as table:
        large = value("api", "test", {"text": "x" * (1 << 20)})
        with pytest.raises(TooLarge, match="in parts"):
            await table.write([Change(f"pipeline/{n}", large, -1) for n in range(16)])
        assert table.position == 0
        await table.write([Change(f"pipeline/{n}", large, -1) for n in range(15)])
        assert table.count("pipeline") == 15


async def test_concurrent_barriers_share_a_request(opened: Opened) -> None:
    """A thousand finds at once ask the log's end a few times, not a thousand."""
    async with opened("a") as table:
        before = table._topic.log_end.requests
        await asyncio.gather(*(table.barrier() for _ in range(1000)))
        assert table._topic.log_end.requests - before <= 2


async def test_waits_are_bounded(opened: Opened) -> None:
    """An offset that never comes is given up with a word on where the table stands."""
    async with opened("a") as table:
        with pytest.raises(TableUnavailable, match="stands at 0"):
            await table.applied(5, timeout_secs=0.05)
