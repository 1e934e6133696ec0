"""A lane: what is on its way from one partition and instance to one destination, in order per order key."""

from collections import deque
from typing import TYPE_CHECKING

from app.events.event import Event
from app.events.ids import delivery_id
from app.routing.route import Route

if TYPE_CHECKING:
    from app.engine.gate import Gate
    from app.engine.partition import Partition, Slot


class Delivery:
    """One event on its way to one destination, from routing to its end."""

    __slots__ = (
        "attempts",
        "body",
        "config_offset",
        "event_id",
        "event_name",
        "id",
        "key",
        "lane",
        "names",
        "slot",
        "started",
        "timestamp_ms",
    )

    def __init__(self, lane: "Lane", slot: "Slot", event: Event, route: Route, key: str | None, body: bytes) -> None:
        self.lane = lane
        self.slot = slot
        self.id = delivery_id(event.id, route.destination, instance=event.instance)
        self.event_id = event.id
        self.event_name = event.name
        self.timestamp_ms = event.timestamp_ms
        self.names = route.names
        self.key = key
        self.body = body
        self.attempts = 0
        self.started = 0.0
        """When the attempt under way began, seconds of the loop's clock."""
        self.config_offset = -1


class Lane:
    """
    The way of (partition, instance, destination). One event of an order key is under way at a time; keys run side by
    side. A key whose head failed waits with all behind it, while the others go on.
    """

    __slots__ = ("count", "gate", "instance", "instance_id", "keys", "partition", "ready", "waiting")

    def __init__(self, partition: "Partition", gate: "Gate", instance: str, instance_id: str) -> None:
        self.partition = partition
        self.gate = gate
        self.instance = instance
        self.instance_id = instance_id
        self.keys: dict[str, deque[Delivery] | None] = {}
        """Keys with a head that has no end yet, and what waits behind it (None: nothing)."""
        self.ready: deque[Delivery] = deque()
        """Heads that may be sent."""
        self.count = 0
        """Deliveries that have no end yet."""
        self.waiting = False
        """Whether it stands in its gate's queue."""

    def offer(self, delivery: Delivery) -> bool:
        """Takes a delivery in arrival order; True when it is the head of its key and may be sent."""
        self.count += 1
        key = delivery.key
        if key is None:
            return True
        keys = self.keys
        if key not in keys:
            keys[key] = None
            return True
        behind = keys[key]
        if behind is None:
            keys[key] = deque((delivery,))
        else:
            behind.append(delivery)
        return False

    def next(self, ended: Delivery) -> Delivery | None:
        """The delivery behind one that has its end, if there is one: the key's new head."""
        self.count -= 1
        key = ended.key
        if key is None:
            return None
        behind = self.keys[key]
        if behind:
            return behind.popleft()
        del self.keys[key]
        return None

    def drop_beyond(self, offset: int) -> int:
        """
        Forgets, at a hand-over, what stands above `offset` and has not begun: the next assignee sends it.

        Returns how many of those were heads, ready to be sent.
        """
        for key, behind in self.keys.items():
            if behind:
                kept = deque(delivery for delivery in behind if delivery.slot.offset <= offset)
                self.count -= len(behind) - len(kept)
                self.keys[key] = kept or None
        heads = [delivery for delivery in self.ready if delivery.slot.offset > offset]
        if heads:
            self.ready = deque(delivery for delivery in self.ready if delivery.slot.offset <= offset)
            self.count -= len(heads)
            for head in heads:
                if head.key is not None:
                    del self.keys[head.key]  # Order within a key: nothing at or below `offset` stands behind it.
        return len(heads)
