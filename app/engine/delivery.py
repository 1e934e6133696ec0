"""A delivery: one event on its way to one destination."""

from collections import deque
from typing import TYPE_CHECKING

from app.engine.partition import Slot
from app.events.event import Event
from app.events.ids import delivery_id
from app.routing.route import Route

if TYPE_CHECKING:
    from app.engine.lane import Lane


class Delivery:
    """One event on its way to one destination, from routing to its end."""

    __slots__ = (
        "attempts",
        "behind",
        "body",
        "config_offset",
        "event_id",
        "event_name",
        "failed_at",
        "first_failed_at",
        "id",
        "key",
        "lane",
        "names",
        "next_attempt_at",
        "slot",
        "started",
        "timestamp_ms",
    )

    def __init__(self, lane: "Lane", slot: Slot, event: Event, route: Route, key: str, body: bytes) -> None:
        self.lane = lane
        self.slot = slot
        self.id = delivery_id(event.id, route.destination, instance=event.instance)
        self.event_id = event.id
        self.event_name = event.name
        self.timestamp_ms = event.timestamp_ms
        self.names = route.names
        self.key = key
        self.body = body
        self.config_offset = -1
        self.attempts = 0
        self.started = 0.0
        """When the attempt under way began, seconds of the monotonic clock."""
        self.failed_at = float("inf")
        """When its last attempt failed, seconds of the monotonic clock; before the first, never."""
        self.first_failed_at: float | None = None
        """Epoch seconds."""
        self.next_attempt_at: float | None = None
        """Epoch seconds, while it waits for its next attempt."""
        self.behind: deque[Delivery] | None = None
        """Of a head: what waits for its turn in the same key."""


def unordered_key(offset: int) -> str:
    """With `order: none` every event is a key of its own, named by its offset."""
    return f"#{offset}"
