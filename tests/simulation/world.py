"""One simulated installation: a Kafka, workers, far ends, and the invariants that must hold at every moment."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch
from zlib import crc32

import orjson
import structlog
from aiokafka import TopicPartition

from app import settings as settings_module
from app.engine import admission, agent, catchup, keeper, limits
from app.engine.consumer import MembershipLost
from app.engine.delivery import Delivery
from app.engine.faults import install
from app.engine.gate import Gate
from app.engine.intake import FencedError
from app.engine.lane import Lane, Track
from app.routing.route import Destination, Route
from app.settings import Settings
from schemas import Retry
from sinks import Message
from tests.simulation.clients import FencedInstance
from tests.simulation.expectations import Broken, Expectations, Expected
from tests.simulation.far_ends import FarEnd, SimulatedOptions, sink_for
from tests.simulation.kafka import Broker
from tests.simulation.loop import PROCESS, Killed, Process, SimulatedLoop, simulated_time
from tests.simulation.worker import TRANSPORT, Routes, Worker

RESTART_SECS = 0.5
MODEST_REASONS = (FencedError, MembershipLost, FencedInstance)
"""Why a worker may end by itself; the supervisor starts it again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Constants of the engine, small enough that a few hundred events reach them."""

    slots: int = 60
    slot_bytes: int = 1 << 20
    lane_deliveries: int = 16
    lane_bytes: int = 64 << 10
    parked_keys: int = 4
    near_records: int = 40
    slice_records: int = 60
    batch_records: int = 10
    drain_secs: float = 1.5
    max_attempts: int = 5
    timeout_secs: float = 2.0


@cache
def _settings() -> Settings:
    return settings_module.read({"SLUICE_TOPIC_PREFIX": "simulated.", "AUTHENTICATION_API_KEY": "simulated-key"})


class World:
    """Everything outside the workers, and the workers."""

    def __init__(self, loop: SimulatedLoop, seed: int, *, partitions: int, limits_: Limits) -> None:
        self.loop = loop
        self.limits = limits_
        self.settings = dataclasses.replace(
            _settings(),
            slots=limits_.slots,
            slot_bytes=limits_.slot_bytes,
            drain_secs=limits_.drain_secs,
            session_timeout_secs=6.0,
        )
        self.broker = Broker(loop, seed, partitions)
        self.routes = Routes()
        self.far_ends: dict[str, FarEnd] = {}
        self.workers: dict[int, Worker] = {}
        self.notes: list[str] = []
        self.crashes = 0
        self.failure: BaseException | None = None
        self.expectations = Expectations(
            self.broker, *(self.settings.topic(name) for name in ("events", "lanes", "deliveries", "dead-letters"))
        )
        self.poisoned = 0
        self.restarts = True
        """Whether a worker that ended by itself is started again."""
        self.kill_at: tuple[str, int] | None = None
        """A fault point, and at which of its passes the process there is killed."""
        self._by_mark: dict[tuple[str, str], Expected] = {}
        self._seed = seed
        self._started: list[Worker] = []
        """All there were: what a killed one left must not be freed, since that would run it."""

    # -- building

    def destination(
        self, instance: str, name: str, *, order: str = "chat", wants: Callable[[int], bool] | None = None
    ) -> FarEnd:
        """An instance gets one more destination."""
        self.far_ends[name] = far_end = FarEnd(self.loop, name, self._seed + crc32(name.encode()), self._accepted)
        retry = Retry(max_attempts=self.limits.max_attempts, initial_delay_secs=0.5, max_delay_secs=3.0)
        options = SimulatedOptions(name=name, timeout_secs=self.limits.timeout_secs, max_in_flight=64)
        self.routes.destinations[name] = Destination(id=name, transport=TRANSPORT, options=options, retry=retry)
        keys: dict[str, Any] = {"chat": lambda event: event.data["chat"], "instance": lambda _: "", "none": None}
        route = Route(
            destination=name,
            instance_id=f"uuid-{instance}",
            names={"order": order},
            matches=None if wants is None else lambda event: wants(event.data["number"]),
            encode=lambda event: orjson.dumps(event.data),
            order_key=keys[order],
        )
        self.routes.by_instance[instance] = (*self.routes.by_instance.get(instance, ()), route)
        return far_end

    def send(self, partition: int, instance: str, chat: str, number: int, *, size: int = 50, holes: int = 0) -> None:
        """An event comes into the log."""
        mark = f"{partition}-{number}"
        data = {"mark": mark, "chat": chat, "number": number, "pad": "x" * size}
        topic_partition = TopicPartition(self.settings.topic("events"), partition)
        value = orjson.dumps({"event": "messages.upsert", "data": data})
        record = self.broker.append(topic_partition, instance.encode(), value, holes=holes)
        event: Any = type("Seen", (), {"data": data})
        for route in self.routes.by_instance[instance]:
            if route.matches is None or route.matches(event):
                key = f"#{record.offset}" if route.order_key is None else route.order_key(event)
                expected = Expected(partition, record.offset, instance, route.destination, key, self.loop.time(), [])
                self.expectations.add(expected)
                self._by_mark[mark, route.destination] = expected

    def send_poison(self, partition: int) -> None:
        """A record that is no event comes into the log."""
        self.poisoned += 1
        self.broker.append(TopicPartition(self.settings.topic("events"), partition), b"sales", b"no JSON")

    def truncate(self, partition: int, share: float) -> None:
        """Retention takes a share of what is in a partition of the log."""
        topic_partition = TopicPartition(self.settings.topic("events"), partition)
        log = self.broker.log(topic_partition)
        start = log.start + int((log.end - log.start) * share)
        self.expectations.excuse(partition, start)
        self.broker.truncate(topic_partition, start)

    # -- workers

    def start(self, number: int) -> None:
        """Starts a worker that is not there."""
        worker = self.workers.get(number)
        if worker is None or worker.ended:
            self.workers[number] = Worker(self, number)
            self._started.append(self.workers[number])

    def kill(self, number: int) -> None:
        """Kills a worker, if it is there."""
        worker = self.workers.get(number)
        if worker is not None and not worker.ended:
            worker.kill()
            self.crashes += 1

    def fault(self, name: str) -> None:
        """A process passes a fault point."""
        if self.kill_at is None or self.kill_at[0] != name:
            return
        self.kill_at = (name, self.kill_at[1] - 1)
        process = PROCESS.get()
        if self.kill_at[1] > 0 or process is None:
            return
        self.kill_at = None
        for worker in self.workers.values():
            if worker.process is process:
                worker.kill()
                self.crashes += 1
                self.loop.outside(RESTART_SECS, self.start, worker.number)
                raise Killed

    def note(self, text: str) -> None:
        """Something that a reader of a failure wants to know."""
        self.notes.append(f"{self.loop.time() - 1000.0:9.3f} {text}")

    # -- what the doubles tell

    def decided_by(self, process: Process) -> Callable[[Delivery, str], None]:
        """What a worker's outcomes call."""

        def decided(delivery: Delivery, end: str) -> None:
            place = (delivery.slot.partition.number, delivery.slot.offset, delivery.lane.destination)
            expected = self.expectations.all.get(place)
            if expected is None or not process.alive:
                return
            if end == "delivered":
                expected.receipts += 1
            else:
                expected.decided = end

        return decided

    def _accepted(self, name: str, mark: str, message: Message) -> None:  # noqa: ARG002  May be looked at.
        try:
            self.expectations.accepted(self._by_mark[mark, name], self.loop.time())
        except Broken as broken:
            self.failure = self.failure or broken

    # -- invariants

    def look(self) -> None:
        """Checks what must hold at every moment; restarts workers that ended by themselves."""
        if self.failure is not None:
            raise self.failure
        if self.loop.failures:
            raise Broken(f"an exception nobody took: {self.loop.failures}")
        for worker in list(self.workers.values()):
            if worker.ended and worker.reason is not None:
                reason, worker.reason = worker.reason, None
                if not isinstance(reason, MODEST_REASONS):
                    raise reason
                self.note(f"worker {worker.number} ended: {reason!r}")
                self.crashes += 1
                if self.restarts:
                    self.loop.outside(RESTART_SECS, self.start, worker.number)
            self._check_bounds(worker)
        self.expectations.check_recoverable()

    def _check_bounds(self, worker: Worker) -> None:
        engine = worker.engine
        if engine is None or engine.intake is None or worker.ended:
            return
        queued = size = 0
        for partition in worker.partitions.values():
            held = sum(slot.size for slot in partition.slots)
            if len(partition.slots) > self.limits.slots + 200:
                raise Broken(f"{len(partition.slots)} slots")
            for lane in partition.lanes.values():
                waiting = [one for head in lane.heads.values() for one in (head, *(head.behind or ()))]
                queued += lane.count
                held += sum(slot.size for track in lane.tracks.values() for slot in track.slots.values())
                _same(f"deliveries of {lane.destination}", lane.count, len(waiting))
                _same(f"bytes of {lane.destination}", lane.size, sum(len(one.body) for one in waiting))
                if lane.count > self.limits.lane_deliveries * 2:
                    raise Broken(f"{lane.count} deliveries in a lane")
                if len(lane.tracks) > self.limits.parked_keys + 2:
                    raise Broken(f"{len(lane.tracks)} tracks in a lane")
                if lane.tracks and lane not in partition.behind:
                    raise Broken(f"nobody reads for {lane.destination}")
            _same(f"bytes of partition {partition.number}", partition.size, held)
            size += partition.size
        _same("bytes of the worker", engine.intake._memory.used, size)
        for sink_agent in engine.agents.values():
            _same("queued deliveries", sink_agent.queued, queued)
            in_flight = sum(len(gate.in_flight) for gate in sink_agent._gates.values())
            _same("budget", engine.budget.active, in_flight)

    def settled(self) -> bool:
        """Whether everything has its end and nothing stands behind any more."""
        self.expectations.read_ledger()
        if self.expectations.open or any(self.expectations.positions().values()):
            return False
        topic = self.settings.topic("events")
        for number in range(self.broker.partitions):
            topic_partition = TopicPartition(topic, number)
            records = self.broker.log(topic_partition).records
            if records and self.broker.group.offsets.get(topic_partition, 0) <= records[-1].offset:
                return False
        return not any(
            partition.slots or partition.behind
            for worker in self.workers.values()
            for partition in worker.partitions.values()
        )

    def unsettled(self) -> str:
        """What is not settled, in words."""
        lines = [f"open: {expected}" for expected in list(self.expectations.open.values())[:10]]
        lines += [f"position {number}: {values}" for number, values in self.expectations.positions().items() if values]
        lines.append(f"committed {self.broker.group.offsets}")
        for worker in self.workers.values():
            lines.append(f"worker {worker.number} ended={worker.ended} frozen={worker.process.frozen}")
            for partition in worker.partitions.values():
                lines.append(
                    f"  partition {partition.number} live={partition.live} slots={len(partition.slots)} "
                    f"blocked={partition.blocked} draining={partition.draining} moving={partition.moving}"
                )
                lines += [
                    f"    {slot.offset} pending={slot.pending} track={slot.track}" for slot in list(partition.slots)[:5]
                ]
                for lane in partition.lanes.values():
                    tracks = {
                        track.key: (track.feed, track.handed, track.floor, sorted(track.slots))
                        for track in lane.tracks.values()
                    }
                    if tracks or lane.count:
                        gate = lane.gate
                        lines.append(
                            f"    lane {lane.destination} count={lane.count} ready={len(lane.ready)} tracks={tracks} "
                            f"down={gate.limit.down} in flight={len(gate.in_flight)} paused={gate.paused!r}"
                        )
        return "\n".join(lines)


