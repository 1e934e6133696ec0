"""
The intake: what happens to a record between the hot topic and the lanes.

Decode once, find the compiled routes, hand to the lanes. No task and no await per event. It waits in three places,
each bounded and counted: the slots are full, the table is behind an event's `config-offset`, the bytes are spent.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import ConsumerRecord, TopicPartition
from mode import Service

from app.config.instances import Instances, TooManyInstances
from app.config.table import ConfigTable, TableUnavailable
from app.engine.admission import Admission
from app.engine.agent import SinkAgent
from app.engine.consumer import HotConsumer
from app.engine.gate import Budget
from app.engine.handover import HandOver
from app.engine.keeper import LaneKeeper
from app.engine.lane import Lane
from app.engine.outcomes import Outcomes
from app.engine.partition import Memory, Partition, Slot
from app.engine.positions import Positions
from app.engine.recall import Recall
from app.events.decode import decode
from app.events.event import Event, Poison
from app.observe import metrics
from app.routing.route import Route
from app.routing.router import Router
from app.settings import Settings

log = structlog.get_logger()

SLOT_OVERHEAD_BYTES = 1024
"""What an event in a slot takes beside its bytes."""
CROWDED_POLL_SECS = 0.03
LOOK_SECS = 0.5
RETRY_SECS = 1.0
MAX_BACKLOG_SCAN = 10_000
MAX_REFUSED = 100_000
READ_AHEAD = 1_000
"""Events in memory, over all partitions, that are enough to keep a busy process busy."""


class FencedError(Exception):
    """Another worker writes the positions of a partition that we took for ours."""


class _Blocked(Exception):
    """The record cannot be routed yet; `wait` is what it waits for."""

    def __init__(self, wait: Coroutine[Any, Any, None]) -> None:
        super().__init__()
        self.wait = wait


class EventIntake(Service):
    """Routes the events of the assigned partitions into lanes, and hands partitions over without loss."""

    def __init__(
        self,
        settings: Settings,
        table: ConfigTable,
        instances: Instances,
        router: Router,
        agents: Mapping[str, SinkAgent],
        recall: Recall,
        positions: Positions,
        partitions: dict[TopicPartition, Partition],
        budget: Budget,
        log_id: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._consumer: HotConsumer
        self._outcomes: Outcomes
        self._admission: Admission
        self._keeper: LaneKeeper
        self._hand_over: HandOver
        self._settings = settings
        self._table = table
        self._instances = instances
        self._router = router
        self._agents = agents
        self._recall = recall
        self._positions = positions
        self._budget = budget
        self._log_id = log_id
        self._partitions = partitions
        self._refused: set[str] = set()
        self._memory = Memory()
        self._full = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = metrics.counter("sluice_events_total")
        self._filtered = metrics.counter("sluice_events_filtered_total")
        self._repeated = metrics.counter("sluice_events_repeated_total")
        self._waits = {
            reason: metrics.counter("sluice_waits_total", reason=reason) for reason in ("slots", "table", "bytes")
        }

    def connect(self, consumer: HotConsumer, outcomes: Outcomes, admission: Admission, keeper: LaneKeeper) -> None:
        """Joins the parts that need each other; call it once, before the start."""
        self._consumer, self._outcomes, self._admission, self._keeper = consumer, outcomes, admission, keeper
        self._hand_over = HandOver(
            settings=self._settings,
            table=self._table,
            instances=self._instances,
            router=self._router,
            recall=self._recall,
            positions=self._positions,
            consumer=consumer,
            outcomes=outcomes,
            admission=admission,
            keeper=keeper,
            release=self._release,
        )

    @property
    def slots(self) -> int:
        """Events that were read and are not settled."""
        return sum(len(partition.slots) for partition in self._partitions.values())

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Loads what each partition needs, then lets it begin."""
        for topic_partition in partitions:
            partition = Partition(topic_partition, self._recall.window(topic_partition), self._memory)
            self._partitions[topic_partition] = partition
            self._outcomes.open(partition)
        self._spawn(self._hand_over.load(tuple(self._partitions.values())))

    def take(self, topic_partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Routes a batch. Once one record has to wait, all behind it wait too."""
        partition = self._partitions.get(topic_partition)
        if partition is None:
            return
        if partition.blocked:
            partition.backlog.extend(records)
            return
        self._events.add(len(records))
        self._route_all(partition, records)
        self._limit(partition)

    async def revoked(self, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        """Sends what must not be sent twice, tells its ends, and forgets the rest."""
        leaving = [self._partitions[partition] for partition in partitions if partition in self._partitions]
        try:
            if not lost:
                await self._hand_over.drain(leaving)
        finally:
            # Also when that took too long: the next assignment begins with nothing.
            await self._forget(leaving)

    async def _forget(self, leaving: Sequence[Partition]) -> None:
        for partition in leaving:
            partition.leave()
            for lane in partition.lanes.values():
                self.forgotten(lane, lane.count)
                lane.ready.clear()
                lane.heads.clear()
                lane.count = 0
            self._recall.keep(partition.topic_partition, partition.recent, partition.live)
            self._outcomes.close(partition)
            del self._partitions[partition.topic_partition]
        await asyncio.gather(
            *(self._positions.release(partition.topic_partition, write=False) for partition in leaving)
        )
        self._refused.clear()
        self.freed()

    def forgotten(self, lane: Lane, count: int) -> None:
        """So many deliveries of a lane are in memory no more, and will be read again."""
        self._agents[lane.gate.transport].queued -= count

    def let_go(self, topic_partition: TopicPartition, reason: str) -> None:
        """We may not write positions of a partition any more: this process ends, and joins anew."""
        log.error("partition.fenced", partition=topic_partition.partition, reason=reason)
        self._spawn(self.crash(FencedError(f"partition {topic_partition.partition}: {reason}")))

    def has_room(self) -> bool:
        """Whether bytes are left for events that are read again."""
        return not self._full and self._memory.used < self._settings.slot_bytes

    async def on_stop(self) -> None:
        """Ends what loads or waits."""
        for task in self._tasks:
            task.cancel()

    def freed(self) -> None:
        """Events were let go of; partitions that were held for their bytes may go on."""
        if self._full and self._memory.used < self._settings.slot_bytes // 2:
            self._full = False
            for partition in self._partitions.values():
                self._release(partition)

    # -- the path of an event

    def _route_all(self, partition: Partition, records: Sequence[ConsumerRecord]) -> None:
        for index, record in enumerate(records):
            try:
                self._route(partition, record)
            except _Blocked as blocked:
                partition.blocked = True
                partition.backlog.extend(records[index:])
                self._consumer.hold(partition.topic_partition)
                self._spawn(self._unblock(partition, blocked.wait))
                return
            partition.live = record.offset + 1

    def _route(self, partition: Partition, record: ConsumerRecord) -> None:
        try:
            event = decode(record, self._log_id)
        except Poison as poison:
            self._poisoned(partition, record, poison.reason)
            return
        routes = self._routes(partition, record, event)
        if routes is None:
            return
        if event.given_id and partition.recent.repeated((event.instance, event.id), event.offset, event.timestamp_ms):
            self._repeated.add(1)
            return
        self._hand_on(partition, record, event, routes)

    def _hand_on(self, partition: Partition, record: ConsumerRecord, event: Event, routes: Sequence[Route]) -> None:
        slot: Slot | None = None
        followed = False
        for route in routes:
            lane = partition.lanes.get((route.instance_id, route.destination))
            if lane is not None and lane.tracks and lane.behind():
                followed = True  # The lane reads it again, and matches it then.
                continue
            if route.matches is not None and not route.matches(event):
                continue
            if lane is None:
                lane = self._admission.lane(partition, event.instance, route.instance_id, route.destination)
                if lane is None:
                    continue
            if slot is None:
                slot = Slot(partition, record, event.size + SLOT_OVERHEAD_BYTES, time.monotonic())
                partition.hold(slot)
                # Held until all its deliveries have been offered.
                slot.pending = 1
            self._admission.live(lane, slot, event, route)
        if slot is None:
            if not followed:
                self._filtered.add(1)
            return
        if slot.release():
            self.freed()

    def _routes(self, partition: Partition, record: ConsumerRecord, event: Event) -> Sequence[Route] | None:
        """The ways of an event; None when it went to the dead letters. Raises _Blocked when it has to wait."""
        if event.config_offset >= self._table.position:
            raise _Blocked(self._wait_for_table(event.config_offset))
        routes = self._router.routes(event.instance, event.name)
        if routes is None:
            if event.instance not in self._refused:
                raise _Blocked(self._create_instances(partition))
            reason = f"instance {event.instance!r} is one more than SLUICE_MAX_INSTANCES"
            self._poisoned(partition, record, reason, "too_many_instances")
        return routes

    def _poisoned(self, partition: Partition, record: ConsumerRecord, reason: str, label: str = "malformed") -> None:
        slot = Slot(partition, record, len(record.value or b"") + SLOT_OVERHEAD_BYTES, time.monotonic())
        slot.deliveries = 1
        partition.hold(slot)
        metrics.counter("sluice_events_poisoned_total", reason=label).add(1)
        log.warning("event.poisoned", partition=record.partition, offset=record.offset, reason=reason)
        self._outcomes.poisoned(slot, reason)

    # -- limits

    def _limit(self, partition: Partition) -> None:
        if self._crowded(partition):
            self._waits["slots"].add(1)
            self._consumer.hold(partition.topic_partition)
            self._wait(partition)
        if self._memory.used > self._settings.slot_bytes and not self._full:
            self._full = True
            self._waits["bytes"].add(1)
            log.warning("intake.bytes_spent", limit=self._settings.slot_bytes, setting="SLUICE_SLOT_BYTES")
            lanes = [lane for one in self._partitions.values() for lane in one.lanes.values() if lane.count]
            self._keeper.spill(lanes, self._memory.used - self._settings.slot_bytes // 2)
        if self._full:
            self._consumer.hold(partition.topic_partition)

    def _crowded(self, partition: Partition, share: float = 1.0) -> bool:
        # While deliveries wait for this process, and not for a far end, reading on would only fill memory.
        if self._budget.waiting and self.slots >= READ_AHEAD * share:
            return True
        waiting = len(partition.slots) + self._outcomes.unwritten(partition)
        return waiting >= self._settings.slots * share

    def _wait(self, partition: Partition) -> None:
        if not partition.crowded:
            partition.crowded = True
            self._spawn(self._wait_for_slots(partition))

    async def _wait_for_slots(self, partition: Partition) -> None:
        while self._crowded(partition, 0.5) and not partition.gone:  # noqa: ASYNC110  Rare, and many things end it.
            await asyncio.sleep(CROWDED_POLL_SECS)
        partition.crowded = False
        self._release(partition)

    def _release(self, partition: Partition) -> None:
        # Below zero: where its lanes stand is not loaded.
        if partition.live < 0 or partition.gone or partition.blocked or self._full:
            return
        if self._crowded(partition):
            self._wait(partition)
            return
        partition.forget_idle_lanes()
        self._consumer.release(partition.topic_partition)

    # -- what a record may wait for

    async def _unblock(self, partition: Partition, wait: Coroutine[Any, Any, None]) -> None:
        await wait
        if partition.gone:
            return
        partition.blocked = False
        backlog = list(partition.backlog)
        partition.backlog.clear()
        self._route_all(partition, backlog)
        if not partition.blocked:
            self._limit(partition)
            self._release(partition)

    async def _wait_for_table(self, offset: int) -> None:
        self._waits["table"].add(1)
        try:
            async with asyncio.timeout(self._settings.config_wait_secs):
                await self._table.applied(offset)
        except (TimeoutError, TableUnavailable):
            log.warning(
                "intake.table_behind",
                wanted=offset,
                applied=self._table.position - 1,
                waited_secs=self._settings.config_wait_secs,
            )

    async def _create_instances(self, partition: Partition) -> None:
        """An instance exists once its first event arrived: makes all that the waiting records need, in one write."""
        names = set()
        for record in list(partition.backlog)[:MAX_BACKLOG_SCAN]:
            try:
                event = decode(record, self._log_id)
            except Poison:
                continue
            if self._router.routes(event.instance, event.name) is None:
                names.add(event.instance)
        while not partition.gone:
            try:
                await self._instances.ensure(sorted(names), owner="event", source=self._settings.topic("events"))
            except TooManyInstances as error:
                log.warning("intake.too_many_instances", names=len(names), error=str(error))
                if len(self._refused) > MAX_REFUSED:
                    self._refused.clear()
                self._refused.update(name for name in names if self._instances.get(name) is None)
                return
            except TableUnavailable as error:
                log.warning("intake.table_unavailable", error=str(error), wait_secs=RETRY_SECS)
                await asyncio.sleep(RETRY_SECS)
            else:
                return

    @Service.task
    async def _look_after(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECS)
            now = time.monotonic()
            for partition in list(self._partitions.values()):
                self._keeper.relieve(partition, now)
                self._keeper.retire(partition)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect in here must not leave a partition silent: the process ends, the supervisor starts it again.
            self._tasks.add(asyncio.get_running_loop().create_task(self.crash(error)))
