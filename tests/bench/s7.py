"""
S7: one instance has 90 % of the traffic, at half of what the worker can take and at more than it can take.

The capacity is measured in the same run, on a preloaded log. What counts is the latency of the others.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.bench.report import Table
from tests.integration.harness import Cluster, sections

LOUD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    shares: tuple[float, ...] = (0.5, 1.2)
    """Of the capacity."""
    seconds: int = 10
    others: int = 100
    conversations: int = 5
    preloaded: int = 30_000
    settle_secs: float = 60.0


QUICK = Size(seconds=5, preloaded=15_000)


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    loud = Workload(instances=1, conversations=500, prefix="loud-")
    others = Workload(instances=size.others, conversations=size.conversations, prefix="other-")
    rows: list[dict[str, Any]] = []
    async with FarEnd() as noisy, FarEnd() as quiet:
        content = sections(others.names(), quiet.url)
        content["instances"] |= sections(loud.names(), noisy.url)["instances"]
        async with Cluster(brokers, directory, pipelines=content) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(loud.instance(0))
            capacity = await _capacity(quiet, cluster, others, size)
            # Conversations go on after what measured the capacity.
            sent = {"loud": 0, "others": size.preloaded}
            for share in size.shares:
                events = {
                    "loud": _whole(loud, capacity * share * LOUD * size.seconds),
                    "others": _whole(others, capacity * share * (1 - LOUD) * size.seconds),
                }
                await noisy.reset(before=loud.expected(sent["loud"]))
                await quiet.reset(before=others.expected(sent["others"]))
                async with asyncio.TaskGroup() as group:
                    for name, workload in (("loud", loud), ("others", others)):
                        group.create_task(
                            produce(
                                brokers, cluster.events, workload, events=events[name], first=sent[name],
                                per_second=events[name] / size.seconds,
                            )
                        )  # fmt: skip
                for name, workload, far_end in (("loud", loud, noisy), ("others", others, quiet)):
                    await far_end.arrived(events[name], within_secs=size.settle_secs)
                    stats = await far_end.stats(
                        expected=workload.expected(events[name]), conversations=workload.all_conversations
                    )
                    rows.append({"share": share, "who": name, "events": events[name], **stats})
                    sent[name] += events[name]
    return _table(capacity, rows)


async def _capacity(far_end: FarEnd, cluster: Cluster, workload: Workload, size: Size) -> float:
    events = size.preloaded
    await produce(cluster.brokers, cluster.events, workload, events=events)
    await cluster.worker(0)
    await far_end.arrived(events, within_secs=size.settle_secs)
    stats = await far_end.stats()
    seconds: float = (stats["last_ns"] - stats["first_ns"]) / 1e9
    return events / seconds


def _whole(workload: Workload, events: float) -> int:
    return max(1, round(events / workload.all_conversations)) * workload.all_conversations


def _table(capacity: float, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        name="s7",
        title=f"S7: one instance with {LOUD:.0%} of the traffic; capacity {capacity:,.0f} events/s",
        columns=("of the capacity", "who", "events", "lost", "doubled", "breaks", "p50 ms", "p99 ms"),
    )
    for row in rows:
        table.add(
            f"{row['share']:.0%}", row["who"], f"{row['events']:,}", str(row["lost"]), str(row["doubled"]),
            str(row["order_breaks"]), f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}",
        )  # fmt: skip
    table.data = {"capacity_per_second": capacity, "rows": rows}
    return table
