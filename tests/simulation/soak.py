"""Any number of seeds: `python -m tests.simulation.soak --minutes 20`. A failing one prints as a test."""

import argparse
import itertools
import sys
import time
import traceback

from tests.simulation.expectations import Broken
from tests.simulation.scenario import Level, run

TEST = '''
def test_seed_{seed}_level_{level}() -> None:
    """The scenario of this seed keeps every invariant."""
    run({seed}, Level.{name})
'''


def main() -> int:
    """Runs seeds one after another until the time is over; the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="most seeds")
    parser.add_argument("--level", type=int, choices=[int(level) for level in Level], help="only this level")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    arguments = parser.parse_args()
    levels = [Level(arguments.level)] if arguments.level else list(Level)
    deadline = time.perf_counter() + arguments.minutes * 60.0
    failed = runs = deliveries = crashes = doubled = 0
    for seed in itertools.islice(itertools.count(arguments.first), arguments.count):
        for level in levels:
            runs += 1
            try:
                result = run(seed, level)
            except Broken as broken:
                failed += 1
                print(f"\n{broken}")  # noqa: T201  Talks to a terminal.
                if broken.__cause__ is not None and not isinstance(broken.__cause__, Broken):
                    traceback.print_exception(broken.__cause__)
                print(TEST.format(seed=seed, level=int(level), name=level.name), flush=True)  # noqa: T201  The same.
            else:
                deliveries += result.deliveries
                crashes += result.crashes
                doubled += result.doubled
        if failed >= arguments.failures or time.perf_counter() > deadline:
            break
    print(f"{runs} runs, {deliveries} deliveries, {crashes} crashes, {doubled} doubled; {failed} failed")  # noqa: T201  The same.
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
