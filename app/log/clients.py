"""The one place where Kafka clients are made: same brokers, same limits, same promises everywhere."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.protocol.admin import ApiVersionRequest

from app.embedded.errors import BrokerError
from app.embedded.kafka import locate
from app.log import repairs
from app.settings import Settings

__all__ = ["BrokerError", "Kafka", "Producer", "connect", "reachable"]

RECORD_ROOM_BYTES = 64 << 10
"""What a record has over its event: key and headers. A dead letter, whose headers tell more, has it twice."""
MEBIBYTE = 1 << 20
REQUEST_TIMEOUT_MS = 30_000
PRODUCER_STOP_SECS = 5.0

NEEDED = (
    # (the protocol's number of a request, least version, what for, first Kafka that has it)
    (22, 0, "idempotent producers and fencing (InitProducerId)", "0.11"),
    (11, 5, "static membership (JoinGroup 5)", "2.3"),
    (9, 5, "offsets with their leader's epoch (OffsetFetch 5)", "2.1"),
)
LEAST_KAFKA = "2.3"


def quiet() -> None:
    """The client says at DEBUG what it does with every fetch: 8 % of a worker's time (faust.md, 2)."""
    logging.getLogger("aiokafka").setLevel(logging.WARNING)


class Producer(AIOKafkaProducer):
    """A producer that can be stopped while Kafka is away."""

    async def stop(self) -> None:
        """
        What is waiting is sent, for at most PRODUCER_STOP_SECS (and the end of a request under way); whoever awaits the
        rest gets KafkaTimeoutError.

        The client's own would wait for ever: an idempotent producer never gives a record up.
        """
        stopping = asyncio.ensure_future(super().stop())
        try:
            await asyncio.wait((stopping,), timeout=PRODUCER_STOP_SECS)
        finally:
            if not stopping.done() and self._sender.sender_task is not None:
                # First the sender, which ends the requests under way, then what they leave: the order of the client's
                # own fatal errors, and private, since it offers no other way in.
                self._sender.sender_task.cancel()
                late = KafkaTimeoutError("the producer was stopped before Kafka took the record; it may have")
                stopping.add_done_callback(lambda _: self._message_accumulator.fail_all(late))
        await stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka:
    """How to reach Kafka, and the largest event. Clients come unstarted; whoever asks starts and stops them."""

    brokers: tuple[str, ...]
    max_event_bytes: int
    client_id: str

    @property
    def event_record_bytes(self) -> int:
        """The largest record of `events`."""
        return self.max_event_bytes + RECORD_ROOM_BYTES

    @property
    def dead_letter_bytes(self) -> int:
        """The largest record of `dead-letters`."""
        return self.max_event_bytes + 2 * RECORD_ROOM_BYTES

    def producer(self, **overrides: Any) -> Producer:
        """
        A producer whose awaited record is on all replicas, once: acks=all, idempotent.

        While Kafka is away a record waits without limit, so bound the wait: what was given up may still be written.
        At most 500 sends may wait for one partition: beyond it the client is quadratic (faust.md, 3).
        """
        return Producer(
            **self._common(),
            **{
                "acks": "all",
                "enable_idempotence": True,
                "linger_ms": 2,
                "max_batch_size": 131_072,
                "max_request_size": self.dead_letter_bytes,
                "request_timeout_ms": REQUEST_TIMEOUT_MS,
                **overrides,
            },
        )

    def consumer(self, *topics: str, group: str | None = None, **overrides: Any) -> AIOKafkaConsumer:
        """
        A consumer that commits nothing by itself, and raises where an offset is out of the log's range unless
        `auto_offset_reset` is given: a silent jump would hide a loss.

        Fetches are small, a larger record comes alone (KIP-74): a full buffer is 1 MiB a partition, not the largest
        event a partition.
        """
        repairs.apply()
        return AIOKafkaConsumer(
            *topics,
            group_id=group,
            **self._common(),
            **{
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "max_partition_fetch_bytes": MEBIBYTE,
                "fetch_max_bytes": max(16 * MEBIBYTE, self.dead_letter_bytes),
                "request_timeout_ms": REQUEST_TIMEOUT_MS,
                **overrides,
            },
        )

    def admin(self, **overrides: Any) -> AIOKafkaAdminClient:
        """For topics, configurations and groups; it is `close`d, not stopped."""
        return AIOKafkaAdminClient(**self._common(), **{"request_timeout_ms": REQUEST_TIMEOUT_MS, **overrides})

    def _common(self) -> dict[str, Any]:
        quiet()
        return {"bootstrap_servers": list(self.brokers), "client_id": self.client_id}


def connect(settings: Settings, client_id: str) -> Kafka:
    """
    Kafka as the settings name it: SLUICE_BROKERS, or the embedded one of the data directory.

    Raises BrokerError when there is neither. Nothing is sent yet; `reachable` asks.
    """
    return Kafka(brokers=locate(settings), max_event_bytes=settings.max_event_bytes, client_id=client_id)


async def reachable(kafka: Kafka, timeout_secs: float = 10.0) -> None:
    """
    A broker answers and is new enough when this returns.

    Raises BrokerError with the address, what came back, and what to do.
    """
    addresses = ",".join(kafka.brokers)
    quiet()
    client = AIOKafkaClient(
        bootstrap_servers=list(kafka.brokers), client_id=kafka.client_id, request_timeout_ms=int(timeout_secs * 1000)
    )
    try:
        await client.bootstrap()
        answer = await client.send(client.get_random_node(), ApiVersionRequest())
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        raise BrokerError(
            f"Kafka at {addresses} does not answer: {error!r}; see that it runs, that this machine reaches that "
            "address and the one it advertises, and that SLUICE_BROKERS names its plaintext listener"
        ) from error
    finally:
        await client.close()
    versions = {key: highest for key, _, highest in answer.api_versions}
    missing = [what for key, least, what, _ in NEEDED if versions.get(key, -1) < least]
    if missing:
        raise BrokerError(
            f"Kafka at {addresses} is too old: it lacks {', '.join(missing)}; "
            f"use Kafka {LEAST_KAFKA} or newer, or unset SLUICE_BROKERS and let `sluice run` bring its own"
        )
