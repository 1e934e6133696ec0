"""What every scenario stands on: a cluster of real processes under load, its receiver, and what a run came to."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.crash import topics
from tests.integration.harness import Cluster, Node, ProcessError, sections

QUIET_SECS = 1.5
"""What is doubled comes after the last event that was waited for."""
POLL_SECS = 0.1
TAIL_NS = 200_000_000
"""A partition may have had its last event so long before the last one of all."""
IDLE_SECS = 20.0
"""Longest wait until nothing stands in `lanes` any more and all is acknowledged."""
LAUNCHER = Path(__file__).with_name("worker.py")
PATIENT = {
    "WEBHOOK_RETRY_INITIAL_DELAY_SECONDS": "1",
    "WEBHOOK_RETRY_MAX_DELAY_SECONDS": "1",
    "WEBHOOK_RETRY_MAX_ATTEMPTS": "100",
    "WEBHOOK_REQUEST_TIMEOUT_MS": "2000",
}
"""A receiver that fails is tried again every second, as often as a run may last; none is waited for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is. `events` is a multiple of all conversations."""

    events: int = 6000
    per_second: int = 1000
    instances: int = 60
    conversations: int = 5
    session_timeout_secs: float = 6.0
    away_secs: float = 4.0
    """How long a broker, or a receiver, is away."""
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


SHORT = Size()
LONG = Size(events=30_000, instances=300, away_secs=15.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to. `gap_secs` is the longest time without an arrival of one partition."""

    name: str
    accepted: int
    refused: int
    lost: int
    doubled: int
    order_breaks: int
    p50_ms: float
    p99_ms: float
    gap_secs: float
    unacknowledged: int
    """Events of `events` that were not committed in the end."""
    positions: int
    """Positions that stood in `lanes` in the end: nothing was behind any more, so 0 is right."""
    may_double: int = 0
    """The most that may be doubled."""
    may_lose: int = 0
    """The most that may be lost: what was removed from the log."""
    notes: dict[str, float] = field(default_factory=dict)
    """Figures of this scenario alone."""


def wrong(outcome: Outcome) -> str:
    """What a run came to that it must not; empty when all is well."""
    found = {
        f"lost {outcome.lost}": outcome.lost > outcome.may_lose,
        f"doubled {outcome.doubled}": outcome.doubled > outcome.may_double,
        f"out of order {outcome.order_breaks}": outcome.order_breaks > 0,
        f"not acknowledged {outcome.unacknowledged}": outcome.unacknowledged > 0,
        f"still in `lanes` {outcome.positions}": outcome.positions > 0,
    }
    return ", ".join(what for what, is_so in found.items() if is_so)


