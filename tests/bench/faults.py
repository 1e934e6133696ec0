"""
Faults under load: what is lost, doubled or out of order when workers stop, join and leave, and when receivers fail.

Every run sends a steady load of messages over many instances with five conversations each, does its harm in the middle,
and counts at the receiver. `tests/integration/test_faults.py` runs them small; `python -m tests.bench faults` in full.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.bench.report import Table
from tests.integration.harness import Cluster, sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    events: int = 20_000
    per_second: int = 1000
    instances: int = 1000
    conversations: int = 5
    session_timeout_secs: float = 6.0
    settle_secs: float = 60.0
    """Longest wait for the last delivery after the last event was sent."""

    @property
    def workload(self) -> Workload:
        """The events of the run."""
        return Workload(instances=self.instances, conversations=self.conversations)

    @property
    def seconds(self) -> float:
        """How long the load lasts."""
        return self.events / self.per_second


SMALL = Size(events=6_000, instances=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    name: str
    accepted: int
    refused: int
    lost: int
    doubled: int
    order_breaks: int
    p50_ms: float
    p99_ms: float
    longest_silence_secs: float
    """The longest time without an arrival of any partition between its first and its last event."""
    dead: int = 0
    """Records in `dead-letters`."""


async def restart(brokers: str, directory: Path, size: Size) -> Outcome:
    """SIGTERM of the only worker in the middle, and the same worker (a static member) started again at once."""

    async def harm(cluster: Cluster) -> None:
        await asyncio.sleep(size.seconds / 2)
        await cluster.nodes["worker-0"].stop()
        await cluster.worker(0)

    return await _run("restart", brokers, directory, size, harm)


async def join_and_leave(brokers: str, directory: Path, size: Size) -> Outcome:
    """A second worker joins after a quarter of the load, and leaves once it had its share for another quarter."""

    async def harm(cluster: Cluster) -> None:
        await asyncio.sleep(size.seconds / 4)
        second = await cluster.worker(1, members=2)
        await asyncio.sleep(size.seconds / 4)
        await second.stop()

    return await _run("join and leave", brokers, directory, size, harm)


async def every_tenth(brokers: str, directory: Path, size: Size) -> Outcome:
    """Every tenth request is answered 500; an event that meets it three times in a row waits a second."""
    return await _run(
        "every tenth 500",
        brokers,
        directory,
        size,
        rules=({"every": 10, "status": 500},),
        environment={"WEBHOOK_RETRY_INITIAL_DELAY_SECONDS": "1", "WEBHOOK_RETRY_MAX_DELAY_SECONDS": "1"},
    )


async def poison(brokers: str, directory: Path, size: Size) -> Outcome:
    """All requests of one conversation are answered 500: its events end in `dead-letters` after four attempts."""
    workload = size.workload
    poisoned = f"/{workload.instance(workload.instances // 2)}-2/"
    return await _run(
        "poisoned conversation",
        brokers,
        directory,
        size,
        rules=({"mark": poisoned, "status": 500},),
        poisoned=1,
        environment={
            "WEBHOOK_RETRY_MAX_ATTEMPTS": "4",
            "WEBHOOK_RETRY_INITIAL_DELAY_SECONDS": "1",
            "WEBHOOK_RETRY_MAX_DELAY_SECONDS": "1",
        },
    )


async def _run(
    name: str,
    brokers: str,
    directory: Path,
    size: Size,
    harm: Callable[[Cluster], Awaitable[None]] | None = None,
    *,
    rules: tuple[dict[str, Any], ...] = (),
    poisoned: int = 0,
    environment: dict[str, str] | None = None,
) -> Outcome:
    workload = size.workload
    expected = workload.expected(size.events)
    surroundings = {"SLUICE_SESSION_TIMEOUT_SECS": str(size.session_timeout_secs), **(environment or {})}
    async with FarEnd() as far_end:
        pipelines = sections(workload.names(), far_end.url)
        async with Cluster(brokers, directory, pipelines=pipelines, environment=surroundings) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(workload.instance(workload.instances - 1))
            await cluster.worker(0, members=1)
            await far_end.rules(*rules)
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    produce(brokers, cluster.events, workload, events=size.events, per_second=size.per_second)
                )
                if harm is not None:
                    group.create_task(harm(cluster))
            conversations = workload.all_conversations - poisoned
            await far_end.arrived(expected * conversations, within_secs=size.settle_secs)
            stats = await far_end.stats(expected=expected, conversations=conversations)
            dead = await _dead(cluster, expected * poisoned, size.settle_secs) if poisoned else 0
            silence = await far_end.silence()
    return Outcome(
        name=name,
        accepted=stats["accepted"],
        refused=stats["refused"],
        lost=stats["lost"],
        doubled=stats["doubled"],
        order_breaks=stats["order_breaks"],
        p50_ms=stats["p50_ms"],
        p99_ms=stats["p99_ms"],
        longest_silence_secs=max(group["longest_ns"] for group in silence.values()) / 1e9,
        dead=dead,
    )


async def _dead(cluster: Cluster, count: int, within_secs: float) -> int:
    """How many records stand in `dead-letters`, once there are `count` or the time is over."""
    consumer = AIOKafkaConsumer(
        cluster.prefix + "dead-letters", bootstrap_servers=cluster.brokers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_secs
        seen = 0
        while seen < count and loop.time() < deadline:
            seen += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
        # One more look: more than was expected is as wrong as less.
        return seen + sum(map(len, (await consumer.getmany(timeout_ms=300)).values()))
    finally:
        await consumer.stop()


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """All runs; the table of their outcomes."""
    table = Table(
        name="faults",
        title=f"Faults: {size.events:,} events at {size.per_second:,}/s, {size.instances:,} instances with "
        f"{size.conversations} conversations each",
        columns=("what", "accepted", "lost", "doubled", "breaks", "dead", "p50 ms", "p99 ms", "longest silence s"),
    )
    outcomes = []
    for number, scenario in enumerate((restart, join_and_leave, every_tenth, poison)):
        chosen = size if scenario is not every_tenth else replace(size, instances=max(1, size.instances // 10))
        outcome = await scenario(brokers, directory / str(number), chosen)
        outcomes.append(outcome)
        table.add(
            outcome.name, f"{outcome.accepted:,}", str(outcome.lost), str(outcome.doubled), str(outcome.order_breaks),
            str(outcome.dead), f"{outcome.p50_ms:.2f}", f"{outcome.p99_ms:.1f}", f"{outcome.longest_silence_secs:.2f}",
        )  # fmt: skip
    table.data = {"outcomes": [{name: getattr(outcome, name) for name in Outcome.__slots__} for outcome in outcomes]}
    return table
