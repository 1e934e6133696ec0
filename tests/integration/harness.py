"""Sluice as real processes against a real Kafka: started, watched, stopped, killed, one topic prefix a run."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

ROOT = Path(__file__).resolve().parents[2]
KEY = "harness-key-0123456789"
START_TIMEOUT_SECS = 40.0
STOP_TIMEOUT_SECS = 15.0
QUIET = ("SLUICE_", "WEBHOOK_", "SERVER_", "AUTHENTICATION_", "DEMO_")
"""Settings of whoever runs the tests do not reach the processes under test."""


class ProcessError(Exception):
    """A process ended, or did not come so far; the message carries the end of its log."""


class Node:
    """One process of Sluice."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def log_tail(self, lines: int = 30) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM, then wait; its exit code. ProcessError when it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_SECS)
        except TimeoutError as error:
            await self.kill()
            raise ProcessError(
                f"{self.name} still ran {STOP_TIMEOUT_SECS} s after SIGTERM:\n{self.log_tail()}"
            ) from error

    async def kill(self) -> None:
        """SIGKILL, then wait."""
        self.signal(signal.SIGKILL)
        await self.process.wait()


class Cluster:
    """
    Some processes of Sluice with topics of their own; an asynchronous context manager that leaves no process behind.

    `pipelines` is the content of pipelines.yaml. `environment` is added to what every process gets.
    """

    def __init__(
        self,
        brokers: str,
        directory: Path,
        *,
        pipelines: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.brokers = brokers
        self.directory = directory
        self.prefix = f"h{secrets.token_hex(4)}."
        self.port = free_port()
        self.nodes: dict[str, Node] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self.pipelines = directory / "pipelines.yaml"
        self.pipelines.write_text(yaml.safe_dump(dict(pipelines or {"version": 1}), sort_keys=False))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(QUIET)}
        cache = {name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ}
        self.environment = {
            **inherited,
            **cache,
            "SLUICE_BROKERS": brokers,
            "SLUICE_TOPIC_PREFIX": self.prefix,
            "SLUICE_PARTITIONS": "12",
            "SLUICE_DATA_DIR": str(directory / "data"),
            "SLUICE_PIPELINES": str(self.pipelines),
            "SLUICE_EGRESS_ALLOW": "127.0.0.0/8",
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(self.port),
            "AUTHENTICATION_API_KEY": KEY,
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def events(self) -> str:
        """The full name of the topic of events."""
        return self.prefix + "events"

    @property
    def group(self) -> str:
        """The consumer group of the workers."""
        return self.prefix + "workers"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes.values():
            node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            with contextlib.suppress(ProcessError):
                await node.stop()

    async def run(self, *arguments: str, within_secs: float = START_TIMEOUT_SECS) -> str:
        """Runs a verb to its end, for example `init`; what it wrote. ProcessError on another exit code than 0."""
        node = await self._spawn("-".join(arguments), arguments)
        code = await asyncio.wait_for(node.process.wait(), within_secs)
        if code:
            raise ProcessError(f"sluice {' '.join(arguments)} ended with {code}:\n{node.log_tail()}")
        return node.log.read_text()

    async def api(self) -> Node:
        """Starts an API process and waits until it is alive."""
        node = await self._spawn("api", ("api",))
        async with aiohttp.ClientSession() as session:

            async def alive() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/health") as response:
                        return response.status == 200
                return False

            await self._until(node, alive, "answered /health")
        return node

    async def worker(self, number: int = 0, *, members: int | None = None) -> Node:
        """Starts a worker; with `members`, waits until the group is stable with so many."""
        node = await self._spawn(f"worker-{number}", ("worker", "--number", str(number)))
        if members is not None:
            await self.stable(members, node)
        return node

    async def stable(self, members: int, node: Node, *, within_secs: float = START_TIMEOUT_SECS) -> None:
        """Waits until the group of the workers is stable with so many members."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        await admin.start()
        try:

            async def check() -> bool:
                with contextlib.suppress(KafkaError):
                    state, count = await _group(admin, self.group)
                    return state == "Stable" and count == members
                return False

            await self._until(node, check, f"was in a stable group of {members}", within_secs)
        finally:
            await admin.close()

    async def knows(self, instance: str, *, within_secs: float = START_TIMEOUT_SECS) -> None:
        """Waits until the API finds an instance's section, and so pipelines.yaml is applied."""
        async with aiohttp.ClientSession(headers={"apikey": KEY}) as session:

            async def found() -> bool:
                async with session.get(f"{self.url}/webhook/find/{instance}") as response:
                    return response.status == 200 and bool((await response.json() or {}).get("url"))

            await self._until(self.nodes["api"], found, f"knew {instance}", within_secs)

    async def _spawn(self, name: str, arguments: tuple[str, ...]) -> Node:
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "app.cli",
                *arguments,
                cwd=self.directory,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        node = self.nodes[name] = Node(name, process, log)
        return node

    async def _until(self, node: Node, check: Any, what: str, within_secs: float = START_TIMEOUT_SECS) -> None:
        deadline = time.monotonic() + within_secs
        while not await check():
            if not node.running:
                raise ProcessError(f"{node.name} ended before it {what}:\n{node.log_tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{node.name} had not {what} within {within_secs} s:\n{node.log_tail()}")
            await asyncio.sleep(0.1)


def sections(names: list[str], url: str) -> dict[str, Any]:
    """The content of a pipelines.yaml in which each instance has a webhook of its own path, for all messages."""
    return {
        "version": 1,
        "instances": {name: {"webhook": {"url": f"{url}/{name}", "events": ["MESSAGES_UPSERT"]}} for name in names},
    }


def free_port() -> int:
    """A port of the loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _group(admin: AIOKafkaAdminClient, group: str) -> tuple[str, int]:
    (response,) = await admin.describe_consumer_groups([group])
    description = response.to_object()["groups"][0]
    return description["state"], len(description["members"])
