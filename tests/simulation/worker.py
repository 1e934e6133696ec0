"""A worker of the real engine's parts, in a process that can be killed, on the simulated Kafka."""

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from mode import Service

from app.engine.admission import Admission
from app.engine.agent import SinkAgent
from app.engine.catchup import CatchUp
from app.engine.consumer import HotConsumer
from app.engine.controls import Controls
from app.engine.delivery import Delivery
from app.engine.gate import Budget
from app.engine.intake import EventIntake
from app.engine.keeper import LaneKeeper
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition
from app.engine.positions import Positions
from app.engine.recall import Recall
from app.engine.writer import Writer
from app.routing.route import Destination, Route
from tests.simulation.clients import SimulatedKafka
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

TRANSPORT = "webhook"
STOP_SECS = 15.0


class Routes:
    """In the place of the router and the tables: routes by instance, destinations by id, all there from the start."""

    def __init__(self) -> None:
        self.by_instance: dict[str, tuple[Route, ...]] = {}
        self.destinations: dict[str, Destination] = {}
        self.position = 1
        self.ready = asyncio.Event()
        self.ready.set()

    def routes(self, instance: str, event_name: str) -> tuple[Route, ...] | None:  # noqa: ARG002  As the router's.
        return self.by_instance.get(instance)

    def kept(self, destination_id: str) -> bool:  # noqa: ARG002  As the router's.
        return False

    def successor(self, destination_id: str) -> str | None:  # noqa: ARG002  As the router's.
        return None

    def destination(self, destination_id: str) -> Destination | None:
        return self.destinations.get(destination_id)

    def get(self, instance: str) -> Any:
        return SimpleNamespace(uuid=f"uuid-{instance}") if instance in self.by_instance else None


class _Outcomes(Outcomes):
    """Tells the world of ends as they are decided."""

    def __init__(self, told: Callable[[Delivery, str], None], *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self._told = told

    def end(self, delivery: Delivery, end: Any, **details: Any) -> None:
        self._told(delivery, end)
        super().end(delivery, end, **details)


class SimulatedEngine(Service):
    """The parts of a worker, joined as `app/engine/app.py` joins them."""

    def __init__(self, world: "World", number: int, process: Process, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._world = world
        self._number = number
        self._process = process
        self.partitions: dict[TopicPartition, Partition] = {}
        self.agents: dict[str, SinkAgent] = {}
        self.budget = Budget(world.settings.max_in_flight)
        self.intake: EventIntake | None = None

    async def on_start(self) -> None:
        """Starts the parts, the consumer of the hot topic last."""
        world, settings = self._world, self._world.settings
        kafka: Any = SimulatedKafka(world.broker, self._process)
        routes: Any = world.routes
        writer = Writer(kafka)
        await self.add_runtime_dependency(writer)

        async def still_assigned(partition: TopicPartition, offset: int) -> bool:
            return await consumer.still_assigned(partition, offset)

        def let_go(partition: TopicPartition, reason: str) -> None:
            intake.let_go(partition, reason)

        async def committed(partition: TopicPartition) -> int | None:
            assert consumer.consumer is not None
            found: int | None = await consumer.consumer.committed(partition)
            return found

        positions = Positions(kafka, settings, still_assigned, let_go)
        recall = Recall(kafka, settings, committed)
        intake = EventIntake(
            settings, routes, routes, routes, self.agents, recall, positions, self.partitions, self.budget, "simulated"
        )
        consumer = HotConsumer(kafka, settings, intake, f"worker-{self._number}")
        keeper = LaneKeeper(positions, intake.freed, intake.forgotten)
        outcomes = _Outcomes(
            world.decided_by(self._process), settings, writer, consumer.mark, intake.freed, keeper.checkpoint
        )
        admission = Admission(routes, routes, self.agents, outcomes, keeper)
        catch_up = CatchUp(kafka, self.partitions, routes, admission, keeper, "simulated", intake.has_room)
        keeper.wake = catch_up.wake
        intake.connect(consumer, outcomes, admission, keeper)
        context: Any = None
        self.agents[TRANSPORT] = SinkAgent(
            TRANSPORT, routes, outcomes, keeper, self.budget, context, Controls(routes, routes)
        )
        services: tuple[Any, ...] = (positions, outcomes, *self.agents.values(), catch_up, intake, consumer)
        for service in services:
            await self.add_runtime_dependency(service)
        self.intake, self.consumer, self.positions, self.outcomes = intake, consumer, positions, outcomes


class Worker:
    """One start of one worker: from its start until it stops, crashes or is killed."""

    def __init__(self, world: "World", number: int) -> None:
        self.number = number
        self.process = Process(world.loop, f"worker-{number}")
        self.engine: SimulatedEngine | None = None
        self.ended = False
        self.reason: BaseException | None = None
        """Why it ended by itself."""
        self._world = world
        self._stop = asyncio.Event()
        self.process.spawn(self._run())

    def stop(self) -> None:
        """As SIGTERM does."""
        self.process.spawn(self._set())

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.ended = True

    @property
    def partitions(self) -> Mapping[TopicPartition, Partition]:
        """What is assigned to it, if it can be looked at."""
        return self.engine.partitions if self.engine is not None and not self.ended else {}

    async def _set(self) -> None:
        self._stop.set()

    async def _run(self) -> None:
        engine = SimulatedEngine(self._world, self.number, self.process)
        self.engine = engine
        try:
            await engine.start()
            waits = [asyncio.ensure_future(self._stop.wait()), asyncio.ensure_future(engine._crashed.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if engine.crashed and not self._stop.is_set():
                self.reason = engine.crash_reason
            async with asyncio.timeout(STOP_SECS):
                await engine.stop()
        except TimeoutError:
            self._world.note(f"worker {self.number} did not stop in {STOP_SECS} s")
        except Exception as error:  # noqa: BLE001  The world judges it.
            self.reason = error
        self.process.kill()
        self.ended = True
