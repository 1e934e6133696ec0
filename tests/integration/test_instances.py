"""Instances on a real table: created once whoever asks, counted, deleted with all that is theirs."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.config.instances import Instances, TooManyInstances, ensure_log_id, log_id
from app.config.rows import Change, section_key, value
from app.config.table import ConfigTable
from app.log.clients import Kafka
from app.settings import Settings


@pytest.fixture
async def table(settings: Settings, kafka: Kafka, tmp_path: Path) -> AsyncIterator[ConfigTable]:
    """A table at its end."""
    table = ConfigTable(kafka, settings, tmp_path / "one")
    await table.start()
    await asyncio.wait_for(table.ready.wait(), 20)
    yield table
    await table.stop()


async def test_missing_instances_are_created_in_one_batch(table: ConfigTable, settings: Settings) -> None:
    """A new name gets an incarnation, a token and a date; one that is there keeps its own."""
    instances = Instances(table, settings)
    await instances.ensure(["sales"], "api", "test")
    before = instances.get("sales")
    position = table.position
    await instances.ensure(["sales", "a/b", "ünï ☃", "sales", "a/b"], "event", "events[0]@5")
    assert instances.get("sales") == before
    assert (instances.count, table.position) == (3, position + 2)
    other = instances.get("a/b")
    assert (other.name, other.owner, other.source, other.number) == ("a/b", "event", "events[0]@5", None)
    assert other.uuid != before.uuid
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", other.token)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", other.created_at)
    assert instances.get("ünï ☃").name == "ünï ☃"
    assert instances.get("nobody") is None
    assert other.token not in repr(other)


async def test_two_processes_create_the_same_instance(
    table: ConfigTable, settings: Settings, kafka: Kafka, tmp_path: Path
) -> None:
    """Whoever is first decides; both go on with the same incarnation."""
    other_table = ConfigTable(kafka, settings, tmp_path / "two")
    await other_table.start()
    await other_table.ready.wait()
    first, second = Instances(table, settings), Instances(other_table, settings)
    names = [f"i{n}" for n in range(50)]
    try:
        await asyncio.gather(
            *(first.ensure(names[n : n + 5], "event", "one") for n in range(0, 46, 3)),
            *(second.ensure(names[n : n + 5], "event", "two") for n in range(0, 46, 3)),
        )
        await table.barrier()
        await other_table.barrier()
        assert [first.get(name) for name in names[:50]] == [second.get(name) for name in names[:50]]
        assert first.count == second.count == 50
    finally:
        await other_table.stop()


async def test_the_limit_on_instances(table: ConfigTable, make_settings: Callable[..., Settings]) -> None:
    """Beyond the limit nothing is created; what is there goes on."""
    instances = Instances(table, make_settings(SLUICE_MAX_INSTANCES="3"))
    await instances.ensure(["a", "b"], "api", "test")
    with pytest.raises(TooManyInstances, match="SLUICE_MAX_INSTANCES"):
        await instances.ensure(["a", "c", "d"], "api", "test")
    assert (instances.get("c"), instances.count) == (None, 2)
    await instances.ensure(["a", "c"], "api", "test")
    await instances.delete("a")
    await instances.ensure(["d"], "api", "test")
    assert instances.count == 3


async def test_names_that_can_be_none_are_refused(table: ConfigTable, settings: Settings) -> None:
    """The message says what is wrong with the name."""
    with pytest.raises(ValueError, match=r"U\+000A"):
        await Instances(table, settings).ensure(["fine", "not\nfine"], "api", "test")
    assert table.position == 0


async def test_delete_takes_the_sections_along(table: ConfigTable, settings: Settings) -> None:
    """The instance and its sections end in one batch; a name created again is another incarnation."""
    instances = Instances(table, settings)
    await instances.ensure(["sales", "sales2"], "api", "test")
    before = instances.get("sales")
    await table.write([Change(section_key("sales", kind), value("api", "test", {}), -1) for kind in ("x", "y")])
    assert await instances.delete("sales")
    assert [row.key for row in table.scan("")] == ["instance/sales2"]
    assert (instances.get("sales"), instances.count) == (None, 1)
    assert not await instances.delete("sales")
    await instances.ensure(["sales"], "api", "test")
    assert instances.get("sales").uuid != before.uuid


async def test_the_logs_id_is_made_once_and_changes_with_the_log(table: ConfigTable) -> None:
    """Ids made of positions stay the same over restarts, and differ once `events` was created anew."""
    first = await ensure_log_id(table, created=False)
    assert await ensure_log_id(table, created=False) == first == log_id(table)
    second = await ensure_log_id(table, created=True)
    assert second != first
    assert log_id(table) == second
