"""A broker that goes away, and receivers that do not answer as they should, while others are well."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from app.embedded.kafka import EmbeddedKafka
from tests.bench.far_end import FarEnd
from tests.bench.s3 import KNOWN
from tests.crash.stage import Outcome, Size, Stage, arrived, stage
from tests.integration.harness import free_port

SICK = ("hang", "flap", "slow", "reset", "refuse")
"""Beside `dead`, where nobody listens: what a receiver does instead of answering at once."""
FLAP_SECS = 1.0


async def broker(kafka: EmbeddedKafka, directory: Path, size: Size, number: signal.Signals) -> Outcome:
    """The only broker ends by the signal in the middle of the load, and is started again after a while."""
    brokers = kafka.start()
    async with stage(brokers, directory, size) as on:

        async def harm() -> None:
            await asyncio.sleep(size.seconds / 3)
            if number is signal.SIGTERM:
                await asyncio.to_thread(kafka.stop)
            else:
                state = kafka.home.read()
                assert state is not None
                assert state.process is not None
                os.kill(state.process.pid, number)
            await asyncio.sleep(size.away_secs)
            # Not in a thread: the broker ends with the thread that started it.
            kafka.start()

        await on.under_load(harm)
        on.notes["worker_still_runs"] = on.worker.running
        return await on.outcome(f"broker away after {number.name}", may_double=size.per_second)


async def receivers(brokers: str, directory: Path, size: Size) -> tuple[Outcome, ...]:
    """
    Instances have one of seven receivers: one is well, the others are sick in one way each for half of the load.

    Three outcomes: the well one beside the sick, the sick ones, and the dead one, once all are well again.
    """
    workload = size.workload
    dead_port = free_port()
    kinds = ("well", "dead", *SICK)
    async with FarEnd() as sick:
        urls = {name: f"{sick.url}/{name}" for name in SICK} | {"dead": f"http://127.0.0.1:{dead_port}/dead"}

        def pipelines(well: str) -> Mapping[str, Any]:
            return {
                "version": 1,
                "instances": {
                    name: {
                        "webhook": {
                            "url": {**urls, "well": f"{well}/well"}[kinds[number % len(kinds)]] + f"/{name}",
                            "events": ["MESSAGES_UPSERT"],
                        }
                    }
                    for number, name in enumerate(workload.names())
                },
            }

        count = {
            kind: sum(number % len(kinds) == index for number in range(size.instances)) * size.conversations
            for index, kind in enumerate(kinds)
        }
        async with stage(brokers, directory, size, pipelines=pipelines) as on:
            half = size.events // 2
            await on.send(events=half)
            await arrived(on.far_end, workload.expected(half), count["well"], within_secs=10)
            before = await on.far_end.stats()
            await on.far_end.reset(before=workload.expected(half))
            flapping = asyncio.create_task(_flap(sick))
            await on.send(events=half, first=half)
            await arrived(on.far_end, workload.expected(half), count["well"], within_secs=10)
            beside = await on.far_end.stats(expected=workload.expected(half), conversations=count["well"])
            flapping.cancel()
            await asyncio.wait([flapping])
            await sick.rules()
            async with FarEnd(dead_port) as dead:
                await asyncio.gather(
                    arrived(dead, workload.expected(size.events), count["dead"], within_secs=size.settle_secs),
                    arrived(
                        sick,
                        workload.expected(size.events),
                        sum(count[kind] for kind in SICK),
                        within_secs=size.settle_secs,
                    ),
                )
                left = await on.idle()
                return (
                    _outcome(on, "well, beside sick ones", beside, before_p99_ms=before["p99_ms"]),
                    _outcome(
                        on,
                        "hang, flap, slow, reset, refuse",
                        await sick.stats(
                            expected=workload.expected(size.events),
                            conversations=sum(count[kind] for kind in SICK),
                        ),
                    ),
                    _outcome(
                        on,
                        "dead",
                        await dead.stats(expected=workload.expected(size.events), conversations=count["dead"]),
                        left,
                    ),
                )


async def thousand_dead(brokers: str, directory: Path, size: Size) -> tuple[Outcome, ...]:
    """
    Every event goes to a receiver that is well, and in the second run also to its instance's own, which is dead.

    The rate is of a preloaded log, memory and processor time are of the worker once it has nothing to do.
    """
    outcomes = []
    for dead in (0, size.instances):
        port = free_port()

        def pipelines(well: str, dead: int = dead, port: int = port) -> Mapping[str, Any]:
            content: dict[str, Any] = {
                "version": 1,
                "instances": {name: {} for name in size.workload.names()}
                | {KNOWN: {"webhook": {"url": well, "events": ["CALL"]}}},
                "pipelines": {
                    "all": {
                        "from": {"instances": ["*"], "events": ["messages.upsert"]},
                        "to": [{"webhook": {"url": f"{well}/well"}}],
                    }
                },
            }
            for number, name in enumerate(size.workload.names()[:dead]):
                # Each another address of the loopback, so that they share no far end.
                url = f"http://127.1.{number // 250}.{number % 250 + 1}:{port}/dead"
                content["instances"][name] = {"webhook": {"url": url, "events": ["MESSAGES_UPSERT"]}}
            return content

        async with stage(
            brokers, directory / str(dead), size, pipelines=pipelines, worker_at_once=False, known=KNOWN
        ) as on:
            await on.send(flat_out=True)
            node = await on.cluster.worker(0)
            await arrived(
                on.far_end,
                size.workload.expected(size.events),
                size.workload.all_conversations,
                within_secs=size.settle_secs,
            )
            stats = await on.far_end.stats(
                expected=size.workload.expected(size.events), conversations=size.workload.all_conversations
            )
            await on.until_committed()
            process = psutil.Process(node.pid)
            await asyncio.sleep(3)
            used = sum(process.cpu_times()[:2])
            await asyncio.sleep(8)
            idle = (sum(process.cpu_times()[:2]) - used) / 8
            outcomes.append(
                _outcome(
                    on,
                    f"{dead} receivers dead",
                    stats,
                    per_second=(stats["accepted"] - 1) / ((stats["last_ns"] - stats["first_ns"]) / 1e9),
                    memory_mb=process.memory_info().rss / 1e6,
                    idle_cpu_percent=100 * idle,
                )
            )
    return tuple(outcomes)


async def _flap(sick: FarEnd) -> None:
    """Makes the receivers sick, one of them every other second."""
    rules: tuple[Mapping[str, Any], ...] = (
        {"path": "/hang", "hang": True},
        {"path": "/slow", "delay_secs": 1.0},
        {"path": "/reset", "reset": True},
        {"path": "/refuse", "status": 503},
    )
    while True:
        await sick.rules(*rules, {"path": "/flap", "status": 500})
        await asyncio.sleep(FLAP_SECS)
        await sick.rules(*rules)
        await asyncio.sleep(FLAP_SECS)


def _outcome(on: Stage, name: str, stats: Mapping[str, Any], left: tuple[int, int] = (0, 0), **notes: float) -> Outcome:
    return Outcome(
        name=name,
        accepted=stats["accepted"],
        refused=stats["refused"],
        lost=stats["lost"],
        doubled=stats["doubled"],
        order_breaks=stats["order_breaks"],
        p50_ms=stats["p50_ms"] or 0.0,
        p99_ms=stats["p99_ms"] or 0.0,
        gap_secs=0.0,
        unacknowledged=left[0],
        positions=left[1],
        notes={**on.notes, **notes},
    )
