"""
`sluice run`: everything Sluice needs on one machine, kept running until it is told to stop.

The embedded Kafka (when no broker is configured), one API process and N workers, each a process of its own, started
in this order and stopped in the other.
"""

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, NoReturn

import structlog

from app.api import keys
from app.embedded import progress
from app.embedded.errors import BrokerError, EmbeddedKafkaError
from app.embedded.kafka import EmbeddedKafka
from app.log import clients
from app.prepare import prepare
from app.processes import Child, Exit, RestartPolicy, check_port, exclusive
from app.settings import Settings

STOP_GRACE_SECS = 8.0
"""What a process may need to stop beside its drain: leaving the group, closing stores and connections."""
HURRY_SECS = 0.5
"""What is left of that grace after a second signal."""
BROKER_TIMEOUT_SECS = 3.0
KAFKA_WATCH_SECS = 0.5
CLIENT_ID = "sluice-run"

log = structlog.get_logger("supervisor")
Announce = Callable[[str], None]


def run(settings: Settings, *, workers: int, announce: Announce) -> Exit:
    """
    Runs until SIGTERM or Ctrl-C (Exit.OK), or until a process cannot be kept running (its reason is in the log).

    `announce` is given, line by line, what runs where. Raises BusyError when the data directory or the port is taken,
    BrokerError and TopicError when there is no Kafka to run on.
    """
    with exclusive(settings.data_dir, "run"), _quitting_on_sigterm():
        check_port(settings.server_host, settings.server_port)
        shown = progress.reporter()
        kafka = None if settings.brokers else EmbeddedKafka(settings, progress=shown)
        try:
            if kafka is not None:
                # Not in the loop: a first start fetches for minutes, and a signal must end it at once.
                with contextlib.closing(shown):
                    kafka.start()
            return asyncio.run(_Supervisor(settings, workers, kafka, announce).run())
        finally:
            # Now SIGTERM has nothing more to ask for; Ctrl-C still cuts it short.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            # One that `sluice kafka start` brought up was there before us and stays.
            if kafka is not None and kafka.started_here:
                kafka.stop()


