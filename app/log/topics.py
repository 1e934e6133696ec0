"""The five topics (design, section 4): what each is for, how it is made, and what is wrong with one that is there."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from app.embedded.disk import least_cap, retention
from app.embedded.errors import BrokerError
from app.log.clients import Kafka
from app.settings import Settings

EMBEDDED_PARTITIONS = 12
PARTITIONS = 48
MOST_REPLICAS = 3
MEBIBYTE = 1 << 20
DAY_MS = 86_400_000
CONFIG_RECORD_BYTES = 16 * MEBIBYTE
"""One `apply` is one record batch (fencing.md, 6)."""
DEFAULT_RECORD_BYTES = 1_048_588
"""What Kafka takes where a topic says nothing."""

SETTLE_SECS = 15.0
"""Longest wait for created topics to have leaders everywhere."""
SETTLE_POLL_SECS = 0.02

EVENTS = "events"
CONFIG = "config"
LANES = "lanes"
DELIVERIES = "deliveries"
DEAD_LETTERS = "dead-letters"


class TopicError(Exception):
    """Topics are not as they must be; the message lists all, each with what is, what should be, and the mending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """
    One topic as it must be.

    `record_bytes` is the largest batch it takes, `cleanup` what Kafka does with what is old, `configs` everything it
    is made with, as Kafka spells it.
    """

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    record_bytes: int
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What `ensure` did: full names of the topics it created, and of those it gave a new configuration."""

    created: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    partitions: int = 0
    """Of `events`, and so of all but `config`."""


def table(kafka: Kafka, settings: Settings, *, partitions: int, embedded: bool) -> tuple[Topic, ...]:
    """
    The five, with `partitions` for all but `config`.

    On the embedded Kafka the disk cap bounds `events`; `deliveries` and `dead-letters` may each take a quarter of it
    besides. Raises EmbeddedKafkaError when the cap is too small for so many partitions.
    """
    event, dead = kafka.event_record_bytes, kafka.dead_letter_bytes
    capped: dict[str, dict[str, str]] = {}
    if embedded:
        cap = settings.kafka_disk_bytes
        for name, share, largest in (
            (EVENTS, cap, event),
            (DELIVERIES, cap // 4, DEFAULT_RECORD_BYTES),
            (DEAD_LETTERS, cap // 4, dead),
        ):
            # The small shares never refuse a cap that is enough for the events.
            bound = share if name == EVENTS else max(share, least_cap(partitions, largest))
            limits = retention(bound, partitions, largest)
            capped[name] = {
                "retention.bytes": str(limits.retention_bytes),
                "segment.bytes": str(limits.segment_bytes),
            }
    return (
        _topic(
            EVENTS,
            partitions,
            "delete",
            event,
            {
                "retention.ms": str(7 * DAY_MS),
                # Retention counts from when we got it: a producer's wrong clock must not shorten an outage's cover.
                "message.timestamp.type": "LogAppendTime",
                **capped.get(EVENTS, {}),
            },
        ),
        _topic(CONFIG, 1, "compact", CONFIG_RECORD_BYTES, {"min.compaction.lag.ms": str(DAY_MS)}),
        _topic(
            LANES,
            partitions,
            "compact",
            DEFAULT_RECORD_BYTES,
            {
                "segment.ms": "60000",
                "segment.bytes": str(16 * MEBIBYTE),
                "min.cleanable.dirty.ratio": "0.1",
                # Not less: aiokafka cannot read a marker that was emptied sooner (fencing.md, What we build, 3).
                "delete.retention.ms": str(2 * DAY_MS),
            },
        ),
        _topic(
            DELIVERIES,
            partitions,
            "delete",
            DEFAULT_RECORD_BYTES,
            {"retention.ms": str(7 * DAY_MS), **capped.get(DELIVERIES, {})},
        ),
        _topic(
            DEAD_LETTERS,
            partitions,
            "delete",
            dead,
            {"retention.ms": str(30 * DAY_MS), **capped.get(DEAD_LETTERS, {})},
        ),
    )


def _topic(
    name: str, partitions: int, cleanup: Literal["delete", "compact"], record_bytes: int, configs: Mapping[str, str]
) -> Topic:
    made_with = {"cleanup.policy": cleanup, "max.message.bytes": str(record_bytes), **configs}
    return Topic(name=name, partitions=partitions, cleanup=cleanup, record_bytes=record_bytes, configs=made_with)


@dataclass(frozen=True, slots=True)
class _Found:
    """One topic as it is."""

    partitions: int
    configs: Mapping[str, str]


async def ensure(kafka: Kafka, settings: Settings, *, embedded: bool | None = None) -> Report:
    """
    All five exist as they must be when this returns; several processes may call at once.

    The Kafka is taken for the embedded one when SLUICE_BROKERS is not set, unless `embedded` says. On that one,
    which is ours alone, a configuration that differs (a new disk cap, a larger event) is put
    right; elsewhere only what would break us is refused, with the command that mends it.

    Raises TopicError with every problem at once; BrokerError when Kafka does not answer.
    """
    admin = kafka.admin()
    try:
        await admin.start()
        return await _ensure(admin, kafka, settings, embedded=not settings.brokers if embedded is None else embedded)
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerError(
            f"Kafka at {','.join(kafka.brokers)} did not let us look after the topics "
            f"{settings.topic_prefix}*: {error!r}; see that it runs and that we may create and describe topics"
        ) from error
    finally:
        await admin.close()


async def _ensure(admin: AIOKafkaAdminClient, kafka: Kafka, settings: Settings, *, embedded: bool) -> Report:
    names = [settings.topic(name) for name in (EVENTS, CONFIG, LANES, DELIVERIES, DEAD_LETTERS)]
    found = await _describe(admin, names)
    partitions = _partitions(settings, found, embedded=embedded)
    topics = table(kafka, settings, partitions=partitions, embedded=embedded)
    absent = [topic for topic in topics if settings.topic(topic.name) not in found]
    created: tuple[str, ...] = ()
    if absent and not _problems(kafka, settings, topics, found):
        created = await _create(admin, settings, absent)
        # Looked at again: another process may have created some of them, by other settings.
        found = await _settled(admin, names)
        partitions = _partitions(settings, found, embedded=embedded)
        topics = table(kafka, settings, partitions=partitions, embedded=embedded)
    altered: tuple[str, ...] = ()
    if embedded:
        altered = await _alter(admin, settings, topics, found)
        if altered:
            found = await _describe(admin, names)
    if problems := _problems(kafka, settings, topics, found):
        raise TopicError(
            f"topics at {','.join(kafka.brokers)} are not as they must be:\n"
            + "\n".join(f"- {line}" for line in problems)
        )
    return Report(created=created, altered=altered, partitions=partitions)


def _partitions(settings: Settings, found: Mapping[str, _Found], *, embedded: bool) -> int:
    """What `events` has; else what is set; else the default."""
    if events := found.get(settings.topic(EVENTS)):
        return events.partitions
    return settings.partitions or (EMBEDDED_PARTITIONS if embedded else PARTITIONS)


async def _describe(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, _Found]:
    """Those that exist and have a leader for every partition, by full name."""
    counts: dict[str, int] = {}
    # All topics, since asking for one by name creates it where the cluster creates topics by itself.
    for topic in await admin.describe_topics():
        led = all(partition["error_code"] == 0 for partition in topic["partitions"])
        if topic["topic"] in names and topic["error_code"] == 0 and topic["partitions"] and led:
            counts[topic["topic"]] = len(topic["partitions"])
    configs = await _configs(admin, list(counts)) if counts else {}
    return {name: _Found(count, configs[name]) for name, count in counts.items() if name in configs}


async def _settled(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, _Found]:
    """All of them, once every one that was just created is known and led."""
    deadline = time.monotonic() + SETTLE_SECS
    while len(found := await _describe(admin, names)) < len(names):
        if time.monotonic() >= deadline:
            absent = ", ".join(sorted(set(names) - set(found)))
            raise TopicError(f"{absent} created, but without a leader after {SETTLE_SECS:g} s; see the brokers' logs")
        await asyncio.sleep(SETTLE_POLL_SECS)
    return found


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs = {}
    for answer in await admin.describe_configs(wanted):
        for error_code, message, _, name, entries in answer.resources:
            if error_code == 3:
                continue  # Deleted since it was described.
            if error_code:
                raise for_code(error_code)(f"describing the configuration of {name}: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _create(admin: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> tuple[str, ...]:
    brokers = len((await admin.describe_cluster())["brokers"])
    replicas = settings.replication_factor or min(MOST_REPLICAS, brokers)
    answer = await admin.create_topics(
        [
            NewTopic(settings.topic(topic.name), topic.partitions, replicas, topic_configs=dict(topic.configs))
            for topic in topics
        ]
    )
    created, refused = [], []
    for name, error_code, *message in answer.topic_errors:
        if error_code == 0:
            created.append(name)
        elif error_code != TopicAlreadyExistsError.errno:  # Another process was quicker.
            said = message[0] if message and message[0] else for_code(error_code).__name__
            refused.append(f"{name} could not be created with {replicas} copies: {said}")
    if refused:
        raise TopicError(
            "\n".join([*refused, "(SLUICE_REPLICATION_FACTOR and SLUICE_PARTITIONS say how they are made)"])
        )
    return tuple(created)


async def _alter(
    admin: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic], found: Mapping[str, _Found]
) -> tuple[str, ...]:
    different = [
        topic
        for topic in topics
        if (there := found.get(settings.topic(topic.name)))
        and any(there.configs.get(key) != value for key, value in topic.configs.items())
    ]
    if not different:
        return ()
    answers: list[Any] = await admin.alter_configs(
        [
            ConfigResource(ConfigResourceType.TOPIC, settings.topic(topic.name), dict(topic.configs))
            for topic in different
        ]
    )
    for answer in answers:
        for error_code, message, _, name in answer.resources:
            if error_code:
                raise for_code(error_code)(f"configuring {name}: {message}")
    return tuple(settings.topic(topic.name) for topic in different)


def _problems(kafka: Kafka, settings: Settings, topics: Sequence[Topic], found: Mapping[str, _Found]) -> list[str]:
    """What is wrong, a line each: the topic, what is, what should be, and what mends it."""
    server = f"--bootstrap-server {','.join(kafka.brokers)}"
    problems = []
    for topic in topics:
        name = settings.topic(topic.name)
        there = found.get(name)
        if there is None:
            continue
        problems += _partition_problems(settings, topic, there.partitions, f"kafka-topics.sh {server}", name)
        alter = f"kafka-configs.sh {server} --alter --entity-type topics --entity-name {name} --add-config"
        policy = there.configs.get("cleanup.policy", "")
        if policy != topic.cleanup:
            problems.append(
                f"{name} has cleanup.policy={policy}, it must be {topic.cleanup}: "
                f"{alter} cleanup.policy={topic.cleanup}"
            )
        largest = int(there.configs.get("max.message.bytes", topic.record_bytes))
        if largest < topic.record_bytes:
            problems.append(
                f"{name} has max.message.bytes={largest}, it must be {topic.record_bytes} or more: "
                f"{alter} max.message.bytes={topic.record_bytes}"
                + (" (or lower SLUICE_MAX_EVENT_BYTES)" if topic.name in (EVENTS, DEAD_LETTERS) else "")
            )
    return problems


def _partition_problems(settings: Settings, topic: Topic, count: int, tool: str, name: str) -> list[str]:
    if topic.name == EVENTS and settings.partitions and settings.partitions != count:
        moved = (
            f"{name} has {count} partitions, SLUICE_PARTITIONS is {settings.partitions}: changing the count moves "
            f"instances to other partitions and breaks their order; set SLUICE_PARTITIONS={count} or unset it, "
            "or begin anew with another SLUICE_TOPIC_PREFIX"
        )
        return [moved]
    if count == topic.partitions:
        return []
    if count < topic.partitions:
        mending = f"{tool} --alter --topic {name} --partitions {topic.partitions}"
    else:
        mending = (
            f"partitions cannot be taken away: {tool} --delete --topic {name} if what it holds may go "
            "(it is made again at the next start), or begin anew with another SLUICE_TOPIC_PREFIX"
        )
    reason = "it is one sequence" if topic.name == CONFIG else f"as many as {settings.topic(EVENTS)}"
    return [f"{name} has {count} partitions, it must have {topic.partitions} ({reason}): {mending}"]
