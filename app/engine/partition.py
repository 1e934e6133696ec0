"""One assigned partition of `events`: its slots, its lanes, and how far it is settled."""

from collections import deque
from typing import TYPE_CHECKING

from aiokafka import ConsumerRecord, TopicPartition

from app.engine.window import RecentIds

if TYPE_CHECKING:
    from app.engine.lane import Lane, Track

MAX_IDLE_LANES = 10_000
"""Beyond this many lanes those with nothing in them are forgotten; one is about a kilobyte."""


class Memory:
    """The bytes of all events that a process holds in slots and tracks."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Slot:
    """
    The place of one event between its arrival and its acknowledgement.

    A slot of the partition holds the commit; a slot of a track (an event that was read again) holds the position of
    its lane or key.
    """

    __slots__ = ("at", "deliveries", "offset", "partition", "pending", "record", "size", "track")

    def __init__(
        self, partition: "Partition", record: ConsumerRecord, size: int, at: float, track: "Track | None" = None
    ) -> None:
        self.partition = partition
        self.offset: int = record.offset
        self.record = record
        """As it came, for the dead letter."""
        self.size = size
        """Bytes it is charged for."""
        self.at = at
        """When it arrived here, seconds of the monotonic clock."""
        self.track = track
        self.deliveries = 0
        """Destinations that matched."""
        self.pending = 0
        """Deliveries that have no end yet, and positions that are not written yet."""

    def grow(self, size: int) -> None:
        """Is charged for so many bytes more."""
        self.size += size
        self.partition.charge(size)

    def release(self) -> int:
        """One thing less to wait for; returns the bytes that become free."""
        self.pending -= 1
        if self.pending:
            return 0
        if self.track is not None:
            return self.track.settle(self)
        slots = self.partition.slots
        return self.partition.settle() if slots and slots[0] is self else 0


class Guard(Slot):
    """
    Holds the commit at an offset while a position that is to cover what follows is not durable.

    It is the place of no event, and never in a dead letter.
    """

    __slots__ = ()

    def __init__(self, partition: "Partition", at: float) -> None:
        self.partition = partition
        self.offset = partition.live
        self.size = 0
        self.at = at
        self.track = None
        self.deliveries = 0
        self.pending = 0


class Partition:
    """State of one partition while it is assigned to this worker. Everything in it dies with the assignment."""

    __slots__ = (
        "backlog",
        "behind",
        "blocked",
        "crowded",
        "draining",
        "gone",
        "held",
        "lanes",
        "live",
        "memory",
        "moved",
        "moving",
        "number",
        "recent",
        "size",
        "slots",
        "topic_partition",
    )

    def __init__(self, topic_partition: TopicPartition, recent: RecentIds, memory: Memory) -> None:
        self.topic_partition = topic_partition
        self.number: int = topic_partition.partition
        self.recent = recent
        self.memory = memory
        self.live = -1
        """The offset after the last event that was routed; -1 before the first."""
        self.slots: deque[Slot] = deque()
        self.size = 0
        """Bytes of the events in its slots and tracks."""
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.behind: set[Lane] = set()
        """Lanes with a track: as a whole, or for some of their keys."""
        self.moved: set[Lane] = set()
        """Of those, the ones whose position is not what was last written."""
        self.held: dict[Lane, list[Slot]] = {}
        """Slots that are free once the next position of their lane is durable."""
        self.backlog: deque[ConsumerRecord] = deque()
        """Records that wait for the table or an instance, in order; nothing behind them is routed."""
        self.blocked = False
        self.crowded = False
        """Held until its slots are half empty."""
        self.moving = 0
        """Deliveries that are ready or under way, so that a drain waits for them."""
        self.draining = False
        self.gone = False
        """Revoked: late receipts change nothing any more."""

    @property
    def settled(self) -> int:
        """Every event below this offset has its ends, or a durable position at or below it."""
        return self.slots[0].offset if self.slots else self.live

    def hold(self, slot: Slot) -> None:
        """Takes the slot of the next event of the live end."""
        self.slots.append(slot)
        self.charge(slot.size)

    def charge(self, size: int) -> None:
        """Counts bytes that are held from now on, or with a minus no longer."""
        if not self.gone:
            self.size += size
            self.memory.used += size

    def leave(self) -> None:
        """Revoked: what it held counts no more."""
        self.charge(-self.size)
        self.gone = True

    def settle(self) -> int:
        """Lets go of the finished run at the head; returns the bytes it frees."""
        slots = self.slots
        freed = 0
        while slots and slots[0].pending == 0:
            freed += slots.popleft().size
        self.charge(-freed)
        return freed

    def forget_idle_lanes(self) -> None:
        """Drops lanes with nothing in them, once there are many."""
        if len(self.lanes) > MAX_IDLE_LANES:
            self.lanes = {key: lane for key, lane in self.lanes.items() if lane.count or lane.tracks}
