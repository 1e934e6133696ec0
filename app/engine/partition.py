"""One assigned partition of `events`: its slots, its lanes, and how far it is settled."""

from collections import deque
from typing import TYPE_CHECKING

from aiokafka import ConsumerRecord, TopicPartition

from app.engine.window import RecentIds

if TYPE_CHECKING:
    from app.engine.lane import Lane

MAX_IDLE_LANES = 10_000
"""Beyond this many lanes those with nothing in them are forgotten; one is about a kilobyte."""


class Slot:
    """The place of one event between its arrival and its acknowledgement."""

    __slots__ = ("deliveries", "offset", "partition", "pending", "record", "size")

    def __init__(self, partition: "Partition", record: ConsumerRecord, size: int) -> None:
        self.partition = partition
        self.offset: int = record.offset
        self.record = record
        """As it came, for the dead letter."""
        self.size = size
        """Bytes it is charged for."""
        self.deliveries = 0
        """Destinations that matched."""
        self.pending = 0
        """Deliveries that have no end yet."""


class Partition:
    """State of one partition while it is assigned to this worker. Everything in it dies with the assignment."""

    __slots__ = (
        "backlog",
        "blocked",
        "draining",
        "gone",
        "lanes",
        "live",
        "moving",
        "number",
        "recent",
        "size",
        "slots",
        "topic_partition",
    )

    def __init__(self, topic_partition: TopicPartition, recent: RecentIds) -> None:
        self.topic_partition = topic_partition
        self.number: int = topic_partition.partition
        self.recent = recent
        self.live = -1
        """The offset after the last event that was routed; -1 before the first."""
        self.slots: deque[Slot] = deque()
        self.size = 0
        """Bytes of the events in its slots."""
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.backlog: deque[ConsumerRecord] = deque()
        """Records that wait for the table or an instance, in order; nothing behind them is routed."""
        self.blocked = False
        self.moving = 0
        """Deliveries that are ready or under way, so that a drain waits for them."""
        self.draining = False
        self.gone = False
        """Revoked: late receipts change nothing any more."""

    @property
    def settled(self) -> int:
        """Every event below this offset has its ends."""
        return self.slots[0].offset if self.slots else self.live

    def settle(self) -> int:
        """Lets go of the finished run at the head; returns the bytes it frees."""
        slots = self.slots
        freed = 0
        while slots and slots[0].pending == 0:
            freed += slots.popleft().size
        self.size -= freed
        return freed

    def forget_idle_lanes(self) -> None:
        """Drops lanes with nothing in them, once there are many."""
        if len(self.lanes) > MAX_IDLE_LANES:
            self.lanes = {key: lane for key, lane in self.lanes.items() if lane.keys or lane.count}
