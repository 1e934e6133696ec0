"""`sluice run` as a child of the demo: started with settings of its own, watched until it is ready, stopped."""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from app.embedded.process import start_attached
from app.settings import Settings

READY_TIMEOUT_SECS = 90.0
STOP_TIMEOUT_SECS = 30.0
POLL_SECS = 0.05
SHIPPED = Path(__file__).resolve().parents[2] / "pipelines.yaml"


class DemoError(Exception):
    """The demo cannot go on; the message says what failed and where to look."""


def environment(settings: Settings, receiver_url: str) -> dict[str, str]:
    """
    The settings of the demo's Sluice: its own data directory under the one that is set, its own Kafka, receivers on the
    loopback. The API's address and key stay as they are set.
    """
    return {
        **os.environ,
        # Set but empty counts as unset, and keeps a `.env` from naming a broker that is not the demo's.
        "SLUICE_BROKERS": "",
        "SLUICE_DATA_DIR": str(settings.data_dir / "demo"),
        "SLUICE_EGRESS_ALLOW": "127.0.0.0/8",
        "SLUICE_PIPELINES": str(SHIPPED),
        "SLUICE_LAYOUT": "documented",
        "SLUICE_INGEST_EVENTS_PER_SECOND": "0",
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": str(settings.server_port if "SERVER_PORT" in settings.given else _free_port()),
        "AUTHENTICATION_API_KEY": settings.api_key or secrets.token_hex(16),
        "DEMO_RECEIVER": receiver_url,
    }


class Node:
    """One `sluice run`; an asynchronous context manager that leaves nothing running, nor does a demo that is killed."""

    def __init__(self, chosen: dict[str, str]) -> None:
        self.environment = chosen
        self.log = Path(chosen["SLUICE_DATA_DIR"]) / "demo.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.environment['SERVER_PORT']}"

    @property
    def key(self) -> str:
        """The global key."""
        return self.environment["AUTHENTICATION_API_KEY"]

    async def __aenter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = start_attached(
            [sys.executable, "-P", "-m", "app.cli", "run", "--workers", "1"],
            environment=self.environment,
            output=self.log,
        )
        self._session = aiohttp.ClientSession(headers={"apikey": self.key})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_SECS
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    process.kill()
                await asyncio.sleep(POLL_SECS)
        except asyncio.CancelledError:
            # A second Ctrl-C: told again, it stops without waiting for what is under way.
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise

    def check(self) -> None:
        """Raises DemoError when it has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"sluice run ended with {code}; {self.log} ends with:\n{self._tail()}")

    async def ready(self, missing: Callable[[str], None]) -> None:
        """Waits until `/ready` answers 200; `missing` is told what it waits for, whenever that changes."""
        assert self._session is not None
        deadline = time.monotonic() + READY_TIMEOUT_SECS
        told = ""
        while True:
            self.check()
            waits = "the API"
            try:
                async with self._session.get(f"{self.url}/ready") as response:
                    if response.status == 200:
                        return
                    waits = _missing(await response.text())
            except aiohttp.ClientError:
                pass  # Nobody listens there yet.
            if waits != told:
                missing(waits)
                told = waits
            if time.monotonic() > deadline:
                raise DemoError(f"not ready after {READY_TIMEOUT_SECS:g} s, it waits for {waits}; see {self.log}")
            await asyncio.sleep(POLL_SECS)

    async def post(self, path: str, body: Any) -> None:
        """Posts JSON to the API; DemoError on any answer but 2xx."""
        assert self._session is not None
        async with self._session.post(self.url + path, json=body) as response:
            if not 200 <= response.status < 300:
                text = (await response.text())[:300]
                raise DemoError(f"POST {path} was answered {response.status}: {text}; see {self.log}")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def _missing(text: str) -> str:
    """What `/ready` waits for, in its own words."""
    try:
        missing = json.loads(text)["missing"]
    except (ValueError, KeyError, TypeError):
        return text[:200]
    return "; ".join(map(str, missing))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
