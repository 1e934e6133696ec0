"""Bodies of requests: read within limits of size, of time and of what all of them hold together, then parsed."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from app.api import errors, forms

TIMEOUT_SECS = 60.0
"""Longest wait for a body that a client has announced."""
LEAST_CHARGE_BYTES = 4096
"""What even an empty request holds."""
FORM_TYPE = "application/x-www-form-urlencoded"


class Room:
    """The bytes that all requests under way may hold together, from their first byte until Kafka has them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        return self._held

    def hold(self, size_bytes: int) -> None:
        """Takes so much of the room; ApiError 503 when there is not so much left."""
        if self._held + size_bytes > self._limit:
            raise errors.unavailable(
                f"this process holds {self._held} bytes of requests, of at most {self._limit}; nothing was stored, "
                "try again"
            )
        self._held += size_bytes

    def free(self, size_bytes: int) -> None:
        """Gives so much back."""
        self._held -= size_bytes


class Share:
    """One request's part of the room; given back once, when everything that holds on to it has let go."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0
        self._holders = 1
        self.grow(LEAST_CHARGE_BYTES)

    def grow(self, size_bytes: int) -> None:
        """Holds so much more; ApiError 503."""
        self._room.hold(size_bytes)
        self._bytes += size_bytes

    def keep(self) -> None:
        """One more holds on to it."""
        self._holders += 1

    def release(self) -> None:
        """One lets go."""
        self._holders -= 1
        if self._holders == 0:
            self._room.free(self._bytes)


async def read(request: web.Request, share: Share, limit_bytes: int) -> bytes:
    """The body, decompressed where it came compressed. ApiError 413 above the limit, 408 when it does not come."""
    announced = request.content_length or 0
    if announced > limit_bytes:
        raise _over(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(TIMEOUT_SECS):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit_bytes:
                    raise _over(limit_bytes)
                share.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise errors.ApiError(408, [f"the body did not come within {TIMEOUT_SECS:.0f} s"]) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise errors.bad_request(f"the body did not come whole: {error}") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_json(content: bytes) -> Any:
    """
    What a body in JSON says; ApiError 400 with the parser's text.

    Of two keys with one name the last counts, as in upstream's parser; NaN and more than 1,024 levels are no JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise errors.malformed(f"the body is no JSON: {error.msg} ({place})") from error


def parse(headers: Mapping[str, str], content: bytes) -> Any:
    """What a body says, in JSON or urlencoded; one that is empty is an empty object, as upstream reads it."""
    if not content:
        return {}
    if headers.get("Content-Type", "").split(";")[0].strip().lower() == FORM_TYPE:
        return forms.parse(content)
    return parse_json(content)


def _over(limit_bytes: int) -> errors.ApiError:
    return errors.too_large(f"the body has more than {limit_bytes} bytes (SLUICE_MAX_EVENT_BYTES)")
