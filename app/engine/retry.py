"""What follows a failed attempt: a pure value, acted upon by the sink agent."""

import random
from dataclasses import dataclass

from schemas import Retry
from sinks import Misconfigured, Rejected, SinkError

FIRST_DELAYS_SECS = (0.05, 0.2)
"""The first two retries; they count as attempts (contract 0, ruling 5)."""
LONGEST_RETRY_AFTER_SECS = 3600.0
"""A far end may ask for patience, not for for ever."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after this many seconds."""

    secs: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Never again; the reason goes with the event."""

    reason: str


def decide(
    policy: Retry, attempts: int, failure: SinkError, chance: float, *, spared: bool = False
) -> Wait | DeadLetter:
    """
    What follows the failure of attempt number `attempts` (1 for the first).

    `spared`: nothing else got through meanwhile, so the destination may be away, and no event dies of that (design 6).

    `chance` is a random number from 0 to 1, given so that the answer is a function of its arguments. The delay before
    attempt n+1 doubles from `initial_delay_secs` at the third failure up to `max_delay_secs`, moves by the jitter
    factor either way, and is never under the initial delay (contract 8). What the far end asked for is a lower bound.
    """
    if isinstance(failure, Rejected | Misconfigured):
        return DeadLetter(failure.detail)
    if attempts >= policy.max_attempts and not spared:
        return DeadLetter(f"{failure.detail}; given up after {attempts} attempts")
    asked = min(failure.retry_after or 0.0, LONGEST_RETRY_AFTER_SECS)
    if attempts <= len(FIRST_DELAYS_SECS):
        return Wait(max(FIRST_DELAYS_SECS[attempts - 1], asked))
    delay = policy.initial_delay_secs
    if policy.exponential:
        doublings = min(attempts - len(FIRST_DELAYS_SECS) - 1, 64)
        delay = min(delay * 2.0**doublings, max(policy.max_delay_secs, policy.initial_delay_secs))
    delay += delay * policy.jitter_factor * (2.0 * chance - 1.0)
    return Wait(max(delay, policy.initial_delay_secs, asked))


def chance() -> float:
    """A random number from 0 to 1."""
    return random.random()  # noqa: S311  Jitter is no secret.
