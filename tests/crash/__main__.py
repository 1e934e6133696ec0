"""
`python -m tests.crash [NAME ...] [--short]`: the scenarios in their long form, a table and a JSON file.

Kafka is an embedded one in a directory of its own that is removed afterwards. Ends with 1 when a run lost, doubled more
than it may, or broke an order.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from app import settings
from app.embedded.kafka import EmbeddedKafka
from tests.bench.report import Table
from tests.crash import outages, scenarios
from tests.crash.stage import LONG, SHORT, Outcome, Size, wrong

Scenario = Callable[[str, Path, Size], Awaitable[Outcome | tuple[Outcome, ...]]]


def _kafka(directory: Path) -> EmbeddedKafka:
    return EmbeddedKafka(settings.read({**os.environ, "SLUICE_DATA_DIR": str(directory / "kafka")}))


async def _broker(number: signal.Signals, _: str, directory: Path, size: Size) -> Outcome:
    kafka = _kafka(directory)
    try:
        return await outages.broker(kafka, directory / "run", size, number)
    finally:
        kafka.stop()


async def _thousand_dead(brokers: str, directory: Path, size: Size) -> tuple[Outcome, ...]:
    many = Size(events=50_000 if size is LONG else 20_000, instances=1000)
    return await outages.thousand_dead(brokers, directory, many)


SCENARIOS: dict[str, Scenario] = {
    "kill": scenarios.kill,
    "restart": scenarios.restart,
    "freeze": scenarios.freeze,
    "rebalances": scenarios.rebalances,
    "broker-stopped": partial(_broker, signal.SIGTERM),
    "broker-killed": partial(_broker, signal.SIGKILL),
    "receivers": outages.receivers,
    "thousand-dead": _thousand_dead,
    "kill-behind": scenarios.kill_behind,
    "kill-catching-up": scenarios.kill_catching_up,
    "expire": scenarios.expire,
    **{f"at-{point}": partial(scenarios.kill_at, point=point) for point in scenarios.POINTS},
}


async def run(names: list[str], size: Size) -> bool:
    """Runs scenarios one after another; whether all came to what they must."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(
        name="crash",
        title=f"Faults: {size.events:,} events at {size.per_second:,}/s over {size.instances} instances",
        columns=("what", "accepted", "lost", "doubled", "breaks", "left", "p50 ms", "p99 ms", "gap s", "notes"),
    )
    outcomes: list[Outcome] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="sluice-crash-") as temporary:
        directory = Path(temporary)
        kafka = _kafka(directory)
        brokers = kafka.start()
        try:
            for name in names:
                console.print(f"{name}: running")
                try:
                    came = await SCENARIOS[name](brokers, directory / name, size)
                except Exception as error:  # noqa: BLE001  The other scenarios have something to tell, too.
                    failed = True
                    console.print(f"{name}: {error!r}")
                    continue
                outcomes += came if isinstance(came, tuple) else (came,)
        finally:
            kafka.stop()
    for outcome in outcomes:
        failed |= bool(wrong(outcome))
        notes = " ".join(f"{name}={figure:,.0f}" for name, figure in outcome.notes.items())
        table.add(
            outcome.name, f"{outcome.accepted:,}", str(outcome.lost), str(outcome.doubled), str(outcome.order_breaks),
            f"{outcome.unacknowledged}/{outcome.positions}", f"{outcome.p50_ms:.1f}", f"{outcome.p99_ms:.0f}",
            f"{outcome.gap_secs:.2f}", notes,
        )  # fmt: skip
    table.note("left: events not acknowledged, and positions that still stood in `lanes`")
    table.data = {"outcomes": [{name: getattr(outcome, name) for name in Outcome.__slots__} for outcome in outcomes]}
    table.show(console)
    console.print(f"  written to tests/bench/results/{table.write().name}")
    return not failed


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--short", action="store_true", help="as in `make test`")
    chosen = parser.parse_args()
    try:
        well = asyncio.run(run(chosen.scenarios or list(SCENARIOS), SHORT if chosen.short else LONG))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
