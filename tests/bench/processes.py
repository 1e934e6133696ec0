"""The bench's own programs as child processes: each answers one JSON line."""

import asyncio
import json
import sys
from typing import Any

from tests.bench.far_end import ROOT
from tests.bench.load import Workload


async def answer(module: str, *arguments: str, ready: asyncio.Event | None = None) -> dict[str, Any]:
    """
    Runs `python -m tests.bench.<module>` to its end; what it answered. Ends it when cancelled.

    `ready` is set once it has written a line to standard error, which is otherwise passed on.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.bench.{module}",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if ready is None else asyncio.subprocess.PIPE,
    )
    try:
        if ready is not None:
            assert process.stderr is not None
            await process.stderr.readline()
            ready.set()
        output, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        shown = said.decode(errors="replace") if said else "its messages stand above"
        raise RuntimeError(f"{module} ended with {process.returncode}: {shown}")
    result: dict[str, Any] = json.loads(output)
    return result


async def produce(
    brokers: str, topic: str, workload: Workload, *, events: int, first: int = 0, per_second: float = 0.0
) -> dict[str, Any]:
    """Writes events of a workload from a process of its own; without a rate as fast as it goes."""
    chosen = {
        "--brokers": brokers,
        "--topic": topic,
        "--events": events,
        "--first": first,
        "--rate": per_second,
        "--instances": workload.instances,
        "--conversations": workload.conversations,
        "--size-bytes": workload.size_bytes,
        "--prefix": workload.prefix,
    }
    return await answer("produce", *(str(part) for pair in chosen.items() for part in pair))
