"""From a record of `events` to an event, or the reason why it is none (design, section 4)."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import orjson

from app.events.catalogue import wire_name
from app.events.event import Event, Poison

MAX_INSTANCE_LENGTH = 255
MAX_ID_LENGTH = 512
MAX_TEXT_LENGTH = 512
MAX_ONLY = 64
MAX_OFFSET_DIGITS = 18
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The last millisecond of the year 9999; a date has no later one."""

SURELY_SHALLOW = 200
"""With no more opening brackets than this nothing is nested too deep to be written again (252 levels)."""
_CACHED_INSTANCES = 65_536
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Record(Protocol):
    """What is read of a record of Kafka; aiokafka's ConsumerRecord is one."""

    @property
    def key(self) -> bytes | None:
        """The instance's name."""

    @property
    def value(self) -> bytes | None:
        """The event."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """In the order in which they were set; of two with one name the last counts."""

    @property
    def partition(self) -> int:
        """Where it stands."""

    @property
    def offset(self) -> int:
        """Where it stands."""

    @property
    def timestamp(self) -> int | None:
        """Epoch milliseconds."""


def decode(record: Record, log_id: str) -> Event:
    """
    The event of a record; `log_id` is the log's nonce, the first part of ids that come from the position.

    A missing `data` is null, as in `remove.instance`. An optional field that is null or an empty text counts as not
    given; one of the wrong type is Poison, since its meaning would be lost. Other keys (`instance`, `apikey`,
    `server_url`, ...) are passed over: the key names the instance, and an `apikey` never goes on.

    Raises Poison, and nothing else, with what was wrong and where.
    """
    key = record.key
    if key is None:
        raise Poison("the record has no key; the instance's name is wanted there")
    value = record.value
    if value is None:
        raise Poison("the record has no value; a JSON object with `event` and `data` is wanted")
    instance = _instance(key) if len(key) <= 4 * MAX_INSTANCE_LENGTH else _too_long("the key")
    body = _body(value)

    given = body.get("event")
    if not isinstance(given, str):
        raise Poison(f"`event` is {_kind(given)}; the event's name is wanted, for example messages.upsert")
    name = wire_name(given)
    if name is None:
        raise Poison(f"`event` is {_shown(given)}; words of letters and digits are wanted, for example messages.upsert")

    id_, config_offset = None, -1
    for header, content in record.headers:
        if header == "id":
            id_ = _header_id(content)
        elif header == "config-offset":
            config_offset = _config_offset(content)
    if id_ is None:
        id_ = _body_id(body.get("id"))
    partition, offset = record.partition, record.offset
    timestamp = record.timestamp
    get = body.get
    sender, date_time, extra, only = get("sender"), get("date_time"), get("extra"), get("only")
    return Event(
        instance=instance,
        name=name,
        data=body.get("data"),
        id=f"{log_id}-{partition}-{offset}" if id_ is None else id_,
        given_id=id_ is not None,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp if timestamp is not None and 0 <= timestamp <= MAX_TIMESTAMP_MS else 0,
        size=len(value),
        sender=None if sender is None else _text("sender", sender),
        date_time=None if date_time is None else _text("date_time", date_time),
        extra=None if extra is None else _extra(extra),
        only=None if only is None else _only(only),
        config_offset=config_offset,
    )


def _body(value: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Poison(f"the value is no JSON: {error.msg}, line {error.lineno}, column {error.colno}") from error
    if not isinstance(body, dict):
        raise Poison(f"the value is {_kind(body)}; a JSON object with `event` and `data` is wanted")
    if value.count(b"[") + value.count(b"{") <= SURELY_SHALLOW:
        return body
    try:
        # What cannot be written again is no event. This costs less than counting brackets does; two levels are spare
        # for what a destination puts around.
        orjson.dumps([[body]])
    except orjson.JSONEncodeError as error:
        raise Poison(f"the value cannot be written as JSON again: {error}; 252 levels are the most") from error
    return body


@lru_cache(maxsize=_CACHED_INSTANCES)
def _instance(key: bytes) -> str:
    try:
        name = key.decode()
    except UnicodeDecodeError as error:
        raise Poison(f"the key is no UTF-8, byte {error.start}; the instance's name is wanted there") from error
    if not name.strip():
        raise Poison("the key is empty; the instance's name is wanted there")
    if len(name) > MAX_INSTANCE_LENGTH:
        _too_long("the key")
    if _CONTROL.search(name) is not None:
        raise Poison(f"the key {_shown(name)} has control characters; the instance's name is wanted there")
    return name


def _too_long(what: str) -> str:
    raise Poison(f"{what} is longer than {MAX_INSTANCE_LENGTH} characters; the instance's name is wanted there")


def _header_id(content: bytes | None) -> str | None:
    try:
        return _id("the header `id`", (content or b"").decode())
    except UnicodeDecodeError as error:
        raise Poison(f"the header `id` is no UTF-8, byte {error.start}") from error


def _body_id(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, str):
        return _id("`id`", given)
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise Poison(f"`id` is {_kind(given)}; a text or a whole number is wanted")


def _id(what: str, given: str) -> str | None:
    if len(given) > MAX_ID_LENGTH:
        raise Poison(f"{what} has {len(given)} characters; {MAX_ID_LENGTH} are the most")
    if not given.isprintable() and _CONTROL.search(given) is not None:
        raise Poison(f"{what} has control characters: {_shown(given)}")
    return given or None


def _config_offset(content: bytes | None) -> int:
    if content == b"-1":
        return -1
    if content is None or not content.isdigit() or len(content) > MAX_OFFSET_DIGITS:
        raise Poison(f"the header `config-offset` is {_shown(content)}; an offset in ASCII digits is wanted")
    return int(content)


def _text(field: str, given: Any) -> str | None:
    if not isinstance(given, str):
        raise Poison(f"`{field}` is {_kind(given)}; a text is wanted")
    if len(given) > MAX_TEXT_LENGTH:
        raise Poison(f"`{field}` has {len(given)} characters; {MAX_TEXT_LENGTH} are the most")
    return given or None


def _extra(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        raise Poison(f"`extra` is {_kind(given)}; an object is wanted")
    return {key: value for key, value in given.items() if key != "apikey"} or None


def _only(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(transport, str) for transport in given):
        raise Poison(f"`only` is {_kind(given)}; a list of transports is wanted, each a text")
    if len(given) > MAX_ONLY:
        raise Poison(f"`only` has {len(given)} transports; {MAX_ONLY} are the most")
    return tuple(given)


def _kind(value: Any) -> str:
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an array" if isinstance(value, list) else "an object"


def _shown(value: str | bytes | None) -> str:
    """A short form in ASCII for a message."""
    if value is None:
        return "empty"
    return ascii(value if len(value) <= 60 else value[:60]) + ("" if len(value) <= 60 else " (cut)")
