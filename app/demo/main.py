"""
`sluice demo`: the whole thing on this machine, shown with made-up events and, with `--once`, checked.

What must arrive is worked out beside the engine (`expectations.py`), what did arrive is what the receiver got
(`receiver.py`), and `checks.py` compares the two and the ledger.
"""

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from app.demo import expectations
from app.demo.board import Board
from app.demo.generator import GeneratedEvent, Generator
from app.demo.node import SHIPPED, DemoError, Node, environment
from app.demo.receiver import Receiver
from app.demo.screen import Screen
from app.embedded import progress
from app.embedded.kafka import EmbeddedKafka
from app.log import clients
from app.log.clients import Kafka
from app.settings import Settings, read

EVENTS = 4000
SEED = 20260101
CONVERSATIONS = 40
FAIL_EVERY = 50
CHUNK_EVENTS = 100
PAUSE_SECS = 0.05
"""Between chunks: flat out, latencies would tell of the queue and of nothing else."""
WATCHED_PAUSE_SECS = 0.15
"""The same when somebody watches: the table would be full before it was seen."""
SETTLE_SECS = 30.0
QUIET_SECS = 0.3
"""After all has arrived: what comes twice comes now."""
SET_INSTANCE = "padaria"
"""Not in the file: it appears with its first event, and is configured through the API as REST clients do."""
SET_BODY = {
    "enabled": True,
    "byEvents": True,
    "base64": False,
    "events": ["MESSAGES_UPSERT", "MESSAGES_UPDATE", "SEND_MESSAGE", "CONNECTION_UPDATE"],
}
INTERRUPTED = 130


def run(settings: Settings, *, once: bool, events: int = EVENTS, seed: int = SEED) -> int:
    """
    Runs the demo; the process's exit code.

    With `once` it ends when everything is checked: 0 when every expected delivery arrived once and in order, else 1
    with what is wrong. Without, it stays up after the events were sent, until Ctrl-C.
    """
    fetcher = progress.reporter()
    try:
        # Here and not in the child, so that a first start shows how far it is.
        EmbeddedKafka(settings, progress=fetcher).fetch()
    finally:
        fetcher.close()
    return asyncio.run(_Demo(settings, once=once, events=events, seed=seed).run())


