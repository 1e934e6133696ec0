"""The decision that follows a failed attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.retry import DeadLetter, Wait, decide
from schemas import Retry
from sinks import FailureKind, Misconfigured, Rejected, SinkError, Throttled, Unavailable

REFUSED = Unavailable(FailureKind.UNREACHABLE, "connecting to 127.0.0.1:9: refused")


@pytest.mark.parametrize(
    ("attempts", "secs"),
    [
        (1, 0.05),
        (2, 0.2),
        (3, 5.0),  # initial
        (4, 10.0),  # 5 * 2
        (5, 20.0),  # 5 * 4
        (8, 160.0),  # 5 * 32
        (9, 300.0),  # 5 * 64 = 320, above the limit
    ],
)
def test_delays_follow_the_contract(attempts: int, secs: float) -> None:
    """Retries come after 50 and 200 ms, then double from the initial delay up to the limit (contract 8)."""
    assert decide(Retry(), attempts, REFUSED, 0.5) == Wait(secs)


@pytest.mark.parametrize(("chance", "secs"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
def test_jitter_moves_the_delay_both_ways(chance: float, secs: float) -> None:
    """The jitter factor 0.2 moves a delay of 10 s by up to 2 s."""
    decision = decide(Retry(), 4, REFUSED, chance)

    assert isinstance(decision, Wait)
    assert decision.secs == pytest.approx(secs)


def test_jitter_never_goes_under_the_initial_delay() -> None:
    """The shortest wait is the initial delay, whatever the jitter says."""
    assert decide(Retry(jitter_factor=1), 3, REFUSED, 0.0) == Wait(5.0)


def test_without_backoff_every_wait_is_the_initial_delay() -> None:
    """`exponential: false` waits the initial delay each time."""
    assert decide(Retry(exponential=False, jitter_factor=0), 9, REFUSED, 0.3) == Wait(5.0)


@pytest.mark.parametrize(
    ("attempts", "asked", "secs"), [(1, 7.0, 7.0), (4, 60.0, 60.0), (4, 3.0, 10.0), (1, 1e9, 3600.0)]
)
def test_what_the_far_end_asked_for_is_a_lower_bound(attempts: int, asked: float, secs: float) -> None:
    """`Retry-After` is honoured when it is longer, and bounded."""
    failure = Throttled(FailureKind.THROTTLED, "429", status=429, retry_after=asked)

    assert decide(Retry(), attempts, failure, 0.5) == Wait(secs)


@pytest.mark.parametrize(
    "failure",
    [
        Rejected(FailureKind.REJECTED, "answered 404", status=404),
        Misconfigured(FailureKind.GONE, "answered 410", status=410),
    ],
)
def test_what_no_repetition_helps_is_dead_lettered_at_once(failure: SinkError) -> None:
    """A rejected event, or a destination that is gone, is not tried again."""
    assert decide(Retry(), 1, failure, 0.5) == DeadLetter(failure.detail)


def test_the_last_attempt_is_the_last() -> None:
    """After `max_attempts` the event is dead-lettered, and the reason counts them."""
    decision = decide(Retry(max_attempts=3), 3, REFUSED, 0.5)

    assert isinstance(decision, DeadLetter)
    assert decision.reason.endswith("given up after 3 attempts")


@given(
    policy=st.builds(
        Retry,
        max_attempts=st.integers(1, 1000),
        initial_delay_secs=st.floats(0, 86400),
        max_delay_secs=st.floats(0, 86400),
        exponential=st.booleans(),
        jitter_factor=st.floats(0, 1),
    ),
    attempts=st.integers(1, 2000),
    chance=st.floats(0, 1),
)
def test_every_wait_is_bounded(policy: Retry, attempts: int, chance: float) -> None:
    """No policy waits longer than twice its longest delay, and none beyond its attempts."""
    decision = decide(policy, attempts, REFUSED, chance)

    if attempts >= policy.max_attempts:
        assert isinstance(decision, DeadLetter)
    else:
        assert isinstance(decision, Wait)
        longest = max(policy.max_delay_secs, policy.initial_delay_secs, 0.2)
        assert 0 <= decision.secs <= 2 * longest
