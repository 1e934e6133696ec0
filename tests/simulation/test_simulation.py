"""The lane engine on a simulated log, group, network and clock: a fixed number of seeds of each level."""

import pytest

from tests.simulation.scenario import Level, run

SEEDS = {Level.FAILURES: 30, Level.CRASHES: 30, Level.HAND_OVERS: 25, Level.ZOMBIES: 25, Level.RETENTION: 25}
FOUND = (
    # Seeds that found a defect once, and what it was.
    (20, Level.CRASHES),  # A key was live from its floor, and the lane's higher floor hid its events.
    (33, Level.FAILURES),  # The reader was ahead of the intake and went on behind what the intake routed meanwhile.
    (58, Level.FAILURES),  # A destination that was down had parked keys only, and nothing was probed with.
    (66, Level.FAILURES),  # Slots were full while bytes became free: nobody let the partition go on.
    (100, Level.FAILURES),  # A track was set back while the reader was past it.
    (135, Level.CRASHES),  # A key's track was forgotten below the floor of its lane.
    (151, Level.CRASHES),  # The same at loading.
    (155, Level.HAND_OVERS),  # A rebalance overtook the drain of a worker that was leaving.
    (381, Level.FAILURES),  # Events passed a lane whose fall behind was not durable.
)


@pytest.mark.parametrize("level", Level, ids=lambda level: level.name.lower())
def test_invariants_hold(level: Level) -> None:
    """Nothing is lost, doubled without reason, out of order, over a bound or behind for ever."""
    for seed in range(SEEDS[level]):
        run(seed, level)


@pytest.mark.parametrize(("seed", "level"), FOUND)
def test_found_before(seed: int, level: Level) -> None:
    """A seed that found a defect finds none any more."""
    run(seed, level)


def test_runs_are_the_same_each_time() -> None:
    """A seed says everything about a run within one process, so that a failure can be looked at again."""
    assert run(7, Level.ZOMBIES) == run(7, Level.ZOMBIES)
