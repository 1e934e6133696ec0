"""S6: every tenth request is answered 500. With few instances, and so many events a conversation, order can show."""

from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import faults
from tests.bench.report import Table

P99_MS = 200.0
"""What is allowed with the fewest instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    load: faults.Size
    instances: tuple[int, ...]


FULL = Size(load=faults.Size(), instances=(1000, 100))
QUICK = Size(load=faults.SMALL, instances=(100,))


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    table = Table(
        name="s6",
        title=f"S6: {size.load.events:,} events at {size.load.per_second:,}/s, every tenth request answered 500",
        columns=("instances", "accepted", "refused", "lost", "doubled", "breaks", "p50 ms", "p99 ms"),
    )
    outcomes = []
    for instances in size.instances:
        load = replace(size.load, instances=instances)
        outcome = await faults.every_tenth(brokers, directory / str(instances), load)
        outcomes.append(outcome)
        table.add(
            f"{instances:,}", f"{outcome.accepted:,}", f"{outcome.refused:,}", str(outcome.lost),
            str(outcome.doubled), str(outcome.order_breaks), f"{outcome.p50_ms:.1f}", f"{outcome.p99_ms:.1f}",
        )  # fmt: skip
    table.data = {
        "outcomes": [{name: getattr(outcome, name) for name in faults.Outcome.__slots__} for outcome in outcomes],
        "target_p99_ms": P99_MS,
    }
    return table
