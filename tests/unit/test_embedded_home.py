"""The embedded Kafka's folder: ports that are kept, a state that may be torn, last words that are explained."""

import socket
from pathlib import Path

import pytest

from app.embedded import java
from app.embedded.errors import EmbeddedKafkaError
from app.embedded.home import Home, State, choose_ports
from app.embedded.process import myself


def test_ports_are_kept_while_they_are_free() -> None:
    """The ports of the last start are used again."""
    first = choose_ports(None)
    assert choose_ports(first) == first
    assert first.port != first.controller_port


def test_ports_are_chosen_again_when_one_was_taken() -> None:
    """When another program has one of the ports, two others are chosen."""
    first = choose_ports(None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", first.controller_port))
        other.listen()
        second = choose_ports(first)
    assert first.controller_port not in (second.port, second.controller_port)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What a start left is what the next one finds."""
    home = Home(tmp_path)
    state = State(port=1, controller_port=2, process=myself(), parent=myself(), ready=True)
    home.write(state)
    assert home.read() == state


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", '{"port": 1}', '{"port":1,"controller_port":2,"process":7}'])
def test_a_torn_state_counts_as_none(tmp_path: Path, torn: str) -> None:
    """A state that a crash tore apart is as good as none: nothing is stopped or adopted by it."""
    (tmp_path / "state.json").write_text(torn)
    assert Home(tmp_path).read() is None


def test_two_starts_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """While one process starts it, another waits, and says so when it has waited long enough."""
    home = Home(tmp_path)
    with home.locked(1), pytest.raises(EmbeddedKafkaError, match="SLUICE_DATA_DIR"), home.locked(0.1):
        pass


def test_the_configuration_names_what_it_was_given(tmp_path: Path) -> None:
    """Ports, folder and limits stand in the broker's configuration, and it listens on loopback only."""
    home = Home(tmp_path)
    home.write_configuration(State(port=20001, controller_port=20002), message_bytes=123456)
    lines = home.properties.read_text().splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002" in lines
    assert f"log.dirs={tmp_path / 'data'}" in lines
    assert "message.max.bytes=123456" in lines
    assert "auto.create.topics.enable=false" in lines
    assert "0.0.0.0" not in home.properties.read_text()


def test_the_last_words_are_those_of_java_and_of_the_broker(tmp_path: Path) -> None:
    """The end of both logs is told, however long they are and whatever bytes they hold."""
    home = Home(tmp_path)
    home.console.write_bytes(b"java\xff\n")
    home.log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert home.tail(lines=2).splitlines() == ["java\N{REPLACEMENT CHARACTER}", "line 99998", "line 99999"]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("java.io.IOException: No space left on device", "SLUICE_KAFKA_DISK_BYTES"),
        ("org.apache.kafka.common.KafkaException: Failed to acquire lock on file .lock", "another Kafka uses"),
        ("java.net.BindException: Address already in use", "port"),
        ("java.lang.UnsupportedClassVersionError: kafka/Kafka", "SLUICE_JAVA"),
        ("java.lang.OutOfMemoryError: Java heap space", "SLUICE_MAX_EVENT_BYTES"),
        ("something nobody foresaw", "SLUICE_BROKERS"),
    ],
)
def test_last_words_are_explained(said: str, advice: str) -> None:
    """What Kafka says when it ends is turned into what to do."""
    assert advice in java.explain(said, Path("folder"))
