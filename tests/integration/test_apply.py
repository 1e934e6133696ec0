"""pipelines.yaml into the real table: one write, owners kept apart, and a file that is watched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.config import rows
from app.config.apply import FileWatcher, apply
from app.config.instances import TooManyInstances
from app.config.pipelines import Loaded, parse
from app.config.rows import Change
from app.config.table import ConfigTable
from app.log.clients import Kafka
from app.routing.router import Router
from app.settings import Settings

FILE = """version: 1
instances:
  sales: {webhook: {url: "http://sales", events: [CALL]}}
  support: {webhook: {url: "http://support"}}
pipelines:
  lake: {from: {events: [call]}, to: [{webhook: {url: "http://lake"}}]}
"""


def loaded(text: str) -> Loaded:
    """What a file says that has nothing wrong with it."""
    result = parse(text.encode())
    assert result.problems == ()
    return result


@pytest.fixture
async def table(kafka: Kafka, settings: Settings, tmp_path: Path) -> AsyncIterator[ConfigTable]:
    """A table on topics of its own."""
    table = ConfigTable(kafka, settings, tmp_path / "table")
    async with table:
        await asyncio.wait_for(table.ready.wait(), 20)
        yield table


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition; fails with its name after ten seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{what} did not come about within ten seconds")


async def test_a_file_is_applied_in_one_write_and_routed_at_once(table: ConfigTable, settings: Settings) -> None:
    """When `apply` returns the router of this process goes by it; the same file again writes nothing."""
    router = Router(table, settings)
    assert router.routes("sales", "call") is None
    made = await apply(loaded(FILE), table, max_instances=100)
    routes = router.routes("sales", "call")
    position = table.position
    again = await apply(loaded(FILE), table, max_instances=100)

    assert made.created == 5
    assert routes is not None
    assert [route.destination for route in routes] == ["section/sales/webhook", "pipeline/lake/webhook"]
    assert again.changes == ()
    assert table.position == position


async def test_what_leaves_the_file_leaves_the_table(table: ConfigTable) -> None:
    """Sections and pipelines end; the instance stays and belongs to the API."""
    await apply(loaded(FILE), table, max_instances=100)
    await apply(loaded("version: 1\ninstances: {sales: {}}"), table, max_instances=100)
    support = table.get("instance/support")
    assert support is not None

    assert support.owner == "api"
    assert table.get("instance/support/webhook") is None
    assert table.get("instance/sales/webhook") is None
    assert table.get("pipeline/lake") is None


async def test_an_apply_in_the_middle_of_sets_takes_them_into_account(table: ConfigTable) -> None:
    """Writers that race with an apply make it compute again; neither loses the other's rows."""
    await apply(loaded(FILE), table, max_instances=100)

    async def touch(number: int) -> None:
        body = {"uuid": f"u{number}", "token": "t", "createdAt": "then", "number": str(number)}
        await table.update("instance/sales", lambda _row: rows.value("api", f"POST {number}", body))

    changed = loaded(FILE.replace("http://sales", "http://other"))
    await asyncio.gather(*(touch(number) for number in range(5)), apply(changed, table, max_instances=100))
    section = table.get("instance/sales/webhook")
    instance = table.get("instance/sales")
    assert section is not None
    assert instance is not None

    assert section.body["url"] == "http://other"
    assert instance.body["number"] == "4"


async def test_more_instances_than_allowed_are_refused_as_a_whole(table: ConfigTable) -> None:
    """Nothing of such a file is written."""
    position = table.position
    with pytest.raises(TooManyInstances, match="SLUICE_MAX_INSTANCES"):
        await apply(loaded(FILE), table, max_instances=1)

    assert table.position == position


@pytest.fixture
def watched(make_settings: Callable[..., Settings], settings: Settings, tmp_path: Path) -> Settings:
    """Settings that name a file of pipelines, on the topics of `settings`."""
    return make_settings(SLUICE_PIPELINES=str(tmp_path / "p.yaml"), SLUICE_TOPIC_PREFIX=settings.topic_prefix)


async def test_a_watched_file_is_applied_at_start_and_when_it_changes(table: ConfigTable, watched: Settings) -> None:
    """A bad file in between changes nothing and is told; the next good one takes effect."""
    file = watched.pipelines
    file.write_text(FILE)
    async with FileWatcher(table, watched, look_every_secs=0.05) as watcher:
        await asyncio.wait_for(watcher.loaded.wait(), 10)
        assert table.get("pipeline/lake") is not None
        assert watcher.problems == ()

        file.write_text(FILE + "  lak: {}\n")
        await until(lambda: watcher.problems, "problems")
        assert table.get("pipeline/lake") is not None

        file.write_text(FILE.replace("  lake:", "  ocean:"))
        await until(lambda: table.get("pipeline/ocean"), "the new pipeline")
        assert table.get("pipeline/lake") is None
        assert watcher.problems == ()

        file.unlink()
        await asyncio.sleep(0.3)
        assert table.get("pipeline/ocean") is not None


async def test_a_missing_file_is_a_problem_only_when_it_was_named(
    table: ConfigTable, watched: Settings, settings: Settings
) -> None:
    """Without the setting there may be no file; with it a missing one is told, and applied once it appears."""
    async with FileWatcher(table, settings) as unnamed:
        await asyncio.wait_for(unnamed.loaded.wait(), 10)
        assert unnamed.problems == () or settings.pipelines.exists()

    async with FileWatcher(table, watched, look_every_secs=0.05) as watcher:
        await asyncio.wait_for(watcher.loaded.wait(), 10)
        assert [problem.rule for problem in watcher.problems] == ["file.unreadable"]

        watched.pipelines.write_text(FILE)
        await until(lambda: table.get("pipeline/lake"), "the pipeline")
        assert watcher.problems == ()


async def test_rows_that_the_table_refused_are_tried_again(
    table: ConfigTable, watched: Settings, make_settings: Callable[..., Settings]
) -> None:
    """A good file that cannot be applied yet is tried again at every look, and the reason is told meanwhile."""
    narrow = make_settings(
        SLUICE_PIPELINES=str(watched.pipelines), SLUICE_TOPIC_PREFIX=watched.topic_prefix, SLUICE_MAX_INSTANCES="2"
    )
    await table.write([Change("instance/old", rows.value("api", "test", {"uuid": "u", "token": "t"}), -1)])
    watched.pipelines.write_text(FILE)
    async with FileWatcher(table, narrow, look_every_secs=0.05) as watcher:
        await asyncio.wait_for(watcher.loaded.wait(), 10)
        assert watcher.failure is not None
        assert "SLUICE_MAX_INSTANCES" in watcher.failure

        old = table.get("instance/old")
        assert old is not None
        await table.write([Change("instance/old", None, old.offset)])
        await until(lambda: table.get("pipeline/lake"), "the pipeline")
        assert watcher.failure is None
