"""Which records of the `config` topic count, whatever races and compaction have done to them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.acceptance import Acceptance, Known, Record, decide

KEYS = ("a", "b", "c")
Write = dict[str, Any]
"""What one invented writer does."""


def record(offset: int, key: str = "a", base: int = -1, value: str | None = "", **more: Any) -> Record:
    """A record whose value is its offset, unless it is a tombstone (`value` None)."""
    return Record(
        offset=offset,
        key=key,
        value=None if value is None else f"{offset}".encode(),
        base=base,
        at=more.pop("at", offset),
        apply=more.pop("apply", f"w{offset}"),
        **more,
    )


def rows(known: dict[str, Known]) -> dict[str, int]:
    """The current row of each key that has one."""
    return {key: entry.current for key, entry in known.items() if entry.value is not None}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param([record(0)], {"a": 0}, id="first"),
        pytest.param([record(0), record(1, base=0)], {"a": 1}, id="from the current row"),
        pytest.param([record(0), record(1, base=-1)], {"a": 0}, id="as if there were no row"),
        pytest.param([record(0), record(1, base=0), record(2, base=0)], {"a": 1}, id="from an old row"),
        pytest.param([record(0), record(1, base=0, value=None)], {}, id="tombstone"),
        pytest.param([record(0), record(1, base=-1, value=None)], {"a": 0}, id="stale tombstone"),
        pytest.param([record(0), record(1, base=0, value=None), record(2)], {"a": 2}, id="created again"),
        pytest.param([record(0), record(1, base=0, value=None), record(2, base=0)], {}, id="from a deleted row"),
        pytest.param([record(0), record(1, broken="no headers")], {"a": 0}, id="foreign record"),
        pytest.param([record(0), record(1), record(2, base=0, repair=True)], {"a": 2}, id="repaired"),
    ],
)
def test_a_record_counts_iff_its_base_is_the_current_row(log: list[Record], expected: dict[str, int]) -> None:
    """Whoever read everything takes a record exactly when it was computed from the row that is current."""
    assert rows(decide(log)) == expected


def batch(start: int, *parts: tuple[str, int]) -> list[Record]:
    """One apply of several rows."""
    return [
        record(start + index, key, base, at=start, apply=f"w{start}", index=index, count=len(parts))
        for index, (key, base) in enumerate(parts)
    ]


def test_one_stale_base_voids_the_whole_apply() -> None:
    """An apply counts whole or not at all."""
    assert rows(decide([record(0, "a"), *batch(1, ("a", 0), ("b", -1))])) == {"a": 1, "b": 2}
    assert rows(decide([record(0, "a"), *batch(1, ("a", -1), ("b", -1)), record(3, "c")])) == {"a": 0, "c": 3}


def test_an_apply_is_not_seen_before_it_is_whole() -> None:
    """Until its last record has come nothing of an apply is taken, and the position stays in front of it."""
    acceptance = Acceptance({}.get)
    first, second = batch(0, ("a", -1), ("b", -1))
    acceptance.read(first)
    step = acceptance.take()
    assert (step.position, step.known) == (0, {})
    acceptance.read(second)
    step = acceptance.take()
    assert (step.position, set(step.known)) == (2, {"a", "b"})


def test_an_apply_that_lost_its_tail_is_taken_when_the_reader_has_passed_it() -> None:
    """Compaction may have taken the last records of an apply; the rest counts once the position is beyond it."""
    acceptance = Acceptance({}.get)
    acceptance.read(batch(0, ("a", -1), ("b", -1))[0])
    acceptance.passed(2)
    step = acceptance.take()
    assert (step.position, rows(step.known)) == (2, {"a": 0})


def test_an_outcome_names_the_stale_keys_and_the_write() -> None:
    """A writer learns from the log which of its writes counted, and which keys were in the way."""
    acceptance = Acceptance({}.get)
    for each in [record(0, "a"), *batch(1, ("a", -1), ("b", -1))]:
        acceptance.read(each)
    assert [(outcome.apply, outcome.stale) for outcome in acceptance.take().outcomes] == [("w0", ()), ("w1", ("a",))]


def test_a_base_between_a_doubtful_row_and_its_own_base_shows_that_the_row_had_been_ignored() -> None:
    """Of 0 <- 1 accepted and 2 (from 0) ignored, compaction leaves 2; the repair of 1 counts, not 2."""
    assert rows(decide([record(2, base=0, at=1), record(3, base=1, repair=True)])) == {"a": 3}


def test_a_reader_that_read_everything_does_not_yield_to_a_repair_from_one_that_did_not() -> None:
    """A repair of an ignored row is ignored like the row itself by who knows better."""
    log = [record(0), record(1, at=0), record(2, base=1, at=2, repair=True)]
    assert rows(decide(log)) == {"a": 0}


def test_offsets_only_grow() -> None:
    """A record that comes twice is a defect that is shown, not applied."""
    acceptance = Acceptance({}.get)
    acceptance.read(record(0))
    with pytest.raises(ValueError, match="offsets only grow"):
        acceptance.read(record(0))


# What follows invents histories: writers that read at some position and write some records later, so that some of them
# lose; applies of several rows; tombstones; repairs; and compaction of prefixes in several passes.

write = st.fixed_dictionaries(
    {
        "keys": st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True),
        "lag": st.integers(0, 6),
        "tombstone": st.booleans(),
    }
)


def truth_at(states: list[dict[str, int]], position: int) -> dict[str, int]:
    """What is current at a position."""
    return states[min(position, len(states) - 1)]


def write_history(
    writes: Sequence[Write], log: Sequence[Record] = (), states: Sequence[dict[str, int]] = ({},)
) -> tuple[list[Record], list[dict[str, int]]]:
    """The log of honest writers, repaired at its end, and for each position what is current there."""
    log, states = list(log), list(states)

    def append(keys: Sequence[str], at: int, *, tombstone: bool = False, repair: bool = False) -> bool:
        start, seen, now = len(log), truth_at(states, at), dict(states[-1])
        bases = {key: seen.get(key, -1) for key in keys}
        counts = all(now.get(key, -1) == base for key, base in bases.items())
        for index, key in enumerate(keys):
            gone = (key not in now) if repair else tombstone and index % 2 == 0
            log.append(
                record(
                    start + index,
                    key,
                    bases[key],
                    None if gone else "",
                    at=at,
                    apply=f"w{start}",
                    index=index,
                    count=len(keys),
                    repair=repair,
                )
            )
            if counts and gone:
                now.pop(key, None)
            elif counts:
                now[key] = start + index
        # Nobody can have read half an apply: while it is not whole, a table still stands in front of it.
        states.extend([states[-1]] * (len(keys) - 1) + [now])
        return counts

    dirty: set[str] = set()
    boundaries = [len(log)]
    for each in writes:
        earlier = [position for position in boundaries if position >= len(log) - each["lag"]]
        counted = append(each["keys"], earlier[0], tombstone=each["tombstone"])
        boundaries.append(len(log))
        dirty = dirty - set(each["keys"]) if counted else dirty | set(each["keys"])
    for key in sorted(dirty):
        append([key], len(log), repair=True)
    return log, states


def compact(log: list[Record], cut: int, forget_tombstones: int) -> list[Record]:
    """The cleaner: below `cut` only the last record of a key stays, and old tombstones go altogether."""
    last = {each.key: each.offset for each in log if each.offset < cut}
    return [
        each
        for each in log
        if each.offset >= cut
        or (last[each.key] == each.offset and (each.value is not None or each.offset >= forget_tombstones))
    ]


@settings(max_examples=600, deadline=None)
@given(st.lists(write, max_size=14), st.data())
def test_a_fresh_reader_of_a_compacted_log_ends_where_one_who_read_everything_does(
    writes: list[Write], data: st.DataObject
) -> None:
    """Whatever was raced for, repaired and compacted, a new process has the same rows at the same offsets."""
    log, states = write_history(writes)
    assert rows(decide(log)) == states[-1]
    compacted = log
    for _ in range(data.draw(st.integers(1, 3))):
        cut = data.draw(st.integers(0, len(log)))
        compacted = compact(compacted, cut, data.draw(st.integers(0, cut)))
    assert rows(decide(compacted, len(log))) == states[-1]


@settings(max_examples=400, deadline=None)
@given(st.lists(write, max_size=10), st.lists(write, max_size=8), st.data())
def test_a_fresh_reader_judges_every_later_race_as_the_others_do(
    writes: list[Write], later: list[Write], data: st.DataObject
) -> None:
    """At the end of a repaired log a new process takes and ignores the same records as all others, one by one."""
    log, states = write_history(writes)
    cut = data.draw(st.integers(0, len(log)))
    compacted = compact(log, cut, data.draw(st.integers(0, cut)))
    longer, truth = write_history(later, log, states)
    known: dict[str, Known] = {}
    fresh = Acceptance(known.get)
    for each in compacted:
        fresh.read(each)
    fresh.passed(len(log))
    known.update(fresh.take().known)
    for each in longer[len(log) :]:
        fresh.read(each)
        step = fresh.take()
        known.update(step.known)
        assert rows(known) == truth[step.position]


@settings(max_examples=400, deadline=None)
@given(st.lists(write, max_size=12), st.data())
def test_a_reader_that_resumes_behind_a_compaction_ends_where_the_others_do(
    writes: list[Write], data: st.DataObject
) -> None:
    """A process that was away while the log was compacted continues from its store and comes to the same rows."""
    log, states = write_history(writes)
    stopped = data.draw(st.integers(0, len(log)))
    known: dict[str, Known] = {}
    before = Acceptance(known.get)
    for each in log[:stopped]:
        before.read(each)
    step = before.take()
    known.update(step.known)
    compacted = compact(log, data.draw(st.integers(0, len(log))), 0)
    after = Acceptance(known.get, step.position, step.complete_from)
    for each in compacted:
        if each.offset >= step.position:
            after.read(each)
    after.passed(len(log))
    assert rows(known | after.take().known) == states[-1]
