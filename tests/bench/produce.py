"""
A producer as its own process, so that it neither shares the worker's core time unseen nor stops with a test.

`python -m tests.bench.produce --brokers B --topic T --events N [--rate R]` writes the events of a `Workload` and prints
one JSON line. Without a rate it preloads.
"""

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict
from typing import Any

import uvloop

from tests.bench.load import Workload, preload, steady


async def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Writes the events; what was done."""
    workload = Workload(
        instances=chosen.instances,
        conversations=chosen.conversations,
        size_bytes=chosen.size_bytes,
        prefix=chosen.prefix,
    )
    if chosen.rate:
        sent = await steady(
            chosen.brokers, chosen.topic, workload, first=chosen.first, events=chosen.events, per_second=chosen.rate
        )
        return asdict(sent)
    begin = time.monotonic()
    await preload(chosen.brokers, chosen.topic, workload, first=chosen.first, events=chosen.events)
    return {"events": chosen.events, "seconds": time.monotonic() - begin}


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Workload()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first event")
    parser.add_argument("--rate", type=float, default=0.0, help="events per second; 0 for as fast as it goes")
    parser.add_argument("--instances", type=int, default=default.instances)
    parser.add_argument("--conversations", type=int, default=default.conversations)
    parser.add_argument("--size-bytes", type=int, default=default.size_bytes)
    parser.add_argument("--prefix", default=default.prefix)
    # While a broker is away it says so hundreds of times a second; what came of it, the figures tell.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result = uvloop.run(run(parser.parse_args()))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
