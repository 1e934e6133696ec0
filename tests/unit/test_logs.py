"""Logs: one JSON line an outcome, without secrets."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from app.observe import logs
from app.settings import Settings

Write = Callable[..., list[dict[str, Any]]]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in logs.LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()
    logs._hidden.clear()


@pytest.fixture
def lines(make_plain_settings: Callable[..., Settings]) -> Callable[[], list[dict[str, Any]]]:
    """Configures logs onto a stream; called, it answers the lines so far."""
    stream = io.StringIO()
    logs.configure(make_plain_settings(), "api-0", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Off a terminal each line is a JSON object with event, level, time and role."""
    structlog.get_logger().info("delivery.settled", instance="sales", attempts=2, latency_ms=1.5)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "delivery.settled",
        "level": "info",
        "role": "api-0",
        "instance": "sales",
        "attempts": 2,
        "latency_ms": 1.5,
    }


def test_terminal(make_plain_settings: Callable[..., Settings]) -> None:
    """On a terminal a line is for people."""
    stream = Terminal()
    logs.configure(make_plain_settings(), stream=stream)
    structlog.get_logger().warning("child.ended", code=3)
    assert "child.ended" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("library", logs.LIBRARIES)
def test_libraries(library: str, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """What libraries log from WARNING on comes the same way; below that they are silent."""
    logging.getLogger(library).info("joined %s", "group")
    logging.getLogger(library).warning("lost %s", "broker")
    assert [(line["event"], line["level"]) for line in lines()] == [("lost broker", "warning")]


def test_level(make_plain_settings: Callable[..., Settings]) -> None:
    """What is below SLUICE_LOG_LEVEL is not written."""
    stream = io.StringIO()
    logs.configure(make_plain_settings(SLUICE_LOG_LEVEL="error"), stream=stream)
    structlog.get_logger().warning("minor")
    logging.getLogger("aiokafka").warning("minor")
    structlog.get_logger().error("major")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["major"]


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "s3cr3t-value"},
        {"apikey": "s3cr3t-value"},
        {"token": "s3cr3t-value"},
        {"headers": {"Authorization": "Bearer s3cr3t-value", "X-Api-Key": "s3cr3t-value"}},
        {"options": [{"secret": "s3cr3t-value"}]},
        {"url": "https://user:s3cr3t-value@example.com/"},
        {"url": "amqp://:s3cr3t-value@example.com/"},
        {"note": "the key is test-key-0123456789"},
        {"error": ValueError("test-key-0123456789 was refused")},
    ],
)
def test_secrets(fields: dict[str, Any], lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Neither a field with a secret's name, nor a password in a URL, nor the global key anywhere is written."""
    structlog.get_logger().error("refused", **fields)
    (line,) = lines()
    assert "s3cr3t" not in json.dumps(line)
    assert "test-key" not in json.dumps(line)
    assert "***" in json.dumps(line)


def test_hidden_in_traceback(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A hidden text is masked in tracebacks and in what libraries log."""
    logs.hide("tok-998877")
    try:
        {}["no tok-998877 here"]
    except KeyError:
        structlog.get_logger().exception("defect")
    logging.getLogger("aiohttp").error("header %s", "tok-998877")
    defect, header = lines()
    assert "KeyError: 'no *** here'" in defect["exception"]
    assert header["event"] == "header ***"


def test_bounded() -> None:
    """Of hidden texts the latest are kept, and one too short to be a secret is not hidden."""
    for number in range(logs.MAX_HIDDEN + 5):
        logs.hide(f"secret-{number}")
    logs.hide("abc")
    assert len(logs._hidden) == logs.MAX_HIDDEN
    assert "abc" not in logs._hidden
    assert f"secret-{logs.MAX_HIDDEN + 4}" in logs._hidden


def test_odd_values(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Bytes, sets, objects and lone surrogates do not lose a line."""
    structlog.get_logger().info("odd", data=b"\xff", names={"a"}, thing=object(), text="\ud800")
    assert len(lines()) == 1
