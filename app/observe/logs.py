"""
Logs: one line an outcome, its event name dotted (`delivery.settled`), fields instead of sentences.

Everything goes to standard error: for people on a terminal, as JSON elsewhere. What libraries log through `logging`
takes the same way. No secret passes: fields with a secret's name, registered values and passwords in URLs are masked.
"""

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TextIO

import orjson
import structlog
from mode import Service

from app.settings import Settings

LIBRARIES = ("aiohttp", "aiokafka", "asyncio", "faust", "kafka", "mode")
"""They tell at INFO what only their makers want to know, so they begin at WARNING."""
MASK = "***"
MAX_HIDDEN = 1000
MIN_HIDDEN_LENGTH = 4
"""A shorter secret would mask every other word."""

_SECRET_NAME = re.compile(
    r"api[_-]?key|token|secret|passw|authorization|cookie|credential|jwt[_-]?key|access[_-]?key|private[_-]?key",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")
_hidden: OrderedDict[str, None] = OrderedDict()


def configure(settings: Settings, role: str = "", *, stream: TextIO | None = None) -> None:
    """
    Makes every logger of this process write as the settings say, to standard error unless a stream is given.

    `role` (`api-0`) stands in each line when it is given. The global key is hidden from here on.
    """
    if settings.api_key:
        hide(settings.api_key)
    # mode tells of every service that starts and stops; what that means is told by the services themselves.
    Service.mundane_level = "debug"
    output = stream or sys.stderr
    human = output.isatty()
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Role(role),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if human
        else structlog.processors.JSONRenderer(serializer=_json, sort_keys=False)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                mask,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level, logging.WARNING))


def hide(secret: str) -> None:
    """Masks this text wherever it would stand in a log line. Of more than a thousand, the latest are kept."""
    if len(secret) >= MIN_HIDDEN_LENGTH:
        _hidden[secret] = None
        _hidden.move_to_end(secret)
        while len(_hidden) > MAX_HIDDEN:
            _hidden.popitem(last=False)


def mask(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor: the line without its secrets."""
    return {name: _masked(name, value) for name, value in event.items()}


class _Role:
    """A processor that says which of our processes writes."""

    def __init__(self, role: str) -> None:
        self._role = role

    def __call__(self, _: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if self._role:
            event.setdefault("role", self._role)
        return event


def _masked(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): _masked(str(key), part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", part) for part in value]
    text = value if isinstance(value, str) else str(value)
    for secret in _hidden:
        if secret in text:
            text = text.replace(secret, MASK)
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text)


def _json(line: Any, **_: Any) -> str:
    """Lone surrogates and the like are no reason to lose a line."""
    try:
        return orjson.dumps(line, default=str).decode()
    except TypeError:
        return orjson.dumps({str(name): ascii(value) for name, value in line.items()}).decode()
