"""The `config` topic as one process reads it: where to take up, what is new, where it ends."""

import asyncio
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.config import records
from app.config.acceptance import Record
from app.config.log_end import LogEnd
from app.config.store import Anchor, Progress
from app.log.clients import Kafka

log = structlog.get_logger(__name__)

READ_AT_ONCE = 1_000
"""Records decided between two looks at anything else, some 20 ms."""
IDLE_WAIT_MS = 500
"""How long a fetch waits for news: two requests a second when idle. News ends the wait at once."""


class ConfigTopic:
    """Two connections: one that fetches, and one that is asked for the end."""

    def __init__(self, kafka: Kafka, partition: TopicPartition, timeout_secs: float) -> None:
        self._partition = partition
        self._timeout_secs = timeout_secs
        self._fetching: AIOKafkaConsumer = kafka.consumer(fetch_max_wait_ms=IDLE_WAIT_MS)
        self._asking: AIOKafkaConsumer = kafka.consumer(request_timeout_ms=int(timeout_secs * 1000))
        self.log_end = LogEnd(self._asking, partition)
        self.end_at_start = 0
        """Where the topic ended when it was connected to."""

    async def connect(self, progress: Progress) -> str:
        """
        Stands behind what `progress` tells, or, where the topic is another one, at its beginning: then it says why.

        Raises the client's errors and TimeoutError when Kafka does not answer.
        """
        async with asyncio.timeout(self._timeout_secs):
            await self._asking.start()
            begin: int = (await self._asking.beginning_offsets([self._partition]))[self._partition]
            self.end_at_start = await self.log_end.get()
            await self._fetching.start()
            self._fetching.assign([self._partition])
            self._fetching.seek(self._partition, max(begin, progress.anchor.offset))
            problem = await self._compare(progress)
        if problem:
            self._fetching.seek(self._partition, begin)
        return problem

    async def fetch(self) -> tuple[Sequence[Record], int, int | None]:
        """What is new, at once or after a while nothing; the position behind it; the end as of the last fetch."""
        fetched = await self._fetching.getmany(timeout_ms=IDLE_WAIT_MS, max_records=READ_AT_ONCE)
        found = [records.parse(consumed) for consumed in fetched.get(self._partition, ())]
        for record in found:
            if record.broken:
                log.warning("config.record.ignored", offset=record.offset, key=record.key, why=record.broken)
        position = await self._fetching.position(self._partition)
        return found, position, self._fetching.highwater(self._partition)

    async def close(self) -> None:
        """Lets go of both connections; a fetch that waits ends with the client's ConsumerStoppedError."""
        await self.log_end.close()
        await self._fetching.stop()
        await self._asking.stop()

    async def _compare(self, progress: Progress) -> str:
        if progress.position == 0:
            return "it is empty"
        if progress.position > self.end_at_start:
            return f"it stands at {progress.position}, the topic ends at {self.end_at_start}: it was re-created"
        # A topic of the same name may be another one. The last record that was read tells: it is still there, or
        # compaction has taken it, and then it is cheaper to read all than to think.
        while True:
            fetched = await self._fetching.getmany(timeout_ms=IDLE_WAIT_MS, max_records=1)
            if found := fetched.get(self._partition):
                break
            if await self._fetching.position(self._partition) >= self.end_at_start:
                return f"the record it stands behind, at {progress.anchor.offset}, is not in the topic any more"
        first = records.parse(found[0])
        if progress.anchor != Anchor(first.offset, first.timestamp, first.key):
            return f"the topic holds another record at {progress.anchor.offset}: it was re-created, or compacted"
        return ""
