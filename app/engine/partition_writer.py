"""The positions of one assigned partition: opened in the order that fencing needs, written, and opened again."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.engine.faults import fault
from app.engine.pending import Pending, Put
from app.engine.position import LanePosition
from app.engine.transactions import POSITION_BYTES, Loaded, Transactions, load
from app.log.clients import Kafka

log = structlog.get_logger()

GATHER_SECS = 0.005
"""What comes this soon after the first urgent put shares its transaction."""
ASK_SECS = 10.0
"""Longest wait for the group to say whether we are still the assignee; then it is asked again."""
SHORTEST_BACKOFF_SECS = 0.1
LONGEST_BACKOFF_SECS = 5.0


class NotAssigned(Exception):
    """
    Positions of a partition are not, or no longer, ours to write.

    What was put and not told durable is or is not there; the assignee goes on from what is.
    """


class PositionTooLarge(ValueError):
    """A position over the limit of `lanes`: fewer keys must be parked."""


@dataclass(slots=True)
class Figures:
    """What was counted since the start, over all partitions."""

    transactions: int = 0
    written: int = 0
    """Records committed."""
    failures: int = 0
    """Attempts to write or to open that Kafka did not grant and that are made again."""
    reopened: int = 0
    """Times that a partition was fenced or failed, was still ours and goes on."""
    lost: int = 0
    skipped: int = 0
    """Records in `lanes` that are no positions."""


class Surroundings(Protocol):
    """What the writers of all partitions share."""

    kafka: Kafka
    figures: Figures
    openings: asyncio.Semaphore

    async def still_assigned(self, partition: TopicPartition, offset: int) -> bool:
        """Whether the group took `offset` from us as this partition's assignee just now."""

    def discard(self, transactions: Transactions) -> None:
        """Stops a producer without anybody waiting for it."""


