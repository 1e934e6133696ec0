"""How much one instance may send: a bucket of events an instance, refilled evenly."""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000
"""Instances whose bucket is kept; the one unheard of for longest begins anew."""


class Quota:
    """
    So many events a second for each instance, with one second's worth saved up.

    A list is taken whole or not at all: it may overdraw the bucket once, and then the instance waits until that is
    made good. So a list larger than the bucket gets through, and the rate holds.
    """

    def __init__(self, events_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = events_per_second
        self._most = max(1.0, events_per_second)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, instance: str, events: int) -> float:
        """0 and the events are counted; else how many seconds to wait, and nothing is."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, at = self._buckets.get(instance, (self._most, now))
        level = min(self._most, level + (now - at) * self._rate)
        if level < min(events, 1.0):
            return (1.0 - level) / self._rate
        self._buckets[instance] = (level - events, now)
        self._buckets.move_to_end(instance)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0
