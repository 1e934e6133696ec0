"""The embedded Kafka, started, killed and started again; nothing here stands in for it."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.embedded import jars, process
from app.embedded.errors import BrokerError, EmbeddedKafkaError
from app.embedded.home import State
from app.embedded.jars import Jar
from app.embedded.kafka import EmbeddedKafka, locate
from app.embedded.progress import Silent
from app.log.clients import Kafka, connect
from app.log.topics import EVENTS, ensure
from app.settings import Settings

pytestmark = pytest.mark.usefixtures("broker")  # Whoever has no embedded Kafka skips all of these.


@pytest.fixture
def home(make_plain_settings: Callable[..., Settings]) -> Settings:
    """Settings of a data directory of its own."""
    return make_plain_settings(SLUICE_PARTITIONS="2")


@pytest.fixture
def embedded(home: Settings) -> Iterator[EmbeddedKafka]:
    """The embedded Kafka of `home`, not started; stopped afterwards."""
    embedded = EmbeddedKafka(home)
    yield embedded
    embedded.stop()


async def produce(kafka: Kafka, topic: str, values: list[bytes]) -> None:
    """All values are acknowledged when this returns."""
    producer = kafka.producer()
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"sales")
    finally:
        await producer.stop()


async def consume(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    """The first so many values."""
    consumer = kafka.consumer(topic, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(count)]
    finally:
        await consumer.stop()


def broker_process(kafka: EmbeddedKafka) -> process.Identity:
    """The process of the broker that is up."""
    state = kafka.home.read()
    assert state is not None
    assert state.process is not None
    return state.process


async def test_acknowledged_records_outlive_a_kill(home: Settings, embedded: EmbeddedKafka) -> None:
    """SIGKILL of the broker loses nothing that was acknowledged; it comes up again on the same port."""
    assert embedded.status() is None
    with pytest.raises(BrokerError, match=r"sluice run.*SLUICE_DATA_DIR"):
        locate(home)
    address = await asyncio.to_thread(embedded.start)
    assert embedded.status() == address
    assert locate(home) == (address,)
    assert embedded.started_here

    client = connect(home, "test")
    await ensure(client, home)
    values = [b"%d" % number for number in range(100)]
    await produce(client, home.topic(EVENTS), values)

    os.kill(broker_process(embedded).pid, signal.SIGKILL)
    assert process.gone(broker_process(embedded), 5)
    assert embedded.status() is None
    assert not embedded.started_here
    assert await asyncio.to_thread(embedded.start) == address
    assert await consume(client, home.topic(EVENTS), 100) == values

    identity = broker_process(embedded)
    await asyncio.to_thread(embedded.stop)
    assert not identity.alive
    assert embedded.status() is None
    embedded.stop()


def test_a_detached_broker_is_found_and_stopped_by_others(home: Settings, embedded: EmbeddedKafka) -> None:
    """`sluice kafka start` leaves it running: another process finds it, starts none beside it, and may stop it."""
    program = "from app import settings; from app.embedded.kafka import EmbeddedKafka as K; K(settings.read()).{}"
    environment = {**os.environ, "SLUICE_DATA_DIR": str(home.data_dir)}
    subprocess.run([sys.executable, "-c", program.format("start(detached=True)")], env=environment, check=True)
    address = embedded.status()
    assert address is not None
    identity = broker_process(embedded)
    assert embedded.start() == address
    assert not embedded.started_here
    assert broker_process(embedded) == identity
    subprocess.run([sys.executable, "-c", program.format("stop()")], env=environment, check=True)
    assert not identity.alive
    assert embedded.status() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_it_ends_with_a_parent_that_is_killed(home: Settings, embedded: EmbeddedKafka) -> None:
    """When its parent is killed it ends too, and what it left does not hinder the next start."""
    program = (
        "import time; from app import settings; from app.embedded.kafka import EmbeddedKafka\n"
        "print(EmbeddedKafka(settings.read()).start(), flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "SLUICE_DATA_DIR": str(home.data_dir)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    address = parent.stdout.readline().strip()
    identity = broker_process(embedded)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    # Started while the old one is still ending: it must not be taken for one that stays.
    assert embedded.start() == address
    assert not identity.alive
    assert embedded.status() == address


def test_leftovers_of_a_crash_do_not_hinder_a_start(embedded: EmbeddedKafka) -> None:
    """
    A state that names a process which is somebody else's by now, and a port that somebody else took, are got over; the
    somebody else is left alone.
    """
    embedded.home.path.mkdir(parents=True)
    innocent = process.identify(os.getppid())
    assert innocent is not None
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        stale = replace(innocent, started="another boot/1")
        embedded.home.write(State(port, controller_port=port, process=stale, parent=stale, ready=True))
        assert embedded.status() is None
        address = embedded.start()
        assert address != f"127.0.0.1:{port}"
        assert embedded.status() == address
    assert innocent.alive


def test_two_data_directories_live_side_by_side(embedded: EmbeddedKafka, broker: str) -> None:
    """Each data directory has a Kafka of its own, on ports of its own, from the same jars."""
    address = embedded.start()
    assert address != broker
    with socket.create_connection(("127.0.0.1", int(broker.rpartition(":")[2])), 1):
        assert embedded.status() == address


def test_a_corrupted_jar_of_the_real_list_is_found(
    tmp_path: Path, make_plain_settings: Callable[..., Settings]
) -> None:
    """One flipped bit in one of the real jars is noticed at the next start, and only that jar is brought again."""
    listed = jars.pinned()
    good = jars.directory(make_plain_settings().cache_dir, listed)
    copied = jars.directory(tmp_path, listed)
    copied.mkdir()
    for path in good.iterdir():
        if path.is_file():
            shutil.copy2(path, copied)
    brought = []

    def bring(jar: Jar, place: Path) -> Path:
        brought.append(jar.artifact)
        place.mkdir(parents=True)
        return Path(shutil.copy(good / jar.filename, place))

    jars.class_path(tmp_path, Silent(), download=bring)
    assert brought == []
    victim = copied / "jspecify-1.0.0.jar"
    damaged = bytearray(victim.read_bytes())
    damaged[100] ^= 1
    victim.write_bytes(damaged)
    jars.class_path(tmp_path, Silent(), download=bring)
    assert brought == ["jspecify"]
    assert victim.read_bytes() == (good / victim.name).read_bytes()


def test_a_kafka_that_does_not_come_up_says_why(embedded: EmbeddedKafka) -> None:
    """When it cannot start, the error holds the end of its log and where the rest is."""
    embedded.home.log_directory.mkdir(parents=True)
    (embedded.home.log_directory / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=another\n")
    with pytest.raises(EmbeddedKafkaError) as caught:
        embedded.start()
    said = str(caught.value)
    assert "node.id" in said or "node id" in said.lower()
    assert str(embedded.home.log) in said
    assert embedded.status() is None


@pytest.mark.parametrize("java", ["/nowhere/java", "/"])
def test_a_java_that_is_none_is_named(make_plain_settings: Callable[..., Settings], java: str) -> None:
    """A SLUICE_JAVA that cannot be run is named with what to do."""
    with pytest.raises(EmbeddedKafkaError, match=f"SLUICE_JAVA={java} .*17 or newer"):
        EmbeddedKafka(make_plain_settings(SLUICE_JAVA=java)).start()


def test_a_java_that_fails_is_told_with_its_words(make_plain_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """A Java that is too old says so in its own words, and the error tells what they mean."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'UnsupportedClassVersionError: class file version 61.0' >&2\nexit 1\n")
    java.chmod(0o755)
    with pytest.raises(EmbeddedKafkaError, match=r"(?s)too old: set SLUICE_JAVA.*class file version 61\.0"):
        EmbeddedKafka(make_plain_settings(SLUICE_JAVA=str(java))).start()


def test_a_data_directory_that_is_a_file_is_told(make_plain_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """A data directory that cannot be made is named with the setting that moves it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedKafkaError, match="SLUICE_DATA_DIR"):
        EmbeddedKafka(make_plain_settings(SLUICE_DATA_DIR=str(tmp_path / "file"))).start()