@contextlib.contextmanager
def _quitting_on_sigterm() -> Iterator[None]:
    """Outside the loop SIGTERM unwinds as Ctrl-C does, so that nothing half started is left; it ends with 0."""

    def leave(_: int, __: FrameType | None) -> NoReturn:
        sys.exit(Exit.OK)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Supervisor:
    """The parent of all processes of one machine; its Kafka, if it has one, is up."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        kafka: EmbeddedKafka | None,
        announce: Announce,
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._announce = announce
        self._policy = RestartPolicy()
        self._children = [
            Child("api", ("api",)),
            *(Child(f"worker-{number}", ("worker", "--number", str(number))) for number in range(workers)),
        ]
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> Exit:
        """Starts the processes, keeps them running, and leaves none behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        serving = loop.create_task(self._serve())
        stopping = loop.create_task(self._stop.wait())
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            return serving.result() if serving.done() else Exit.OK
        finally:
            await _cancelled(serving, stopping)
            await self._shut_down()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _serve(self) -> Exit:
        kafka = clients.connect(self._settings, CLIENT_ID)
        await prepare(kafka, self._settings)
        for line in summary(self._settings, kafka.brokers, self._kafka, len(self._children) - 1):
            self._announce(line)
        duties: list[Coroutine[Any, Any, Exit]] = [self._keep(child) for child in self._children]
        if self._kafka is not None:
            duties.append(self._keep_kafka(self._kafka))
        tasks = [asyncio.ensure_future(duty) for duty in duties]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            await _cancelled(*tasks)

    async def _keep(self, child: Child) -> Exit:
        """Starts a process again whenever it ends; done when that makes no sense any more."""
        while True:
            pid = await child.start()
            log.info("child.started", child=child.name, pid=pid, restarts=child.restarts)
            code = await child.wait()
            if code in (Exit.SETTINGS, Exit.TOPICS):
                log.error("child.refused", child=child.name, code=code)
                return Exit(code)
            # While the broker is away nobody can live, and that is not the child's failure.
            broker_answers = await self._broker_answers()
            delay_secs = child.ended(self._policy, counted=broker_answers)
            if delay_secs is None:
                log.error("child.given_up", child=child.name, code=code, failures=child.failures)
                return Exit.OTHER
            log.warning(
                "child.ended",
                child=child.name,
                code=code,
                failures=child.failures,
                broker_answers=broker_answers,
                restart_in_secs=round(delay_secs, 2),
            )
            await asyncio.sleep(delay_secs)

    async def _broker_answers(self) -> bool:
        try:
            await clients.reachable(clients.connect(self._settings, CLIENT_ID), BROKER_TIMEOUT_SECS)
        except BrokerError:
            return False
        return True

    async def _keep_kafka(self, kafka: EmbeddedKafka) -> Exit:
        """Starts the embedded Kafka again whenever it ends; done when it does not come up any more."""
        address = kafka.status()
        failures = 0
        while True:
            await asyncio.sleep(KAFKA_WATCH_SECS)
            if kafka.started_here or kafka.status():
                continue
            log.error("kafka.ended", reason=kafka.failure())
            try:
                # It ends with the thread that starts it, hence here and not in another; the children run on meanwhile.
                new = kafka.start()
            except EmbeddedKafkaError as error:
                failures += 1
                delay_secs = self._policy.delay_secs(failures, counted=True, chance=random.random())  # noqa: S311  Only jitter.
                if delay_secs is None:
                    log.error("kafka.given_up", failures=failures, reason=str(error))  # noqa: TRY400  No defect of ours.
                    return Exit.BROKER
                log.warning("kafka.failed", failures=failures, reason=str(error), again_in_secs=round(delay_secs, 2))
                await asyncio.sleep(delay_secs)
                continue
            failures = 0
            log.info("kafka.started", address=new)
            if new != address:
                # Somebody took the old port meanwhile; whoever still looks there has to look again.
                address = new
                for child in self._children:
                    child.signal(signal.SIGTERM)

    async def _shut_down(self) -> None:
        """All children are gone when this returns: asked first, made to after their drain and a grace."""
        for child in self._children:
            child.signal(signal.SIGTERM)
        running = [asyncio.ensure_future(child.wait()) for child in self._children if child.running]
        if running:
            everyone = asyncio.ensure_future(asyncio.wait(running))
            hurry = asyncio.ensure_future(self._hurry.wait())
            patience_secs = self._settings.drain_secs + STOP_GRACE_SECS
            await asyncio.wait((everyone, hurry), timeout=patience_secs, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((everyone,), timeout=HURRY_SECS)
            await _cancelled(hurry)
            for child in self._children:
                if child.running:
                    log.warning("child.killed", child=child.name)
                    child.signal(signal.SIGKILL)
            await everyone
        log.info("supervisor.stopped")


def summary(settings: Settings, brokers: tuple[str, ...], kafka: EmbeddedKafka | None, workers: int) -> list[str]:
    """What runs where, for whoever has just started it."""
    host = "127.0.0.1" if settings.server_host in ("0.0.0.0", "::", "") else settings.server_host  # noqa: S104  Read.
    origin = "SLUICE_BROKERS" if kafka is None else f"embedded, data in {kafka.home.path}"
    found = "" if settings.pipelines.exists() else " (not there: instances are made over the API)"
    key, made = keys.load(settings)
    kept = "AUTHENTICATION_API_KEY" if settings.api_key else f"in {settings.data_dir / keys.FILE_NAME}"
    return [
        f"API        http://{host}:{settings.server_port}  (GET /ready answers 200 once events flow)",
        f"key        {key}  (made now, kept {kept}; send it as the header `apikey`)" if made else f"key        {kept}",
        f"Kafka      {','.join(brokers)}  ({origin})",
        f"workers    {workers}",
        f"pipelines  {settings.pipelines}{found}",
        f"data       {settings.data_dir}",
    ]


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """All are over when this returns; what they raised was or will be read by whoever awaits them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
