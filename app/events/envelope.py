"""The envelope: what a receiver sees around an event's data (contract 7.1)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from app.events.event import Event

_NO_VALUES: Mapping[str, Any] = {}
_LONGEST_DATE = 40
_CACHED_SECONDS = 1024
_MAY_BE_ABSENT = frozenset({"sender", "server_url"})


def envelope(
    event: Event,
    *,
    keys: Sequence[str],
    event_name: str,
    server_url: str | None = None,
    apikey: str | None = None,
    values: Mapping[str, Any] = _NO_VALUES,
) -> dict[str, Any]:
    """
    The event in exactly the order of `keys` (`schemas.envelope_keys(transport)`), the keys of its `extra` before them.

    `event_name` is the layout's spelling. `values` holds what else `keys` names (`destination`, `server`, ...) and wins
    over what is known of the event: `id`, `timestamp` (epoch ms) and the fields of 7.1. `sender` and `server_url` are
    absent when unknown, `apikey` is null. `extra` overrides none of `keys`. Nothing of the event is changed or copied.

    Raises KeyError for a key that nobody gave a value for.
    """
    known: dict[str, Any] = {
        "event": event_name,
        "instance": event.instance,
        "data": event.data,
        "date_time": date_time(event),
        "apikey": apikey,
        "timestamp": event.timestamp_ms,
        "id": event.id,
    }
    if event.sender is not None:
        known["sender"] = event.sender
    if server_url:
        known["server_url"] = server_url
    if values:
        known.update(values)
    result = {key: value for key, value in event.extra.items() if key not in keys} if event.extra else {}
    for key in keys:
        if key in known:
            result[key] = known[key]
        elif key not in _MAY_BE_ABSENT:
            raise KeyError(key)
    return result


def encode_envelope(
    event: Event,
    *,
    keys: Sequence[str],
    event_name: str,
    server_url: str | None = None,
    apikey: str | None = None,
    values: Mapping[str, Any] = _NO_VALUES,
) -> bytes:
    """The envelope as JSON, UTF-8, without blanks."""
    return orjson.dumps(
        envelope(event, keys=keys, event_name=event_name, server_url=server_url, apikey=apikey, values=values)
    )


def without_base64(data: Any) -> Any:
    """Data without `message.base64` (contract 0, ruling 4); the same object where there is none, never changed."""
    if not isinstance(data, dict):
        return data
    message = data.get("message")
    if not isinstance(message, dict) or "base64" not in message:
        return data
    return {**data, "message": {key: value for key, value in message.items() if key != "base64"}}


def date_time(event: Event) -> str:
    """When it happened, true UTC with milliseconds and `Z`: as its producer said, else when the log took it (C19)."""
    given = event.date_time
    if given is not None:
        utc = _utc(given)
        if utc is not None:
            return utc
    seconds, milliseconds = divmod(event.timestamp_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


def _utc(text: str) -> str | None:
    """A point in time in ISO 8601, in our form; None for what is none, or has no zone and so could be any."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return None
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


@lru_cache(maxsize=_CACHED_SECONDS)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
