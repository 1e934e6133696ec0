"""What a receiver has seen: lost, doubled and out of order per path and conversation, and how long events took."""

from dataclasses import dataclass, field
from typing import Any

BUCKETS_PER_DOUBLING = 16
"""Each doubling of the latency is cut into so many buckets: a percentile read from them is at most 6.3 % too high."""


class Histogram:
    """Latencies in buckets that grow with them: bounded memory, one dictionary write a sample."""

    __slots__ = ("buckets", "count", "highest_us")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.highest_us = 0

    def add(self, microseconds: int) -> None:
        """Counts one latency; what clocks make negative counts as one microsecond."""
        value = microseconds if microseconds > 0 else 1
        # The bit length is the doubling; the four bits after the leading one are the sixteenth inside it.
        doubling = value.bit_length() - 1
        bucket = doubling << 4 | ((value << 4 >> doubling) & 15)
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.count += 1
        self.highest_us = max(self.highest_us, value)

    def percentile_ms(self, share: float) -> float | None:
        """The upper edge of the bucket in which the share (0 to 1) falls, in milliseconds; None when empty."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                doubling, step = bucket >> 4, bucket & 15
                edge_us = (1 << doubling) * (17 + step) / BUCKETS_PER_DOUBLING
                return round(min(edge_us, self.highest_us) / 1000, 3)
        return None


class Conversation:
    """The sequence numbers (from 1) of one conversation at one path."""

    __slots__ = ("doubled", "highest", "missing", "order_breaks")

    def __init__(self, before: int = 0) -> None:
        self.highest = before
        self.missing: set[int] = set()
        self.doubled = 0
        self.order_breaks = 0

    def add(self, sequence: int) -> None:
        """Counts an arrival; one that comes after a higher one is an order break, one that came before is doubled."""
        highest = self.highest
        if sequence == highest + 1:
            self.highest = sequence
        elif sequence > highest:
            self.missing.update(range(highest + 1, sequence))
            self.highest = sequence
        elif sequence in self.missing:
            self.missing.discard(sequence)
            self.order_breaks += 1
        else:
            self.doubled += 1

    def lost(self, last: int | None) -> int:
        """How many never came: holes, and the tail where the last sequence number that was sent is known."""
        return len(self.missing) + (max(0, last - self.highest) if last is not None else 0)


@dataclass(slots=True)
class Tally:
    """Everything since the last reset."""

    before: int = 0
    """The sequence number that every conversation had reached already."""
    conversations: dict[bytes, Conversation] = field(default_factory=dict)
    """By path, a space, and the conversation."""
    latency: Histogram = field(default_factory=Histogram)
    accepted: int = 0
    refused: int = 0
    unmarked: int = 0
    """Accepted requests whose body carries no mark of the bench."""
    first_ns: int = 0
    last_ns: int = 0

    def stats(self, expected: int | None = None, conversations: int | None = None) -> dict[str, Any]:
        """
        The counts, as JSON. `expected` is the number of events of each conversation, `conversations` how many there
        are over all paths; without them only holes inside a sequence count as lost.
        """
        last = None if expected is None else self.before + expected
        lost = sum(conversation.lost(last) for conversation in self.conversations.values())
        if expected is not None and conversations is not None:
            lost += expected * max(0, conversations - len(self.conversations))
        return {
            "accepted": self.accepted,
            "refused": self.refused,
            "unmarked": self.unmarked,
            "conversations": len(self.conversations),
            "lost": lost,
            "doubled": sum(conversation.doubled for conversation in self.conversations.values()),
            "order_breaks": sum(conversation.order_breaks for conversation in self.conversations.values()),
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "p50_ms": self.latency.percentile_ms(0.50),
            "p99_ms": self.latency.percentile_ms(0.99),
            "max_ms": round(self.latency.highest_us / 1000, 3) if self.latency.count else None,
        }
