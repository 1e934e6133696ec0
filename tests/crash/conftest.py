"""A real embedded Kafka for the scenarios, and one of a scenario's own that may be killed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from app import settings
from app.embedded.errors import EmbeddedKafkaError
from app.embedded.kafka import EmbeddedKafka


def _kafka(directory: Path) -> EmbeddedKafka:
    kept = {name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ}
    return EmbeddedKafka(settings.read({**kept, "SLUICE_DATA_DIR": str(directory)}))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str, str], NoReturn]) -> Iterator[str]:
    """The address of a real Kafka, `127.0.0.1:PORT`, up for all scenarios."""
    kafka = _kafka(tmp_path_factory.mktemp("broker"))
    try:
        address = kafka.start()
    except EmbeddedKafkaError as error:
        missing("the embedded Kafka", str(error))
    yield address
    kafka.stop()


@pytest.fixture
def mortal(tmp_path: Path, broker: str) -> Iterator[EmbeddedKafka]:  # noqa: ARG001  Skips where no broker starts.
    """A Kafka of the test's own, not started."""
    kafka = _kafka(tmp_path / "mortal")
    yield kafka
    kafka.stop()
