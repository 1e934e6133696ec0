"""
What the same HTTP client reaches without Sluice: the two ceilings that S1 stands beside.

`post` sends bodies of 1 KiB as fast as aiohttp goes, with so many in flight. `loop` reads `events` from its beginning,
decodes each with orjson and posts it, unordered and without any of an engine's duties. `tail` reads a topic from now on
and only takes the time, which is the floor of S2: what the producer and Kafka take of a latency. Each prints one JSON
line.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer

from tests.bench.load import Workload
from tests.bench.receiver import MARK
from tests.bench.tally import Histogram

HEADERS = {"Content-Type": "application/json"}


async def post(url: str, events: int, in_flight: int, size_bytes: int) -> dict[str, Any]:
    """Bare aiohttp: the same bodies, no Kafka."""
    make = Workload(size_bytes=size_bytes).make(12)
    bodies = [make(number)[2] for number in range(1000)]
    shared = (bodies[number % len(bodies)] for number in range(events))

    async def take() -> bytes | None:
        return next(shared, None)

    return await _send_all(url, take, in_flight)


async def loop(url: str, brokers: str, topic: str, events: int, in_flight: int) -> dict[str, Any]:
    """Consumes, decodes and posts, and keeps no order."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(2000)

    async def feed() -> None:
        seen = 0
        while seen < events:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=2000)).values():
                for record in records[: events - seen]:
                    decoded = orjson.loads(record.value)
                    body = orjson.dumps({"event": decoded["event"], "instance": "bench", "data": decoded["data"]})
                    await queue.put(body)
                    seen += 1
        for _ in range(in_flight):
            await queue.put(None)

    feeding = asyncio.create_task(feed())
    try:
        return await _send_all(url, queue.get, in_flight)
    finally:
        feeding.cancel()
        await consumer.stop()


async def tail(brokers: str, topic: str, events: int) -> dict[str, Any]:
    """Latency from sending to the hands of a bare consumer; `ready` on standard error says that it listens."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=None, enable_auto_commit=False, auto_offset_reset="latest"
    )
    await consumer.start()
    try:
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        latency = Histogram()
        while latency.count < events:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                now = time.time_ns()
                for record in records:
                    mark = record.value[record.value.rfind(MARK) + len(MARK) :]
                    latency.add((now - int(mark[: mark.index(b'"')].rpartition(b"/")[2])) // 1000)
    finally:
        await consumer.stop()
    return {"p50_ms": latency.percentile_ms(0.5), "p99_ms": latency.percentile_ms(0.99)}


async def _send_all(url: str, take: Callable[[], Awaitable[bytes | None]], in_flight: int) -> dict[str, Any]:
    failed = 0
    done = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def worker() -> None:
            nonlocal failed, done
            while (body := await take()) is not None:
                async with session.post(url, data=body, headers=HEADERS) as response:
                    await response.read()
                    failed += response.status != 200
                    done += 1

        begin = time.monotonic()
        used = _cpu_secs()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        seconds = time.monotonic() - begin
    return {
        "events": done,
        "failed": failed,
        "seconds": seconds,
        "per_second": done / seconds,
        "cpu_us": (_cpu_secs() - used) / done * 1e6,
        "in_flight": in_flight,
    }


def _cpu_secs() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["post", "loop", "tail"])
    parser.add_argument("--url", default="")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--size-bytes", type=int, default=1024)
    parser.add_argument("--brokers", default="")
    parser.add_argument("--topic", default="")
    chosen = parser.parse_args()
    if chosen.what == "post":
        result = uvloop.run(post(chosen.url, chosen.events, chosen.in_flight, chosen.size_bytes))
    elif chosen.what == "tail":
        result = uvloop.run(tail(chosen.brokers, chosen.topic, chosen.events))
    else:
        result = uvloop.run(loop(chosen.url, chosen.brokers, chosen.topic, chosen.events, chosen.in_flight))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
