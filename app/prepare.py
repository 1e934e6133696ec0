"""What has to be there before anything runs: a Kafka that answers, our topics in it, and the id of their log."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from app.config.errors import TableUnavailable
from app.config.instances import ensure_log_id
from app.config.table import ConfigTable
from app.log import clients, topics
from app.log.clients import Kafka
from app.settings import Settings


async def prepare(kafka: Kafka, settings: Settings, *, thorough: bool = False) -> topics.Report:
    """
    All is there when it returns: what `sluice init` does, and `sluice run` before it starts anybody.

    The log of events gets its id when its topic was made just now, so that nobody starts without; `thorough` looks
    after it in any case, which takes reading the whole table. Raises BrokerError, TopicError and TableError.
    """
    await clients.reachable(kafka)
    report = await topics.ensure(kafka, settings, embedded=not settings.brokers)
    created = settings.topic(topics.EVENTS) in report.created
    if created or thorough:
        async with _table(kafka, settings) as table:
            await ensure_log_id(table, created)
    return report


@contextlib.asynccontextmanager
async def _table(kafka: Kafka, settings: Settings) -> AsyncIterator[ConfigTable]:
    """The table, at its end, in a store that is thrown away: the others belong to processes that may be running."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix="init-") as directory:
        table = ConfigTable(kafka, settings, Path(directory) / "table")
        await table.start()
        try:
            if (await table.wait(table.ready)).stopped:
                raise TableUnavailable(
                    f"the table in {settings.topic('config')} could not be read: {table.crash_reason!r}"
                ) from table.crash_reason
            yield table
        finally:
            await table.stop()
