"""
Workers that are killed, frozen, restarted and moved under load, and a log that begins later than a position.

Each scenario sends a steady load, does its harm, and counts at the receiver per conversation and destination.
"""

import asyncio
import re
import signal
from pathlib import Path

from tests.crash import topics
from tests.crash.stage import Outcome, Size, Stage, stage
from tests.integration.harness import ProcessError

COMMIT_INTERVAL_SECS = 1.5
"""A commit a second, and what it takes."""
POSITION_INTERVAL_SECS = 4.0
"""Of one lane that is read again: a position every three seconds, and what it takes."""
POINTS = {
    "before-send": 1000,
    "after-receipt": 1000,
    "positions.initialised": 3,
    "positions.write": 10,
    "positions.written": 10,
    "before-hand-over": 3,
}
"""Fault points, and at which of its calls each kills: in the middle of what it stands in."""
AT_START = "positions.initialised"
"""Stands in the loading of what was assigned, before the worker takes part."""
FOREVER = "the worker came never to the fault point"


async def kill(brokers: str, directory: Path, size: Size) -> Outcome:
    """`kill -9` of one of two workers in the middle of the load, while the cleaner goes over `lanes`."""
    async with stage(brokers, directory, size, workers=2) as on:

        async def harm() -> None:
            await on.compact()
            await asyncio.sleep(size.seconds / 2)
            await on.cluster.nodes["worker-1"].kill()
            await on.far_end.rules()

        await _some_behind(on)
        await on.under_load(harm)
        return await on.outcome("kill -9 of one of two", may_double=_a_commit(size))


async def restart(brokers: str, directory: Path, size: Size) -> Outcome:
    """SIGTERM of both workers one after another, each started again at once."""
    async with stage(brokers, directory, size, workers=2) as on:

        async def harm() -> None:
            for number in (0, 1):
                await asyncio.sleep(size.seconds / 4)
                await on.cluster.nodes[f"worker-{number}"].stop()
                await on.cluster.worker(number)

        await on.under_load(harm)
        return await on.outcome("rolling restart")


async def freeze(brokers: str, directory: Path, size: Size) -> Outcome:
    """SIGSTOP of one of two workers for longer than the session timeout; awake, it ends, and is started again."""
    async with stage(brokers, directory, size, workers=2) as on:
        frozen = on.cluster.nodes["worker-1"]

        async def harm() -> None:
            await on.compact()
            await asyncio.sleep(size.seconds / 3)
            frozen.signal(signal.SIGSTOP)
            await on.far_end.rules()
            await asyncio.sleep(size.session_timeout_secs + 3)
            frozen.signal(signal.SIGCONT)
            try:
                await asyncio.wait_for(frozen.process.wait(), 20)
            except TimeoutError as error:
                raise ProcessError(f"a worker that was frozen goes on:\n{frozen.log_tail()}") from error
            await on.cluster.worker(1)

        await _some_behind(on)
        await on.under_load(harm)
        return await on.outcome("SIGSTOP past the session timeout", may_double=_a_commit(size))


async def rebalances(brokers: str, directory: Path, size: Size) -> Outcome:
    """A third worker joins while the second one, which has just joined, still loads; both leave one after the other."""
    async with stage(brokers, directory, size) as on:

        async def harm() -> None:
            await asyncio.sleep(size.seconds / 6)
            second = await on.cluster.worker(1)
            await asyncio.sleep(0.5)
            third = await on.cluster.worker(2, members=3)
            await asyncio.sleep(size.seconds / 6)
            await second.stop()
            await third.stop()

        await on.under_load(harm)
        return await on.outcome("two rebalances in a row")


async def kill_behind(brokers: str, directory: Path, size: Size) -> Outcome:
    """The receiver is down, all lanes are behind; `kill -9`, the receiver returns, the worker is started again."""
    async with stage(brokers, directory, size) as on:
        await on.compact()
        await on.far_end.rules({"status": 503})
        half = size.events // 2
        await on.send(events=half)
        await on.until_committed()
        await on.worker.kill()
        await on.far_end.rules()
        await on.send(events=half, first=half)
        await on.cluster.worker(0, members=1)
        return await on.outcome("kill -9 while behind")


async def kill_catching_up(brokers: str, directory: Path, size: Size) -> Outcome:
    """The receiver returns, and `kill -9` comes while the lanes catch up."""
    async with stage(brokers, directory, size) as on:
        await on.compact()
        await on.far_end.rules({"status": 503})
        await on.send()
        await on.until_committed()
        await on.far_end.rules({"delay_secs": 0.05})
        await on.far_end.arrived(size.events // 4, within_secs=40, quiet_secs=0)
        await on.worker.kill()
        await on.far_end.rules()
        await on.cluster.worker(0, members=1)
        # Nothing is committed here but positions, each at most every few seconds.
        return await on.outcome("kill -9 in catch-up", may_double=size.events)


async def kill_at(brokers: str, directory: Path, size: Size, point: str) -> Outcome:
    """A worker with some lanes behind is killed inside a step of the engine, and started again."""
    async with stage(brokers, directory, size, worker_at_once=False) as on:
        doomed = await on.launch(0, point, POINTS[point])
        if point != AT_START:
            await on.cluster.stable(1, doomed)

        async def harm() -> None:
            await _some_behind(on)
            try:
                async with asyncio.timeout(60):
                    while doomed.running and (await on.far_end.stats())["accepted"] < size.events // 4:
                        await asyncio.sleep(0.05)
                    await on.far_end.rules()
                    await doomed.process.wait()
            except TimeoutError as error:
                raise ProcessError(f"{FOREVER} {point}:\n{doomed.log_tail()}") from error
            if doomed.process.returncode != -signal.SIGKILL:
                raise ProcessError(f"worker-0 ended with {doomed.process.returncode}:\n{doomed.log_tail()}")
            await on.far_end.rules()
            await on.cluster.worker(0)

        await on.under_load(harm)
        return await on.outcome(f"kill -9 at {point}", may_double=_a_commit(size))


async def expire(brokers: str, directory: Path, size: Size) -> Outcome:
    """Retention passes lanes that are behind, once while the worker runs: what is gone is counted, the rest comes."""
    async with stage(brokers, directory, size) as on:
        await on.far_end.rules({"status": 503})
        await on.send()
        await on.until_committed()
        gone = await topics.cut(on.cluster.brokers, on.cluster.events, 0.5)
        await on.far_end.rules()
        outcome = await on.outcome("log start past positions", may_lose=gone)
        on.notes["gone"] = gone
        on.notes["counted"] = sum(
            int(number) for number in re.findall(r"at_most['\"]?[=:]\s*(\d+)", on.worker.log.read_text())
        )
        return outcome


async def _some_behind(on: Stage) -> None:
    """A tenth of the instances has a receiver that is down, so that there are positions to lose."""
    await on.far_end.rules({"path": "/bench-000", "status": 503})


def _a_commit(size: Size) -> int:
    return int(size.per_second * COMMIT_INTERVAL_SECS)
