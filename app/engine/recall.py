"""Rebuilds the windows of recent ids from the log, when partitions are assigned."""

import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from app.engine.window import RecentIds
from app.events.decode import decode
from app.events.event import Poison
from app.log.clients import Kafka
from app.settings import Settings

log = structlog.get_logger()

MAX_RECORDS = 100_000
"""Most records read back at one assignment, over all partitions: about half a second of a partition's pause."""
BATCH_RECORDS = 500
READ_TIMEOUT_SECS = 5.0


class Recall:
    """
    Keeps the windows of partitions that were ours, and reads back what a window has not seen.

    `committed` gives the group's offset of a partition, or None before the first commit.
    """

    def __init__(
        self,
        kafka: Kafka,
        settings: Settings,
        committed: Callable[[TopicPartition], Awaitable[int | None]],
    ) -> None:
        self._kafka = kafka
        self._maximum = settings.duplicate_window_events
        self._secs = settings.duplicate_window_secs
        self._committed = committed
        self._kept: dict[TopicPartition, RecentIds] = {}
        self.records = 0
        """Records read back so far."""

    def window(self, partition: TopicPartition) -> RecentIds:
        """The window of a partition as it was when it left us, or a new one."""
        return self._kept.pop(partition, None) or RecentIds(self._maximum, self._secs)

    def keep(self, partition: TopicPartition, recent: RecentIds, upto: int) -> None:
        """Keeps a window that has seen everything below `upto`, in case the partition comes back."""
        recent.upto = upto
        self._kept[partition] = recent

    async def load(self, windows: Sequence[tuple[TopicPartition, RecentIds]]) -> None:
        """Reads back, per partition, at most its share of MAX_RECORDS and of the window's seconds."""
        if self._maximum == 0 or self._secs == 0 or not windows:
            return
        share = min(self._maximum, MAX_RECORDS // len(windows))
        wanted: dict[TopicPartition, tuple[int, RecentIds]] = {}
        for partition, recent in windows:
            committed = await self._committed(partition)
            if committed is not None and recent.upto < committed:
                wanted[partition] = (committed, recent)
        if not wanted:
            return
        # What was removed meanwhile is nothing to remember: the reader begins where the log does.
        consumer = self._kafka.consumer(auto_offset_reset="earliest", fetch_max_wait_ms=100)
        await consumer.start()
        try:
            consumer.assign(list(wanted))
            await self._seek(consumer, wanted, share)
            deadline = time.monotonic() + READ_TIMEOUT_SECS
            while wanted and time.monotonic() < deadline:
                batches = await consumer.getmany(*wanted, timeout_ms=200, max_records=BATCH_RECORDS)
                for partition, records in batches.items():
                    end, recent = wanted[partition]
                    self._remember(recent, records, end)
                for partition in list(wanted):
                    # The position also passes holes: what was removed, and markers.
                    if await consumer.position(partition) >= wanted[partition][0]:
                        del wanted[partition]
            if wanted:
                log.warning("recall.unfinished", partitions=[partition.partition for partition in wanted])
        finally:
            await consumer.stop()

    async def _seek(
        self, consumer: AIOKafkaConsumer, wanted: dict[TopicPartition, tuple[int, RecentIds]], share: int
    ) -> None:
        since = int((time.time() - self._secs) * 1000)
        starts = await consumer.offsets_for_times(dict.fromkeys(wanted, since))
        for partition, (end, recent) in list(wanted.items()):
            found = starts.get(partition)
            start = max(found.offset if found is not None else end, end - share, recent.upto)
            if start >= end:
                del wanted[partition]
                consumer.pause(partition)
            else:
                consumer.seek(partition, start)

    def _remember(self, recent: RecentIds, records: Sequence[ConsumerRecord], end: int) -> None:
        for record in records:
            if record.offset >= end:
                return
            self.records += 1
            try:
                event = decode(record, "")
            except Poison:
                continue
            if event.given_id:
                recent.repeated((event.instance, event.id), event.offset, event.timestamp_ms)
