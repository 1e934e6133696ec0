"""
What processes, broker and receivers may do to a run, each in a short form: nothing is lost, nothing is out of order.

The long forms are `python -m tests.crash`.
"""

import signal
from pathlib import Path

import pytest

from app.embedded.kafka import EmbeddedKafka
from tests.crash import outages, scenarios
from tests.crash.stage import SHORT, Outcome, wrong

pytestmark = pytest.mark.timeout(120)


def _well(outcome: Outcome) -> None:
    print(f"\n{outcome}")  # noqa: T201  Figures for whoever runs with `-s`, or looks at a failure.
    assert wrong(outcome) == ""


async def test_a_killed_worker_loses_nothing(broker: str, tmp_path: Path) -> None:
    """`kill -9` of one of two workers under load doubles at most what a commit interval holds, and loses nothing."""
    outcome = await scenarios.kill(broker, tmp_path, SHORT)
    _well(outcome)
    # Of a static member: its session has to end first.
    assert outcome.gap_secs < SHORT.session_timeout_secs + 6


async def test_a_frozen_worker_lets_go(broker: str, tmp_path: Path) -> None:
    """A worker that is frozen past its session ends when it wakes; what it held is delivered by the other one."""
    _well(await scenarios.freeze(broker, tmp_path, SHORT))


async def test_rebalances_in_a_row_lose_nothing(broker: str, tmp_path: Path) -> None:
    """Workers that join and leave in quick succession lose, double and reorder nothing."""
    _well(await scenarios.rebalances(broker, tmp_path, SHORT))


async def test_a_killed_broker_loses_nothing(mortal: EmbeddedKafka, tmp_path: Path) -> None:
    """While the only broker is away deliveries wait; afterwards everything arrives, in order."""
    _well(await outages.broker(mortal, tmp_path / "run", SHORT, signal.SIGKILL))


async def test_sick_receivers_lose_nothing(broker: str, tmp_path: Path) -> None:
    """Receivers that are dead, hang, flap, are slow, reset or refuse get everything once they are well, in order."""
    for outcome in await outages.receivers(broker, tmp_path, SHORT):
        _well(outcome)


async def test_a_backlog_survives_a_kill(broker: str, tmp_path: Path) -> None:
    """`kill -9` while every lane is behind loses nothing; the next worker goes on from the positions."""
    _well(await scenarios.kill_behind(broker, tmp_path, SHORT))


async def test_what_retention_took_is_counted(broker: str, tmp_path: Path) -> None:
    """Lanes whose position retention has passed go on at the log's start, and no less is counted than was lost."""
    outcome = await scenarios.expire(broker, tmp_path, SHORT)
    _well(outcome)
    assert 0 < outcome.lost <= outcome.notes["counted"]


@pytest.mark.parametrize("point", scenarios.POINTS)
async def test_a_kill_at_a_fault_point_loses_nothing(broker: str, tmp_path: Path, point: str) -> None:
    """A worker that is killed inside a step of the engine loses nothing and breaks no order."""
    _well(await scenarios.kill_at(broker, tmp_path, SHORT, point))
