"""What waits to be written into `lanes`: which record goes when."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.pending import (
    CHECKPOINT_INTERVAL_SECS,
    CHECKPOINTS_AT_ONCE,
    KEY_INTERVAL_SECS,
    TRANSACTION_BYTES,
    TRANSACTION_RECORDS,
    Pending,
)


def key(number: int) -> bytes:
    """The key of lane `number`."""
    return b"%d" % number


def nobody() -> None:
    """Is told and does nothing."""


def test_nothing_is_due_where_nothing_waits() -> None:
    """Empty is empty: no delay, nothing taken."""
    pending = Pending()

    assert (pending.delay(0.0), list(pending.take(0.0)), len(pending)) == (None, [], 0)


def test_the_newest_value_is_taken_and_all_are_told() -> None:
    """Puts of one key are one record with the last value, and who waits for any of them is in it."""
    pending = Pending()
    told: list[int] = []
    for number in range(3):
        pending.put(b"lane", b"%d" % number, lambda number=number: told.append(number), urgent=True, now=0.0)

    (put,) = pending.take(0.0)
    for durable in put.durable:
        durable()

    assert (put.value, told, len(pending)) == (b"2", [0, 1, 2], 0)


@pytest.mark.parametrize("value", [b"5", None])
def test_one_key_is_written_at_most_every_few_seconds(value: bytes | None) -> None:
    """A checkpoint right after another waits for the interval of its key; meanwhile the newest value replaces it."""
    pending = Pending()
    pending.put(b"lane", b"1", None, urgent=False, now=0.0)
    assert [put.value for put in pending.take(0.0)] == [b"1"]
    pending.put(b"lane", b"2", None, urgent=False, now=0.5)

    assert pending.delay(0.5) == KEY_INTERVAL_SECS - 0.5
    assert list(pending.take(KEY_INTERVAL_SECS - 0.1)) == []

    pending.put(b"lane", value, None, urgent=False, now=2.0)
    assert [put.value for put in pending.take(KEY_INTERVAL_SECS)] == [value]


def test_an_urgent_put_makes_what_waits_urgent() -> None:
    """Somebody who waits does not wait for the pace, nor does who put the same lane before."""
    pending = Pending()
    pending.put(b"lane", b"1", None, urgent=True, now=0.0)
    pending.take(0.0)
    pending.put(b"lane", b"2", nobody, urgent=False, now=0.1)
    assert pending.delay(0.1) != 0.0
    assert pending.put(b"lane", b"3", nobody, urgent=True, now=0.2)
    assert not pending.put(b"lane", b"4", None, urgent=False, now=0.3)

    assert pending.delay(0.3) == 0.0
    (put,) = pending.take(0.3)
    assert (put.value, len(put.durable)) == (b"4", 2)
    assert pending.delay(100.0) is None


def test_checkpoints_are_paced_together() -> None:
    """At most so many a second, in one go; urgent ones pass them, and take along what is due anyway."""
    pending = Pending()
    for number in range(3 * CHECKPOINTS_AT_ONCE):
        pending.put(key(number), b"", None, urgent=False, now=0.0)
    first = pending.take(0.0)
    pending.put(b"urgent", b"", None, urgent=True, now=0.1)

    assert len(first) == CHECKPOINTS_AT_ONCE
    assert [put.key for put in pending.take(0.1)] == [b"urgent"]
    assert pending.delay(0.1) == CHECKPOINT_INTERVAL_SECS - 0.1

    pending.put(b"urgent", b"", None, urgent=True, now=CHECKPOINT_INTERVAL_SECS)
    second = pending.take(CHECKPOINT_INTERVAL_SECS)

    assert len(second) == CHECKPOINTS_AT_ONCE + 1
    assert second[0].key == b"urgent"


def test_a_transaction_is_bounded() -> None:
    """By records and by bytes; one record alone may be larger than all of it."""
    pending = Pending()
    for number in range(TRANSACTION_RECORDS + 1):
        pending.put(key(number), b"", None, urgent=True, now=0.0)
    assert [len(pending.take(0.0)), len(pending.take(0.0))] == [TRANSACTION_RECORDS, 1]

    for number, size in enumerate((TRANSACTION_BYTES // 2, TRANSACTION_BYTES // 2, 2 * TRANSACTION_BYTES, 1)):
        pending.put(key(number), b"x" * size, None, urgent=True, now=0.0)
    assert [[put.key for put in pending.take(0.0)] for _ in range(4)] == [[key(0)], [key(1)], [key(2)], [key(3)]]


def test_what_failed_is_taken_again_unless_there_is_newer() -> None:
    """A value given back does not replace a newer one, but makes it as urgent, and everyone is told with it."""
    pending = Pending()
    pending.put(key(1), b"old", nobody, urgent=True, now=0.0)
    pending.put(key(2), b"only", nobody, urgent=True, now=0.0)
    taken = pending.take(0.0)
    pending.put(key(1), b"new", nobody, urgent=False, now=0.1)
    pending.give_back(taken, 0.2)

    again = {put.key: (put.value, len(put.durable)) for put in pending.take(0.2)}

    assert again == {key(1): (b"new", 2), key(2): (b"only", 1)}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["paced", "urgent", "take", "take and fail", "hurry"]), st.integers(0, 4), st.floats(0, 2.0)
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_the_newest_is_written_last_and_all_are_told(steps: list[tuple[str, int, float]]) -> None:
    """After any puts, takes and failures, in any order, every key ends at its newest value and every put is told."""
    pending, now = Pending(), 0.0
    newest: dict[bytes, bytes] = {}
    written: dict[bytes, bytes | None] = {}
    told: set[int] = set()

    def note(number: int) -> Callable[[], None]:
        return lambda: told.add(number)

    def take() -> None:
        for put in pending.take(now):
            written[put.key] = put.value
            for durable in put.durable:
                durable()

    for number, (step, lane, secs) in enumerate(steps):
        now += secs
        if step in ("paced", "urgent"):
            newest[key(lane)] = b"%d" % number
            pending.put(key(lane), newest[key(lane)], note(number), urgent=step == "urgent", now=now)
        elif step == "take":
            take()
        elif step == "take and fail":
            pending.give_back(pending.take(now), now)
        else:
            pending.hurry()
    while (delay := pending.delay(now)) is not None:
        now += delay + 0.001  # Sums of floats may come out just below the time that is due.
        before = len(pending)
        take()
        assert len(pending) < before, "what is due is taken"

    assert written == newest
    assert told == {number for number, (step, _, _) in enumerate(steps) if step in ("paced", "urgent")}
    assert len(pending) == 0
