"""What every storey of the tests shares: settings of their own, and parts that may be missing."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from app import settings as settings_module
from app.settings import Settings

API_KEY = "test-key-0123456789"


@pytest.fixture(scope="session")
def missing() -> Callable[[str, str], NoReturn]:
    """`missing(part, how to get it)` skips the test with both; in CI a missing part is a failure."""

    def end(part: str, how: str) -> NoReturn:
        message = f"{part} is missing: {how}"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)

    return end


@pytest.fixture
def make_plain_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a test's own, without a broker: `make_plain_settings(SLUICE_PARTITIONS="4") -> Settings`."""

    def make(**environment: str) -> Settings:
        return settings_module.read(
            {
                "SLUICE_DATA_DIR": str(tmp_path / "data"),
                "SLUICE_TOPIC_PREFIX": f"t{uuid.uuid4().hex[:12]}.",
                "SLUICE_EGRESS_ALLOW": "127.0.0.0/8",
                "AUTHENTICATION_API_KEY": API_KEY,
                **{name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ},
                **environment,
            }
        )

    return make
