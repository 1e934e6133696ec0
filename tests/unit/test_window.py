"""The window of recent ids."""

from hypothesis import given
from hypothesis import strategies as st

from app.engine.window import RecentIds


def test_an_id_sent_twice_is_a_repetition() -> None:
    """The second record with the same instance and id is told apart by its offset."""
    window = RecentIds(10, 600)

    assert not window.repeated(("a", "1"), 0, 1000)
    assert window.repeated(("a", "1"), 1, 1001)
    assert window.repeated(("a", "1"), 2, 1002)


def test_the_log_read_again_is_no_repetition() -> None:
    """After a restart the same offset comes again and is not dropped."""
    window = RecentIds(10, 600)
    window.repeated(("a", "1"), 5, 1000)

    assert not window.repeated(("a", "1"), 5, 1000)


def test_reading_again_below_what_was_seen_keeps_the_first() -> None:
    """When both records are read again, the first still passes and the second still does not."""
    window = RecentIds(10, 600)
    window.repeated(("a", "1"), 5, 1000)
    window.repeated(("a", "1"), 9, 1001)

    assert not window.repeated(("a", "1"), 5, 1000)
    assert window.repeated(("a", "1"), 9, 1001)


def test_two_instances_may_use_one_id() -> None:
    """Ids belong to their instance."""
    window = RecentIds(10, 600)
    window.repeated(("a", "1"), 0, 1000)

    assert not window.repeated(("b", "1"), 1, 1000)


def test_an_id_is_forgotten_after_its_time() -> None:
    """Ten minutes later the same id is a new event."""
    window = RecentIds(10, 600)
    window.repeated(("a", "1"), 0, 0)

    assert window.repeated(("a", "1"), 1, 600_000)
    assert not window.repeated(("a", "1"), 2, 600_001)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2_000_000)), max_size=300),
    st.integers(0, 20),
)
def test_the_window_is_bounded(events: list[tuple[str, int]], maximum: int) -> None:
    """Whatever comes, in whatever order of time, it never holds more than its limit."""
    window = RecentIds(maximum, 600)
    for offset, (event_id, timestamp) in enumerate(events):
        window.repeated(("a", event_id), offset, timestamp)

        assert len(window) <= maximum
