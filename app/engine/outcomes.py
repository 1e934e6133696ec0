"""
How deliveries end: the ledger, the dead letters, and the acknowledgement that follows them.

Ends are gathered and written in batches; an event's slot is acknowledged after the batch that tells its ends.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

import orjson
import structlog
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError
from mode import Service

from app.engine.delivery import Delivery
from app.engine.partition import Partition, Slot
from app.engine.writer import Record, Writer
from app.observe import metrics
from app.settings import Settings
from sinks import FailureKind

log = structlog.get_logger()

FLUSH_INTERVAL_SECS = 0.3
"""How long ends gather before they are written: a fraction of the commit interval, and a batch instead of a trickle."""
MAX_DETAIL_CHARACTERS = 500

End = Literal["delivered", "dead", "expired", "cancelled"]


class _Ends:
    """What one partition has to tell: end records, and dead letters that must be durable before theirs."""

    __slots__ = ("dead", "marked", "partition", "records", "writing")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.records: list[Record] = []
        self.dead: list[tuple[Record, Record | None, Slot]] = []
        self.marked = -1
        """The offset below which all was told last."""
        self.writing = asyncio.Lock()


class Outcomes(Service):
    """
    Takes ends and makes them durable.

    `mark(partition, offset)` is called when everything below `offset` is settled and told; `freed()` when slots let go
    of their events; `checkpoint(partition)` takes lane positions down, and what it returns writes them.
    """

    def __init__(
        self,
        settings: Settings,
        writer: Writer,
        mark: Callable[[TopicPartition, int], None],
        freed: Callable[[], None],
        checkpoint: Callable[[Partition], Callable[[], None]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._checkpoint = checkpoint
        self._deliveries = settings.topic("deliveries")
        self._dead_letters = settings.topic("dead-letters")
        self._writer = writer
        self._mark = mark
        self._freed = freed
        self._ends: dict[Partition, _Ends] = {}
        self._transport_ends: dict[tuple[str, str], metrics.CounterTally] = {}
        self._latency: dict[str, metrics.HistogramTally] = {}

    def open(self, partition: Partition) -> None:
        """Begins to take ends of a partition."""
        self._ends[partition] = _Ends(partition)

    def close(self, partition: Partition) -> None:
        """Forgets a partition; what was not flushed is told by the next assignee."""
        self._ends.pop(partition, None)

    def unwritten(self, partition: Partition) -> int:
        """End records that are not durable yet."""
        ends = self._ends.get(partition)
        return len(ends.records) + len(ends.dead) if ends else 0

    def end(
        self,
        delivery: Delivery,
        end: End,
        *,
        kind: FailureKind | None = None,
        status: int | None = None,
        detail: str = "",
    ) -> None:
        """Counts and keeps the end of a delivery. A dead one also becomes a dead letter."""
        slot = delivery.slot
        ends = self._ends.get(slot.partition)
        if ends is None:
            return
        gate = delivery.lane.gate
        transport = gate.transport
        latency_ms = time.time() * 1000.0 - delivery.timestamp_ms
        record = {
            "format": 1,
            "event_id": delivery.event_id,
            "delivery_id": delivery.id,
            "instance": delivery.lane.instance,
            "event": delivery.event_name,
            "destination": gate.id,
            "transport": transport,
            "end": end,
            "kind": kind,
            "status": status,
            "attempts": delivery.attempts,
            "latency_ms": round(latency_ms, 1),
            "partition": slot.partition.number,
            "offset": slot.offset,
            "config_offset": delivery.config_offset,
        }
        if detail:
            record["detail"] = detail[:MAX_DETAIL_CHARACTERS]
        told = Record(slot.record.key, orjson.dumps(record))
        self._count(transport, end, latency_ms / 1000.0)
        if end == "dead":
            letter = _dead_letter(slot.record, gate.id, detail, kind, delivery.attempts)
            ends.dead.append((letter, told, slot))
            log.warning(
                "delivery.dead",
                destination=gate.id,
                event_name=delivery.event_name,
                event_id=delivery.event_id,
                kind=kind,
                attempts=delivery.attempts,
                reason=detail[:MAX_DETAIL_CHARACTERS],
            )
            return
        ends.records.append(told)
        self._release(slot)

    def poisoned(self, slot: Slot, reason: str) -> None:
        """Dead-letters a record that is no event: there is no delivery, so the ledger does not name it."""
        ends = self._ends[slot.partition]
        slot.pending += 1
        ends.dead.append((_dead_letter(slot.record, "", reason, None, 0), None, slot))

    async def flush(self, partition: Partition) -> None:
        """Makes all that was taken so far durable, then marks."""
        ends = self._ends.get(partition)
        if ends is None:
            return
        async with ends.writing:
            while ends.dead:
                dead, ends.dead = ends.dead, []
                await self._write_dead(partition, [letter for letter, _, _ in dead])
                for _, told, slot in dead:
                    if told is not None:
                        ends.records.append(told)
                    self._release(slot)
            records, ends.records = ends.records, []
            settled = partition.settled
            # Positions move on after the ledger has the ends below them, as the commit does.
            write_positions = self._checkpoint(partition)
            if records:
                await self._writer.write(self._deliveries, partition.number, records)
            write_positions()
            ends.marked = settled
            if settled >= 0:
                self._mark(partition.topic_partition, settled)

    @Service.task
    async def _flushes(self) -> None:
        while not self.should_stop:
            await self.sleep(FLUSH_INTERVAL_SECS)
            await asyncio.gather(*(self.flush(partition) for partition in list(self._ends) if self._due(partition)))

    def _due(self, partition: Partition) -> bool:
        ends = self._ends[partition]
        return bool(ends.records or ends.dead or partition.moved or ends.marked != partition.settled)

    async def _write_dead(self, partition: Partition, letters: list[Record]) -> None:
        try:
            await self._writer.write(self._dead_letters, partition.number, letters)
        except MessageSizeTooLargeError:
            # One of them is over the topic's limit even alone: those go by reference, their place in the log is told.
            for letter in letters:
                try:
                    await self._writer.write(self._dead_letters, partition.number, [letter])
                except MessageSizeTooLargeError:
                    reference = letter._replace(value=b"", headers=(*letter.headers, ("by-reference", b"true")))
                    await self._writer.write(self._dead_letters, partition.number, [reference])

    def _release(self, slot: Slot) -> None:
        if slot.release():
            self._freed()

    def _count(self, transport: str, end: End, latency_secs: float) -> None:
        key = (transport, end)
        tally = self._transport_ends.get(key)
        if tally is None:
            tally = metrics.counter("sluice_deliveries_total", transport=transport, end=end)
            self._transport_ends[key] = tally
        tally.add(1)
        if end == "delivered":
            histogram = self._latency.get(transport)
            if histogram is None:
                histogram = metrics.histogram("sluice_delivery_latency_seconds", transport=transport)
                self._latency[transport] = histogram
            histogram.observe(latency_secs)


def _dead_letter(
    record: ConsumerRecord, destination: str, reason: str, kind: FailureKind | None, attempts: int
) -> Record:
    headers = (
        ("destination", destination.encode()),
        ("reason", reason[:MAX_DETAIL_CHARACTERS].encode(errors="replace")),
        ("kind", (kind or "").encode()),
        ("attempts", str(attempts).encode()),
        ("source-partition", str(record.partition).encode()),
        ("source-offset", str(record.offset).encode()),
        ("time", str(int(time.time() * 1000)).encode()),
    )
    # A record may have come without key or value; the dead letter has one of both, so that it can be written.
    return Record(record.key or b"", _without_key(record.value or b""), headers)


def _without_key(value: bytes) -> bytes:
    """The event as it came, but for an `apikey` in it: no secret stands in a topic in clear (invariant 10)."""
    if b'"apikey"' not in value:
        return value
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    if not isinstance(body, dict) or "apikey" not in body:
        return value
    del body["apikey"]
    return orjson.dumps(body)
