"""
Which record of the `config` topic counts, decided by every reader alone and by all alike. Pure.

**The rule.** A record names in its headers the row it was computed from (`base`: that row's offset, -1 for none). It
is accepted iff `base` is the current row of its key; else its writer lost a race and everybody ignores it. After an
accepted tombstone there is no row, so the current base is -1 again: a reader that starts after compaction has dropped
the tombstone can know nothing else. Records of one apply stand in one record batch, and one stale base voids them all.

**What compaction does to it.** The cleaner keeps the *last* record of a key, accepted or not, so a reader that starts
later may meet records whose bases it cannot check. It sees that from holes: `complete_from` is the first offset from
which it has read everything. What it knows of a key from before is *doubtful*, unless proven:

- A record also names the position that its writer's table had when it was computed (`at`). Its writer had read
  everything below `at` and says that `base` was current then. If no hole and no accepted record of the key lies above,
  this reader has seen everything since, so `base` is still current: the record is accepted and the key is certain.
- A record whose base is older than the base of what is held cannot be current: what is held proves a later row.
- Otherwise **the last record wins**. If that was wrong, the record is one that everybody else ignored and that stayed
  the last of its key; such a record is always followed by a repair, whose `at` lies above it and proves it. If it was
  right, nothing follows, so it must have been taken.

In particular, a later record whose base lies strictly between a doubtful row's own base and its offset shows that the
doubtful row had been ignored, and it counts: this falls out of the last rule.

**Repair.** For an ignored record that stays the last of its key somebody writes the accepted row again, before the
compaction lag (one day) is over. Only when no process lives through those seconds and none starts within a day can
the ignored row become the one that later readers believe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the topic, as far as acceptance goes. `apply` is the id of the write that it belongs to."""

    offset: int
    key: str
    value: bytes | None
    base: int = -1
    at: int = -1
    apply: str = ""
    index: int = 0
    count: int = 1
    repair: bool = False
    timestamp: int = -1
    broken: str = ""
    """Why it can be no row (no headers, no JSON), where it cannot: ignored like a stale one, and not even remembered
    where it has no key of ours."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader knows of one key."""

    changed: int = -1
    """Offset of the last record that was accepted, -1 when none was."""
    base: int = -1
    """The base of that record."""
    last: int = -1
    """Offset of the last record seen, accepted or not."""
    sure: int = 0
    """Position at which this was known to be the truth; it still is while no hole lies above. -1 for doubtful."""
    value: bytes | None = None

    @property
    def current(self) -> int:
        """The base that a writer must name: the accepted row's offset, -1 where there is no row."""
        return -1 if self.value is None else self.changed

    @property
    def needs_repair(self) -> bool:
        """An ignored record is the last of the key: compaction would keep it and drop the accepted one."""
        return self.last > self.changed


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one write ended: `stale` names the keys whose base was not current; empty when it was accepted."""

    apply: str
    offset: int
    """Of its last record."""
    stale: tuple[str, ...]


@dataclass(slots=True)
class Step:
    """What was decided since the last step: store `known`, tell who listens of `changed`, then stand at `position`."""

    position: int
    complete_from: int
    anchor: Record | None = None
    """The last record decided."""
    known: dict[str, Known] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)


class _Verdict(Enum):
    CERTAIN = 1
    DOUBTFUL = 2
    STALE = 3


_NEVER_SEEN = Known()


class Acceptance:
    """Reads the topic in offset order and decides; `known` looks up what was decided before."""

    def __init__(self, known: Callable[[str], Known | None], position: int = 0, complete_from: int = 0) -> None:
        self._stored = known
        self._next = position
        self._complete_from = complete_from
        self._waiting: list[Record] = []
        self._step = Step(position, complete_from)

    def read(self, record: Record) -> None:
        """Takes the next record."""
        if record.offset < self._next:
            raise ValueError(f"offset {record.offset} of `config` was read after {self._next - 1}; offsets only grow")
        if record.offset > self._next:
            self._complete_from = record.offset
        if self._waiting and self._waiting[0].apply != record.apply:
            self._settle()  # The rest of that apply has been compacted away.
        self._next = record.offset + 1
        self._waiting.append(record)
        if record.index + 1 >= record.count:
            self._settle()

    def passed(self, position: int) -> None:
        """The reader stands at `position`; what lies between the last record and it has been compacted away."""
        if position <= self._next:
            return
        self._complete_from = self._next = position
        if self._waiting and position >= self._waiting[0].offset - self._waiting[0].index + self._waiting[0].count:
            self._settle()

    def take(self) -> Step:
        """All that was decided since the last call. An apply of which records are still to come is not in it."""
        step = self._step
        step.position = self._waiting[0].offset if self._waiting else self._next
        step.complete_from = self._complete_from
        self._step = Step(step.position, step.complete_from)
        return step

    def _known(self, key: str) -> Known | None:
        return self._step.known.get(key) or self._stored(key)

    def _settle(self) -> None:
        records, self._waiting = self._waiting, []
        before = [self._known(record.key) for record in records]
        verdicts = [self._verdict(record, stored) for record, stored in zip(records, before, strict=True)]
        stale = tuple(r.key for r, verdict in zip(records, verdicts, strict=True) if verdict is _Verdict.STALE)
        # Of an apply that has lost records nobody can say that none of the lost ones was stale.
        whole = len(records) == records[0].count
        certain = whole and all(verdict is _Verdict.CERTAIN for verdict in verdicts)
        for record, stored in zip(records, before, strict=True):
            known = stored or _NEVER_SEEN
            if stale and not record.key:
                continue
            if stale:
                self._step.known[record.key] = replace(known, last=record.offset)
                continue
            sure = record.offset if certain else -1
            after = Known(record.offset, record.base, record.offset, sure, record.value)
            self._step.known[record.key] = after
            if known.value is not None or after.value is not None:
                self._step.changed.add(record.key)
        self._step.anchor = records[-1]
        self._step.outcomes.append(Outcome(records[0].apply, records[-1].offset, stale))

    def _verdict(self, record: Record, stored: Known | None) -> _Verdict:
        if record.broken:
            return _Verdict.STALE
        known = stored or _NEVER_SEEN
        # What was ignored after that was proven stale, and so is ignored by everybody: it need not have been seen.
        saw_all = record.at > known.changed
        if known.sure >= self._complete_from:
            # A repair whose writer has seen all we have, and whose base was compacted away before we came, can only
            # differ if what we hold grew from an ignored row that nobody had repaired in time: we yield.
            outranked = record.repair and saw_all and 0 <= record.base < self._complete_from
            return _Verdict.CERTAIN if record.base == known.current or outranked else _Verdict.STALE
        if stored is None and record.base >= self._complete_from:
            return _Verdict.STALE  # We have read its base's offset and hold no row: it was deleted since.
        if saw_all and record.at >= self._complete_from:
            return _Verdict.CERTAIN
        if 0 <= record.base < known.base:
            return _Verdict.STALE
        return _Verdict.DOUBTFUL


def decide(records: Sequence[Record], end: int | None = None) -> dict[str, Known]:
    """What a reader knows after reading `records` from the log's start (and standing at `end`)."""
    known: dict[str, Known] = {}
    acceptance = Acceptance(known.get)
    for record in records:
        acceptance.read(record)
    acceptance.passed(end or 0)
    return acceptance.take().known
