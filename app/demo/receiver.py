"""A small webhook receiver: keeps what it got, and fails now and then so that retries can be seen."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

MAX_REQUESTS = 200_000
"""Most requests kept; beyond it they are answered and counted, and no longer kept."""
DELIVERY_HEADER = "x-sluice-delivery-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, as it came."""

    path: str
    delivery_id: str
    """Empty where the request names none."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    status: int
    """What it was answered."""
    at: float
    """Epoch seconds."""

    @property
    def accepted(self) -> bool:
        """Whether it was answered 2xx, and so counts as arrived."""
        return 200 <= self.status < 300


class Receiver:
    """
    Listens on a free port of the loopback; an asynchronous context manager.

    Every `fail_every`-th request is answered 500, but no delivery more than once; 0 for never.
    """

    def __init__(self, *, fail_every: int = 0, host: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.count = 0
        self._fail_every = fail_every
        self._failed: set[str] = set()
        self._host = host
        self._runner: web.ServerRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()  # Up to 1 MiB, aiohttp's default: above any event of the demo.
        self.count += 1
        delivery = request.headers.get(DELIVERY_HEADER, "")
        failing = self._fail_every > 0 and self.count % self._fail_every == 0 and delivery not in self._failed
        if failing:
            self._failed.add(delivery)
        status = 500 if failing else 200
        if len(self.requests) < MAX_REQUESTS:
            self.requests.append(
                Request(
                    path=request.path_qs,
                    delivery_id=delivery,
                    headers={name.lower(): value for name, value in request.headers.items()},
                    body=body,
                    status=status,
                    at=time.time(),
                )
            )
        return web.Response(status=status)
