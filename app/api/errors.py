"""Errors as answers: always `{"status", "error", "response": {"message"}}`, the message's shape by the case (2.1)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

import orjson
from aiohttp import web

CONTENT_TYPE = "application/json; charset=utf-8"


class ApiError(Exception):
    """An answer that is an error: status, the word for it, the message in the shape that upstream gives it."""

    def __init__(
        self, status: int, message: Any, *, error: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.error = error or HTTPStatus(status).phrase
        self.message = message
        self.headers = headers or {}


def unauthorized() -> ApiError:
    """No key, or one that opens nothing here."""
    return ApiError(401, "Unauthorized")


def unknown_instance(name: str) -> ApiError:
    """The instance was never created, declared, or heard of."""
    return ApiError(404, [f'The "{name}" instance does not exist'])


def unknown_route(method: str, url: str) -> ApiError:
    """No such path, or not with this method."""
    return ApiError(404, [f"Cannot {method} {url}"])


def violations(messages: Sequence[str]) -> ApiError:
    """A body against its schema, a message a violation: an array inside an array."""
    return ApiError(400, [list(messages)])


def malformed(text: str) -> ApiError:
    """A body that cannot be parsed. The word is upstream's, and so is that it is a string."""
    return ApiError(400, text, error="Internal Server Error")


def bad_request(text: str) -> ApiError:
    """Any other request that cannot be understood."""
    return ApiError(400, [text])


def conflict(text: str) -> ApiError:
    """What was asked contradicts what stands."""
    return ApiError(409, [text])


def too_large(text: str) -> ApiError:
    """A body, an event or a list above its limit."""
    return ApiError(413, [text], error="Payload Too Large")


def too_many(text: str, retry_after_secs: float) -> ApiError:
    """A quota is spent."""
    return ApiError(429, [text], headers=retry_after(retry_after_secs))


def unavailable(text: str, retry_after_secs: float = 1.0) -> ApiError:
    """Kafka, or the room for what waits for it, is away for now."""
    return ApiError(503, [text], headers=retry_after(retry_after_secs))


def retry_after(seconds: float) -> Mapping[str, str]:
    """Whole seconds, at least one (RFC 9110, 10.2.3)."""
    return {"Retry-After": str(max(1, ceil(seconds)))}


def answer(error: ApiError) -> web.Response:
    """The error as an answer."""
    body = {"status": error.status, "error": error.error, "response": {"message": error.message}}
    return json(body, error.status, error.headers)


def json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON; texts that no UTF-8 can hold are escaped."""
    try:
        content = orjson.dumps(body)
    except TypeError:
        content = orjson.dumps(_printable(body))
    return web.Response(body=content, status=status, headers={**(headers or {}), "Content-Type": CONTENT_TYPE})


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_printable(part) for part in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(part) for key, part in value.items()}
    return value
