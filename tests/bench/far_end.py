"""The receiver process as a bench or a test sees it: started, asked, stopped."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECS = 20.0
STOP_TIMEOUT_SECS = 5.0


class FarEndError(Exception):
    """The receiver process did not start, or did not answer."""


class FarEnd:
    """One receiver process, on `port` or on a free one; an asynchronous context manager."""

    def __init__(self, port: int = 0) -> None:
        self._wanted = port
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0
        self._control = 0

    @property
    def url(self) -> str:
        """Where events are posted, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.receiver",
            "--port",
            str(self._wanted),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_TIMEOUT_SECS)
            ports = json.loads(line)
        except (TimeoutError, json.JSONDecodeError) as error:
            await self._stop()
            raise FarEndError(f"the receiver process did not tell its ports within {START_TIMEOUT_SECS} s") from error
        self.port, self._control = ports["port"], ports["control"]
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self._control}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._stop()

    async def stats(self, *, expected: int | None = None, conversations: int | None = None) -> dict[str, Any]:
        """The counts since the last reset, see `Tally.stats`."""
        wanted = {"expected": expected, "conversations": conversations}
        return await self._ask("GET", "/stats", params={name: n for name, n in wanted.items() if n is not None})

    async def silence(self) -> dict[str, dict[str, int]]:
        """By group: the longest time without an arrival, and when it began, in nanoseconds."""
        return await self._ask("GET", "/silence")

    async def reset(self, *, before: int = 0) -> None:
        """Forgets everything counted; rules stay. Conversations go on after the sequence number `before`."""
        await self._ask("POST", "/reset", params={"before": before})

    async def rules(self, *rules: Mapping[str, Any]) -> None:
        """Replaces the rules, see `receiver.Rule`; none means that everything is answered 200."""
        await self._ask("POST", "/rules", json=list(rules))

    async def arrived(self, count: int, *, within_secs: float, quiet_secs: float = 1.0) -> dict[str, Any]:
        """
        Waits until so many events were accepted and none more came for a while, or the time is over; the counts then.

        The quiet time is what shows doubled events: they come after the last one that was waited for.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_secs
        seen = await self.stats()
        while seen["accepted"] < count and loop.time() < deadline:
            await asyncio.sleep(0.05)
            seen = await self.stats()
        if seen["accepted"] >= count and quiet_secs:
            await asyncio.sleep(quiet_secs)
        return await self.stats()

    async def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        assert self._session is not None
        async with self._session.request(method, path, **arguments) as response:
            response.raise_for_status()
            return await response.json()

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SECS)
        except TimeoutError:
            process.kill()
            await process.wait()