class PartitionWriter:
    """
    One partition of `lanes` while it is ours.

    `partition` is the one of `events`, `lanes` the one that is written. At most one transaction is under way.
    """

    def __init__(
        self,
        around: Surroundings,
        partition: TopicPartition,
        lanes: TopicPartition,
        start: int,
        *,
        lost: Callable[[str], None],
    ) -> None:
        self._around = around
        self._partition = partition
        self._lanes = lanes
        self._start = start
        self._lost = lost
        self._pending = Pending()
        self._writing: Sequence[Put] = ()
        self._acknowledged: dict[bytes, bytes] = {}  # Digests, so that a lane with many parked keys costs no more.
        self._transactions: Transactions | None = None
        self._flushes: set[asyncio.Future[None]] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = ""

    @property
    def waiting(self) -> int:
        """Keys whose newest value is not durable."""
        return len(self._pending) + len(self._writing)

    async def open(self) -> Mapping[bytes, LanePosition]:
        """Fences others, asks, reads. While Kafka is away it tries again, for as long as the caller waits."""
        loaded = await self._opened(ask_first=False)
        self._acknowledged = _digests(loaded)
        return loaded.positions

    def run(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Begins to write; `ended` is called with the task, which has an exception only after a defect."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(ended)

    def put(
        self, key: bytes, position: LanePosition | None, durable: Callable[[], None] | None, *, urgent: bool
    ) -> None:
        """See `Positions.put`."""
        self._check_open()
        value = None if position is None else position.encode()
        if position is not None and position.key != key:
            raise ValueError(f"a position of {position.key!r} was put for the lane {key!r}")
        if len(key) + len(value or b"") > POSITION_BYTES:
            raise PositionTooLarge(
                f"the position of {key!r} takes {len(value or b'')} bytes, with its key at most {POSITION_BYTES} are "
                f"taken; it parks {len(position.parked) if position else 0} keys: let the lane fall behind as a whole"
            )
        if self._pending.put(key, value, durable, urgent=urgent, now=time.monotonic()):
            self._wake.set()

    async def flush(self) -> None:
        """See `Positions.flush`."""
        self._check_open()
        puts = [*self._writing, *self._pending.hurry()]
        if not puts:
            return
        self._wake.set()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = len(puts)

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0 and not done.done():
                done.set_result(None)

        for put in puts:
            put.durable.append(one)
        self._flushes.add(done)
        try:
            await done
        finally:
            self._flushes.discard(done)

    async def close(self, reason: str) -> None:
        """Lets go at once: what is not durable is dropped, and nobody is told that it is durable any more."""
        self._let_go(reason)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while not self._closed:
                await self._something_due()
                puts = self._writing = self._pending.take(time.monotonic())
                failure = await self._write(puts)
                if failure is None:
                    self._tell(puts)
                else:
                    await self._go_on(failure)
        finally:
            self._let_go("its writer ended")

    async def _something_due(self) -> None:
        delay = self._pending.delay(time.monotonic())
        if delay == 0.0:
            return
        while delay != 0.0:
            self._wake.clear()
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass
            delay = self._pending.delay(time.monotonic())
        await asyncio.sleep(GATHER_SECS)

    async def _write(self, puts: Sequence[Put]) -> Exception | None:
        """What the client said if it did not commit: whatever that is, its producer is dead."""
        assert self._transactions is not None
        try:
            fault("positions.write")
            await self._transactions.write(puts)
            fault("positions.written")
        except Exception as error:  # noqa: BLE001  The client raises AssertionError too.
            return error
        return None

    def _tell(self, puts: Sequence[Put]) -> None:
        self._writing = ()
        _apply(self._acknowledged, puts)
        self._around.figures.transactions += 1
        self._around.figures.written += len(puts)
        for put in puts:
            for durable in put.durable:
                durable()

    async def _go_on(self, failure: Exception) -> None:
        """Another producer writes what is not durable yet; or, when we are not the assignee, we let go."""
        puts, self._writing = self._writing, ()
        doubtful = dict(self._acknowledged)
        _apply(doubtful, puts)
        self._pending.give_back(puts, time.monotonic())
        self._around.figures.failures += 1
        log.warning("positions.failed", partition=self._partition.partition, records=len(puts), error=repr(failure))
        self._drop_transactions()
        try:
            # Asked before another producer is made as well: it would fence the assignee if that is not us.
            found = _digests(await self._opened(ask_first=True))
        except NotAssigned as error:
            self._give_up(str(error))
            return
        if found not in (self._acknowledged, doubtful):
            self._give_up(
                f"{self._lanes.topic} {self._lanes.partition} does not hold what we wrote: somebody else writes it"
            )
            return
        self._acknowledged = found
        self._around.figures.reopened += 1
        log.info("positions.reopened", partition=self._partition.partition, positions=len(found))

    def _give_up(self, reason: str) -> None:
        self._around.figures.lost += 1
        log.warning("positions.lost", partition=self._partition.partition, reason=reason)
        self._let_go(reason)
        self._lost(reason)

    async def _opened(self, *, ask_first: bool) -> Loaded:
        backoff = SHORTEST_BACKOFF_SECS
        while True:
            try:
                if ask_first:
                    await self._ask()
                async with self._around.openings:
                    return await self._open_once()
            except (KafkaError, OSError, TimeoutError) as error:
                self._around.figures.failures += 1
                log.warning(
                    "positions.open_failed",
                    partition=self._partition.partition,
                    error=repr(error),
                    wait_secs=backoff,
                )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2.0, LONGEST_BACKOFF_SECS)

    async def _open_once(self) -> Loaded:
        """The order is the fence (fencing.md, What we build, 1): initialise, ask the group, read the end, load."""
        self._check_not_closed()
        transactions = Transactions(self._around.kafka, self._lanes)
        try:
            await transactions.start()
            fault("positions.initialised")
            await self._ask()
            loaded = await load(self._around.kafka, self._lanes)
            self._check_not_closed()
        except BaseException:
            self._around.discard(transactions)
            raise
        self._around.figures.skipped += loaded.skipped
        self._transactions = transactions
        return loaded

    async def _ask(self) -> None:
        async with asyncio.timeout(ASK_SECS):
            ours = await self._around.still_assigned(self._partition, self._start)
        if not ours:
            raise NotAssigned(
                f"the group does not take offsets of {self._partition.topic} {self._partition.partition} from us: "
                "it is assigned to another worker"
            )

    def _let_go(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = reason
        self._pending.clear()
        self._writing = ()
        self._drop_transactions()
        for flush in self._flushes:
            if not flush.done():
                flush.set_exception(NotAssigned(reason))

    def _drop_transactions(self) -> None:
        transactions, self._transactions = self._transactions, None
        if transactions is not None:
            self._around.discard(transactions)

    def _check_open(self) -> None:
        self._check_not_closed()
        if self._task is None:
            raise NotAssigned(f"positions of {self._partition.topic} {self._partition.partition} are not loaded yet")

    def _check_not_closed(self) -> None:
        if self._closed:
            raise NotAssigned(
                f"positions of {self._partition.topic} {self._partition.partition} are not ours: {self._closed}"
            )


def _digests(loaded: Loaded) -> dict[bytes, bytes]:
    return {key: _digest(value) for key, value in loaded.values.items()}


def _apply(digests: dict[bytes, bytes], puts: Sequence[Put]) -> None:
    for put in puts:
        if put.value is None:
            digests.pop(put.key, None)
        else:
            digests[put.key] = _digest(put.value)


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
