"""What one partition still has to write into `lanes`: coalesced by key, the urgent at once, the others paced."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

TRANSACTION_RECORDS = 500
"""Most records of one transaction: 10 ms (fencing.md, 2)."""
TRANSACTION_BYTES = 256 << 10
"""Most bytes of one transaction, unless a single record has more."""
CHECKPOINTS_AT_ONCE = 200
CHECKPOINT_INTERVAL_SECS = 1.0
"""Between two writes of what is not urgent: so at most CHECKPOINTS_AT_ONCE of them a second, in one transaction."""
KEY_INTERVAL_SECS = 3.0
"""Between two writes of one key that are not urgent."""
RECORD_OVERHEAD_BYTES = 32
"""Of one record at most: lengths, time, offset."""


@dataclass(slots=True, eq=False)
class Put:
    """The newest value of one key (None is a tombstone), and who is told once this or a newer one is durable."""

    key: bytes
    value: bytes | None
    urgent: bool
    due_at: float = 0.0
    durable: list[Callable[[], None]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """What it takes in a batch, at most."""
        return len(self.key) + len(self.value or b"") + RECORD_OVERHEAD_BYTES


class Pending:
    """The puts of one partition that are in no transaction. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._urgent: dict[bytes, Put] = {}
        self._paced: dict[bytes, Put] = {}
        self._order: list[tuple[float, bytes]] = []  # A heap; what is no longer paced at that time is passed over.
        self._written: dict[bytes, float] = {}  # Keys written in the last KEY_INTERVAL_SECS, the oldest first.
        self._next_checkpoints_at = 0.0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._paced)

    def put(
        self, key: bytes, value: bytes | None, durable: Callable[[], None] | None, *, urgent: bool, now: float
    ) -> bool:
        """Takes a value in place of the one that waits; whether something is due sooner than before."""
        put = self._urgent.get(key) or self._paced.get(key)
        sooner = False
        if put is None:
            put = Put(key, value, urgent)
            sooner = self._add(put, now)
        else:
            put.value = value
            if urgent and not put.urgent:
                self._hasten(put)
                sooner = True
        if durable is not None:
            put.durable.append(durable)
        return sooner

    def delay(self, now: float) -> float | None:
        """Seconds until something is due, 0 when something is; None when nothing waits."""
        if self._urgent:
            return 0.0
        self._pass_over()
        if not self._order:
            return None
        return max(0.0, max(self._order[0][0], self._next_checkpoints_at) - now)

    def take(self, now: float) -> Sequence[Put]:
        """What the next transaction holds: what is urgent in its order, then checkpoints that are due."""
        taken: list[Put] = []
        room = TRANSACTION_BYTES
        for put in self._urgent.values():
            room -= put.size_bytes
            if len(taken) >= TRANSACTION_RECORDS or (taken and room < 0):
                break
            taken.append(put)
        for put in taken:
            del self._urgent[put.key]
        if now >= self._next_checkpoints_at:
            self._take_checkpoints(taken, room, now)
        self._remember(taken, now)
        return taken

    def give_back(self, puts: Sequence[Put], now: float) -> None:
        """What was taken waits again, unless a newer value of its key does: then that one is as urgent."""
        for put in puts:
            newer = self._urgent.get(put.key) or self._paced.get(put.key)
            if newer is None:
                self._add(put, now)
                continue
            newer.durable[:0] = put.durable
            if put.urgent and not newer.urgent:
                self._hasten(newer)

    def hurry(self) -> Sequence[Put]:
        """Makes all that waits urgent, and gives it."""
        for put in list(self._paced.values()):
            self._hasten(put)
        return list(self._urgent.values())

    def clear(self) -> None:
        """Forgets all that waits."""
        self._urgent.clear()
        self._paced.clear()
        self._order.clear()

    def _add(self, put: Put, now: float) -> bool:
        if put.urgent:
            self._urgent[put.key] = put
            return True
        self._forget(now)
        written_at = self._written.get(put.key)
        put.due_at = now if written_at is None else written_at + KEY_INTERVAL_SECS
        self._paced[put.key] = put
        heapq.heappush(self._order, (put.due_at, put.key))
        return self._order[0][1] == put.key

    def _hasten(self, put: Put) -> None:
        del self._paced[put.key]
        put.urgent = True
        self._urgent[put.key] = put

    def _take_checkpoints(self, taken: list[Put], room: int, now: float) -> None:
        most = min(CHECKPOINTS_AT_ONCE, TRANSACTION_RECORDS - len(taken))
        count = 0
        while count < most:
            self._pass_over()
            if not self._order or self._order[0][0] > now:
                break
            put = self._paced[self._order[0][1]]
            room -= put.size_bytes
            if taken and room < 0:
                break
            heapq.heappop(self._order)
            del self._paced[put.key]
            taken.append(put)
            count += 1
        if count:
            self._next_checkpoints_at = now + CHECKPOINT_INTERVAL_SECS

    def _pass_over(self) -> None:
        """Drops from the heap's top what became urgent since it was put there."""
        while self._order:
            due_at, key = self._order[0]
            put = self._paced.get(key)
            if put is not None and put.due_at == due_at:
                return
            heapq.heappop(self._order)

    def _remember(self, taken: Sequence[Put], now: float) -> None:
        self._forget(now)
        for put in taken:
            self._written.pop(put.key, None)  # So that the oldest stay in front.
            self._written[put.key] = now

    def _forget(self, now: float) -> None:
        while self._written:
            key = next(iter(self._written))
            if self._written[key] + KEY_INTERVAL_SECS > now:
                return
            del self._written[key]
