"""`sluice run` as its users start it: a process with children, on a data directory and an embedded Kafka of its own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.embedded.process import Identity, identify
from app.processes import Exit
from tests.integration.harness import QUIET, free_port

UP_SECS = 50.0
DOWN_SECS = 30.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see who is left")


class House:
    """One data directory, one port, and whatever `sluice` runs on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.log = directory / "run.log"
        self.started: list[asyncio.subprocess.Process] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(QUIET)}
        kept = {name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ}
        self.environment = {
            **inherited,
            **kept,
            "SLUICE_DATA_DIR": str(self.data),
            "SLUICE_PARTITIONS": "4",
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(self.port),
        }

    async def sluice(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        """Starts a verb; what it writes goes to the log."""
        with self.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "app.cli", *arguments),
                cwd=self.directory,
                env={**self.environment, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.started.append(process)
        return process

    async def up(self, *arguments: str, path: str = "/ready") -> asyncio.subprocess.Process:
        """`sluice run`, once a path of its API answers 200."""
        process = await self.sluice("run", *arguments)
        await self.until(lambda: self.answers(path), UP_SECS, process)
        return process

    async def answers(self, path: str) -> bool:
        """Whether the API answers 200 there."""
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as client,
                client.get(f"http://127.0.0.1:{self.port}{path}") as response,
            ):
                return response.status == 200
        return False

    async def until(
        self, true: Callable[[], Any], within_secs: float, process: asyncio.subprocess.Process | None = None
    ) -> None:
        """Waits until something is true; fails with the log when the time is over, or the process."""
        deadline = time.monotonic() + within_secs
        while True:
            answer = true()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            if process is not None and process.returncode is not None:
                pytest.fail(f"ended with {process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_secs} s:\n{self.tail()}")
            await asyncio.sleep(0.1)

    async def ended(self, process: asyncio.subprocess.Process) -> int:
        """Its exit code, within the time it has to stop."""
        try:
            return await asyncio.wait_for(process.wait(), DOWN_SECS)
        except TimeoutError:
            pytest.fail(f"still runs after {DOWN_SECS} s:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what was written."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The supervisor's log lines of one event."""
        lines = self.log.read_text(errors="replace").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line.get("event") == name]


def family(pid: int) -> dict[str, Identity]:
    """All that descend from a process, by what they are: api, worker-0, java."""
    found: dict[str, Identity] = {}
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    for child in children:
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        identity = identify(int(child))
        if identity is None:
            continue
        name = Path(words[0]).name
        if "app.cli" in words:
            role = words[words.index("app.cli") + 1]
            name = f"worker-{words[words.index('--number') + 1]}" if role == "worker" else role
        found[name] = identity
    return found


@pytest.fixture
async def house(tmp_path: Path, broker: str) -> AsyncIterator[House]:
    """A house that is empty in the end; the shared broker is asked for, so that the jars are there."""
    assert broker
    house = House(tmp_path)
    yield house
    for process in house.started:
        if process.returncode is None:
            left = family(process.pid)
            process.kill()
            await process.wait()
            for identity in left.values():
                if identity.alive:
                    os.kill(identity.pid, signal.SIGKILL)


async def test_runs_and_stops(house: House) -> None:
    """It comes up with everything it needs, says what runs where, and SIGTERM leaves no process and no lock."""
    process = await house.up("--workers", "2")
    left = family(process.pid)
    said = house.log.read_text()

    assert set(left) == {"api", "worker-0", "worker-1", "java"}
    assert f"http://127.0.0.1:{house.port}" in said
    assert str(house.data) in said
    assert (house.data / "api-key").read_text().strip() in said

    process.terminate()
    assert await house.ended(process) == Exit.OK
    assert [name for name, identity in left.items() if identity.alive] == []
    assert await house.ended(await house.sluice("kafka", "status")) == Exit.OTHER


async def test_a_second_one_is_refused(house: House) -> None:
    """On a data directory that is in use it ends with 5 and names the directory and who is there; the first runs on."""
    process = await house.up(path="/health")

    second = await house.sluice("run", SERVER_PORT=str(free_port()))

    assert await house.ended(second) == Exit.BUSY
    assert f"the data directory {house.data} is in use" in house.tail()
    assert f"process {process.pid}" in house.tail()
    assert process.returncode is None
    assert await house.answers("/health")


async def test_a_taken_port_is_refused(house: House) -> None:
    """A port that is in use is told before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", house.port))
        taken.listen()

        process = await house.sluice("run")

        assert await house.ended(process) == Exit.BUSY
    assert f"127.0.0.1:{house.port}" in house.tail()
    assert "SERVER_PORT" in house.tail()
    assert not (house.data / "kafka").exists()


async def test_nobody_outlives_a_killed_supervisor(house: House) -> None:
    """After kill -9 of the supervisor its children end by themselves, and the next start finds everything free."""
    process = await house.up(path="/health")
    left = family(process.pid)
    assert {"api", "worker-0", "java"} <= set(left)

    process.kill()
    await process.wait()

    await house.until(lambda: not any(identity.alive for identity in left.values()), DOWN_SECS)
    again = await house.up(path="/health")
    again.terminate()
    assert await house.ended(again) == Exit.OK


async def test_a_killed_child_comes_back(house: House) -> None:
    """A worker, an API process and a Kafka that are killed are started again, and events flow again."""
    process = await house.up()
    for name in ("worker-0", "api", "java"):
        before = family(process.pid)[name]
        os.kill(before.pid, signal.SIGKILL)
        await house.until(lambda name=name, before=before: family(process.pid).get(name, before) != before, UP_SECS)
    await house.until(lambda: house.answers("/ready"), UP_SECS, process)

    assert {line["child"] for line in house.events("child.ended")} >= {"worker-0", "api"}
    assert len(house.events("kafka.started")) == 1


async def test_what_no_restart_mends_ends_all(house: House) -> None:
    """A child that refuses its settings is not started again: the code says it, and nothing is left."""
    process = await house.up(path="/health")
    left = family(process.pid)
    (house.directory / ".env").write_text("SLUICE_SLOTS=1\n")

    os.kill(left["api"].pid, signal.SIGKILL)

    assert await house.ended(process) == Exit.SETTINGS
    assert "SLUICE_SLOTS='1': a whole number" in house.log.read_text()
    assert [line["child"] for line in house.events("child.refused")] == ["api"]
    assert [name for name, identity in left.items() if identity.alive] == []
