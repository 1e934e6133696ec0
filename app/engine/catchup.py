"""
The catch-up reader: reads the log again for lanes and keys that stand behind.

One per worker, group-less, over its assigned partitions. A record is compared by its key's bytes first and decoded only
when some lane wants it. Passes are merged: all lanes of a partition that have room ride along. Near and far positions
are read in alternating slices, so that a lane that blinked does not wait behind another's week.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from mode import Service

from app.engine.admission import Admission, order_key
from app.engine.faults import fault
from app.engine.keeper import MAX_LANE_BYTES, MAX_LANE_DELIVERIES, PROBES, LaneKeeper
from app.engine.lane import WHOLE, Lane, Track
from app.engine.partition import Partition, Slot
from app.events.decode import decode
from app.events.event import Event, Poison
from app.log.clients import Kafka
from app.observe import metrics
from app.routing.router import Router

log = structlog.get_logger()

SLICE_RECORDS = 20_000
SLICE_SECS = 0.25
"""A slice ends after so much, and the other distance has its turn."""
BATCH_RECORDS = 500
"""Records handled without letting the loop go on: 2,000 blocked it for 5 ms."""
NEAR_RECORDS = 10_000
PAUSE_SECS = 0.02
"""Between two slices, so that lanes with room gather for one pass."""
IDLE_SECS = 0.25
SLOT_OVERHEAD_BYTES = 1024
RETRY_SECS = 1.0


class CatchUp(Service):
    """Feeds tracks from the log until each has reached what follows it, then hands it over."""

    def __init__(
        self,
        kafka: Kafka,
        partitions: Mapping[TopicPartition, Partition],
        router: Router,
        admission: Admission,
        keeper: LaneKeeper,
        log_id: str,
        has_room: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kafka = kafka
        self._partitions = partitions
        self._router = router
        self._admission = admission
        self._keeper = keeper
        self._log_id = log_id
        self._has_room = has_room
        self._woken = asyncio.Event()
        self._far = False
        self._consumer: AIOKafkaConsumer | None = None
        self._scanned = metrics.counter("sluice_catchup_records_total")
        self._expired = metrics.counter("sluice_events_expired_total")

    def wake(self) -> None:
        """There may be something to read: do not wait for the next look."""
        self._woken.set()

    async def on_stop(self) -> None:
        """Lets go of the connection."""
        if self._consumer is not None:
            await self._consumer.stop()

    @Service.task
    async def _run(self) -> None:
        while not self.should_stop:
            busy = False
            for partition in list(self._partitions.values()):
                if not (partition.gone or partition.draining or partition.live < 0):
                    busy |= await self._serve(partition)
            self._woken.clear()
            if busy:
                await asyncio.sleep(PAUSE_SECS)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), IDLE_SECS)

    async def _serve(self, partition: Partition) -> bool:
        """One slice of a partition; whether there was anything to do."""
        wanting = [
            track for lane in list(partition.behind) for track in list(lane.tracks.values()) if self._wants(track)
        ]
        if not wanting or not self._has_room():
            return False
        self._far = not self._far
        near = [track for track in wanting if track.feed >= partition.live - NEAR_RECORDS]
        chosen = wanting if self._far or not near else near
        start = min(track.feed for track in chosen)
        try:
            await self._slice(partition, start, wanting)
        except OffsetOutOfRangeError:
            await self._expire(partition, wanting)
        except KafkaError as error:
            log.warning("catchup.failed", partition=partition.number, error=repr(error), wait_secs=RETRY_SECS)
            await asyncio.sleep(RETRY_SECS)
        return True

    def _wants(self, track: Track) -> bool:
        """Whether a track should be read for now; hands it over when there is nothing left to read."""
        lane = track.lane
        if track.handed or lane.gate.paused:
            return False
        head = lane.heads.get(track.key) if track.key is not WHOLE else None
        if head is not None and head.first_failed_at is not None:
            return False  # Its head fails: what follows stays in the log.
        if lane.gate.limit.down:
            # A dead destination gets a few events to be probed with, and no more.
            return not self._arrived(track) and lane.count < PROBES and track.feed < self._end(track)
        if lane.count > MAX_LANE_DELIVERIES // 4 or lane.size > MAX_LANE_BYTES // 4:
            return False
        return not self._arrived(track)

    def _arrived(self, track: Track) -> bool:
        """Hands a track over if its reading has reached what follows it. No await in here."""
        lane = track.lane
        if lane.gate.paused or (lane.gate.limit.down and lane.count):
            return False  # What comes would only have to be written down again.
        if track.feed < self._end(track):
            return False
        if track.key is WHOLE and (lane.count > MAX_LANE_DELIVERIES // 4 or lane.size > MAX_LANE_BYTES // 4):
            return True  # Nothing to read, but too full to be live: hysteresis.
        fault("before-hand-over")
        self._keeper.hand_over(track)
        return True

    @staticmethod
    def _end(track: Track) -> int:
        """Where what follows a track begins."""
        whole = track.lane.tracks.get(WHOLE)
        if track.key is WHOLE or whole is None or whole.handed:
            return track.lane.partition.live
        return whole.feed

    async def _slice(self, partition: Partition, start: int, tracks: Sequence[Track]) -> None:
        # A track that was set back meanwhile gets off: what it wants has passed.
        riding = {track: track.turn for track in tracks if track.feed >= start}
        wanted: dict[bytes, list[Lane]] = {}
        for lane in {track.lane for track in riding}:
            wanted.setdefault(lane.instance.encode(), []).append(lane)
        consumer = await self._seek(partition, start)
        position, deadline, end = start, time.monotonic() + SLICE_SECS, start + SLICE_RECORDS
        ahead = False
        while riding and position < end and time.monotonic() < deadline:
            batches = await consumer.getmany(partition.topic_partition, timeout_ms=200, max_records=BATCH_RECORDS)
            if partition.gone or partition.draining:
                return
            records = batches.get(partition.topic_partition, ())
            self._scanned.add(len(records))
            for record in records:
                if record.offset >= partition.live:
                    # The reader is ahead of the intake: what it has read of that has to be read again.
                    position, ahead = partition.live, True
                    break
                position = record.offset + 1
                lanes = wanted.get(record.key)
                if lanes is not None:
                    self._give(partition, record, lanes, riding)
            if not records:
                # Past holes: what was removed, and markers.
                position = max(position, min(await consumer.position(partition.topic_partition), partition.live))
            self._go_on(riding, position)
            if ahead or not self._has_room():
                return
            await asyncio.sleep(0)

    def _go_on(self, riding: dict[Track, int], position: int) -> None:
        """All that ride have come to `position`; those that have arrived, or were set back, get off."""
        for track, turn in list(riding.items()):
            if track.turn != turn or track.handed or track.lane.tracks.get(track.key) is not track:
                del riding[track]
                continue
            track.feed = max(track.feed, position)
            if self._arrived(track):
                del riding[track]

    def _give(self, partition: Partition, record: ConsumerRecord, lanes: list[Lane], riding: dict[Track, int]) -> None:
        event = self._decode(partition, record)
        if event is None:
            return
        routes = self._router.routes(event.instance, event.name) or ()
        for lane in lanes:
            for route in routes:
                if route.destination == lane.destination and route.instance_id == lane.instance_id:
                    if route.matches is None or route.matches(event):
                        key = order_key(event, route)
                        track = lane.track_for(key, record.offset)
                        if track is not None and riding.get(track) == track.turn:
                            self._feed(partition, record, event, track, key, riding, route)
                    break

    def _feed(
        self,
        partition: Partition,
        record: ConsumerRecord,
        event: Event,
        track: Track,
        key: str,
        riding: dict[Track, int],
        route: Any,
    ) -> None:
        lane = track.lane
        slot = Slot(partition, record, event.size + SLOT_OVERHEAD_BYTES, time.monotonic(), track)
        track.feed = record.offset + 1
        self._admission.again(track, slot, event, route, key)
        if lane.count >= MAX_LANE_DELIVERIES or lane.size >= MAX_LANE_BYTES or lane.gate.limit.down:
            # Full: all of the lane's tracks stop here and are read on when there is room.
            for other in lane.tracks.values():
                if riding.pop(other, None) == other.turn:
                    other.feed = max(other.feed, record.offset + 1)

    def _decode(self, partition: Partition, record: ConsumerRecord) -> Event | None:
        try:
            event = decode(record, self._log_id)
        except Poison:
            return None  # The intake dead-lettered it.
        if event.given_id and partition.recent.follows((event.instance, event.id), event.offset):
            return None
        return event

    async def _seek(self, partition: Partition, offset: int) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._kafka.consumer(auto_offset_reset="none", fetch_max_wait_ms=100)
            await consumer.start()
            self._consumer = consumer
        if self._consumer.assignment() != {partition.topic_partition}:
            self._consumer.assign([partition.topic_partition])
        self._consumer.seek(partition.topic_partition, offset)
        return self._consumer

    async def _expire(self, partition: Partition, tracks: Sequence[Track]) -> None:
        """Retention has overtaken positions: what is gone is counted, an upper bound, and the lanes go on."""
        assert self._consumer is not None
        begin = (await self._consumer.beginning_offsets([partition.topic_partition]))[partition.topic_partition]
        for lane in {track.lane for track in tracks if track.feed < begin}:
            behind = [track for track in tracks if track.lane is lane and track.feed < begin]
            first = min(track.feed for track in behind)
            self._expired.add(begin - first)
            log.error(
                "lane.expired",
                destination=lane.destination,
                instance=lane.instance,
                at_most=begin - first,
                from_offset=first,
                log_start=begin,
            )
            for track in behind:
                track.feed = begin
            partition.moved.add(lane)
