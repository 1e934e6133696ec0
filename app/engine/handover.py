"""Partitions that come and go: what has to be known before the first event, and written after the last."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from app.config.instances import Instances
from app.config.table import ConfigTable
from app.engine.admission import Admission
from app.engine.consumer import HotConsumer
from app.engine.keeper import LaneKeeper
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition
from app.engine.position import LanePosition
from app.engine.positions import NotAssigned, Positions
from app.engine.recall import Recall
from app.observe import metrics
from app.routing.router import Router
from app.settings import Settings

log = structlog.get_logger()

DRAIN_POLL_SECS = 0.01


class HandOver:
    """Loads partitions that were assigned, and drains those that are revoked. `release` lets the reading begin."""

    def __init__(
        self,
        *,
        settings: Settings,
        table: ConfigTable,
        instances: Instances,
        router: Router,
        recall: Recall,
        positions: Positions,
        consumer: HotConsumer,
        outcomes: Outcomes,
        admission: Admission,
        keeper: LaneKeeper,
        release: Callable[[Partition], None],
    ) -> None:
        self._settings = settings
        self._table = table
        self._instances = instances
        self._router = router
        self._recall = recall
        self._positions = positions
        self._consumer = consumer
        self._outcomes = outcomes
        self._admission = admission
        self._keeper = keeper
        self._release = release
        self._cancelled = metrics.counter("sluice_events_cancelled_total")

    async def load(self, partitions: Sequence[Partition]) -> None:
        """Lets each partition begin once the table, its recent ids and its lanes are there."""
        await self._table.ready.wait()
        await self._recall.load([(partition.topic_partition, partition.recent) for partition in partitions])
        starts = await self._consumer.starts_of([partition.topic_partition for partition in partitions])
        await asyncio.gather(*(self._begin(partition, starts[partition.topic_partition]) for partition in partitions))

    async def _begin(self, partition: Partition, start: int) -> None:
        if partition.gone:
            return  # And perhaps assigned again since, which is another partition to us.
        try:
            loaded = await self._positions.acquire(partition.topic_partition, start)
        except NotAssigned as error:
            log.warning("partition.not_ours", partition=partition.number, error=str(error))
            return
        if partition.gone:
            return
        partition.live = max(partition.live, start)
        for key, position in loaded.items():
            self._restore(partition, key, position)
        self._release(partition)
        self._keeper.wake()

    def _restore(self, partition: Partition, key: bytes, position: LanePosition) -> None:
        instance = self._instances.get(position.instance)
        lane = None
        heir = self._router.successor(position.destination)
        if instance is not None and instance.uuid == position.instance_id:
            name = heir or position.destination
            lane = self._admission.lane(partition, position.instance, position.instance_id, name)
        if heir is not None and lane is not None and lane.tracks:
            lane = None  # A pipeline that was renamed, and whose lane had moved already.
        if lane is None:
            # Instance or destination went while it was behind: what it should have had is cancelled.
            lowest = partition.live if position.lowest is None else position.lowest
            at_most = max(0, partition.live - lowest)
            log.warning("lane.cancelled", destination=position.destination, instance=position.instance, at_most=at_most)
            self._cancelled.add(at_most)
            self._positions.put(partition.topic_partition, key, None)
            return
        lane.load(position)
        if heir is not None:
            # In this order, so that a crash between the two leaves one of them.
            self._keeper.write_at_once(lane)
            self._positions.put(partition.topic_partition, key, None)
        for track in list(lane.tracks.values()):
            if track.feed >= partition.live:
                lane.hand_over(track)

    async def drain(self, partitions: Sequence[Partition]) -> None:
        """
        Lets requests under way end, within SLUICE_DRAIN_SECS, and writes down where every lane stands.

        What was not begun is left to the next assignee at once, so that a planned change doubles nothing.
        """
        deadline = time.monotonic() + self._settings.drain_secs
        for partition in partitions:
            partition.draining = True
            for lane in list(partition.lanes.values()):
                if lane.count and not lane.behind():
                    self._keeper.fall_behind(lane, "draining", drop=True)
        while self._moving(partitions) and time.monotonic() < deadline:  # noqa: ASYNC110  Many things end it.
            await asyncio.sleep(DRAIN_POLL_SECS)
        for partition in partitions:
            for lane in list(partition.lanes.values()):
                if lane.count and not lane.behind():
                    self._keeper.fall_behind(lane, "draining", drop=True)
        remaining = max(deadline - time.monotonic(), 1.0)
        try:
            async with asyncio.timeout(remaining):
                await asyncio.gather(*(self._write_all(partition) for partition in partitions))
        except (TimeoutError, NotAssigned) as error:
            log.warning("drain.unwritten", waited_secs=round(remaining, 1), error=repr(error))

    async def _write_all(self, partition: Partition) -> None:
        await self._outcomes.flush(partition)
        await self._positions.flush(partition.topic_partition)
        await self._outcomes.flush(partition)

    @staticmethod
    def _moving(partitions: Sequence[Partition]) -> bool:
        """Whether something is under way, or will be without waiting for a destination."""
        return any(
            (lane.ready and not lane.gate.paused and not lane.gate.limit.down)
            or any(head in lane.gate.in_flight for head in lane.heads.values())
            for partition in partitions
            for lane in partition.lanes.values()
            if lane.count
        )
