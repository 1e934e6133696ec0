"""The adaptive limit of one destination, on a simulated clock."""

import pytest

from app.engine.limits import AdaptiveLimit
from sinks import FailureKind, SinkError, Throttled, Unavailable

REFUSED = Unavailable(FailureKind.UNREACHABLE, "refused")
POISON = Unavailable(FailureKind.SERVER_ERROR, "answered 500", status=500)
BAD_GATEWAY = Unavailable(FailureKind.SERVER_ERROR, "answered 502", status=502)


def drive(limit: AdaptiveLimit, *, now: float, rounds: int, latency: float) -> float:
    """Answers `rounds` full rounds of `latency` seconds each; returns the time after."""
    for _ in range(rounds):
        now += latency
        for _ in range(int(limit.limit)):
            limit.succeeded(now, latency, wanted_more=True)
    return now


def test_a_quick_far_end_gets_more_and_more() -> None:
    """At 20 ms the limit reaches hundreds within a second, which 64 in flight would cap at 3,000/s."""
    limit = AdaptiveLimit(512)

    drive(limit, now=0, rounds=10, latency=0.02)

    assert limit.limit == 512


def test_without_demand_the_limit_stays() -> None:
    """Receipts prove nothing about more in flight when no more was wanted."""
    limit = AdaptiveLimit(512)
    for step in range(1000):
        limit.succeeded(step * 0.01, 0.01, wanted_more=False)

    assert limit.limit == 16


def test_queueing_at_the_far_end_narrows_it() -> None:
    """When latency grows to several times the best, the limit goes down again."""
    limit = AdaptiveLimit(512)
    now = drive(limit, now=0, rounds=10, latency=0.02)

    drive(limit, now=now, rounds=5, latency=0.4)

    assert limit.limit < 256


def test_a_far_end_that_became_slower_is_believed() -> None:
    """A latency that stays becomes the new best within half a minute, and the limit grows again."""
    limit = AdaptiveLimit(512)
    now = drive(limit, now=0, rounds=10, latency=0.02)
    now = drive(limit, now=now, rounds=30, latency=0.2)
    low = limit.limit

    drive(limit, now=now, rounds=200, latency=0.2)

    assert low < 16
    assert limit.limit > 100


@pytest.mark.parametrize("failure", [REFUSED, BAD_GATEWAY, Unavailable(FailureKind.TIMEOUT, "no answer")])
def test_a_dead_far_end_gets_one_probe_at_a_time(failure: SinkError) -> None:
    """Failures of the destination go down to one attempt, with a growing pause before each."""
    limit = AdaptiveLimit(512)
    now, pauses = 0.0, []
    for _ in range(40):
        now = max(now + 1.0, limit.closed_until)
        limit.failed(now, failure, 0.5)
        pauses.append(max(0.0, limit.closed_until - now))

    assert limit.limit == 1
    assert pauses[-1] == 30
    assert not limit.admits(now)
    assert limit.admits(limit.closed_until)


def test_poison_events_do_not_narrow_a_healthy_destination() -> None:
    """One event in ten that answers 500 leaves the limit alone."""
    limit = AdaptiveLimit(512)
    for step in range(1000):
        if step % 10:
            limit.succeeded(step * 0.01, 0.01, wanted_more=False)
        else:
            limit.failed(step * 0.01, POISON, 0.5)

    assert limit.limit == 16


def test_nothing_but_failures_is_the_destination() -> None:
    """500 for everything closes the destination as a dead one does."""
    limit = AdaptiveLimit(512)
    for step in range(100):
        limit.failed(step * 1.0, POISON, 0.5)

    assert limit.limit == 1
    assert limit.closed_until > 99


def test_the_first_success_opens_it_again() -> None:
    """After the probe gets through, the limit is back within a few round trips."""
    limit = AdaptiveLimit(512)
    for step in range(40):
        limit.failed(step * 60.0, REFUSED, 0.5)

    drive(limit, now=10_000, rounds=8, latency=0.02)

    assert limit.limit > 100


def test_throttling_closes_it_as_long_as_was_asked() -> None:
    """429 with Retry-After: nothing is sent before that."""
    limit = AdaptiveLimit(512)
    limit.failed(100.0, Throttled(FailureKind.THROTTLED, "429", status=429, retry_after=20), 0.5)

    assert not limit.admits(119.9)
    assert limit.admits(120.1)


def test_a_burst_of_failures_halves_once() -> None:
    """Fifty failures of requests that were under way together tell one thing, not fifty."""
    limit = AdaptiveLimit(512)
    drive(limit, now=0, rounds=10, latency=0.02)
    for _ in range(50):
        limit.failed(1.0, REFUSED, 0.5)

    assert limit.limit == 256