class _Demo:
    """One run."""

    def __init__(self, settings: Settings, *, once: bool, events: int, seed: int) -> None:
        self._settings = settings
        self._once = once
        self._events = events
        self._seed = seed
        self._begin = time.monotonic()
        self._board = Board(f"demo-{secrets.token_hex(4)}", ())
        self._screen = Screen(self._board.lines)
        self._shown = False

    async def run(self) -> int:
        """Starts everything, shows it, stops everything; the exit code."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await self._run()
        except asyncio.CancelledError:
            # Whoever watched long enough ends the demo as it should be ended.
            return 0 if self._shown and not self._once else INTERRUPTED
        except (DemoError, expectations.UnsupportedError) as error:
            self._screen.say(f"demo: {error}")
            return 1

    async def _run(self) -> int:
        async with Receiver(fail_every=FAIL_EVERY) as receiver:
            chosen = environment(self._settings, receiver.url)
            if not SHIPPED.exists():
                raise DemoError(f"{SHIPPED} is not there; the demo runs from a checkout of the project")
            instances, destinations = expectations.from_file(SHIPPED, chosen)
            self._board.destinations.extend(destinations)
            async with Node(chosen) as node:
                self._tell("starting Sluice and its Kafka")
                await node.ready(lambda waits: self._tell(f"waiting: {waits}"))
                self._tell("ready")
                kafka = clients.connect(read(chosen), "sluice-demo")
                async with _ledger(kafka, read(chosen), self._board), _producer(kafka) as producer:
                    return await self._show(receiver, node, producer, instances, ",".join(kafka.brokers))

    async def _show(
        self, receiver: Receiver, node: Node, producer: AIOKafkaProducer, instances: tuple[str, ...], brokers: str
    ) -> int:
        sender = _Sender(node, producer, read(node.environment).topic("events"), self._board, receiver.url, instances)
        generator = Generator(
            self._seed, (*instances, SET_INSTANCE), CONVERSATIONS, start_ms=time.time_ns() // 1_000_000
        )
        watching = asyncio.create_task(self._watch(receiver))
        with self._screen:
            for chunk in _chunks(islice(generator, self._events)):
                await sender.send(chunk)
                node.check()
                watched = self._screen.console.is_terminal and not self._once
                await asyncio.sleep(WATCHED_PAUSE_SECS if watched else PAUSE_SECS)
            self._tell(f"{self._board.sent:,} events sent, {sender.over_rest:,} over REST, the others into Kafka")
            await self._settle(node)
        watching.cancel()
        self._board.see(receiver.requests)
        self._screen.console.print(self._screen.table())
        problems = self._board.problems(receiver.requests)
        for problem in problems:
            self._screen.say(f"WRONG: {problem}")
        if not problems:
            self._tell(
                f"all {len(self._board.expected):,} expected deliveries arrived, each once and in the order of its "
                f"conversation; {sum(not request.accepted for request in receiver.requests)} were refused once and "
                "retried; the ledger agrees"
            )
        self._shown = True
        if not self._once:
            await self._stay(receiver, node, brokers, instances[0])
        return 1 if problems else 0

    async def _watch(self, receiver: Receiver) -> None:
        while True:
            self._board.see(receiver.requests)
            await asyncio.sleep(0.05)

    async def _settle(self, node: Node) -> None:
        deadline = time.monotonic() + SETTLE_SECS
        while not self._board.settled and time.monotonic() < deadline:
            node.check()
            await asyncio.sleep(0.02)
        await asyncio.sleep(QUIET_SECS)

    async def _stay(self, receiver: Receiver, node: Node, brokers: str, instance: str) -> None:
        """Until Ctrl-C: where everything is, and what else arrives."""
        event = '{"event": "messages.upsert", "data": {"key": {"remoteJid": "5511900000001@s.whatsapp.net", '
        event += '"fromMe": false}, "messageType": "conversation", "message": {"conversation": "hello"}}}'
        for line in (
            "",
            f"API      {node.url}",
            f"key      {node.key}",
            f"Kafka    {brokers}",
            f"log      {node.log}",
            "",
            "Send an event:",
            f"  curl -X POST {node.url}/events/{instance} -H 'apikey: {node.key}' \\",
            f"    -H 'content-type: application/json' -d '{event}'",
            "",
            "What arrives is shown here. Ctrl-C ends everything.",
        ):
            self._screen.say(line)
        seen = len(receiver.requests)
        while True:
            node.check()
            for request in receiver.requests[seen:]:
                text = request.body[:160].decode("utf-8", "replace")
                self._screen.say(f"{request.status} {request.path} {text}")
            seen = len(receiver.requests)
            await asyncio.sleep(0.1)

    def _tell(self, text: str) -> None:
        self._screen.say(f"{time.monotonic() - self._begin:5.1f} s  {text}")


class _Sender:
    """Sends events the two ways there are, each instance always the same way, so that its order is known."""

    def __init__(
        self,
        node: Node,
        producer: AIOKafkaProducer,
        topic: str,
        board: Board,
        receiver_url: str,
        instances: tuple[str, ...],
    ) -> None:
        self._node = node
        self._producer = producer
        self._topic = topic
        self._board = board
        self._receiver_url = receiver_url
        self._rest = {SET_INSTANCE, *instances[1::2]}
        self._set = False
        self.over_rest = 0

    async def send(self, events: list[GeneratedEvent]) -> None:
        """Sends them; all are in the log when this returns."""
        by_instance: dict[str, list[GeneratedEvent]] = {}
        for event in events:
            by_instance.setdefault(event.instance, []).append(event)
        fresh = by_instance.get(SET_INSTANCE)
        if fresh and not self._set:
            await self._introduce(fresh.pop(0))
        async with asyncio.TaskGroup() as group:
            for instance, own in by_instance.items():
                if own:
                    send = self._over_rest if instance in self._rest else self._into_kafka
                    group.create_task(send(instance, own))

    async def _introduce(self, first: GeneratedEvent) -> None:
        """Its first event makes the instance; then it is configured as programs written for Evolution API do it."""
        await self._over_rest(SET_INSTANCE, [first])
        body = {"url": f"{self._receiver_url}/{SET_INSTANCE}", **SET_BODY}
        await self._node.post(f"/webhook/set/{SET_INSTANCE}", {"webhook": body})
        self._board.destinations.append(expectations.section(SET_INSTANCE, body))
        self._set = True

    async def _over_rest(self, instance: str, events: list[GeneratedEvent]) -> None:
        bodies = [{**event.body(), "id": self._noted(event)} for event in events]
        await self._node.post(f"/events/{instance}", bodies)
        self.over_rest += len(bodies)

    async def _into_kafka(self, instance: str, events: list[GeneratedEvent]) -> None:
        acks = []
        for event in events:
            headers = [("id", self._noted(event).encode())]
            body = orjson.dumps({name: value for name, value in event.body().items() if name != "id"})
            acks.append(await self._producer.send(self._topic, body, instance.encode(), headers=headers))
        for ack in acks:
            await ack

    def _noted(self, event: GeneratedEvent) -> str:
        self._board.send(event)
        return self._board.event_id(event)


def _chunks(events: Iterator[GeneratedEvent]) -> Iterator[list[GeneratedEvent]]:
    while chunk := list(islice(events, CHUNK_EVENTS)):
        yield chunk


@contextlib.asynccontextmanager
async def _producer(kafka: Kafka) -> AsyncIterator[AIOKafkaProducer]:
    producer = kafka.producer()
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def _ledger(kafka: Kafka, settings: Settings, board: Board) -> AsyncIterator[None]:
    """Reads the ledger from now on into the board."""
    consumer: Any = kafka.consumer(settings.topic("deliveries"), auto_offset_reset="latest")
    await consumer.start()

    async def read_on() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    board.tell(orjson.loads(record.value))

    reading = None
    try:
        partitions = consumer.assignment()
        await consumer.seek_to_end(*partitions)
        for partition in partitions:
            await consumer.position(partition)
        reading = asyncio.create_task(read_on())
        yield
    finally:
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await consumer.stop()
