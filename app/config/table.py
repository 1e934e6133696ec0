"""The configuration, whole, in every process: the `config` topic read into a store that reads come from."""

import asyncio
import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError, OffsetOutOfRangeError
from mode import Service

from app.config.acceptance import Acceptance, Known, Step
from app.config.errors import Conflict, StoreBroken, StoreLocked, TableError, TableUnavailable, TooLarge
from app.config.loose_ends import LooseEnds
from app.config.rows import Change, Row
from app.config.store import Anchor, Progress, Store
from app.config.topic import ConfigTopic
from app.config.writer import MAX_BATCH_BYTES, Writer
from app.log.clients import Kafka
from app.settings import Settings

__all__ = ["ConfigTable", "Conflict", "StoreBroken", "StoreLocked", "TableError", "TableUnavailable", "TooLarge"]

log = structlog.get_logger(__name__)

CACHED_ROWS = 10_000
"""Decoded rows kept, some 10 MB: a read from the store is 10 us. Compiled rows are the Router's to keep."""
MAX_STORE_AGE_SECS = 12 * 3600.0
"""Tombstones leave the topic after a day; who was away longer would keep rows that have been deleted."""
REPAIR_AFTER_SECS = 5.0
"""Plus as much again at random, for an ignored record that stays the last of its key."""
MAX_TRIES = 50
"""Of one `update`. With three nodes at one key each try wins at least every third time."""
_TEND_EVERY_SECS = 0.5
_HEARTBEAT_EVERY_SECS = 60.0


