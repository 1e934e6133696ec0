"""The door to one destination: what waits before it, what is under way behind it, and how much may be."""

import asyncio
from collections import deque
from collections.abc import Callable

from app.engine.lane import Delivery, Lane
from app.engine.limits import AdaptiveLimit
from sinks import Receipt


class Gate:
    """One destination as this worker sees it. Lanes that have something ready stand in its queue, once each."""

    __slots__ = ("__weakref__", "id", "in_flight", "lanes", "limit", "queued", "timeout_secs", "timer", "transport")

    def __init__(self, destination_id: str, transport: str, maximum: int) -> None:
        self.id = destination_id
        self.transport = transport
        self.limit = AdaptiveLimit(maximum)
        self.lanes: deque[Lane] = deque()
        """Served round-robin."""
        self.in_flight: dict[Delivery, asyncio.Future[Receipt]] = {}
        """In the order they began, so the oldest stand first."""
        self.timeout_secs = 30.0
        self.timer: asyncio.TimerHandle | None = None
        """Set while the gate is closed and something waits."""
        self.queued = False
        """Whether it stands in the queue for the process's budget."""

    def enter(self, delivery: Delivery) -> None:
        """A head that may be sent takes its place."""
        lane = delivery.lane
        lane.ready.append(delivery)
        if not lane.waiting:
            lane.waiting = True
            self.lanes.append(lane)

    def pop(self) -> Delivery | None:
        """The next head, lane by lane; None when nothing waits."""
        lanes = self.lanes
        while lanes:
            lane = lanes.popleft()
            ready = lane.ready
            if not ready:
                lane.waiting = False
                continue
            delivery = ready.popleft()
            if ready:
                lanes.append(lane)
            else:
                lane.waiting = False
            return delivery
        return None


class Budget:
    """The most deliveries of this process under way at once, over all destinations and transports."""

    __slots__ = ("active", "maximum", "waiting")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.active = 0
        self.waiting: deque[Callable[[], None]] = deque()
        """What to call, one after another, when there is room again."""

    def release(self) -> None:
        """One delivery is no longer under way."""
        self.active -= 1

    def serve(self) -> None:
        """Lets those in that waited for room, in their order."""
        waiting = self.waiting
        for _ in range(len(waiting)):
            if self.active >= self.maximum:
                return
            waiting.popleft()()
