"""
S2: latency at 500, 1,000 and 5,000 events a second, from the moment of sending to the receipt at the far end.

The producer is a process of its own with a linger of 1 ms and acks=all, which are part of the figures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.bench.report import Table
from tests.integration.harness import Cluster, sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    rates: tuple[int, ...] = (500, 1000, 5000)
    seconds: int = 20
    instances: int = 1000
    conversations: int = 5
    size_bytes: int = 1024


QUICK = Size(seconds=6, instances=100)


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    workload = Workload(instances=size.instances, conversations=size.conversations, size_bytes=size.size_bytes)
    rows: list[dict[str, Any]] = []
    async with FarEnd() as far_end:
        pipelines = sections(workload.names(), far_end.url)
        async with Cluster(brokers, directory, pipelines=pipelines) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(workload.instance(size.instances - 1))
            worker = await cluster.worker(0, members=1)
            first = await _warm(far_end, cluster, workload)
            process = psutil.Process(worker.pid)
            for rate in size.rates:
                whole = workload.all_conversations
                events = max(1, round(rate * size.seconds / whole)) * whole
                expected = workload.expected(events)
                await far_end.reset(before=workload.expected(first))
                used = sum(process.cpu_times()[:2])
                sent = await produce(brokers, cluster.events, workload, events=events, first=first, per_second=rate)
                await far_end.arrived(events, within_secs=20)
                stats = await far_end.stats(expected=expected, conversations=whole)
                used = sum(process.cpu_times()[:2]) - used
                rows.append({"rate": rate, "events": events, "cpu_us": used / events * 1e6, **sent, **stats})
                first += events
    return _table(size, rows)


async def _warm(far_end: FarEnd, cluster: Cluster, workload: Workload) -> int:
    """Sends one round over all conversations, so that compiling every plan is not part of a latency."""
    events = workload.all_conversations
    await produce(cluster.brokers, cluster.events, workload, events=events, per_second=2000)
    await far_end.arrived(events, within_secs=30)
    return events


def _table(size: Size, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        name="s2",
        title=f"S2: latency from sending to receipt, {size.instances} instances, {size.size_bytes} B",
        columns=("events/s", "events", "p50 ms", "p99 ms", "max ms", "CPU us an event", "lost", "doubled", "breaks"),
    )
    for row in rows:
        table.add(
            f"{row['rate']:,}", f"{row['events']:,}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}",
            f"{row['max_ms']:.1f}", f"{row['cpu_us']:.0f}", str(row["lost"]), str(row["doubled"]),
            str(row["order_breaks"]),
        )  # fmt: skip
        if row["latest_ms"] > 50:
            table.note(f"at {row['rate']:,} ev/s the producer was up to {row['latest_ms']:.0f} ms late")
    table.data = {"rates": rows, "target_p50_ms_at_1000": 3.0}
    return table
