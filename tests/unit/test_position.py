"""Positions of lanes as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.position import LanePosition, decode, lane_key

WORDS = st.text(max_size=20)
OFFSETS = st.integers(0, 1 << 62)
TIMES = st.none() | st.floats(0, 1e11)
POSITIONS = st.builds(
    LanePosition,
    instance=WORDS,
    instance_id=WORDS,
    destination=WORDS,
    state=st.sampled_from(["live", "behind", "paused"]),
    feed=st.none() | OFFSETS,
    parked=st.dictionaries(WORDS, OFFSETS, max_size=5),
    reason=WORDS,
    attempts=st.integers(0, 1000),
    first_failed_at=TIMES,
    next_attempt_at=TIMES,
)


@given(POSITIONS)
def test_a_position_is_read_as_it_was_written(position: LanePosition) -> None:
    """Bytes and back is the same position, under the key of its lane."""
    assert decode(position.encode()) == position
    assert position.key == lane_key(position.instance_id, position.destination)


@pytest.mark.parametrize(
    ("feed", "parked", "lowest"),
    [
        (None, {}, None),
        (5, {}, 5),
        (None, {"a": 7, "b": 6}, 6),
        (5, {"a": 7}, 5),
        (8, {"a": 7}, 7),
        (0, {"a": 7}, 0),
    ],
)
def test_the_lowest_offset_wanted_again(feed: int | None, parked: dict[str, int], lowest: int | None) -> None:
    """Reading again begins at the lane's feed or at a parked key, whichever is lower."""
    position = LanePosition(instance="i", instance_id="u", destination="d", state="behind", feed=feed, parked=parked)

    assert position.lowest == lowest


@pytest.mark.parametrize(
    "value",
    [b"", b"not json", b"\xff", b"null", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "new": 1}'],
)
def test_other_bytes_are_refused(value: bytes) -> None:
    """What is no position of this format raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        decode(value)


@given(st.binary(max_size=50))
def test_no_bytes_do_more_than_be_refused(value: bytes) -> None:
    """Any bytes are a position or a ValueError."""
    try:
        decode(value)
    except ValueError:
        return
