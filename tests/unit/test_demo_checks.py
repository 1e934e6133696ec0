"""The demo's verdict: what it must notice, and what it must not complain of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.demo.checks import Arrival, End, Expected, problems
from app.demo.screen import Line, percentile


def _expected(number: int, *, order_key: str = "chat", destination: str = "pipeline/audit/hook") -> Expected:
    return Expected(
        delivery_id=f"d{number}",
        destination=destination,
        path="/audit",
        order_key=order_key,
        instance="sales",
        event_id=f"e{number}",
        event="messages.upsert",
    )


def _arrivals(*numbers: int) -> list[Arrival]:
    return [Arrival(delivery_id=f"d{number}", path="/audit") for number in numbers]


def _ends(*numbers: int, end: str = "delivered") -> list[End]:
    return [
        End(delivery_id=f"d{number}", destination="pipeline/audit/hook", end=end, attempts=1, latency_ms=1.0)
        for number in numbers
    ]


EXPECTED = [_expected(0), _expected(1, order_key="other"), _expected(2), _expected(3)]


def test_nothing_is_wrong_when_all_arrived_once_and_in_order() -> None:
    """Every delivery once, each conversation in order, and the ledger agreeing is what the demo wants."""
    assert problems(EXPECTED, _arrivals(0, 1, 2, 3), _ends(0, 1, 2, 3)) == []


def test_conversations_may_overtake_each_other() -> None:
    """Order is a promise inside a conversation only."""
    assert problems(EXPECTED, _arrivals(0, 2, 3, 1), _ends(2, 0, 3, 1)) == []


@pytest.mark.parametrize(
    ("arrivals", "ends", "told"),
    [
        pytest.param((0, 1, 2), (0, 1, 2, 3), "1 missing: messages.upsert e3 of sales", id="lost"),
        pytest.param((0, 1, 2, 3, 0), (0, 1, 2, 3), "1 arrived more than once: messages.upsert e0", id="doubled"),
        pytest.param((0, 1, 3, 2), (0, 1, 2, 3), "1 arrived after a later one of its conversation: ", id="order"),
        pytest.param((0, 1, 2, 3, 9), (0, 1, 2, 3), "1 deliveries arrived at /audit that nobody expected", id="more"),
        pytest.param((0, 1, 2, 3), (0, 1, 2), "1 not in the ledger: messages.upsert e3", id="untold"),
        pytest.param((0, 1, 2, 3), (0, 1, 2, 3, 3), "1 in the ledger more than once: ", id="told twice"),
        pytest.param((0, 1, 2, 3), (0, 1, 2, 3, 9), "the ledger has 1 deliveries to pipeline/audit/hook", id="made up"),
    ],
)
def test_each_thing_that_is_wrong_is_named(arrivals: tuple[int, ...], ends: tuple[int, ...], told: str) -> None:
    """What is missing, doubled, out of order or made up is told in one sentence that names examples."""
    (problem,) = problems(EXPECTED, _arrivals(*arrivals), _ends(*ends))
    assert problem.startswith(told)


def test_an_end_that_is_not_delivered_is_named() -> None:
    """A delivery that arrived and is dead-lettered in the ledger is a contradiction."""
    ends = [*_ends(0, 1, 2), *_ends(3, end="dead")]
    assert problems(EXPECTED, _arrivals(0, 1, 2, 3), ends) == ["the ledger says `dead` of 1 deliveries"]


def test_a_delivery_at_a_wrong_path_is_named() -> None:
    """A delivery of one destination at another one's path is not taken for arrived."""
    arrivals = [*_arrivals(0, 1, 2), Arrival(delivery_id="d3", path="/elsewhere")]
    (problem,) = problems(EXPECTED, arrivals, _ends(0, 1, 2, 3))
    assert problem == "1 arrived at the wrong path: what belongs to /audit came to /elsewhere"


@given(st.permutations(range(8)))
def test_any_order_but_the_right_one_is_noticed(order: list[int]) -> None:
    """For one conversation, the verdict is clean exactly when the arrivals are in the order of the log."""
    expected = [_expected(number) for number in range(8)]
    found = problems(expected, _arrivals(*order), _ends(*range(8)))
    assert (found == []) == (order == sorted(order))


@pytest.mark.parametrize(
    ("values", "share", "result"),
    [
        ((), 0.5, None),
        ((7.0,), 0.99, 7.0),
        (tuple(range(1, 101)), 0.5, 50),
        (tuple(range(1, 101)), 0.99, 99),
        ((3, 1, 2), 0.5, 2),
    ],
)
def test_percentiles_are_values_that_occurred(values: tuple[float, ...], share: float, result: float | None) -> None:
    """A percentile is the smallest measured value that covers the share; there is none of nothing."""
    assert percentile(values, share) == result


def test_what_a_destination_does_not_want_counts_as_filtered() -> None:
    """Events of its instances that it does not want are filtered, not missing."""
    line = Line(name="audit", offered=10, wanted=4, delivered=3, retried=1, latencies_ms=())
    assert line.filtered == 6
