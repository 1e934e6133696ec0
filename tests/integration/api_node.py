"""One API process of the tests: in this loop, on a port of its own, on topics of the test's own."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from app import settings as settings_module
from app.api.process import ApiProcess
from app.settings import Settings
from tests.integration.harness import free_port

KEY = "test-key-0123456789"


def api_settings(broker: str, directory: Path, prefix: str | None = None, **environment: str) -> Settings:
    """Settings of an API process; processes with the same prefix are one installation."""
    pipelines = directory / "pipelines.yaml"
    if not pipelines.exists():
        directory.mkdir(parents=True, exist_ok=True)
        pipelines.write_text("version: 1\n")
    return settings_module.read(
        {
            "SLUICE_BROKERS": broker,
            "SLUICE_PARTITIONS": "4",
            "SLUICE_DATA_DIR": str(directory),
            "SLUICE_TOPIC_PREFIX": prefix or f"t{uuid.uuid4().hex[:12]}.",
            "SLUICE_PIPELINES": str(pipelines),
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(free_port()),
            "AUTHENTICATION_API_KEY": KEY,
            **environment,
        }
    )


class Client:
    """Asks one API process; the global key goes along unless another is given."""

    def __init__(self, process: ApiProcess, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.server_port}"
        self._session = session

    async def ask(
        self, method: str, path: str, *, key: str | None = KEY, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, body (parsed where it is JSON and not empty) and the whole answer. The path goes out as it stands."""
        sent = {**({"apikey": key} if key else {}), **(headers or {})}
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self._session.request(method, url, headers=sent, **options) as response:
            content = await response.read()
            is_json = response.content_type == "application/json" and content
            return response.status, await response.json() if is_json else content, response

    async def set(self, instance: str, body: Any, **options: Any) -> tuple[int, Any]:
        """`set` of the webhook."""
        status, answer, _ = await self.ask("POST", f"/webhook/set/{instance}", json=body, **options)
        return status, answer

    async def find(self, instance: str, **options: Any) -> tuple[int, Any]:
        """`find` of the webhook."""
        status, answer, _ = await self.ask("GET", f"/webhook/find/{instance}", **options)
        return status, answer

    async def post(self, instance: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Sends events."""
        status, answer, _ = await self.ask("POST", f"/events/{instance}", json=body, **options)
        return status, answer

    async def connected(self, within_secs: float = 20.0) -> None:
        """Waits until the process serves what needs Kafka."""
        async with asyncio.timeout(within_secs):
            while (await self.find("no-such-instance"))[0] == 503:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def api_node(settings: Settings, *, number: int = 0, connected: bool = True) -> AsyncIterator[Client]:
    """A running API process, stopped at the end."""
    process = ApiProcess(settings, number=number)
    await process.start()
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(process, settings, session)
            if connected:
                await client.connected()
            yield client
    finally:
        await process.stop()
