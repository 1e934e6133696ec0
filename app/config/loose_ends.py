"""Keys to look at again: ignored records to repair before compaction keeps them, tombstones to forget. Pure."""

import random
from collections.abc import Callable

from app.config.acceptance import Known

MAX_REPAIRS_AT_ONCE = 1_000
"""An apply that was ignored may have had ten thousand keys."""
FORGET_AFTER_SECS = 3600.0
"""A deleted key is remembered so that what was computed from its last row is known to be stale; no write lives so
long."""
OWN_REPAIR_AFTER_SECS = 0.5
"""The writer of an ignored record computes again at once; it repairs only if nothing came of that."""


class LooseEnds:
    """
    What is due when. All processes see the same ignored record: each waits a random time more, and the first repair
    takes it off everybody's list.
    """

    def __init__(self, repair_after_secs: float, jitter: Callable[[], float] = random.random) -> None:
        self._repair_after_secs = repair_after_secs
        self._jitter = jitter
        self._repairs: dict[str, float] = {}
        self._gone: dict[str, float] = {}

    def see(self, key: str, known: Known, now: float) -> None:
        """Takes note of what has been decided about a key."""
        if known.needs_repair:
            self._repairs[key] = now + self._repair_after_secs * (1 + self._jitter())
        else:
            self._repairs.pop(key, None)
        if known.value is None:
            self._gone[key] = now + FORGET_AFTER_SECS
        else:
            self._gone.pop(key, None)

    def hurry(self, key: str, now: float) -> None:
        """The ignored record was our own: nobody else need wake for it."""
        if key in self._repairs:
            self._repairs[key] = now + min(OWN_REPAIR_AFTER_SECS, self._repair_after_secs)

    def take_repairs(self, now: float) -> list[str]:
        """The keys whose accepted row is to be written again now; each is named once."""
        due = [key for key, at in self._repairs.items() if at <= now][:MAX_REPAIRS_AT_ONCE]
        for key in due:
            del self._repairs[key]
        return due

    def take_forgettable(self, now: float) -> list[str]:
        """The keys deleted so long ago that nothing need be remembered of them."""
        due = [key for key, at in self._gone.items() if at <= now and key not in self._repairs]
        for key in due:
            del self._gone[key]
        return due
