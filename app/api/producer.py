"""Events into the log: acknowledged by all replicas, in bounded numbers, with an honest word about the outcome."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from app.api.reading import Share
from app.log.clients import Kafka
from app.settings import Settings

log = structlog.get_logger(__name__)

MAX_WAITING_SENDS = 500
"""Of one partition: the client wakes all that wait whenever one may go on, so its cost is quadratic (faust.md, 3)."""
STOP_TIMEOUT_SECS = 5.0
_CACHED_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Encoded:
    """One event as it stands in the log."""

    value: bytes
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event stands in the log."""

    partition: int
    offset: int


class NotStoredError(Exception):
    """Kafka did not take the events; nothing of them is in the log."""


class OutcomeUnknownError(Exception):
    """Kafka did not answer in time: all, some or none of the events are in the log."""


class EventProducer:
    """Appends to the topic of events. One that Kafka does not accept any more is replaced by a new one."""

    def __init__(self, kafka: Kafka, settings: Settings) -> None:
        self._kafka = kafka
        self._topic = settings.topic("events")
        self._timeout_secs = settings.ingest_timeout_secs
        self._producer: AIOKafkaProducer | None = None
        self._turns: list[asyncio.Semaphore] = []
        self._renewing: asyncio.Task[None] | None = None
        self._partition = lru_cache(maxsize=_CACHED_KEYS)(self._find_partition)

    @property
    def partitions(self) -> int:
        """How many the topic has."""
        return len(self._turns)

    async def start(self) -> None:
        """Connects; raises what the client raises where Kafka does not answer."""
        producer = self._make()
        try:
            await producer.start()
            count = len(await producer.partitions_for(self._topic))
        except BaseException:
            await _stop(producer)
            raise
        self._turns = [asyncio.Semaphore(MAX_WAITING_SENDS) for _ in range(count)]
        self._producer = producer

    async def stop(self) -> None:
        """Sends what waits, as long as that takes at most five seconds."""
        if self._renewing is not None:
            self._renewing.cancel()
        if self._producer is not None:
            await _stop(self._producer)

    async def append(self, instance: str, events: Sequence[Encoded], share: Share) -> list[Position]:
        """
        Where the events stand, once all replicas have them; those of one call stand one after the other's turn.

        Raises NotStoredError or OutcomeUnknownError within SLUICE_INGEST_TIMEOUT_SECS. The share of the room is kept
        until Kafka's client has let go of the bytes, which may be later.
        """
        assert self._producer is not None, "started"
        producer = self._producer
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_secs
        sent: list[tuple[int, asyncio.Future[RecordMetadata]]] = []
        try:
            async with asyncio.timeout_at(deadline):
                if len(events) == 1:
                    sent.append((1, await self._send(producer, instance, events[0], share)))
                else:
                    await self._send_batches(producer, instance, events, share, sent)
        except MessageSizeTooLargeError as error:
            raise NotStoredError(str(error)) from error
        except (KafkaError, TimeoutError) as error:
            self._look_at(producer, error)
            if not sent:
                raise NotStoredError(f"Kafka takes no events just now ({error!r})") from error
        futures = [future for _, future in sent]
        done, pending = await asyncio.wait(futures, timeout=max(0.0, deadline - loop.time()))
        failures = [failure for future in done if (failure := future.exception())]
        for reason in failures:
            self._look_at(producer, reason)
        if pending or failures or sum(count for count, _ in sent) < len(events):
            why = f"{failures[0]!r}" if failures else f"no answer within {self._timeout_secs} s"
            raise OutcomeUnknownError(f"Kafka did not confirm the events: {why}")
        return [
            Position(future.result().partition, future.result().offset + place)
            for count, future in sent
            for place in range(count)
        ]

    async def _send(
        self, producer: AIOKafkaProducer, instance: str, event: Encoded, share: Share
    ) -> asyncio.Future[RecordMetadata]:
        key = instance.encode()
        partition = self._partition(key)
        await self._turns[partition].acquire()
        try:
            future = await producer.send(
                self._topic, event.value, key=key, partition=partition, headers=list(event.headers)
            )
        except BaseException:
            self._turns[partition].release()
            raise
        return self._watched(partition, future, share)

    async def _send_batches(
        self,
        producer: AIOKafkaProducer,
        instance: str,
        events: Sequence[Encoded],
        share: Share,
        sent: list[tuple[int, asyncio.Future[RecordMetadata]]],
    ) -> None:
        """A list goes in whole batches: a future each instead of one an event."""
        key = instance.encode()
        partition = self._partition(key)
        place = 0
        while place < len(events):
            batch = producer.create_batch()
            first = place
            while place < len(events):
                event = events[place]
                if batch.append(key=key, value=event.value, timestamp=None, headers=list(event.headers)) is None:
                    break
                place += 1
            batch.close()
            await self._turns[partition].acquire()
            try:
                future = await producer.send_batch(batch, self._topic, partition=partition)
            except BaseException:
                self._turns[partition].release()
                raise
            sent.append((place - first, self._watched(partition, future, share)))

    def _watched(
        self, partition: int, future: asyncio.Future[RecordMetadata], share: Share
    ) -> asyncio.Future[RecordMetadata]:
        share.keep()

        def over(done: asyncio.Future[RecordMetadata]) -> None:
            self._turns[partition].release()
            share.release()
            if not done.cancelled():
                done.exception()  # Whoever waited was told; after that nobody looks.

        future.add_done_callback(over)
        return future

    def _find_partition(self, key: bytes) -> int:
        everywhere = list(range(self.partitions))
        return int(DefaultPartitioner()(key, everywhere, everywhere))

    def _make(self) -> AIOKafkaProducer:
        # What waits while a request is under way goes together anyhow; lingering would only add its time.
        return self._kafka.producer(linger_ms=0)

    def _look_at(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        """After an error that is not for now but for good, a new producer takes over."""
        if isinstance(error, TimeoutError | KafkaTimeoutError | MessageSizeTooLargeError):
            return
        if getattr(error, "retriable", False) or producer is not self._producer or self._renewing is not None:
            return
        self._renewing = asyncio.create_task(self._renew(producer, error))

    async def _renew(self, broken: AIOKafkaProducer, why: BaseException) -> None:
        log.warning("ingest.producer.renewed", why=repr(why))
        new = self._make()
        try:
            await new.start()
        except (KafkaError, OSError) as error:
            # The next failure tries again.
            log.warning("ingest.producer.not_renewed", why=repr(error))
            await _stop(new)
        else:
            self._producer = new
            await _stop(broken)
        finally:
            self._renewing = None


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SECS):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("ingest.producer.not_stopped", why=repr(error))
