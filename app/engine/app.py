"""
The worker: one Faust App, and in it the services of the engine.

Faust owns the process: loop, signals, supervision, exit codes. Its own consumer and producer are off; the hot topic is
read by `HotConsumer` (form S of the measurements: 2.5 us an event against 31-38 through Faust's streams).
"""

import asyncio
import gc
import logging
import time
from importlib.metadata import version
from typing import Any

import faust
import structlog
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from mode import Service

from app.config.instances import Instances, log_id
from app.config.table import ConfigTable
from app.engine.admission import Admission
from app.engine.agent import SinkAgent
from app.engine.catchup import CatchUp
from app.engine.changes import Changes
from app.engine.consumer import HotConsumer
from app.engine.controls import Controls
from app.engine.gate import Budget
from app.engine.intake import EventIntake
from app.engine.keeper import LaneKeeper
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition
from app.engine.positions import Positions
from app.engine.recall import Recall
from app.engine.writer import Writer
from app.log.clients import connect
from app.observe import metrics
from app.processes import installation_id
from app.routing.router import Router
from app.settings import Settings
from schemas import transports
from sinks import SinkContext
from sinks._egress import EgressGuard

log = structlog.get_logger()

METRICS_SECS = 1.0
TURN_SECS = 0.05
"""How often the length of the loop's turns is looked at."""
GARBAGE_THRESHOLDS = (100_000, 50, 100)
"""What waits in lanes is freed by reference counts; the collector would go over all of it every 700 objects."""


class _Boot(BootStrategy):
    """Faust's own clients stay off; ordinary agents will turn them on for a group of their own."""

    enable_kafka_consumer = False
    enable_kafka_producer = False
    enable_web = False


class App(faust.App):
    """The App of a worker."""

    BootStrategy = _Boot


class Worker(faust.Worker):
    """Faust's worker process, which ends when its services have."""

    async def _sentinel_task(self) -> None:
        # mode sleeps for a second here, after all is stopped and committed: the longest part of a restart's pause.
        await asyncio.sleep(0)


