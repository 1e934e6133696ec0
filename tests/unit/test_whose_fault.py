"""Whose fault a failure is: the destination's costs an event nothing while nothing else gets through."""

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from app.engine.delivery import Delivery
from app.engine.gate import Gate
from app.engine.lane import Lane
from app.engine.partition import Memory, Partition
from app.engine.retry import DeadLetter, Wait, decide
from app.engine.window import RecentIds
from schemas import Retry
from sinks import FailureKind, Rejected, SinkError, Throttled, Unavailable

REFUSED = Unavailable(FailureKind.UNREACHABLE, "refused")
POISON = Unavailable(FailureKind.SERVER_ERROR, "answered 500", status=500)


def delivery(lane: Lane | None = None) -> Delivery:
    """A delivery that was never attempted, of a lane if that matters."""
    made = Delivery.__new__(Delivery)
    made.failed_at = float("inf")
    if lane is not None:
        made.lane = lane
    return made


@pytest.mark.parametrize(
    ("failure", "spared"),
    [
        (REFUSED, True),
        (Unavailable(FailureKind.TIMEOUT, "no answer"), True),
        (Unavailable(FailureKind.TLS, "expired"), True),
        (Throttled(FailureKind.THROTTLED, "429", status=429), True),
        (Unavailable(FailureKind.SERVER_ERROR, "502", status=502), True),
        (Unavailable(FailureKind.SERVER_ERROR, "503", status=503), True),
        (Unavailable(FailureKind.SERVER_ERROR, "504", status=504), True),
        (POISON, False),
        (Unavailable(FailureKind.INTERNAL, "ours"), False),
        (Rejected(FailureKind.REJECTED, "400", status=400), False),
    ],
)
def test_kinds_that_are_the_destinations(failure: SinkError, spared: bool) -> None:
    """With nothing getting through, the kinds of design 6 cost nothing and the others do."""
    assert Gate("section/a/webhook", "webhook", 8).spares(delivery(), failure) is spared


@given(st.lists(st.booleans(), max_size=30))
def test_a_failure_counts_once_something_else_got_through(between: list[bool]) -> None:
    """Of failures one second apart, those cost something before which another event got through."""
    gate, one = Gate("section/a/webhook", "webhook", 8), delivery()
    one.failed_at = now = 100.0
    for through in between:
        if through:
            gate.succeeded_at = now + 0.5
        now += 1.0

        assert gate.spares(one, REFUSED) is not through

        one.failed_at = now


@given(st.integers(1, 1000), st.integers(1, 10))
def test_nothing_dies_of_a_destination_that_is_away(attempts: int, most: int) -> None:
    """A spared failure is waited for however many attempts there were, and any other one ends at the policy's."""
    policy = Retry(max_attempts=most)

    assert isinstance(decide(policy, attempts, REFUSED, 0.5, spared=True), Wait)
    assert isinstance(decide(policy, attempts, REFUSED, 0.5), DeadLetter) is (attempts >= most)


def test_probes_go_round_lanes_and_keys() -> None:
    """Each head that waits has its turn before one that failed is tried again."""
    gate = Gate("section/a/webhook", "webhook", 8)
    partition = Partition(TopicPartition("events", 0), RecentIds(10, 600), Memory())
    lanes = [Lane(partition, gate, name, name) for name in ("a", "b")]
    heads = [delivery(lane) for lane in lanes for _ in range(3)]
    for head in heads:
        gate.enter(head)
    seen = []
    for _ in heads:
        probe = gate.pop()
        assert probe is not None
        seen.append(probe)
        gate.enter(probe)

    assert len(set(seen)) == len(heads)
    assert gate.pop() is seen[0]
