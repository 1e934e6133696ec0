"""A receiver of webhooks on loopback: HTTP/1.1 by hand, so that it can also misbehave as no library lets it."""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.webhook import Options
from sinks import Message

ALLOW = ("127.0.0.0/8",)
LARGEST = 16 << 20
"""The default of SLUICE_MAX_EVENT_BYTES."""
GAPS: Mapping[str, str] = {
    "far end down at open": "HTTP connects when it sends: open has nobody to ask",
    "wrong credentials are misconfigured": "401 is in the list of statuses that reject the event (contract 8); "
    "many rejections in a row pause the destination",
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrived whole; `headers` have lower-case names."""

    line: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    def tells(self, message: Message) -> bool:
        """Whether everything a far end may be told of a message stands in the headers."""
        told = {
            "x-instance-id": message.instance_id,
            "x-instance-name": message.instance,
            "x-event-type": message.event,
            "x-timestamp": str(message.timestamp_ms),
            "x-sluice-event-id": message.event_id,
            "x-sluice-delivery-id": message.delivery_id,
            "x-sluice-attempt": str(message.attempt),
        }
        return told.items() <= self.headers.items()

    @property
    def id(self) -> str:
        return self.headers["x-sluice-delivery-id"]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the receiver does with one request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    """Sent instead of everything above."""
    reset: bool = False
    """The connection is reset, after `raw` if there is any."""
    endless: bool = False
    """The body never ends."""
    silent: bool = False
    """Nothing is sent until `release`."""
    stays: bool = False
    """After `raw` the connection stays open, and nothing more comes."""


class FarEnd:
    """The receiver. `script` has the next answers; when it is empty, `usual` is the answer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._held = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._arrivals: list[Arrival] = []
        self.connections = 0
        self.port = 0
        self.limit = LARGEST
        self.usual = Answer()
        self.script: deque[Answer] = deque()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hook"

    def options(self) -> Options:
        """Options that reach this far end."""
        return Options(url=self.url)

    def wrong_credentials(self) -> Options:
        """Options that this far end refuses, with a secret that no error may show."""
        self.usual = Answer(status=401)
        return Options(url=self.url, headers={"Authorization": "Bearer sesame-secret"})

    async def start(self) -> None:
        """Listens; after a `stop` on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Goes away as a process that dies: nothing listens, and every connection is cut."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self.release()
        for writer in list(self._writers):
            writer.transport.abort()
        await server.wait_closed()

    def stall(self) -> None:
        """Requests are taken and not answered until `release`."""
        self._held.clear()
        self.usual = Answer(silent=True)

    def release(self) -> None:
        """Ends `stall`."""
        self.usual = Answer()
        self._held.set()

    def received(self) -> Sequence[Arrival]:
        """What arrived and was accepted so far."""
        return tuple(self._arrivals)

    async def arrivals(self, count: int) -> Sequence[Arrival]:
        """Waits until this many requests arrived."""
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: len(self._arrivals) >= count), 10)
        return self.received()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer, connection):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass  # The other side hung up, which is its right.
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        length = int(headers["content-length"])
        body = await reader.readexactly(length)
        if length > self.limit:
            answer = Answer(status=413)
        else:
            answer = self.script.popleft() if self.script else self.usual
            async with self._arrived:
                self._arrivals.append(Arrival(head[0], headers, body, connection))
                self._arrived.notify_all()
        if answer.silent:
            await self._held.wait()
        if answer.raw is not None:
            writer.write(answer.raw)
        elif not answer.reset:
            extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            size = 1 << 40 if answer.endless else len(answer.body)
            writer.write(f"HTTP/1.1 {answer.status} Whatever\r\n{extra}Content-Length: {size}\r\n\r\n".encode())
            writer.write(answer.body)
        await writer.drain()
        while answer.endless:
            writer.write(b"x" * 65536)
            await writer.drain()
        return not answer.reset and (answer.raw is None or answer.stays)