class Engine(Service):
    """Starts the parts of a worker in the order in which they need each other, and stops them the other way round."""

    def __init__(self, settings: Settings, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._number = number
        self._intake: EventIntake | None = None
        self._agents: dict[str, SinkAgent] = {}
        self._budget = Budget(settings.max_in_flight)

    async def on_start(self) -> None:
        """Starts table, writer, sink agents, intake; the consumer of the hot topic last."""
        settings = self._settings
        kafka = connect(settings, f"sluice-worker-{self._number}")
        table = ConfigTable(kafka, settings, settings.data_dir / f"worker-{self._number}" / "table")
        await self.add_runtime_dependency(table)
        await table.wait(table.ready)
        if table.crash_reason is not None:
            raise table.crash_reason
        router = Router(table, settings)
        writer = Writer(kafka)
        await self.add_runtime_dependency(writer)

        def committed(partition: Any) -> Any:
            assert consumer.consumer is not None
            return consumer.consumer.committed(partition)

        async def still_assigned(partition: TopicPartition, offset: int) -> bool:
            return await consumer.still_assigned(partition, offset)

        def let_go(partition: TopicPartition, reason: str) -> None:
            intake.let_go(partition, reason)

        partitions: dict[TopicPartition, Partition] = {}
        identity = log_id(table)
        positions = Positions(kafka, settings, still_assigned, let_go)
        recall = Recall(kafka, settings, committed)
        instances = Instances(table, settings)
        intake = EventIntake(
            settings, table, instances, router, self._agents, recall, positions, partitions, self._budget, identity
        )
        consumer = HotConsumer(kafka, settings, intake, self.instance_id())
        keeper = LaneKeeper(positions, intake.freed, intake.forgotten)
        outcomes = Outcomes(settings, writer, consumer.mark, intake.freed, keeper.checkpoint)
        admission = Admission(table, router, self._agents, outcomes, keeper)
        catch_up = CatchUp(kafka, partitions, router, admission, keeper, identity, intake.has_room)
        keeper.wake = catch_up.wake
        intake.connect(consumer, outcomes, admission, keeper)
        controls = Controls(table, router)
        for transport in transports():
            context = SinkContext(
                egress=EgressGuard(settings.egress_allow),
                user_agent=f"Sluice/{version('sluice')}",
                settings=settings.transports[transport],
            )
            self._agents[transport] = SinkAgent(transport, router, outcomes, keeper, self._budget, context, controls)
        changes = Changes(partitions, router, controls, self._agents, admission, outcomes, keeper)
        table.subscribe(changes.changed)
        for service in (positions, controls, outcomes, *self._agents.values(), catch_up, intake, consumer):
            await self.add_runtime_dependency(service)
        self._intake, self._consumer, self._table = intake, consumer, table
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)

    @property
    def slots(self) -> int:
        """Events that were read and are not settled."""
        return self._intake.slots if self._intake is not None else 0

    def instance_id(self) -> str:
        """The static name in the group: the same for the same data directory and number, so a restart is no leave."""
        return f"worker-{installation_id(self._settings.data_dir)}-{self._number}"

    @Service.task
    async def _adapt(self) -> None:
        smoothed = 0.0
        while not self.should_stop:
            before = time.monotonic()
            await self.sleep(TURN_SECS)
            lag = max(0.0, time.monotonic() - before - TURN_SECS)
            smoothed += (lag - smoothed) * 0.3
            self._budget.adapt(smoothed)

    @Service.task
    async def _measure(self) -> None:
        in_flight = {name: metrics.gauge("sluice_in_flight", transport=name) for name in transports()}
        slots = metrics.gauge("sluice_slots")
        queued = metrics.gauge("sluice_queued_deliveries")
        paused = metrics.gauge("sluice_destinations_paused")
        assigned = metrics.gauge("sluice_partitions_assigned")
        rebalances = metrics.counter("sluice_rebalances_total")
        offset = metrics.gauge("sluice_table_offset")
        lag = metrics.gauge("sluice_loop_lag_seconds")
        seen = 0
        while not self.should_stop:
            before = time.monotonic()
            await self.sleep(METRICS_SECS)
            lag.set(max(0.0, time.monotonic() - before - METRICS_SECS))
            if self._intake is None:
                continue
            for name, agent in self._agents.items():
                in_flight[name].set(agent.in_flight)
            slots.set(self._intake.slots)
            queued.set(sum(agent.queued for agent in self._agents.values()))
            paused.set(sum(agent.paused for agent in self._agents.values()))
            assigned.set(len(self._consumer.partitions))
            rebalances.add(self._consumer.rebalances - seen)
            seen = self._consumer.rebalances
            offset.set(self._table.position - 1)
            metrics.flush()


def run_worker(settings: Settings, number: int) -> None:
    """
    Runs worker `number` in this process until SIGTERM or SIGINT; raises SystemExit with Faust's exit code.

    Call it once, in the main thread of a process of its own.
    """
    metrics.prepare(settings, f"worker-{number}")
    # Faust makes the directory itself, but not those above it.
    (settings.data_dir / f"worker-{number}").mkdir(parents=True, exist_ok=True)
    app = App(
        settings.topic("workers"),
        broker="kafka://" + ";".join(settings.brokers or ("127.0.0.1",)),
        store="memory://",
        datadir=settings.data_dir / f"worker-{number}" / "faust",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        env_prefix="SLUICE_FAUST_",
        autodiscover=False,
    )

    @app.service
    class _Engine(Engine):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(settings, number, **kwargs)

    worker = Worker(
        app,
        quiet=True,
        loglevel=logging.WARNING,
        override_logging=False,
        redirect_stdouts=False,
        console_port=None,
        blocking_timeout=0.0,
    )
    worker.spinner = None  # It writes control characters to standard output, terminal or not.
    worker.execute_from_commandline()
