"""
Moves lanes between live, parked, behind and paused, and makes each new position durable before it frees a slot.

The rules of a transition stand in `lane.py`; here stands when, and what has to be written.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial as bind
from typing import Protocol

import structlog
from aiokafka import TopicPartition

from app.engine.delivery import Delivery
from app.engine.lane import WHOLE, Lane, Track
from app.engine.partition import Guard, Partition, Slot
from app.engine.position import LanePosition, lane_key
from app.engine.positions import NotAssigned
from app.observe import metrics

log = structlog.get_logger()

MAX_PARKED_KEYS = 1000
"""Beyond this the lane as a whole is behind."""
MAX_LANE_DELIVERIES = 1000
MAX_LANE_BYTES = 8 << 20
"""What of one lane is in memory; beyond it the lane is behind and is refilled by bytes."""
MAX_AGE_SECS = 3.0
"""A slot older than this is freed by writing down where its lanes stand."""
PROBES = 4
"""Events of a lane that a dead destination is probed with in turn: one that never gets through is not all there is."""
ATTEMPTS_BEFORE_PARKING = 3
"""The first attempt and the two quick retries (design 6)."""


class PositionWriter(Protocol):
    """Writes positions; `durable` is called once they cannot be lost any more."""

    def put(
        self,
        partition: TopicPartition,
        key: bytes,
        position: LanePosition | None,
        durable: Callable[[], None] | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """Takes the newest position of a lane."""


class LaneKeeper:
    """Keeps the lanes of a worker where they can be, and their positions where they are."""

    def __init__(
        self, positions: PositionWriter, freed: Callable[[], None], forgotten: Callable[[Lane, int], None]
    ) -> None:
        self._positions = positions
        self._freed = freed
        self._forgotten = forgotten
        self.wake: Callable[[], None] = _nothing
        """Called when there may be something to read again."""
        self._behind = metrics.counter("sluice_lane_transitions_total", state="behind")
        self._parked = metrics.counter("sluice_lane_transitions_total", state="parked")
        self._live = metrics.counter("sluice_lane_transitions_total", state="live")

    def park(self, delivery: Delivery) -> None:
        """The head of a key failed too often: the key waits on its own, the lane's other keys go on."""
        lane = delivery.lane
        track = lane.tracks.get(delivery.key)
        if track is not None and not track.handed:
            return
        if len(lane.tracks) > MAX_PARKED_KEYS:
            self.fall_behind(lane, "too_many_parked_keys", drop=True)
            return
        self._parked.add(1)
        before = lane.count
        held, turned = lane.park(delivery.key)
        self._write(lane, held, before, turned=turned)

    def fall_behind(
        self, lane: Lane, reason: str, *, drop: bool, upto: int | None = None, slot: Slot | None = None
    ) -> None:
        """The lane as a whole cannot follow. `slot`: of the event at `upto`, which the lane does not take."""
        before = lane.count
        held, turned = lane.fall_behind(lane.partition.live if upto is None else upto, drop=drop)
        if slot is not None:
            slot.pending += 1
            held.append(slot)
        self._behind.add(1)
        log.info("lane.behind", destination=lane.destination, instance=lane.instance, reason=reason)
        self._write(lane, held, before, turned=turned)
        self.wake()

    def pause(self, lane: Lane, reason: str) -> None:
        """The lane keeps its position, sends nothing and reads nothing."""
        self.fall_behind(lane, reason, drop=True)

    def cancel(self, lane: Lane) -> tuple[Sequence[Delivery], int]:
        """
        Nothing of a lane is wanted any more: its position is tombstoned. What it had in memory, but for what is under
        way, and how many offsets it had not read, at most.
        """
        partition = lane.partition
        live = partition.live
        unread = max(0, live - min((track.feed for track in lane.tracks.values() if not track.handed), default=live))
        dropped: list[Delivery] = []
        for key, head in list(lane.heads.items()):
            if head not in lane.gate.in_flight:
                dropped.append(head)
                del lane.heads[key]
            dropped += head.behind or ()
            head.behind = None
        lane.count -= len(dropped)
        lane.size -= sum(len(delivery.body) for delivery in dropped)
        partition.moving -= len(lane.ready)
        lane.ready.clear()
        lane.tracks.clear()
        partition.behind.discard(lane)
        partition.moved.add(lane)
        return dropped, unread

    def inherit(self, heir: Lane, lane: Lane) -> None:
        """A lane took over where another stood: what waits for the other's position waits for the heir's."""
        self._write(heir, lane.partition.held.pop(lane, []), heir.count, turned=True)

    def write_at_once(self, lane: Lane) -> None:
        """Writes where a lane stands that was just loaded, when nothing of it has an end yet."""
        self._positions.put(lane.partition.topic_partition, _key(lane), lane.position(), urgent=True)

    def hand_over(self, track: Track) -> None:
        """Reading again has reached what follows the track; no await lies between the test and this call."""
        lane = track.lane
        lane.hand_over(track)
        if track.key is WHOLE:
            self._live.add(1)
            log.info("lane.live", destination=lane.destination, instance=lane.instance)

    def relieve(self, partition: Partition, now: float) -> None:
        """Frees slots that are older than MAX_AGE_SECS by writing down where their lanes stand."""
        slots = partition.slots
        if not slots or now - slots[0].at < MAX_AGE_SECS or partition.draining:
            return
        for lane in list(partition.lanes.values()):
            if lane.behind():
                continue
            if any(
                delivery.slot.track is None and now - delivery.slot.at >= MAX_AGE_SECS
                for delivery in lane.heads.values()
            ):
                self.fall_behind(lane, "slow", drop=False)

    def spill(self, lanes: list[Lane], excess: int) -> None:
        """Sends the largest lanes behind and drops their queues until `excess` bytes are freed."""
        for lane in sorted(lanes, key=lambda lane: lane.size, reverse=True):
            if excess <= 0 or not lane.size:
                return
            excess -= lane.size
            self.fall_behind(lane, "bytes", drop=True)

    def retire(self, partition: Partition) -> None:
        """Forgets tracks that were handed over and whose events have all passed."""
        for lane in list(partition.behind):
            for track in list(lane.tracks.values()):
                lane.retire(track)

    def checkpoint(self, partition: Partition) -> Callable[[], None]:
        """Takes down where moved lanes stand; call what it returns once the ledger has their ends."""
        moved, partition.moved = partition.moved, set()
        held, partition.held = partition.held, {}
        taken = [(lane, lane.position(), held.get(lane)) for lane in moved]

        def put() -> None:
            for lane, position, slots in taken:
                self._put(lane, position, slots)

        return put

    def _put(self, lane: Lane, position: LanePosition | None, held: list[Slot] | None) -> None:
        durable = bind(self._free, held) if held else None
        partition = lane.partition
        if partition.gone:
            return
        try:
            self._positions.put(partition.topic_partition, _key(lane), position, durable, urgent=bool(held))
        except NotAssigned:
            # The slots stay held, so nothing is committed over them; whoever fenced us was told to the engine already.
            log.warning("position.not_ours", partition=partition.number, destination=lane.destination)

    def _write(self, lane: Lane, held: list[Slot], before: int, *, turned: bool) -> None:
        if before != lane.count:
            self._forgotten(lane, before - lane.count)
            self._freed()
        # Put at the next checkpoint: a position never stands above an end that is not in the ledger.
        lane.partition.moved.add(lane)
        if turned and not held:
            # Nothing else keeps the commit from passing what comes before the position is durable.
            guard = Guard(lane.partition, time.monotonic())
            guard.pending = 1
            lane.partition.hold(guard)
            held = [guard]
        if held:
            lane.partition.held.setdefault(lane, []).extend(held)

    def _free(self, held: list[Slot]) -> None:
        for slot in held:
            if not slot.partition.gone:
                slot.release()
        self._freed()


def _key(lane: Lane) -> bytes:
    return lane_key(lane.instance_id, lane.destination)


def _nothing() -> None:
    """Until there is a reader."""
