"""
`python -m tests.bench [s1] [s2] [s3] [s6] [s7] [s9] [faults] [--quick]`: scenarios, a table and a JSON file each.

Kafka is `SLUICE_BROKERS`, or an embedded one in a directory of its own that is removed afterwards.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from app import settings
from app.embedded.kafka import EmbeddedKafka
from tests.bench import faults, s1, s2, s3, s6, s7, s9
from tests.bench.report import Table

SCENARIOS: dict[str, tuple[Callable[[str, Path, Any], Awaitable[Table]], Any, Any]] = {
    "s1": (s1.run, s1.Size(), s1.QUICK),
    "s2": (s2.run, s2.Size(), s2.QUICK),
    "s3": (s3.run, s3.Size(), s3.QUICK),
    "s6": (s6.run, s6.FULL, s6.QUICK),
    "s7": (s7.run, s7.Size(), s7.QUICK),
    "s9": (s9.run, s9.Size(), s9.QUICK),
    "faults": (faults.run, faults.Size(), faults.SMALL),
}
"""By name: what runs, how large, and how large when it must be quick."""


@contextlib.asynccontextmanager
async def kafka(directory: Path) -> AsyncIterator[str]:
    """The brokers to use."""
    given = os.environ.get("SLUICE_BROKERS")
    if given:
        yield given
        return
    embedded = EmbeddedKafka(settings.read({**os.environ, "SLUICE_DATA_DIR": str(directory / "kafka")}))
    brokers = embedded.start()
    try:
        yield brokers
    finally:
        embedded.stop()


async def run(names: list[str], *, quick: bool) -> None:
    """Runs the scenarios one after another."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as temporary:
        directory = Path(temporary)
        async with kafka(directory) as brokers:
            for name in names:
                scenario, full, small = SCENARIOS[name]
                console.print(f"{name}: running")
                table = await scenario(brokers, directory / name, small if quick else full)
                table.show(console)
                console.print(f"  written to tests/bench/results/{table.write().name}")


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="default: s1 s2")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a first look")
    chosen = parser.parse_args()
    try:
        asyncio.run(run(chosen.scenarios or ["s1", "s2"], quick=chosen.quick))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
