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
from app.engine.agent import SinkAgent
from app.engine.consumer import HotConsumer
from app.engine.lane import Delivery, Lane
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition, Slot
from app.engine.recall import Recall
from app.events.decode import decode
from app.events.event import Event, Poison
from app.observe import metrics
from app.routing.route import Route, ShapeError
from app.routing.router import Router
from app.settings import Settings
from sinks import FailureKind

log = structlog.get_logger()

SLOT_OVERHEAD_BYTES = 1024
"""What an event in a slot takes beside its bytes."""
DRAIN_POLL_SECS = 0.01
RETRY_SECS = 1.0
MAX_BACKLOG_SCAN = 10_000
MAX_REFUSED = 100_000


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
        log_id: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._consumer: HotConsumer
        self._outcomes: Outcomes
        self._settings = settings
        self._table = table
        self._instances = instances
        self._router = router
        self._agents = agents
        self._recall = recall
        self._log_id = log_id
        self._partitions: dict[TopicPartition, Partition] = {}
        self._refused: set[str] = set()
        self._bytes = 0
        self._full = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = metrics.counter("sluice_events_total")
        self._filtered = metrics.counter("sluice_events_filtered_total")
        self._repeated = metrics.counter("sluice_events_repeated_total")
        self._waits = {
            reason: metrics.counter("sluice_waits_total", reason=reason) for reason in ("slots", "table", "bytes")
        }

    def connect(self, consumer: HotConsumer, outcomes: Outcomes) -> None:
        """Joins the parts that need each other; call it once, before the start."""
        self._consumer, self._outcomes = consumer, outcomes

    @property
    def slots(self) -> int:
        """Events that were read and are not settled."""
        return sum(len(partition.slots) for partition in self._partitions.values())

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Loads what each partition needs, then lets it begin."""
        for topic_partition in partitions:
            partition = Partition(topic_partition, self._recall.window(topic_partition))
            self._partitions[topic_partition] = partition
            self._outcomes.open(partition)
        self._spawn(self._load(tuple(self._partitions.values())))

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
        if not lost:
            await self._drain(leaving)
        for partition in leaving:
            partition.gone = True
            for lane in partition.lanes.values():
                self._agents[lane.gate.transport].queued -= lane.count
                lane.ready.clear()
                lane.keys.clear()
                lane.count = 0
            self._bytes -= partition.size
            self._recall.keep(partition.topic_partition, partition.recent, partition.live)
            self._outcomes.close(partition)
            del self._partitions[partition.topic_partition]
        self._refused.clear()

    async def on_stop(self) -> None:
        """Ends what loads or waits."""
        for task in self._tasks:
            task.cancel()

    def freed(self, size: int) -> None:
        """Slots let go of so many bytes; partitions that were held for them may go on."""
        self._bytes -= size
        if self._full and self._bytes < self._settings.slot_bytes // 2:
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
        slot: Slot | None = None
        for route in routes:
            if route.matches is not None and not route.matches(event):
                continue
            if slot is None:
                slot = Slot(partition, record, event.size + SLOT_OVERHEAD_BYTES)
                partition.slots.append(slot)
                # Held until all its deliveries have been offered.
                slot.pending = 1
            self._offer(partition, slot, event, route)
        if slot is None:
            self._filtered.add(1)
            return
        partition.size += slot.size
        self._bytes += slot.size
        slot.pending -= 1
        if slot.pending == 0:
            self.freed(partition.settle())

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

    def _offer(self, partition: Partition, slot: Slot, event: Event, route: Route) -> None:
        lane_key = (route.instance_id, route.destination)
        lane = partition.lanes.get(lane_key)
        if lane is None:
            destination = self._router.destination(route.destination)
            if destination is None:
                return
            gate = self._agents[destination.transport].gate(route.destination)
            lane = partition.lanes[lane_key] = Lane(partition, gate, event.instance, route.instance_id)
        agent = self._agents[lane.gate.transport]
        agent.matched.add(1)
        slot.pending += 1
        slot.deliveries += 1
        try:
            key = route.order_key(event) if route.order_key is not None else None
            body = route.encode(event)
        except ShapeError as error:
            failed = Delivery(lane, slot, event, route, None, b"")
            self._outcomes.end(failed, "dead", kind=FailureKind.REJECTED, detail=str(error))
            return
        delivery = Delivery(lane, slot, event, route, key, body)
        delivery.config_offset = self._table.position - 1
        slot.size += len(body)
        agent.queued += 1
        if lane.offer(delivery):
            agent.submit(delivery)

    def _poisoned(self, partition: Partition, record: ConsumerRecord, reason: str, label: str = "malformed") -> None:
        slot = Slot(partition, record, len(record.value or b"") + SLOT_OVERHEAD_BYTES)
        slot.deliveries = 1
        partition.slots.append(slot)
        partition.size += slot.size
        self._bytes += slot.size
        metrics.counter("sluice_events_poisoned_total", reason=label).add(1)
        log.warning("event.poisoned", partition=record.partition, offset=record.offset, reason=reason)
        self._outcomes.poisoned(slot, reason)

    # -- limits

    def _limit(self, partition: Partition) -> None:
        if self._crowded(partition):
            self._waits["slots"].add(1)
            self._consumer.hold(partition.topic_partition)
            self._spawn(self._wait_for_slots(partition))
        if self._bytes > self._settings.slot_bytes and not self._full:
            self._full = True
            self._waits["bytes"].add(1)
            log.warning("intake.bytes_spent", limit=self._settings.slot_bytes, setting="SLUICE_SLOT_BYTES")
        if self._full:
            self._consumer.hold(partition.topic_partition)

    def _crowded(self, partition: Partition, share: float = 1.0) -> bool:
        waiting = len(partition.slots) + self._outcomes.unwritten(partition)
        return waiting >= self._settings.slots * share

    async def _wait_for_slots(self, partition: Partition) -> None:
        while self._crowded(partition, 0.5) and not partition.gone:  # noqa: ASYNC110  Rare, and many things end it.
            await asyncio.sleep(DRAIN_POLL_SECS)
        self._release(partition)

    def _release(self, partition: Partition) -> None:
        if not (partition.gone or partition.blocked or self._full or self._crowded(partition)):
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

    # -- assignment and hand-over

    async def _load(self, partitions: Sequence[Partition]) -> None:
        await self._table.ready.wait()
        await self._recall.load([(partition.topic_partition, partition.recent) for partition in partitions])
        for partition in partitions:
            self._release(partition)

    async def _drain(self, partitions: Sequence[Partition]) -> None:
        """
        Sends, within SLUICE_DRAIN_SECS, everything up to the last event of which a part was sent, so that the next
        assignee doubles nothing. What stands above that is left to it.
        """
        deadline = time.monotonic() + self._settings.drain_secs
        for partition in partitions:
            partition.draining = True
            begun = self._begun(partition)
            for lane in partition.lanes.values():
                before = lane.count
                partition.moving -= lane.drop_beyond(begun)
                self._agents[lane.gate.transport].queued -= before - lane.count
            while partition.slots and partition.slots[-1].offset > begun:
                slot = partition.slots.pop()
                partition.size -= slot.size
                partition.live = slot.offset
                self._bytes -= slot.size
        while any(partition.moving for partition in partitions) and time.monotonic() < deadline:  # noqa: ASYNC110  As above.
            await asyncio.sleep(DRAIN_POLL_SECS)
        remaining = max(deadline - time.monotonic(), 1.0)
        try:
            async with asyncio.timeout(remaining):
                await asyncio.gather(*(self._outcomes.flush(partition) for partition in partitions))
        except TimeoutError:
            log.warning("drain.ledger_unwritten", waited_secs=round(remaining, 1))

    @staticmethod
    def _begun(partition: Partition) -> int:
        """The highest offset of which any delivery has begun or ended; below the first slot when none has."""
        waiting: dict[int, int] = {}
        for lane in partition.lanes.values():
            for delivery in lane.ready:
                if delivery.attempts == 0:
                    waiting[delivery.slot.offset] = waiting.get(delivery.slot.offset, 0) + 1
            for behind in lane.keys.values():
                for delivery in behind or ():
                    waiting[delivery.slot.offset] = waiting.get(delivery.slot.offset, 0) + 1
        for slot in reversed(partition.slots):
            if slot.deliveries != waiting.get(slot.offset, 0):
                return slot.offset
        return -1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect in here must not leave a partition silent: the process ends, the supervisor starts it again.
            self._tasks.add(asyncio.get_running_loop().create_task(self.crash(error)))
