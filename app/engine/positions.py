"""Where lanes stand, durable in `lanes`: written by nobody but the partition's assignee, who has read it before."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiokafka import TopicPartition
from mode import Service

from app.engine.partition_writer import Figures, NotAssigned, PartitionWriter, PositionTooLarge
from app.engine.position import LanePosition
from app.engine.transactions import Transactions
from app.log.clients import Kafka
from app.log.topics import LANES
from app.settings import Settings

__all__ = ["NotAssigned", "PositionTooLarge", "Positions"]

log = structlog.get_logger()

OPENINGS_AT_ONCE = 16
"""Partitions that are opened at a time; the others wait for their turn."""
STOP_SECS = 6.0
"""Longest wait for producers to let go of their connections."""


class Positions(Service):
    """
    The positions of all partitions that are assigned to this worker. Partitions are named as those of `events`.

    `still_assigned(partition, offset)` commits `offset` in the group, or what was committed already if that is more,
    and tells whether the group took it from us as the assignee, with no revocation since; it may raise when Kafka does
    not answer, and is asked again then. `lost(partition, reason)` is called once when we may not write for a partition
    any more: nothing more becomes durable, `put` raises.
    """

    def __init__(
        self,
        kafka: Kafka,
        settings: Settings,
        still_assigned: Callable[[TopicPartition, int], Awaitable[bool]],
        lost: Callable[[TopicPartition, str], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kafka = kafka
        self.figures = Figures()
        self.openings = asyncio.Semaphore(OPENINGS_AT_ONCE)
        self._topic = settings.topic(LANES)
        self._ask = still_assigned
        self._lost = lost
        self._writers: dict[TopicPartition, PartitionWriter] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def acquire(self, partition: TopicPartition, start: int) -> Mapping[bytes, LanePosition]:
        """
        What stands in `lanes` for the partition, by lane. From now on it is ours to write.

        Every earlier writer is fenced when this returns. `start` is the offset that reading of `events` begins at; it
        is committed in between, which proves that we are the assignee. Raises NotAssigned when we are not, or when
        the partition is released meanwhile. While Kafka is away it goes on trying: the caller bounds it by cancelling.
        """
        if partition in self._writers:
            raise ValueError(
                f"positions of {partition.topic} {partition.partition} are ours already: release them first"
            )
        lanes = TopicPartition(self._topic, partition.partition)
        writer = PartitionWriter(
            self, partition, lanes, start, lost=lambda reason: self._give_up(writer, partition, reason)
        )
        self._writers[partition] = writer
        try:
            positions = await writer.open()
        except BaseException:
            await self._close(partition, writer, "it could not be opened")
            raise
        writer.run(self._ended)
        return positions

    def put(
        self,
        partition: TopicPartition,
        key: bytes,
        position: LanePosition | None,
        durable: Callable[[], None] | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """
        Will write the lane's position, or with None its tombstone, in place of what waits for that lane.

        `durable` is called once this or a newer one is committed; it must neither raise nor block. Somebody who waits
        for it puts it as `urgent`: that goes at once. The others are paced (pending.py).

        The value is taken as it is now; the position may change afterwards. Raises NotAssigned, and PositionTooLarge
        beyond 1 MB, which is some 10,000 parked keys.
        """
        self._writer(partition).put(key, position, durable, urgent=urgent)

    async def flush(self, partition: TopicPartition) -> None:
        """
        Everything put so far is durable when this returns. Raises NotAssigned when it can no longer become so.

        While Kafka is away it waits: the caller bounds it by cancelling.
        """
        await self._writer(partition).flush()

    async def release(self, partition: TopicPartition, *, write: bool) -> None:
        """
        Lets go of the partition, if it is ours; with `write` after a flush, else what was put is dropped.

        It is let go of even when the flush fails or is cancelled. `durable` is never called afterwards.
        """
        writer = self._writers.get(partition)
        if writer is None:
            return
        try:
            if write:
                await writer.flush()
        finally:
            await self._close(partition, writer, "released")

    def waiting(self, partition: TopicPartition) -> int:
        """Lanes of the partition whose newest position is not durable; 0 when it is not ours."""
        writer = self._writers.get(partition)
        return writer.waiting if writer is not None else 0

    async def still_assigned(self, partition: TopicPartition, offset: int) -> bool:
        """Asks the group."""
        return await self._ask(partition, offset)

    def discard(self, transactions: Transactions) -> None:
        """Stops a producer in the background: with Kafka away that takes seconds."""
        task = asyncio.get_running_loop().create_task(transactions.stop())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def on_stop(self) -> None:
        """Lets go of all without writing: whoever wants more released them before."""
        await asyncio.gather(
            *(self._close(partition, writer, "stopped") for partition, writer in list(self._writers.items()))
        )
        if not self._background:
            return
        _, late = await asyncio.wait(self._background, timeout=STOP_SECS)
        for task in late:
            task.cancel()
        if late:
            log.warning("positions.stop_unfinished", producers=len(late))
            await asyncio.wait(late)

    def _writer(self, partition: TopicPartition) -> PartitionWriter:
        writer = self._writers.get(partition)
        if writer is None:
            raise NotAssigned(f"positions of {partition.topic} {partition.partition} are not ours to write")
        return writer

    async def _close(self, partition: TopicPartition, writer: PartitionWriter, reason: str) -> None:
        self._forget(partition, writer)
        await writer.close(reason)

    def _give_up(self, writer: PartitionWriter, partition: TopicPartition, reason: str) -> None:
        self._forget(partition, writer)
        self._lost(partition, reason)

    def _forget(self, partition: TopicPartition, writer: PartitionWriter) -> None:
        if self._writers.get(partition) is writer:
            del self._writers[partition]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        crash = asyncio.get_running_loop().create_task(self.crash(error))
        self._background.add(crash)
        crash.add_done_callback(self._background.discard)
