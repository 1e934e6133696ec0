"""
S9: catch-up. A log is written while the receiver is down, then it returns: how fast the lanes behind become live.

The time begins with the first delivery after the return: when a dead receiver is tried again is its breaker's matter.
"""

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.bench.report import Table
from tests.bench.s3 import KNOWN, fan_out
from tests.integration.harness import Cluster

SCANNED = re.compile(r"^sluice_catchup_records_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
WAIT_SECS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Some lanes behind, out of 1,000 instances; the others have no receiver."""

    lanes: int
    events: int
    delays_secs: tuple[float, ...] = (0.0,)
    """How long the receiver takes, by conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    cases: tuple[Case, ...] = (
        Case(lanes=1, events=200_000),
        Case(lanes=100, events=200_000),
        Case(lanes=1000, events=100_000),
        Case(lanes=1000, events=50_000, delays_secs=(0.01, 0.035, 0.06, 0.085, 0.109)),
    )
    instances: int = 1000
    conversations: int = 5
    size_bytes: int = 600


QUICK = Size(cases=(Case(lanes=1, events=50_000), Case(lanes=1000, events=50_000)))


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    rows = [await _case(brokers, directory / str(number), size, case) for number, case in enumerate(size.cases)]
    return _table(size, rows)


async def _case(brokers: str, directory: Path, size: Size, case: Case) -> dict[str, Any]:
    workload = Workload(instances=size.instances, conversations=size.conversations, size_bytes=size.size_bytes)
    expected = workload.expected(case.events)
    conversations = case.lanes * size.conversations
    backlog = expected * conversations
    async with FarEnd() as far_end:
        # One destination, so that one probe finds out for all lanes that the receiver is back.
        content = fan_out(workload, [far_end.url], workload.names()[: case.lanes])
        async with Cluster(
            brokers, directory, pipelines=content, environment={"SLUICE_METRICS_PUBLIC": "true"}
        ) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(KNOWN)
            await far_end.rules({"status": 503})
            await produce(brokers, cluster.events, workload, events=case.events)
            await cluster.worker(0, members=1)
            await _until_read(cluster, case.events)
            before = await _counted(cluster, SCANNED)
            await far_end.reset()
            # Each conversation has a receiver of its own pace.
            await far_end.rules(
                *(
                    {"mark": f"-{number}/", "delay_secs": case.delays_secs[number % len(case.delays_secs)]}
                    for number in range(size.conversations)
                    if any(case.delays_secs)
                )
            )
            begin = time.monotonic()
            await far_end.arrived(backlog, within_secs=WAIT_SECS, quiet_secs=0)
            waited = time.monotonic() - begin
            stats = await far_end.stats(expected=expected, conversations=conversations)
            scanned = await _counted(cluster, SCANNED, settled=True) - before
    return {
        "lanes": case.lanes,
        "events": case.events,
        "backlog": backlog,
        "delay_ms": [round(delay * 1000) for delay in case.delays_secs],
        "seconds": (stats["last_ns"] - stats["first_ns"]) / 1e9,
        "waited_secs": waited,
        "scanned": scanned,
        **stats,
    }


async def _until_read(cluster: Cluster, events: int) -> None:
    """Returns when the worker has read them all, and everything it holds is behind."""
    pattern = re.compile(r"^sluice_events_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
    deadline = time.monotonic() + WAIT_SECS
    while await _counted(cluster, pattern, settled=True) < events:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the worker has not read {events} events:\n{cluster.nodes['worker-0'].log_tail()}")


async def _counted(cluster: Cluster, pattern: re.Pattern[str], *, settled: bool = False) -> int:
    """The sum of a counter over all processes; `settled` waits until it is written down, once a second."""
    if settled:
        await asyncio.sleep(1.5)
    async with aiohttp.ClientSession() as session, session.get(f"{cluster.url}/metrics") as response:
        response.raise_for_status()
        return int(sum(float(found) for found in pattern.findall(await response.text())))


def _table(size: Size, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        name="s9",
        title=f"S9: catch-up of a log over {size.instances:,} instances",
        columns=(
            "lanes behind", "events", "backlog", "answers after ms", "s", "deliveries/s", "scanned a delivery",
            "lost", "doubled", "breaks",
        ),
    )  # fmt: skip
    for row in rows:
        delays = row["delay_ms"]
        table.add(
            f"{row['lanes']:,}", f"{row['events']:,}", f"{row['backlog']:,}",
            str(delays[0]) if len(delays) == 1 else f"{delays[0]}-{delays[-1]}", f"{row['seconds']:.2f}",
            f"{row['backlog'] / max(row['seconds'], 0.001):,.0f}", f"{row['scanned'] / row['backlog']:.1f}",
            str(row["lost"]), str(row["doubled"]), str(row["order_breaks"]),
        )  # fmt: skip
    table.note("seconds: from the first to the last delivery after the receiver's return")
    table.data = {"rows": rows, "target_one_lane_secs": 3.0, "target_1000_lanes_per_second": 25_000}
    return table
