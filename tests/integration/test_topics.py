"""The five topics on a real Kafka: made as they must be, refused when they are not."""

import asyncio
import struct
from collections.abc import Callable

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

from app.embedded.errors import BrokerError, EmbeddedKafkaError
from app.log.clients import Kafka, connect, reachable
from app.log.topics import TopicError, ensure, table
from app.settings import Settings

NAMES = ("events", "config", "lanes", "deliveries", "dead-letters")
DAY_MS = 86_400_000
MEBIBYTE = 1 << 20


async def configurations(kafka: Kafka, settings: Settings) -> dict[str, dict[str, str]]:
    """What Kafka says of the five, by short name."""
    admin = kafka.admin()
    await admin.start()
    try:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, settings.topic(name)) for name in NAMES]
        return {
            topic.removeprefix(settings.topic_prefix): {entry[0]: entry[1] for entry in entries}
            for answer in await admin.describe_configs(wanted)
            for _, _, _, topic, entries in answer.resources
        }
    finally:
        await admin.close()


async def create(kafka: Kafka, settings: Settings, topics: dict[str, tuple[int, dict[str, str]]]) -> None:
    """Topics as somebody else made them: partitions and configuration by short name."""
    admin = kafka.admin()
    await admin.start()
    try:
        answer = await admin.create_topics(
            [NewTopic(settings.topic(name), count, 1, topic_configs=made) for name, (count, made) in topics.items()]
        )
        assert not any(code for _, code, *_ in answer.topic_errors)
    finally:
        await admin.close()


async def test_missing_topics_are_created_as_the_design_says(settings: Settings) -> None:
    """A start on an empty Kafka makes the five topics; the next start finds them as they must be."""
    kafka = connect(settings, "test")
    await reachable(kafka)
    report = await ensure(kafka, settings, embedded=False)
    assert sorted(report.created) == sorted(settings.topic(name) for name in NAMES)
    found = await configurations(kafka, settings)
    assert {name: found[name]["cleanup.policy"] for name in NAMES} == {
        "events": "delete",
        "config": "compact",
        "lanes": "compact",
        "deliveries": "delete",
        "dead-letters": "delete",
    }
    assert found["events"]["retention.ms"] == found["deliveries"]["retention.ms"] == str(7 * DAY_MS)
    assert found["dead-letters"]["retention.ms"] == str(30 * DAY_MS)
    assert found["config"]["min.compaction.lag.ms"] == str(DAY_MS)
    assert found["config"]["max.message.bytes"] == str(16 * MEBIBYTE)
    assert found["lanes"]["segment.ms"] == "60000"
    assert found["lanes"]["segment.bytes"] == str(16 * MEBIBYTE)
    assert float(found["lanes"]["min.cleanable.dirty.ratio"]) == 0.1
    assert found["lanes"]["delete.retention.ms"] == str(2 * DAY_MS)
    event_bytes, dead_bytes = (int(found[name]["max.message.bytes"]) for name in ("events", "dead-letters"))
    assert settings.max_event_bytes < event_bytes == dead_bytes - 65536
    again = await ensure(kafka, settings, embedded=False)
    assert (again.created, again.altered, again.partitions) == ((), (), 4)


async def test_processes_that_start_together_agree(settings: Settings) -> None:
    """Several processes that create the topics at once all succeed, and each topic is made by one of them."""
    kafka = connect(settings, "test")
    reports = await asyncio.gather(*(ensure(kafka, settings, embedded=True) for _ in range(5)))
    created = [name for report in reports for name in report.created]
    assert sorted(created) == sorted(settings.topic(name) for name in NAMES)


async def test_the_embedded_broker_gets_twelve_partitions(make_settings: Callable[..., Settings]) -> None:
    """Where nothing is set, the embedded Kafka's topics have 12 partitions, and `config` one."""
    settings = make_settings(SLUICE_PARTITIONS="")
    kafka = connect(settings, "test")
    assert (await ensure(kafka, settings, embedded=True)).partitions == 12
    assert {topic.name: topic.partitions for topic in table(kafka, settings, partitions=48, embedded=False)} == {
        "events": 48,
        "config": 1,
        "lanes": 48,
        "deliveries": 48,
        "dead-letters": 48,
    }


async def test_a_new_disk_cap_takes_effect(make_settings: Callable[..., Settings]) -> None:
    """On the embedded Kafka another disk cap or event size changes the topics that are there."""
    settings = make_settings()
    kafka = connect(settings, "test")
    await ensure(kafka, settings, embedded=True)
    smaller = make_settings(SLUICE_TOPIC_PREFIX=settings.topic_prefix, SLUICE_KAFKA_DISK_BYTES=str(1 << 30))
    report = await ensure(kafka, smaller, embedded=True)
    assert settings.topic("events") in report.altered
    events = (await configurations(kafka, settings))["events"]
    assert 4 * (int(events["retention.bytes"]) + int(events["segment.bytes"])) <= 1 << 30
    assert events["cleanup.policy"] == "delete"
    assert (await ensure(kafka, smaller, embedded=True)).altered == ()


async def test_a_disk_cap_that_holds_nothing_is_refused(make_settings: Callable[..., Settings]) -> None:
    """A cap too small for two segments a partition is refused with the smallest that is not."""
    settings = make_settings(SLUICE_KAFKA_DISK_BYTES=str(64 * MEBIBYTE))
    with pytest.raises(EmbeddedKafkaError, match=r"SLUICE_KAFKA_DISK_BYTES to \d+ or more"):
        await ensure(connect(settings, "test"), settings, embedded=True)


