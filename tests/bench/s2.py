"""
S2: latency at 500, 1,000 and 5,000 events a second, from the moment of sending to the receipt at the far end.

The producer is a process of its own with a linger of 1 ms and acks=all, which are part of the figures. The floor is
what a bare consumer sees of the same load in the same run, without Sluice and without a far end.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import answer, produce
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
    floor_seconds: int = 5


QUICK = Size(seconds=6, instances=100, floor_seconds=3)


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    workload = Workload(instances=size.instances, conversations=size.conversations, size_bytes=size.size_bytes)
    rows: list[dict[str, Any]] = []
    async with FarEnd() as far_end:
        pipelines = sections(workload.names(), far_end.url)
        async with Cluster(brokers, directory, pipelines=pipelines) as cluster:
            await cluster.run("init")
            floors = {rate: await _floor(cluster, workload, rate, size.floor_seconds) for rate in size.rates}
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
                rows.append(
                    {
                        "rate": rate,
                        "events": events,
                        "cpu_us": used / events * 1e6,
                        **sent,
                        **stats,
                        "floor": floors[rate],
                    }
                )
                first += events
    return _table(size, rows)


async def _floor(cluster: Cluster, workload: Workload, rate: int, seconds: int) -> dict[str, Any]:
    """The latency of a bare consumer, in a topic of its own."""
    topic = f"{cluster.prefix}floor-{rate}"
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.brokers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 12, 1)])
    finally:
        await admin.close()
    ready = asyncio.Event()
    arguments = ("--brokers", cluster.brokers, "--topic", topic, "--events", str(rate * seconds))
    async with asyncio.TaskGroup() as group:
        tail = group.create_task(answer("ceilings", "tail", *arguments, ready=ready))
        await ready.wait()
        await produce(cluster.brokers, topic, workload, events=rate * seconds, per_second=rate)
    return tail.result()


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
        columns=(
            "events/s",
            "events",
            "p50 ms",
            "p99 ms",
            "max ms",
            "floor p50",
            "floor p99",
            "CPU us an event",
            "lost",
            "doubled",
            "breaks",
        ),
    )
    for row in rows:
        table.add(
            f"{row['rate']:,}", f"{row['events']:,}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}",
            f"{row['max_ms']:.1f}", f"{row['floor']['p50_ms']:.2f}", f"{row['floor']['p99_ms']:.2f}",
            f"{row['cpu_us']:.0f}", str(row["lost"]), str(row["doubled"]),
            str(row["order_breaks"]),
        )  # fmt: skip
        if row["latest_ms"] > 50:
            table.note(f"at {row['rate']:,} ev/s the producer was up to {row['latest_ms']:.0f} ms late")
    table.data = {"rates": rows, "target_p50_ms_at_1000": 3.0}
    return table