class ConfigTable(Service):
    """
    One truth, readable at once and everywhere. Start it, wait for `ready`, then read.

    It fails loudly (crashes) when the topic is not the one it was, when the store breaks, or when a subscriber raises.
    """

    def __init__(
        self,
        kafka: Kafka,
        settings: Settings,
        directory: Path,
        *,
        repair_after_secs: float = REPAIR_AFTER_SECS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ready = asyncio.Event()
        """Set once everything that stood in the topic at start has been applied."""
        self.records_read = 0
        """Records of the topic read by this process: after a restart from the store, only the rest."""
        self._kafka = kafka
        self._timeout_secs = settings.table_timeout_secs
        self._partition = TopicPartition(settings.topic("config"), 0)
        self._store = Store(directory, self._partition.topic)
        self._acceptance = Acceptance(self._store.known)
        self._loose_ends = LooseEnds(repair_after_secs)
        self._writer = Writer(
            self._make_producer,
            self._partition,
            current=self._current,
            position=lambda: self.position,
            timeout_secs=self._timeout_secs,
        )
        self._cache: OrderedDict[str, Row | None] = OrderedDict()
        self._subscribers: list[Callable[[frozenset[str]], None]] = []
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._failure: TableError | None = None
        self._topic: ConfigTopic | None = None

    @property
    def position(self) -> int:
        """The offset of the next row to apply."""
        return self._store.progress.position

    def get(self, key: str) -> Row | None:
        """The row, as this process has applied it; `barrier` first where it must be up to date."""
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        known = self._store.known(key)
        row = None if known is None else _row(key, known)
        self._cache[key] = row
        if len(self._cache) > CACHED_ROWS:
            self._cache.popitem(last=False)
        return row

    def scan(self, prefix: str) -> Iterator[Row]:
        """Every row whose key begins so, in the order of keys, as of now."""
        for key, known in self._store.scan(prefix):
            row = _row(key, known)
            assert row is not None, "the store gives rows only"
            yield row

    def count(self, kind: str, parts: int = 2) -> int:
        """How many rows there are of a kind: `count("instance")` of `instance/{name}`, with 3 parts of its sections."""
        return self._store.progress.counts.get(f"{kind}/{parts}", 0)

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Calls back with the keys that changed, after they are applied and before anybody who waited goes on."""
        self._subscribers.append(callback)

    async def barrier(self) -> None:
        """
        When it returns, every write that was answered anywhere before the call is visible here.

        Raises TableUnavailable when Kafka does not answer in time.
        """
        topic = self._check()
        try:
            async with asyncio.timeout(self._timeout_secs):
                await self._reach(await topic.log_end.get())
        except TimeoutError as error:
            raise TableUnavailable(
                f"The end of {self._partition.topic} was not reached within {self._timeout_secs} s (stands at "
                f"{self.position}); nothing was changed. Try again when Kafka answers"
            ) from error

    async def applied(self, offset: int, timeout_secs: float | None = None) -> None:
        """Waits until the row at `offset` has been applied; TableUnavailable when that takes too long."""
        if self.position > offset:
            return
        self._check()
        limit = self._timeout_secs if timeout_secs is None else timeout_secs
        try:
            async with asyncio.timeout(limit):
                await self._reach(offset + 1)
        except TimeoutError as error:
            raise TableUnavailable(
                f"Offset {offset} of {self._partition.topic} was not read within {limit} s (stands at "
                f"{self.position}); try again when Kafka answers"
            ) from error

    async def write(self, changes: Sequence[Change]) -> int:
        """
        Writes all or nothing: durable, accepted by every reader and applied here when it returns. The offset of the
        last row.

        Raises Conflict (nothing was changed), TooLarge (nothing was written), or TableUnavailable, whose message says
        whether it may have been written.
        """
        keys = [change.key for change in changes]
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"a write has one change or more, each of another key; got {keys}")
        if odd := [key for key in keys if not (key and key.isascii() and key.isprintable())]:
            raise ValueError(f"keys are printable ASCII, names in them percent-encoded (app/config/rows.py); got {odd}")
        self._check()
        async with self._writer.turns(keys):
            return await self._writer.write(changes)

    async def update(self, key: str, compute: Callable[[Row | None], Mapping[str, Any] | None]) -> Row | None:
        """
        Writes what `compute` makes of the current row, None to delete it; computes again when somebody was faster.

        Returns the row as written. Raises what `compute` raises, and Conflict after too many tries.
        """
        self._check()
        async with self._writer.turns([key]):
            for tries in count(1):
                row = self.get(key)
                value = compute(row)
                if value is None and row is None:
                    await self.barrier()  # It may have been created elsewhere just now.
                    if self.get(key) is None:
                        return None
                    continue
                try:
                    offset = await self._writer.write([Change(key, value, -1 if row is None else row.offset)])
                except Conflict:
                    if tries == MAX_TRIES:
                        raise
                    # Others compute again at the same moment: apart from each other, one of them gets through.
                    await asyncio.sleep(random.uniform(0, 0.001 * min(tries, 20)))  # noqa: S311  Not a secret.
                else:
                    return None if value is None else Row(key, value, offset)
        raise AssertionError("the loop ends by itself")

    async def on_start(self) -> None:
        """Connects and takes up where the store stands; StoreLocked, TableUnavailable."""
        try:
            await asyncio.to_thread(self._store.open, MAX_STORE_AGE_SECS)
            # Made here and not before: clients want a running loop.
            self._topic = ConfigTopic(self._kafka, self._partition, self._timeout_secs)
            problem = await self._topic.connect(self._store.progress)
            if problem and self._store.progress.position:
                self._store.rebuild(problem)
            progress = self._store.progress
            self._acceptance = Acceptance(self._store.known, progress.position, progress.complete_from)
            await self._writer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self._disconnect()
            self._store.close()
            raise TableUnavailable(
                f"The configuration in {self._partition.topic} at {','.join(self._kafka.brokers)} cannot be read: "
                f"{error!r}; see that Kafka answers and that `sluice init` has made the topic"
            ) from error
        except BaseException:
            await self._disconnect()
            self._store.close()
            raise
        now = time.monotonic()
        for key in self._store.loose():
            if known := self._store.known(key):
                self._loose_ends.see(key, known, now)
        self._progressed()

    async def on_stop(self) -> None:
        """Ends every wait, then lets go of Kafka."""
        self._fail(TableUnavailable("The table is being stopped; what was under way may be written or not"))
        await self._disconnect()

    async def on_shutdown(self) -> None:
        """Lets go of the store, which nobody uses any more."""
        self._store.close()

    @Service.task
    async def _read(self) -> None:
        await self._guarded(self._follow(), "reader")

    @Service.task
    async def _write(self) -> None:
        await self._guarded(self._writer.run(), "writer")

    @Service.task
    async def _tend(self) -> None:
        await self._guarded(self._look_after(), "housekeeping")

    async def _guarded(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Does the work; where it fails, nobody is left waiting when the service crashes."""
        try:
            await work
        except ConsumerStoppedError:
            if not self.should_stop:
                raise
        except OffsetOutOfRangeError:
            self._fail(TableUnavailable("The topic was re-created or cut off under the table; start it again"))
            raise
        except Exception as error:
            self._fail(TableUnavailable(f"The table has stopped, its {what} failed: {error}"))
            raise

    async def _follow(self) -> None:
        topic = self._check()
        while not self.should_stop:
            found, position, end = await topic.fetch()
            self.records_read += len(found)
            for record in found:
                self._acceptance.read(record)
            self._acceptance.passed(position)
            self._apply(self._acceptance.take(), end)

    async def _look_after(self) -> None:
        await self.ready.wait()
        heartbeat_at = 0.0
        while not self.should_stop:
            now = time.monotonic()
            if due := self._loose_ends.take_repairs(now):
                await asyncio.gather(*(self._repair(key) for key in due))
            if gone := self._loose_ends.take_forgettable(now):
                self._store.forget(gone)
            if now >= heartbeat_at:
                heartbeat_at = now + _HEARTBEAT_EVERY_SECS
                await self._heartbeat()
            await self.sleep(_TEND_EVERY_SECS)

    async def _repair(self, key: str) -> None:
        """Writes the accepted row once more, over an ignored record that compaction would keep in its stead."""
        async with self._writer.turns([key]):
            known = self._store.known(key)
            if known is None or not known.needs_repair:
                return
            value = None if known.value is None else orjson.loads(known.value)
            try:
                offset = await self._writer.write([Change(key, value, known.current)], repair=True)
            except Conflict:
                return  # Somebody wrote the key or repaired it: what is last now is decided anew.
            except TableUnavailable as error:
                log.warning("config.row.unrepaired", key=key, ignored=known.last, why=str(error))
                self._loose_ends.see(key, known, time.monotonic())
                return
            log.info("config.row.repaired", key=key, ignored=known.last, accepted=known.current, offset=offset)

    async def _heartbeat(self) -> None:
        """Notes that nothing is left to read, so that the store of a quiet topic does not grow old."""
        try:
            async with asyncio.timeout(self._timeout_secs):
                end = await self._check().log_end.get()
        except (TableUnavailable, TimeoutError):
            return  # Kafka is away: that is what the store's age is to tell.
        if self.position >= end:
            self._store.write({}, replace(self._store.progress, reached_end_at=time.time()))

    async def _disconnect(self) -> None:
        topic, self._topic = self._topic, None
        if topic is not None:
            await topic.close()
        await self._writer.stop()

    def _apply(self, step: Step, end: int | None) -> None:
        before = self._store.progress
        if step.position == before.position and not step.known:
            return
        now = time.time()
        gap = self.ready.is_set() and step.complete_from > before.complete_from
        if gap and now - before.reached_end_at > MAX_STORE_AGE_SECS:
            raise StoreBroken(
                f"{self._partition.topic} was compacted while this process was away for "
                f"{(now - before.reached_end_at) / 3600:.1f} hours; start again to read it anew"
            )
        anchor = before.anchor
        if step.anchor is not None:
            anchor = Anchor(step.anchor.offset, step.anchor.timestamp, step.anchor.key)
        progress = Progress(
            topic=before.topic,
            position=step.position,
            complete_from=step.complete_from,
            anchor=anchor,
            reached_end_at=now if end is not None and step.position >= end else before.reached_end_at,
            counts=self._store.counted(step),
        )
        self._store.write(step.known, progress)
        monotonic = time.monotonic()
        for key, known in step.known.items():
            self._cache.pop(key, None)
            self._loose_ends.see(key, known, monotonic)
        if step.changed:
            changed = frozenset(step.changed)
            for callback in self._subscribers:
                callback(changed)
        for outcome in step.outcomes:
            for change in self._writer.settle(outcome):
                self._loose_ends.hurry(change.key, monotonic)
        self._progressed()

    def _progressed(self) -> None:
        while self._waiters and self._waiters[0][0] <= self.position:
            waiter = heapq.heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)
        if not self.ready.is_set() and self._topic is not None and self.position >= self._topic.end_at_start:
            self.ready.set()
            log.info("config.table.ready", position=self.position, read=self.records_read)

    async def _reach(self, position: int) -> None:
        if self.position >= position:
            return
        self._check()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (position, next(self._order), waiter))
        await waiter

    def _check(self) -> ConfigTopic:
        if self._failure is not None:
            raise TableUnavailable(str(self._failure)) from self._failure
        if self._topic is None:
            raise TableUnavailable("The table was not started; nothing was written")
        return self._topic

    def _fail(self, failure: TableError) -> None:
        if self._failure is None:
            self._failure = failure
        self._writer.fail(failure)
        for _, _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(failure)
        self._waiters.clear()

    def _current(self, keys: Sequence[str]) -> Mapping[str, int]:
        known = self._store.known_many(keys)
        return {key: known[key].current if key in known else -1 for key in keys}

    def _make_producer(self) -> Any:
        return self._kafka.producer(
            linger_ms=0,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_BATCH_BYTES + (64 << 10),
            request_timeout_ms=int(self._timeout_secs * 1000),
        )


def _row(key: str, known: Known) -> Row | None:
    return None if known.value is None else Row(key, orjson.loads(known.value), known.changed)
