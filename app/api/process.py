"""The API process: listens first, connects after that, and keeps trying while Kafka is away."""

import asyncio
import contextlib
import random
import signal
import sys
from importlib.metadata import version

import structlog
from aiokafka.errors import KafkaError
from mode import Service

from app.api import keys
from app.api.auth import Keys
from app.api.health import Readiness
from app.api.ingest import Ingest
from app.api.producer import EventProducer
from app.api.reading import Room
from app.api.sections import Sections
from app.api.server import Parts, Server
from app.config.apply import FileWatcher
from app.config.errors import TableUnavailable
from app.config.instances import Instances, ensure_log_id
from app.config.table import ConfigTable
from app.embedded.errors import BrokerError
from app.log import topics
from app.log.clients import connect, reachable
from app.observe import logs, metrics
from app.settings import Settings

log = structlog.get_logger(__name__)

FIRST_DELAY_SECS = 0.2
MAX_DELAY_SECS = 5.0


async def run(settings: Settings, *, number: int = 0) -> None:
    """
    Serves until SIGTERM or Ctrl-C; what is under way is finished first.

    Raises BusyError when the port is taken, SettingsError for a bad key, TopicError for topics that are not as they
    must be, and what the table crashed with.
    """
    logs.configure(settings, f"api-{number}")
    process = ApiProcess(settings, number=number)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    try:
        await process.start()
        stopping = asyncio.ensure_future(stop.wait())
        ended = asyncio.ensure_future(process.ended())
        await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ended.done():
            ended.result()
        ended.cancel()
    finally:
        await process.stop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)


class ApiProcess:
    """One API process: `start` listens and begins to connect; `ended` raises what cannot be mended."""

    def __init__(self, settings: Settings, *, number: int = 0) -> None:
        self._settings = settings
        self._name = f"api-{number}"
        key, made = keys.load(settings)
        logs.hide(key)
        if made:
            # The one time that a key is shown: to whoever started this, and not in the log.
            sys.stderr.write(f"sluice: the API key is {key} (kept in {settings.data_dir / keys.FILE_NAME})\n")
        self._keys = Keys(key)
        self.server = Server(settings, self._keys)
        self._room = Room(max(settings.ingest_bytes, 4 * settings.max_event_bytes))
        self._opened = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._serving: asyncio.Task[None] | None = None
        self._table: ConfigTable | None = None

    async def start(self) -> None:
        """Listens from here on; BusyError when the port is taken. Kafka need not be there yet."""
        await self.server.start()
        metrics.prepare(self._settings, self._name)
        metrics.gauge("sluice_build_info", version=version("sluice")).set(1)
        log.info("api.listening", host=self._settings.server_host, port=self._settings.server_port)
        self._tasks.append(asyncio.create_task(metrics.beat(self._measure)))
        self._serving = asyncio.create_task(self._serve())

    async def ended(self) -> None:
        """Raises what this process cannot go on with."""
        assert self._serving is not None, "started"
        # Shielded: whoever stops waiting does not end what it waits for.
        await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Finishes requests under way, then lets go of Kafka and the store."""
        log.info("api.stopping")
        await self.server.stop()
        tasks = [task for task in (self._serving, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._opened.aclose()

    async def _serve(self) -> None:
        delay_secs = FIRST_DELAY_SECS
        while True:
            try:
                table = await self._connect()
            except (BrokerError, TableUnavailable, KafkaError, OSError, TimeoutError) as error:
                await self._opened.aclose()
                self.server.missing = str(error)
                log.warning("api.not_connected", why=str(error), again_in_secs=round(delay_secs, 1))
                await asyncio.sleep(delay_secs * random.uniform(0.8, 1.2))  # noqa: S311  Jitter is no secret.
                delay_secs = min(2 * delay_secs, MAX_DELAY_SECS)
                continue
            log.info("api.connected")
            await _crashed(table)

    async def _connect(self) -> ConfigTable:
        """Everything that needs Kafka, started in the order in which the parts need each other."""
        settings, opened = self._settings, self._opened
        kafka = connect(settings, f"sluice-{self._name}")
        await reachable(kafka)
        report = await topics.ensure(kafka, settings, embedded=not settings.brokers)
        table = ConfigTable(kafka, settings, settings.data_dir / self._name / "table")
        await _started(opened, table)
        self.server.missing = "the configuration table has not reached the end of its topic"
        await _first(table, table.ready)
        await ensure_log_id(table, settings.topic(topics.EVENTS) in report.created)
        instances = Instances(table, settings)
        watcher = FileWatcher(table, settings)
        await _started(opened, watcher)
        self.server.missing = f"{settings.pipelines} has not been read yet"
        await _first(watcher, watcher.loaded)
        producer = EventProducer(kafka, settings)
        await producer.start()
        opened.push_async_callback(producer.stop)
        readiness = Readiness(kafka, settings, table, producer.partitions)
        opened.push_async_callback(readiness.stop)
        self.server.parts = Parts(
            sections=Sections(settings, self._keys, table, instances, self._room),
            ingest=Ingest(settings, self._keys, table, instances, producer, self._room),
            readiness=readiness,
        )
        self._table = table
        opened.callback(self._disconnected)
        return table

    def _measure(self) -> None:
        if self._table is not None:
            metrics.gauge("sluice_table_rows").set(sum(self._table.count("instance", parts) for parts in (2, 3)))
            metrics.gauge("sluice_table_offset").set(self._table.position - 1)

    def _disconnected(self) -> None:
        self._table = None
        self.server.parts = None
        self.server.missing = "this process is stopping"


async def _started(opened: contextlib.AsyncExitStack, service: Service) -> None:
    opened.push_async_callback(service.stop)
    await service.start()


async def _first(service: Service, event: asyncio.Event) -> None:
    """Waits for what a service promises, or for its crash, which is raised."""
    promised = asyncio.ensure_future(event.wait())
    crashed = asyncio.ensure_future(_crashed(service))
    try:
        await asyncio.wait((promised, crashed), return_when=asyncio.FIRST_COMPLETED)
        if crashed.done():
            crashed.result()
    finally:
        promised.cancel()
        crashed.cancel()


async def _crashed(service: Service) -> None:
    """Returns never; raises what the service crashed with."""
    await service.wait_until_stopped()
    reason = service.crash_reason
    raise reason if isinstance(reason, Exception) else TableUnavailable(f"{service.label} has stopped by itself")
