"""
The hot topic, read in the App's own loop by a consumer and a group of its own.

Whole batches are handed over without awaiting. Nine traps of this arrangement are known; each is a test in
`tests/integration/test_consumer.py`.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from mode import Service

from app.log.clients import Kafka
from app.settings import Settings

log = structlog.get_logger()

BATCH_RECORDS = 200
"""Most records handed over in one step: what the loop does not yield for, about half a millisecond of routing."""
COMMIT_INTERVAL_SECS = 1.0
STOP_SECS = 2.0


class Intake(Protocol):
    """Whoever takes the records of the hot topic."""

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """Ours from now on, and held: `HotConsumer.release` each when it may begin."""

    def take(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Takes them all, without awaiting; calls `HotConsumer.hold` when that is enough for now."""

    async def revoked(self, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        """Settles and marks what can be settled. Lost: somebody else may have them already, so nothing is written."""


class MembershipLost(Exception):
    """Another member with our static name took our place, or the group expelled us."""


class HotConsumer(Service, ConsumerRebalanceListener):
    """
    Feeds `intake` from `events` and commits what it marks.

    An exception of the intake, of the coordinator or a lost static membership ends the process: `crash` is called and
    the supervisor starts it again.
    """

    def __init__(self, kafka: Kafka, settings: Settings, intake: Intake, instance_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kafka = kafka
        self._settings = settings
        self._intake = intake
        self._instance_id = instance_id
        self._topic = settings.topic("events")
        self._nobody = TopicPartition(self._topic, -1)  # getmany() of no partition would mean all of them.
        self._open = False  # An assignment is there, and nobody drains.
        self._partitions: tuple[TopicPartition, ...] = ()
        self._held: set[TopicPartition] = set()
        self._loading: set[TopicPartition] = set()
        self._marks: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._committing = asyncio.Lock()
        self._failure: BaseException | None = None
        self._draining = asyncio.Lock()
        self.rebalances = 0
        self.expired = 0
        """Events that retention took before they were read; an upper bound."""
        self.consumer: AIOKafkaConsumer | None = None

    @property
    def partitions(self) -> tuple[TopicPartition, ...]:
        """What is assigned to this worker now."""
        return self._partitions

    @property
    def _client(self) -> AIOKafkaConsumer:
        assert self.consumer is not None
        return self.consumer

    def hold(self, partition: TopicPartition) -> None:
        """No more of it, please; what is under way still comes."""
        # Not kafka.pause(): that throws away what was fetched ahead, up to a megabyte each time.
        self._held.add(partition)

    def release(self, partition: TopicPartition) -> None:
        """Records of it may come (again). Without effect while partitions are handed over."""
        if not self._open or partition not in self._held:
            return
        self._held.discard(partition)
        if partition in self._loading:
            self._loading.discard(partition)
            self._client.resume(partition)

    def mark(self, partition: TopicPartition, offset: int) -> None:
        """Everything below `offset` is settled and its end is durable."""
        if partition in self._partitions and offset > self._marks.get(partition, -1):
            self._marks[partition] = offset

    async def commit(self) -> None:
        """Commits what is marked. A refusal is no error: the next assignee starts at what is committed."""
        async with self._committing:
            due = {
                partition: offset
                for partition, offset in self._marks.items()
                if partition in self._partitions and self._committed.get(partition) != offset
            }
            if not due:
                return
            try:
                await self._client.commit(due)
            except (CommitFailedError, IllegalStateError) as error:
                log.warning("commit.refused", error=repr(error))
            else:
                self._committed.update(due)

    async def starts_of(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where reading begins: what is committed, but never before the log's start."""
        begins = await self._client.beginning_offsets(list(partitions))
        committed = await asyncio.gather(*(self._client.committed(partition) for partition in partitions))
        starts = {}
        for partition, offset in zip(partitions, committed, strict=True):
            begin = begins[partition]
            if offset is not None and offset < begin:
                self.expired += begin - offset
                log.error("events.expired", partition=partition.partition, at_most=begin - offset, log_start=begin)
            starts[partition] = begin if offset is None else max(begin, offset)
        return starts

    async def still_assigned(self, partition: TopicPartition, offset: int) -> bool:
        """
        Proves by a commit that the group takes us for the assignee; it comes after the init of the writer it is for.

        The commit is of what is committed, or of `offset` before the first commit: it moves nothing.
        """
        assignment = self.rebalances
        # Under the lock of `commit`: the two must not overtake each other, or this one would move the offset back.
        async with self._committing:
            try:
                await self._client.commit({partition: self._committed.get(partition, offset)})
            except (CommitFailedError, IllegalStateError) as error:
                log.warning("membership.refused", partition=partition.partition, error=repr(error))
                return False
        return self.rebalances == assignment and partition in self._partitions

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Holds what is assigned until the intake has loaded its state."""
        try:
            partitions = tuple(sorted(assigned))
            # Before the first await: an older getmany() goes on across the rebalance with its old list.
            self._client.pause(*partitions)
            if self.should_stop:
                return  # A rebalance overtook our leaving: nothing of it is begun.
            self._held, self._loading = set(partitions), set(partitions)
            self._partitions, self._open = partitions, True
            self.rebalances += 1
            self._intake.assigned(partitions)
            log.info("partitions.assigned", partitions=[partition.partition for partition in partitions])
        except Exception as error:  # noqa: BLE001  aiokafka would log it and go on; `_feed` raises it.
            self._failure = error

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition] = ()) -> None:  # noqa: ARG002  All go.
        """Drains within SLUICE_DRAIN_SECS and commits, before the group goes on."""
        # A rebalance while we are leaving waits for the drain that is under way.
        async with self._draining:
            await self._hand_over()

    async def _hand_over(self) -> None:
        if not self._open:
            return
        self._open = False  # Nothing is handed out from here on.
        partitions = self._partitions
        lost = self._membership_lost()
        self._quietly(self._client.pause, partitions)
        drain = self._settings.drain_secs
        try:
            # The intake keeps the limit itself; the second one bounds what it may have got wrong.
            await asyncio.wait_for(self._intake.revoked(partitions, lost=lost), drain + STOP_SECS)
            if not lost:
                # commit() tries for ever while the broker is away.
                await asyncio.wait_for(self.commit(), STOP_SECS)
        except TimeoutError:
            log.warning("drain.unfinished", secs=drain)
        except KafkaError as error:
            log.warning("commit.failed", error=repr(error))
        except Exception as error:  # noqa: BLE001  aiokafka would log it and go on; `_feed` raises it.
            self._failure = error
        self._partitions = ()
        self._marks.clear()
        self._committed.clear()
        if lost and not self.should_stop:
            # Two workers with one static name would fence each other for ever if both went on.
            self._failure = self._failure or MembershipLost(
                f"worker {self._instance_id} lost its membership of group {self._settings.topic('workers')}: "
                "it was frozen for longer than SLUICE_SESSION_TIMEOUT_SECS, or another worker has the same name"
            )
        log.info("partitions.revoked", partitions=[partition.partition for partition in partitions], lost=lost)

    async def on_start(self) -> None:
        """Joins the group; assignments arrive later, through the listener."""
        settings = self._settings
        self.consumer = self._kafka.consumer(
            group=settings.topic("workers"),
            group_instance_id=self._instance_id,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_timeout_secs * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_secs * 250),
            rebalance_timeout_ms=int((settings.drain_secs + STOP_SECS) * 1000) + 10_000,
            max_poll_interval_ms=600_000,
            fetch_max_wait_ms=200,
            max_poll_records=BATCH_RECORDS,
        )
        await self._client.start()
        # By default one unread partition stops the others of its broker for 0.1 s. Private, and optional.
        fetcher = getattr(self._client, "_fetcher", None)
        if fetcher is not None:
            fetcher._prefetch_backoff = 0.005  # noqa: SLF001  See above.
        # After start(), which otherwise waits for the group.
        self._client.subscribe([self._topic], listener=self)

    async def on_stop(self) -> None:
        """Drains, commits and leaves; a static member stays in the group for its session timeout."""
        await self.on_partitions_revoked()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._client.stop(), STOP_SECS)  # It may be waiting in JoinGroup.

    @Service.task
    async def _feed(self) -> None:
        take = self._intake.take
        getmany = self._client.getmany
        while not self.should_stop:
            wanted: Sequence[TopicPartition] = self._partitions
            if self._held:
                wanted = [partition for partition in self._partitions if partition not in self._held]
            # getmany() also raises errors of the coordinator, and tells it that we are alive.
            records = await getmany(
                *(wanted or (self._nobody,)),
                timeout_ms=20 if self._held else 200,
                max_records=BATCH_RECORDS,
            )
            if self._failure is not None:
                raise self._failure
            for partition, batch in records.items():
                # Else we are leaving: the next assignee starts at what is committed.
                if self._open and partition in self._partitions:
                    take(partition, batch)
            await asyncio.sleep(0)  # A full buffer never suspends.

    @Service.task
    async def _commits(self) -> None:
        while not self.should_stop:
            await self.sleep(COMMIT_INTERVAL_SECS)
            if self._open:
                await self.commit()

    def _membership_lost(self) -> bool:
        coordinator = getattr(self.consumer, "_coordinator", None)
        # Private, and optional: without it the first refused commit tells.
        generation: int = getattr(coordinator, "generation", 0)
        return generation < 0

    @staticmethod
    def _quietly(action: Any, partitions: Sequence[TopicPartition]) -> None:
        with contextlib.suppress(IllegalStateError):  # No longer assigned.
            action(*partitions)
