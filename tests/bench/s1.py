"""
S1: throughput and processor time of one worker, beside two ceilings in the same run.

Events of 1 KiB over 1,000 instances with a section each are preloaded, then one worker is started and measured from
its first to its last delivery. The ceilings are the same client without Sluice: bare aiohttp posting as fast as it goes
(the best of 16, 64 and 100 in flight), and an unordered loop that consumes, decodes and posts. Rounds are interleaved,
and figures are medians, so that a machine that slows down slows all of them.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import answer, produce
from tests.bench.report import Table
from tests.integration.harness import Cluster, Node, sections

IN_FLIGHT = (16, 64, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    events: int = 60_000
    instances: int = 1000
    conversations: int = 5
    size_bytes: int = 1024
    rounds: int = 3
    ceiling_events: int = 30_000


QUICK = Size(events=20_000, rounds=1, ceiling_events=10_000)


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    workload = Workload(instances=size.instances, conversations=size.conversations, size_bytes=size.size_bytes)
    bare: dict[int, list[dict[str, Any]]] = {in_flight: [] for in_flight in IN_FLIGHT}
    loops: list[dict[str, Any]] = []
    workers: list[dict[str, Any]] = []
    async with FarEnd() as far_end:
        pipelines = sections(workload.names(), far_end.url)
        async with Cluster(brokers, directory, pipelines=pipelines) as cluster:
            await cluster.run("init")
            api = await cluster.api()
            await cluster.knows(workload.instance(size.instances - 1))
            for turn in range(size.rounds):
                for in_flight in IN_FLIGHT:
                    bare[in_flight].append(await _bare(far_end, size, in_flight))
                first = turn * size.events
                await produce(brokers, cluster.events, workload, events=size.events, first=first)
                best = max(IN_FLIGHT, key=lambda in_flight: bare[in_flight][-1]["per_second"])
                loops.append(await _loop(far_end, cluster, size, best))
                workers.append(await _worker(far_end, cluster, workload, size, turn))
            await api.stop()
    return _table(size, bare, loops, workers)


async def _bare(far_end: FarEnd, size: Size, in_flight: int) -> dict[str, Any]:
    return await answer(
        "ceilings", "post", "--url", f"{far_end.url}/ceiling", "--events", str(size.ceiling_events),
        "--in-flight", str(in_flight), "--size-bytes", str(size.size_bytes),
    )  # fmt: skip


async def _loop(far_end: FarEnd, cluster: Cluster, size: Size, in_flight: int) -> dict[str, Any]:
    return await answer(
        "ceilings", "loop", "--url", f"{far_end.url}/ceiling", "--events", str(size.ceiling_events),
        "--in-flight", str(in_flight), "--brokers", cluster.brokers, "--topic", cluster.events,
    )  # fmt: skip


async def _worker(far_end: FarEnd, cluster: Cluster, workload: Workload, size: Size, turn: int) -> dict[str, Any]:
    """Starts a worker on what is preloaded, and measures it between the first and the last delivery."""
    expected = workload.expected(size.events)
    await far_end.reset(before=turn * expected)
    node = await cluster.worker(0)
    seen = await _accepted(far_end, node, 1)
    begin = (time.monotonic(), seen, _cpu_secs(node.pid))
    seen = await _accepted(far_end, node, size.events)
    end = (time.monotonic(), seen, _cpu_secs(node.pid))
    await asyncio.sleep(0.5)
    stats = await far_end.stats(expected=expected, conversations=workload.all_conversations)
    await node.stop()
    deliveries = end[1] - begin[1]
    return {
        "events": size.events,
        "per_second": (size.events - 1) / ((stats["last_ns"] - stats["first_ns"]) / 1e9),
        "cpu_us": (end[2] - begin[2]) / deliveries * 1e6,
        "accepted": stats["accepted"],
        "lost": stats["lost"],
        "doubled": stats["doubled"],
        "order_breaks": stats["order_breaks"],
    }


async def _accepted(far_end: FarEnd, node: Node, count: int, within_secs: float = 120.0) -> int:
    deadline = time.monotonic() + within_secs
    while True:
        seen: int = (await far_end.stats())["accepted"]
        if seen >= count:
            return seen
        if not node.running or time.monotonic() > deadline:
            raise RuntimeError(f"{seen} of {count} deliveries came; the worker's log ends:\n{node.log_tail()}")
        await asyncio.sleep(0.02)


def _cpu_secs(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _table(
    size: Size, bare: dict[int, list[dict[str, Any]]], loops: list[dict[str, Any]], workers: list[dict[str, Any]]
) -> Table:
    best = max(IN_FLIGHT, key=lambda in_flight: _median(bare[in_flight], "per_second"))
    ceiling = _median(bare[best], "per_second")
    rows: list[tuple[str, list[dict[str, Any]]]] = [
        *((f"bare aiohttp, {in_flight} in flight", bare[in_flight]) for in_flight in IN_FLIGHT),
        (f"consume, decode, post, unordered, {loops[-1]['in_flight']} in flight", loops),
        ("sluice, one worker", workers),
    ]
    table = Table(
        name="s1",
        title=f"S1: {size.events} events of {size.size_bytes} B, {size.instances} instances, "
        f"median of {size.rounds} rounds",
        columns=("what", "events/s", "CPU us a delivery", "of bare aiohttp"),
    )
    for label, results in rows:
        rate = _median(results, "per_second")
        table.add(label, f"{rate:,.0f}", f"{_median(results, 'cpu_us'):.1f}", f"{rate / ceiling:.0%}")
    for count in ("lost", "doubled", "order_breaks"):
        table.note(f"{count.replace('_', ' ')} {sum(worker[count] for worker in workers)}")
    table.data = {
        "bare": {str(in_flight): results for in_flight, results in bare.items()},
        "loop": loops,
        "sluice": workers,
        "ratio_to_bare": _median(workers, "per_second") / ceiling,
        "target_ratio": 0.6,
    }
    return table


def _median(results: list[dict[str, Any]], name: str) -> float:
    return median(float(result[name]) for result in results)