async def test_topics_that_are_wrong_are_refused_all_at_once(settings: Settings) -> None:
    """Every wrong topic is named with what is, what should be, and the command that mends it; nothing is created."""
    kafka = connect(settings, "test")
    small = {"max.message.bytes": "1000000"}
    await create(
        kafka,
        settings,
        {
            "events": (4, small),
            "config": (2, {"cleanup.policy": "delete"}),
            "lanes": (3, {"cleanup.policy": "delete"}),
            "deliveries": (5, {}),
        },
    )
    with pytest.raises(TopicError) as caught:
        await ensure(kafka, settings, embedded=False)
    lines = str(caught.value).splitlines()
    prefix = settings.topic_prefix

    def line(*words: str) -> str:
        (found,) = [line for line in lines if all(word in line for word in words)]
        return found

    assert "SLUICE_MAX_EVENT_BYTES" in line(f"{prefix}events has max.message.bytes=1000000", "kafka-configs.sh")
    assert "--delete" in line(f"{prefix}config has 2 partitions, it must have 1")
    assert "--add-config cleanup.policy=compact" in line(f"{prefix}config has cleanup.policy=delete")
    assert "--alter" in line(f"{prefix}lanes has 3 partitions, it must have 4", "--partitions 4")
    assert "--add-config cleanup.policy=compact" in line(f"{prefix}lanes has cleanup.policy=delete")
    assert "SLUICE_TOPIC_PREFIX" in line(f"{prefix}deliveries has 5 partitions, it must have 4")
    assert not any("dead-letters" in line for line in lines)


async def test_a_changed_partition_count_is_refused(make_settings: Callable[..., Settings]) -> None:
    """A SLUICE_PARTITIONS that differs from what is there is refused with the reason, and what is there stays."""
    settings = make_settings()
    kafka = connect(settings, "test")
    await ensure(kafka, settings, embedded=True)
    other = make_settings(SLUICE_TOPIC_PREFIX=settings.topic_prefix, SLUICE_PARTITIONS="8")
    with pytest.raises(
        TopicError, match=r"events has 4 partitions, SLUICE_PARTITIONS is 8.*order.*SLUICE_PARTITIONS=4"
    ):
        await ensure(kafka, other, embedded=True)
    unset = make_settings(SLUICE_TOPIC_PREFIX=settings.topic_prefix, SLUICE_PARTITIONS="")
    assert (await ensure(kafka, unset, embedded=True)).partitions == 4


async def test_more_copies_than_brokers_are_refused(make_settings: Callable[..., Settings]) -> None:
    """A replication factor that the cluster cannot keep is refused in Kafka's words with the setting to change."""
    settings = make_settings(SLUICE_REPLICATION_FACTOR="3")
    with pytest.raises(TopicError, match=r"(?s)3 copies.*SLUICE_REPLICATION_FACTOR"):
        await ensure(connect(settings, "test"), settings, embedded=False)


async def test_the_largest_event_passes_and_a_larger_does_not(make_settings: Callable[..., Settings]) -> None:
    """Producer, topic and consumer agree on the largest event, although fetches are much smaller."""
    settings = make_settings(SLUICE_MAX_EVENT_BYTES=str(4 * MEBIBYTE))
    kafka = connect(settings, "test")
    await ensure(kafka, settings, embedded=True)
    largest = b"x" * (4 * MEBIBYTE)
    producer = kafka.producer()
    consumer = kafka.consumer(settings.topic("events"), auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    try:
        for value in (b"small", largest, b"last"):
            await producer.send_and_wait(settings.topic("events"), value, key=b"sales", headers=[("id", b"1")])
        received = [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(3)]
        assert received == [b"small", largest, b"last"]
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(settings.topic("events"), largest + b"x" * 100_000, key=b"sales")
    finally:
        await consumer.stop()
        await producer.stop()


@pytest.mark.parametrize("answer", ["nothing listens", "it closes", "it speaks HTTP", "it is silent"])
async def test_a_kafka_that_does_not_answer_is_named(make_plain_settings: Callable[..., Settings], answer: str) -> None:
    """An address where no Kafka answers is named, with what came back and what to check."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer == "it is silent":
            await reader.read()
        elif answer == "it speaks HTTP":
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if answer == "nothing listens":
        server.close()
    try:
        kafka = connect(make_plain_settings(SLUICE_BROKERS=f"127.0.0.1:{port}"), "test")
        with pytest.raises(BrokerError, match=f"127.0.0.1:{port} does not answer.*SLUICE_BROKERS"):
            await reachable(kafka, timeout_secs=0.5)
    finally:
        server.close()


async def test_a_kafka_that_is_too_old_is_refused(make_plain_settings: Callable[..., Settings]) -> None:
    """A broker without static membership is refused with what it lacks and the least version."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        while head := await reader.read(4):
            request = await reader.readexactly(struct.unpack(">i", head)[0])
            key, _, correlation = struct.unpack(">hhi", request[:8])
            if key == 18:  # ApiVersions, version 0: error, then (request, least, highest) of each.
                versions = ((18, 0, 0), (3, 0, 1), (11, 0, 2), (9, 0, 3))
                body = struct.pack(">hi", 0, len(versions)) + b"".join(struct.pack(">hhh", *row) for row in versions)
            else:  # Metadata, version 1: one broker, which is the controller, no topics.
                body = struct.pack(">iih9sih", 1, 0, 9, b"127.0.0.1", port, -1) + struct.pack(">ii", 0, 0)
            writer.write(struct.pack(">ii", len(body) + 4, correlation) + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        kafka = connect(make_plain_settings(SLUICE_BROKERS=f"127.0.0.1:{port}"), "test")
        with pytest.raises(BrokerError, match=r"too old: it lacks .*static membership.*Kafka 2\.3 or newer"):
            await reachable(kafka, timeout_secs=2)
    finally:
        server.close()
