"""
Faults under load, with real processes: nothing is lost, doubled or out of order.

Small by default; `FAULTS=full` runs the sizes of the closing figures, as `python -m tests.bench faults` does.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import faults

SIZE = faults.Size() if os.environ.get("FAULTS") == "full" else faults.SMALL
pytestmark = pytest.mark.timeout(240)


def _report(outcome: faults.Outcome) -> None:
    """Figures for whoever runs with `-s`, or looks at a failure."""
    print(f"\n{outcome}")  # noqa: T201  A measurement that nobody asserts on is worth nothing unseen.


async def test_a_restarted_worker_loses_doubles_and_reorders_nothing(broker: str, tmp_path: Path) -> None:
    """SIGTERM and a restart under load lose no event, double none, and break no conversation's order."""
    # Long enough that a slow machine cannot be taken for a group that waited for it.
    size = replace(SIZE, session_timeout_secs=25.0)
    outcome = await faults.restart(broker, tmp_path, size)
    _report(outcome)
    assert (outcome.lost, outcome.doubled, outcome.order_breaks) == (0, 0, 0)
    # A static member is taken back without a rebalance: nobody waits for the session timeout.
    assert outcome.longest_silence_secs < size.session_timeout_secs


async def test_workers_that_join_and_leave_lose_double_and_reorder_nothing(broker: str, tmp_path: Path) -> None:
    """A second worker that joins and leaves under load loses no event, doubles none, and breaks no order."""
    outcome = await faults.join_and_leave(broker, tmp_path, SIZE)
    _report(outcome)
    assert (outcome.lost, outcome.doubled, outcome.order_breaks) == (0, 0, 0)


async def test_failing_answers_lose_and_reorder_nothing(broker: str, tmp_path: Path) -> None:
    """With every tenth request answered 500 every event still arrives, once and in its conversation's order."""
    outcome = await faults.every_tenth(broker, tmp_path, SIZE)
    _report(outcome)
    assert outcome.refused >= SIZE.events / 10
    assert (outcome.lost, outcome.doubled, outcome.order_breaks) == (0, 0, 0)


async def test_a_conversation_that_always_fails_makes_way_for_the_others(broker: str, tmp_path: Path) -> None:
    """A conversation whose events are always refused ends in `dead-letters`; all others lose nothing."""
    size = replace(SIZE, events=SIZE.events // 2)
    outcome = await faults.poison(broker, tmp_path, size)
    _report(outcome)
    assert (outcome.lost, outcome.doubled, outcome.order_breaks) == (0, 0, 0)
    assert outcome.dead == size.workload.expected(size.events)
