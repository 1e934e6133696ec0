"""The door to one destination: what waits before it, what is under way behind it, and how much may be."""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from app.engine.delivery import Delivery
from app.engine.lane import Lane
from app.engine.limits import AdaptiveLimit, at_fault
from app.routing.route import Destination
from sinks import Receipt, SinkError

START = 128
FLOOR = 48
"""In flight for the whole process: what it starts with, and what it never goes under."""
SLOW_TURN_SECS = 0.006


class Gate:
    """One destination as this worker sees it. Lanes that have something ready stand in its queue, once each."""

    __slots__ = (
        "__weakref__",
        "failing_since",
        "id",
        "in_flight",
        "lanes",
        "limit",
        "members",
        "paused",
        "paused_for",
        "queued",
        "rejections",
        "succeeded_at",
        "timeout_secs",
        "timer",
        "transport",
    )

    def __init__(self, destination_id: str, transport: str, maximum: int) -> None:
        self.id = destination_id
        self.transport = transport
        self.limit = AdaptiveLimit(maximum)
        self.lanes: deque[Lane] = deque()
        """Served round-robin."""
        self.in_flight: dict[Delivery, asyncio.Future[Receipt]] = {}
        """In the order they began, so the oldest stand first."""
        self.succeeded_at = float("-inf")
        """When something got through last, seconds of the monotonic clock."""
        self.failing_since: float | None = None
        """Since when events wait and none got through, epoch seconds; also over restarts, by the lanes' positions."""
        self.rejections = 0
        """Events rejected in a row, with none accepted between them."""
        self.timeout_secs = 30.0
        self.timer: asyncio.TimerHandle | None = None
        """Set while the gate is closed and something waits."""
        self.queued = False
        """Whether it stands in the queue for the process's budget."""
        self.paused = ""
        """Why nothing is sent, if so."""
        self.paused_for: Destination | None = None
        """What the destination was when this worker paused it: another one is worth a try. None: a row says so."""
        self.members: WeakSet[Lane] = WeakSet()
        """All lanes to this destination."""

    def enter(self, delivery: Delivery) -> None:
        """A head that may be sent takes its place."""
        lane = delivery.lane
        lane.ready.append(delivery)
        if not lane.waiting:
            lane.waiting = True
            self.lanes.append(lane)

    def spares(self, delivery: Delivery, failure: SinkError) -> bool:
        """
        Whether a failure costs its event nothing: it is of the destination's kind, and nothing else got through since
        this event failed before. The first failure proves nothing yet: it counts once the next one does.
        """
        return at_fault(failure) and self.succeeded_at <= delivery.failed_at

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
    """
    The most deliveries of this process under way at once, over all destinations and transports.

    It adapts to the loop: once the processor is the limit, more in flight only makes every turn of the loop longer,
    and opens connections that nobody needs. Waiting far ends leave the loop idle, and then it grows.
    """

    __slots__ = ("active", "ceiling", "maximum", "waiting")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.maximum = min(START, ceiling)
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

    def adapt(self, lag_secs: float) -> None:
        """Takes in how late the loop is: a turn that takes long means that the processor is the limit."""
        if lag_secs > SLOW_TURN_SECS:
            self.maximum = max(self.maximum * 9 // 10, min(FLOOR, self.ceiling))
        elif self.waiting and lag_secs < SLOW_TURN_SECS / 2:
            self.maximum = min(self.maximum + self.maximum // 8 + 1, self.ceiling)
            self.serve()
