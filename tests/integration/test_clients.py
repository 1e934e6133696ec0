"""The clients where Kafka itself misbehaves."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from aiokafka.errors import KafkaTimeoutError

from app.embedded.kafka import EmbeddedKafka
from app.log import clients
from app.log.clients import connect
from app.log.topics import EVENTS, ensure
from app.settings import Settings

pytestmark = pytest.mark.usefixtures("broker")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_producer_stops_while_kafka_is_away(
    make_plain_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, fault: signal.Signals
) -> None:
    """With Kafka killed or frozen a producer still stops, and whoever waits for a record is told that it timed out."""
    monkeypatch.setattr(clients, "PRODUCER_STOP_SECS", 0.3)
    settings = make_plain_settings(SLUICE_PARTITIONS="1")
    embedded = EmbeddedKafka(settings)
    await asyncio.to_thread(embedded.start)
    try:
        kafka = connect(settings, "test")
        await ensure(kafka, settings)
        producer = kafka.producer(request_timeout_ms=2000)
        await producer.start()
        await producer.send_and_wait(settings.topic(EVENTS), b"first", key=b"sales")
        state = embedded.home.read()
        assert state is not None
        assert state.process is not None
        os.kill(state.process.pid, fault)
        waiting = await producer.send(settings.topic(EVENTS), b"second", key=b"sales")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.5)
        await asyncio.wait_for(producer.stop(), 20)
        with pytest.raises(KafkaTimeoutError):
            await waiting
        if fault is signal.SIGSTOP:
            os.kill(state.process.pid, signal.SIGCONT)
    finally:
        await asyncio.to_thread(embedded.stop)
