"""The bench's instrument: what its receiver counts as lost, doubled and out of order, and its percentiles."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.tally import Conversation, Histogram


@pytest.mark.parametrize(
    ("arrivals", "last", "lost", "doubled", "order_breaks"),
    [
        pytest.param([1, 2, 3], 3, 0, 0, 0, id="clean"),
        pytest.param([1, 3], 3, 1, 0, 0, id="hole"),
        pytest.param([1, 2], 4, 2, 0, 0, id="tail"),
        pytest.param([1, 2, 2, 3, 1], 3, 0, 2, 0, id="doubled"),
        pytest.param([2, 1, 3], 3, 0, 0, 1, id="overtaken"),
        pytest.param([3, 1, 2, 1], 3, 0, 1, 2, id="overtaken twice and doubled"),
        pytest.param([2, 3], None, 1, 0, 0, id="hole, tail unknown"),
    ],
)
def test_what_arrived_is_told_from_what_did_not(
    arrivals: list[int], last: int | None, lost: int, doubled: int, order_breaks: int
) -> None:
    """Holes are lost, repeats are doubled, and what comes after a later one is an order break."""
    conversation = Conversation()
    for sequence in arrivals:
        conversation.add(sequence)
    assert (conversation.lost(last), conversation.doubled, conversation.order_breaks) == (lost, doubled, order_breaks)


@given(st.lists(st.integers(1, 20), max_size=60))
def test_arrivals_are_told_apart_as_a_plain_count_would(arrivals: list[int]) -> None:
    """For any arrivals, lost and doubled are what sets say of them."""
    conversation = Conversation()
    for sequence in arrivals:
        conversation.add(sequence)
    assert conversation.lost(20) == 20 - len(set(arrivals))
    assert conversation.doubled == len(arrivals) - len(set(arrivals))


@given(st.lists(st.integers(1, 10_000_000), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_percentiles_are_right_within_a_sixteenth(values: list[int], share: float) -> None:
    """A percentile of the histogram is at most 6.3 % above the exact one, and never below it."""
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, -(-len(values) * int(share * 100) // 100) - 1)] / 1000
    found = histogram.percentile_ms(share)
    assert found is not None
    assert exact - 0.001 <= found <= exact * 1.0626 + 0.001


def test_an_empty_histogram_has_no_percentile() -> None:
    """There is no latency of nothing."""
    assert Histogram().percentile_ms(0.5) is None


def test_clocks_that_run_backwards_count_as_no_time() -> None:
    """A negative latency is a clock's slip and counts as the shortest there is."""
    histogram = Histogram()
    for _ in range(3):
        histogram.add(-random.randint(1, 100))
    assert histogram.percentile_ms(0.99) == 0.001
