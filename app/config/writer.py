"""How rows get into the topic: whole writes, several together in one record batch where several wait."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from app.config import records, rows
from app.config.acceptance import Outcome
from app.config.errors import Conflict, TableError, TableUnavailable, TooLarge
from app.config.rows import Change

MAX_BATCH_BYTES = (16 << 20) - (64 << 10)
"""The topic takes batches of 16 MiB (design 4); the rest is for the batch's own head."""
MAX_WAITING = 10_000
"""Most writes that may wait for their turn."""
_RECORD_OVERHEAD_BYTES = 160
"""Of one record at most: lengths, offsets, and our headers."""


@dataclass(slots=True, eq=False)
class _Write:
    id: str
    changes: Sequence[Change]
    values: Sequence[bytes | None]
    repair: bool
    size_bytes: int
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: bool = False


class Writer:
    """
    Writes for one table: `current` gives the bases that are current there, `position` what it has read.

    A write whose base is already known to be stale never reaches the topic. Whether it was accepted is told by the
    topic itself, through `settle`.
    """

    def __init__(
        self,
        make_producer: Callable[[], AIOKafkaProducer],
        partition: TopicPartition,
        *,
        current: Callable[[Sequence[str]], Mapping[str, int]],
        position: Callable[[], int],
        timeout_secs: float,
    ) -> None:
        self._make_producer = make_producer
        self._partition = partition
        self._current = current
        self._position = position
        self._timeout_secs = timeout_secs
        self._producer: AIOKafkaProducer | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Write] = deque()
        self._filled = asyncio.Event()
        self._open: dict[str, _Write] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turns(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """
        Writers of one process take turns at a key, so that they do not make each other's bases stale.

        Raises TableUnavailable when a turn does not come in time.
        """
        held: list[str] = []
        try:
            try:
                async with asyncio.timeout(self._timeout_secs):
                    for key in sorted(keys):  # All ask in one order, so that none wait for each other.
                        await self._enter(key)
                        held.append(key)
            except TimeoutError as error:
                raise TableUnavailable(
                    f"Others have been writing some of the same rows for {self._timeout_secs} s; nothing was written. "
                    "Try again when Kafka answers"
                ) from error
            yield
        finally:
            for key in held:
                self._locks[key][0].release()
                self._leave(key)

    async def write(self, changes: Sequence[Change], *, repair: bool = False) -> int:
        """
        The offset of the last record, once the table has read it and accepted all.

        Raises Conflict, TooLarge or TableUnavailable; the caller holds the turns of the keys.
        """
        values = [None if change.value is None else rows.encode(change.value) for change in changes]
        size = sum(
            len(change.key.encode()) + len(value or b"") + _RECORD_OVERHEAD_BYTES
            for change, value in zip(changes, values, strict=True)
        )
        if size > MAX_BATCH_BYTES:
            raise TooLarge(
                f"{len(changes)} rows take {size} bytes, one record batch at most {MAX_BATCH_BYTES}; nothing was "
                "written. Apply them in parts"
            )
        if len(self._waiting) >= MAX_WAITING:
            raise TableUnavailable(f"{MAX_WAITING} writes wait for Kafka already; nothing was written. Try again later")
        write = _Write(secrets.token_hex(6), changes, values, repair, size)
        self._open[write.id] = write
        self._waiting.append(write)
        self._filled.set()
        try:
            async with asyncio.timeout(self._timeout_secs):
                return await write.done
        except TimeoutError as error:
            raise TableUnavailable(_late(write, self._timeout_secs)) from error
        finally:
            del self._open[write.id]

    def settle(self, outcome: Outcome) -> Sequence[Change]:
        """Tells the waiting writer, if the outcome is of one of ours; gives what it wrote if that was ignored."""
        write = self._open.get(outcome.apply)
        if write is None or write.done.done():
            return ()
        if outcome.stale:
            write.done.set_exception(Conflict(outcome.stale))
            return write.changes
        write.done.set_result(outcome.offset)
        return ()

    def fail(self, error: TableError) -> None:
        """Ends every write that waits: the table reads no more."""
        for write in self._open.values():
            if not write.done.done():
                write.done.set_exception(error)

    async def start(self) -> None:
        """Connects."""
        self._producer = self._make_producer()
        await self._producer.start()

    async def stop(self) -> None:
        """Lets go of the connection; what is under way has the table's timeout to end."""
        if self._producer is not None:
            await self._discard(self._producer)
            self._producer = None
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def run(self) -> None:
        """Sends what waits, for ever. One batch is under way at a time, and what comes meanwhile shares the next."""
        while True:
            await self._filled.wait()
            group = self._take()
            if not self._waiting:
                self._filled.clear()
            if group:
                await self._send(group)

    def _take(self) -> list[_Write]:
        group: list[_Write] = []
        room = MAX_BATCH_BYTES
        while self._waiting and self._waiting[0].size_bytes <= room:
            write = self._waiting.popleft()
            if write.done.done():
                continue
            current = self._current([change.key for change in write.changes])
            stale = [change.key for change in write.changes if current[change.key] != change.base]
            if stale:
                write.done.set_exception(Conflict(stale))
                continue
            group.append(write)
            room -= write.size_bytes
        return group

    async def _send(self, group: Sequence[_Write]) -> None:
        # Taken now, with the bases just compared and no await since: what `at` promises of them is true.
        at = self._position()
        try:
            if self._producer is None:
                await self.start()
            assert self._producer is not None
            batch = self._producer.create_batch()
            for write in group:
                for index, (change, value) in enumerate(zip(write.changes, write.values, strict=True)):
                    stamp = records.headers(
                        base=change.base,
                        at=at,
                        apply=write.id,
                        index=index,
                        count=len(write.changes),
                        repair=write.repair,
                    )
                    added = batch.append(timestamp=None, key=change.key.encode(), value=value, headers=stamp)
                    assert added is not None, "the sizes added up before"
                write.sent = True
            acknowledged = await self._producer.send_batch(
                batch, self._partition.topic, partition=self._partition.partition
            )
            await acknowledged
        except MessageSizeTooLargeError as error:
            self._refuse(group, error, TooLarge, "the topic takes no such batch; nothing was written. Apply in parts")
        except (KafkaError, OSError) as error:
            # A producer that failed may have lost count of its sequence and refuse everything from now on.
            producer, self._producer = self._producer, None
            if producer is not None:
                task = asyncio.create_task(self._discard(producer))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
            outcome = (
                "it may be written or not; read the rows again when Kafka answers"
                if group[0].sent
                else "nothing was written. Try again when Kafka answers"
            )
            self._refuse(group, error, TableUnavailable, outcome)

    def _refuse(self, group: Sequence[_Write], cause: Exception, kind: type[TableError], outcome: str) -> None:
        for write in group:
            if not write.done.done():
                error = kind(f"Kafka did not take {len(write.changes)} rows of the table ({cause!r}): {outcome}")
                error.__cause__ = cause
                write.done.set_exception(error)

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(self._timeout_secs):
                await producer.stop()
        except (TimeoutError, KafkaError, OSError):
            return  # It was given up because Kafka does not answer; there is nobody to tell.

    async def _enter(self, key: str) -> None:
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave(key)
            raise

    def _leave(self, key: str) -> None:
        lock, users = self._locks.pop(key)
        if users > 1:
            self._locks[key] = (lock, users - 1)


def _late(write: _Write, timeout_secs: float) -> str:
    if write.sent:
        return (
            f"Kafka did not acknowledge {len(write.changes)} rows of the table within {timeout_secs} s, or they could "
            "not be read back: they may be written or not. Read the rows again when Kafka answers"
        )
    return (
        f"{len(write.changes)} rows of the table waited {timeout_secs} s for Kafka; nothing was written. "
        "Try again when it answers"
    )
