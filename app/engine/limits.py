"""How much may be under way to one destination: a limit that adapts, and the half-open state of a circuit breaker."""

from app.engine.retry import LONGEST_RETRY_AFTER_SECS
from sinks import FailureKind, SinkError

START = 16.0
SLACK_SECS = 0.01
"""Latency under twice the best plus this much is not queueing: our own loop's turns are in it."""
BASELINE_SECS = 15.0
"""The best latency is that of the last one to two of these, so that a far end that became slower is believed."""
SHORTEST_BACKOFF_SECS = 0.25
LONGEST_BACKOFF_SECS = 30.0
FAILURES_IN_A_ROW = 10
"""This many failed events with no success between them are the destination's failure, whatever their kind."""

DESTINATION_KINDS = frozenset(
    {FailureKind.UNREACHABLE, FailureKind.TIMEOUT, FailureKind.TLS, FailureKind.THROTTLED},
)
DESTINATION_STATUSES = frozenset({502, 503, 504})
"""A gateway speaks, not the receiver: the destination's failure, not the event's (design 6)."""


class AdaptiveLimit:
    """
    The most deliveries that may be under way to one destination at once.

    It doubles every round trip at first, then grows by one a round trip, and halves when the far end is slow or
    fails, down to one with a growing pause before it: the probe. Times are seconds of one monotonic clock, given by
    the caller.
    """

    __slots__ = (
        "_backoff",
        "_baseline",
        "_baseline_since",
        "_cooldown_until",
        "_failures",
        "_previous_baseline",
        "_smoothed",
        "_starting",
        "active",
        "closed_until",
        "down",
        "limit",
        "maximum",
    )

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = min(START, float(maximum))
        self.active = 0
        self.closed_until = 0.0
        """No attempt begins before this moment."""
        self.down = False
        """Nothing gets through: only probes are sent."""
        self._starting = True
        self._backoff = 0.0
        self._failures = 0
        self._cooldown_until = 0.0
        self._smoothed = 0.0
        self._baseline = self._previous_baseline = float("inf")
        self._baseline_since = 0.0

    def admits(self, now: float) -> bool:
        """Whether one more attempt may begin."""
        return self.active < self.limit and now >= self.closed_until

    def succeeded(self, now: float, latency: float, *, wanted_more: bool) -> None:
        """Counts a receipt. `wanted_more`: deliveries were waiting for this limit."""
        self._failures = 0
        self._backoff = 0.0
        self.down = False
        if now - self._baseline_since > BASELINE_SECS:
            self._previous_baseline, self._baseline, self._baseline_since = self._baseline, latency, now
        elif latency < self._baseline:
            self._baseline = latency
        self._smoothed += (latency - self._smoothed) * 0.1
        best = min(self._baseline, self._previous_baseline)
        if self._smoothed > 2.0 * best + SLACK_SECS:
            self._halve(now)
        elif wanted_more and self.limit < self.maximum:
            self.limit = min(self.limit + (1.0 if self._starting else 1.0 / self.limit), float(self.maximum))

    def failed(self, now: float, failure: SinkError, chance: float) -> None:
        """Counts a failure; the destination's own failures narrow the limit, an event's do not."""
        self._failures += 1
        if not at_fault(failure) and self._failures < FAILURES_IN_A_ROW:
            return
        narrow = self.limit < 2.0
        self.down = self.down or narrow or self._failures >= FAILURES_IN_A_ROW
        self._halve(now)
        if narrow and now >= self.closed_until:
            self._backoff = min(max(self._backoff * 2.0, SHORTEST_BACKOFF_SECS), LONGEST_BACKOFF_SECS)
            self.closed_until = now + self._backoff * (0.8 + 0.4 * chance)
        if failure.kind is FailureKind.THROTTLED and failure.retry_after:
            asked = min(failure.retry_after, LONGEST_RETRY_AFTER_SECS)
            self.closed_until = max(self.closed_until, now + asked)

    def _halve(self, now: float) -> None:
        if now < self._cooldown_until:
            return  # What is under way was sent before the last halving: it tells nothing new.
        self.limit = max(1.0, self.limit / 2.0)
        # From one, the way back up is quick again.
        self._starting = self.limit < 2.0
        self._cooldown_until = now + max(self._smoothed, 0.05)


def at_fault(failure: SinkError) -> bool:
    """Whether a failure is the destination's, whatever the event was."""
    return failure.kind in DESTINATION_KINDS or failure.status in DESTINATION_STATUSES