@dataclass(slots=True, kw_only=True)
class Stage:
    """A running cluster, its receiver, and the size of the run."""

    size: Size
    cluster: Cluster
    far_end: FarEnd
    sent_ns: int = 0
    """When the last event was sent: what is silent from then on had nothing to say."""
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def worker(self) -> Node:
        """The first worker."""
        return self.cluster.nodes["worker-0"]

    async def send(self, *, events: int | None = None, first: int = 0, flat_out: bool = False) -> None:
        """Sends events of the workload; all of them at the size's rate when nothing else is said."""
        sent = await produce(
            self.cluster.brokers,
            self.cluster.events,
            self.size.workload,
            events=self.size.events if events is None else events,
            first=first,
            per_second=0.0 if flat_out else self.size.per_second,
        )
        self.sent_ns = time.time_ns()
        self.notes["producer_late_ms"] = max(self.notes.get("producer_late_ms", 0.0), sent.get("latest_ms", 0.0))

    async def under_load(self, harm: Callable[[], Awaitable[None]]) -> None:
        """Sends all events, and does the harm meanwhile."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.send())
            group.create_task(_run(harm))

    async def launch(self, number: int, point: str, times: int) -> Node:
        """Starts a worker that is killed when it comes to a fault point for the n-th time."""
        name = f"worker-{number}"
        log = self.cluster.directory / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(LAUNCHER), str(number), point, str(times),
                cwd=self.cluster.directory, env=self.cluster.environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip
        node = self.cluster.nodes[name] = Node(name, process, log)
        return node

    async def until_committed(self, *, within_secs: float = 30.0) -> None:
        """Returns when the group has acknowledged all that is in `events`."""
        deadline = time.monotonic() + within_secs
        while unread := await topics.unread(self.cluster.brokers, self.cluster.events, self.cluster.group):
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"{unread} events were not acknowledged within {within_secs} s:\n{self.worker.log_tail()}"
                )
            await asyncio.sleep(0.2)

    async def compact(self) -> None:
        """From now on the cleaner goes over `lanes` at once, and over `config` after 30 s."""
        await topics.compact(self.cluster.brokers, self.cluster.prefix + "lanes")
        await topics.compact(self.cluster.brokers, self.cluster.prefix + "config", topics.AFTER_30_SECS)

    async def outcome(
        self,
        name: str,
        *,
        events: int | None = None,
        conversations: int | None = None,
        may_double: int = 0,
        may_lose: int = 0,
    ) -> Outcome:
        """Waits until everything arrived, or the time is over; the counts."""
        expected = self.size.workload.expected(self.size.events if events is None else events)
        conversations = self.size.workload.all_conversations if conversations is None else conversations
        await arrived(self.far_end, expected, conversations, within_secs=self.size.settle_secs, may_lose=may_lose)
        stats = await self.far_end.stats(expected=expected, conversations=conversations)
        silence = await self.far_end.silence()
        unacknowledged, positions = await self.idle()
        return Outcome(
            name=name,
            accepted=stats["accepted"],
            refused=stats["refused"],
            lost=stats["lost"],
            doubled=stats["doubled"],
            order_breaks=stats["order_breaks"],
            p50_ms=stats["p50_ms"] or 0.0,
            p99_ms=stats["p99_ms"] or 0.0,
            gap_secs=max(
                (group["longest_ns"] for group in silence.values() if group["began_ns"] < self.sent_ns - TAIL_NS),
                default=0,
            )
            / 1e9,
            unacknowledged=unacknowledged,
            positions=positions,
            may_double=may_double,
            may_lose=may_lose,
            notes=self.notes,
        )

    async def idle(self) -> tuple[int, int]:
        """Events that are not acknowledged, and positions in `lanes`, once both are 0 or the time is over."""
        deadline = time.monotonic() + IDLE_SECS
        cluster = self.cluster
        while True:
            unread = await topics.unread(cluster.brokers, cluster.events, cluster.group)
            positions, records, ever = await topics.contents(cluster.brokers, cluster.prefix + "lanes")
            if not (unread or positions) or time.monotonic() > deadline:
                self.notes["lanes_records"], self.notes["lanes_offsets"] = records, ever
                return unread, len(positions)
            await asyncio.sleep(0.5)


async def _run(harm: Callable[[], Awaitable[None]]) -> None:
    await harm()


async def arrived(far_end: FarEnd, expected: int, conversations: int, *, within_secs: float, may_lose: int = 0) -> bool:
    """Whether all events of all conversations arrived in time; waits a little longer for what is doubled."""
    deadline = time.monotonic() + within_secs
    while (await far_end.stats(expected=expected, conversations=conversations))["lost"] > may_lose:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECS)
    await asyncio.sleep(QUIET_SECS)
    return True


@asynccontextmanager
async def stage(
    brokers: str,
    directory: Path,
    size: Size,
    *,
    workers: int = 1,
    pipelines: Callable[[str], Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    worker_at_once: bool = True,
    known: str = "",
) -> AsyncIterator[Stage]:
    """
    Sluice with an API and some workers, ready for events; nothing of it is left behind.

    `pipelines` makes the content of pipelines.yaml from the receiver's address; by default each instance has a section.
    `known` is an instance with a section: it shows that the file is applied.
    """
    names = size.workload.names()
    surroundings = {**PATIENT, "SLUICE_SESSION_TIMEOUT_SECS": str(size.session_timeout_secs), **(environment or {})}
    async with FarEnd() as far_end:
        content = pipelines(far_end.url) if pipelines else sections(names, far_end.url)
        async with Cluster(brokers, directory, pipelines=content, environment=surroundings) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(known or names[-1])
            staged = Stage(size=size, cluster=cluster, far_end=far_end)
            if worker_at_once:
                await asyncio.gather(*(cluster.worker(number) for number in range(workers)))
                await cluster.stable(workers, cluster.nodes["worker-0"])
            try:
                yield staged
            finally:
                for node in cluster.nodes.values():
                    node.signal(signal.SIGCONT)
