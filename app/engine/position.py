"""Where a lane stands in the log, as it is written to `lanes` (design, sections 3 and 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

FORMAT = 1
State = Literal["live", "behind", "paused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePosition:
    """
    The position of one lane: of the lane as a whole (`feed`), and of the order keys that stand for themselves.

    Everything at or above a position has no end yet and is read from the log again. `feed` is None while the lane is
    live and only its parked keys are behind.
    """

    instance: str
    instance_id: str
    destination: str
    state: State
    feed: int | None = None
    parked: Mapping[str, int] = field(default_factory=dict)
    parked_attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts that the heads of parked keys have cost."""
    reason: str = ""
    attempts: int = 0
    """Attempts that the head at `feed` has cost, so that a new assignee goes on counting."""
    first_failed_at: float | None = None
    """Since when nothing gets through to the destination, epoch seconds; None while something does."""
    next_attempt_at: float | None = None
    """Epoch seconds; nothing is tried before."""

    @property
    def key(self) -> bytes:
        """The record's key: the lane."""
        return lane_key(self.instance_id, self.destination)

    @property
    def lowest(self) -> int | None:
        """The lowest offset that is wanted again; None when nothing is."""
        positions = list(self.parked.values())
        if self.feed is not None:
            positions.append(self.feed)
        return min(positions, default=None)

    def encode(self) -> bytes:
        """The record's value."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "instance": self.instance,
            "instance_id": self.instance_id,
            "destination": self.destination,
            "state": self.state,
            "feed": self.feed,
            "parked": dict(self.parked),
            "parked_attempts": dict(self.parked_attempts),
            "reason": self.reason,
            "attempts": self.attempts,
            "first_failed_at": self.first_failed_at,
            "next_attempt_at": self.next_attempt_at,
        }
        return orjson.dumps(body)


def lane_key(instance_id: str, destination: str) -> bytes:
    """The key of a lane in `lanes`."""
    return f"{instance_id}|{destination}".encode()


def decode(value: bytes) -> LanePosition:
    """The position in a record's value. ValueError when it is none, or of a format this release cannot read."""
    body = orjson.loads(value)
    if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
        raise ValueError(f"a lane's position of format {FORMAT} is wanted")
    try:
        return LanePosition(**body)
    except TypeError as error:
        raise ValueError(f"a lane's position has other fields: {error}") from error
