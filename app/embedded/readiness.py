"""Whether a broker is ready: its coordinators answer, which is later than its port being open (components.md, 1)."""

import asyncio
import logging
from collections.abc import Callable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

POLL_SECS = 0.05
GROUP, TRANSACTION = 0, 1


async def answers(address: str, patient: Callable[[], bool]) -> bool:
    """
    True once both coordinators have answered; False when `patient` says no before.

    Asking is what creates the coordinators' topics, so that waiting without asking would not help.
    """
    # Refused connections are what is expected here, and the client would log each as an error.
    for name in ("aiokafka", "aiokafka.client", "aiokafka.conn"):
        logging.getLogger(name).addFilter(_drop)
    try:
        while patient():
            if await _asked(address):
                return True
            await asyncio.sleep(POLL_SECS)
        return False
    finally:
        for name in ("aiokafka", "aiokafka.client", "aiokafka.conn"):
            logging.getLogger(name).removeFilter(_drop)


async def _asked(address: str) -> bool:
    if not await _open(address):
        return False  # Cheaper than the client, and most of the wait is this.
    admin = AIOKafkaAdminClient(bootstrap_servers=address, client_id="sluice-ready", request_timeout_ms=2000)
    try:
        await admin.start()
        for kind in (GROUP, TRANSACTION):
            await admin.find_coordinator("sluice-ready", kind)
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return True


async def _open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


def _drop(_record: logging.LogRecord) -> bool:
    return False