def _same(what: str, counted: Any, found: Any) -> None:
    if counted != found:
        raise Broken(f"{what}: counted {counted}, there are {found}")


def _identities() -> Mapping[type, Callable[[Any], int]]:
    """Hashes that do not depend on addresses, so that sets are walked in the same order each time."""
    return {
        Lane: lambda lane: crc32(f"{lane.instance_id}|{lane.gate.id}|{lane.partition.number}".encode()),
        Track: lambda track: crc32(f"{track.lane.gate.id}|{track.lane.partition.number}|{track.key}".encode()),
        Gate: lambda gate: crc32(gate.id.encode()),
    }


@contextmanager
def world(
    seed: int, *, partitions: int = 1, limits_: Limits | None = None, logged: int = logging.CRITICAL
) -> Iterator[World]:
    """A world with its own time, until the end of the block."""
    small = limits_ or Limits()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logged))
    with ExitStack() as stack:
        loop = stack.enter_context(simulated_time(seed))
        one = World(loop, seed, partitions=partitions, limits_=small)
        for module in (keeper, admission, catchup):
            stack.enter_context(patch.object(module, "MAX_LANE_DELIVERIES", small.lane_deliveries))
            stack.enter_context(patch.object(module, "MAX_LANE_BYTES", small.lane_bytes))
        stack.enter_context(patch.object(keeper, "MAX_PARKED_KEYS", small.parked_keys))
        stack.enter_context(patch.object(limits, "LONGEST_BACKOFF_SECS", 4.0))
        for name in ("near_records", "slice_records", "batch_records"):
            stack.enter_context(patch.object(catchup, name.upper(), getattr(small, name)))
        stack.enter_context(patch.object(agent, "find", lambda _: sink_for(one.far_ends)))
        for kind, identity in _identities().items():
            stack.enter_context(patch.object(kind, "__hash__", identity))
        install(one.fault)
        try:
            yield one
        finally:
            install(None)
            structlog.reset_defaults()
