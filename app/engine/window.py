"""The ids that producers gave lately, so that an event that was sent twice is delivered once (design 4)."""

from collections import OrderedDict


class RecentIds:
    """
    A bounded window over the ids of one partition: at most `maximum` ids, none older than `secs` seconds of log time.

    Whoever reads the partition live keeps one. An id at its own offset is no repetition: that is the log, read again.
    """

    __slots__ = ("_ids", "_maximum", "_millis", "upto")

    def __init__(self, maximum: int, secs: float) -> None:
        self._ids: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._maximum = maximum
        self._millis = int(secs * 1000)
        self.upto = -1
        """The window has seen every record below this offset; -1 when it has seen none."""

    def __len__(self) -> int:
        return len(self._ids)

    def repeated(self, event_id: tuple[str, str], offset: int, timestamp_ms: int) -> bool:
        """Whether the id (instance, id) stood at an earlier offset within the window; remembers it if not."""
        ids = self._ids
        seen = ids.get(event_id)
        if seen is not None:
            if seen[0] == offset:
                return False
            if offset > seen[0] and timestamp_ms - seen[1] <= self._millis:
                return True
            if offset < seen[0]:
                return False  # Read again below what was seen: the later one is the repetition.
            del ids[event_id]
        if self._maximum <= 0 or self._millis <= 0:
            return False
        ids[event_id] = (offset, timestamp_ms)
        horizon = timestamp_ms - self._millis
        while len(ids) > self._maximum or next(iter(ids.values()))[1] < horizon:
            ids.popitem(last=False)
            if not ids:
                break
        return False

    def follows(self, event_id: tuple[str, str], offset: int) -> bool:
        """Whether the id is known from an earlier offset than this one."""
        seen = self._ids.get(event_id)
        return seen is not None and seen[0] < offset
