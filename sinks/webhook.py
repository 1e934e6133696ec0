"""
Webhooks: one POST an event (contract, section 8). Sent means that the receiver answered 2xx.

It cannot tell whether a receiver understood the event, only that it took it; and a request whose answer got lost may
have been taken, so receivers deduplicate by `X-Sluice-Delivery-Id`.
"""

import hmac
import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import cast
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from schemas import Options
from schemas.webhook import Options as WebhookOptions
from sinks import Message, Misconfigured, Receipt, Rejected, SinkContext, SinkError, Throttled, Unavailable, _http
from sinks._errors import FailureKind

JWT_KEY = "jwt_key"
JWT_SECS = 600
RETRY_AFTER_SECS = 86400.0
"""The longest wait that a receiver is believed to mean."""


class Sink:
    """Posts events; its connections serve every address of one scheme, host and port."""

    max_batch = 1
    pipelines = False

    def __init__(self, options: Options, context: SinkContext) -> None:
        self._options = cast("WebhookOptions", options)
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Makes room for connections; the first is made by the first `send`."""
        if self._session is None:
            self._session = _http.open_session(self._context.egress)

    async def send(self, message: Message) -> Receipt:
        """Posts the event; done on 2xx, else raises a SinkError."""
        session = self._session
        options = cast("WebhookOptions", message.options)
        if session is None:
            raise Unavailable(FailureKind.INTERNAL, f"{options.far_end}: the sink is not open")
        now = time.time()
        request = encode(message, self._context.user_agent, now)
        try:
            async with _http.post(
                session, self._context.egress, _parsed(request.url), request.body, request.headers
            ) as response:
                if not response.content.is_eof():
                    await _http.finish(response)
        except _http.ERRORS as error:
            raise _http.failure(error, options.far_end) from error
        if 200 <= response.status < 300:
            return Receipt(response.status)
        raise refusal(response.status, response.headers, options, now)

    async def check(self) -> None:
        """Connects to the receiver and posts nothing: only an event can tell what it answers to events."""
        problem = self._options.refusal()
        if problem is not None:
            raise Misconfigured(FailureKind.REJECTED, problem)
        await _http.probe(self._context.egress, self._options.url)

    async def close(self) -> None:
        """Closes the connections; sends under way fail as unreachable."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


@dataclass(slots=True)
class Request:
    """What goes over the wire, but for what the connection adds (`Host`, `Content-Length`)."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def encode(message: Message, user_agent: str, now: float) -> Request:
    """The request of a message. `now` is epoch seconds. The destination's own headers win over ours."""
    options = cast("WebhookOptions", message.options)
    url, basic = _address(options.url, message.names["suffix"] if options.by_events else "")
    headers = {
        "Accept": "application/json, text/plain, */*",
        "Content-Type": "application/json",
        "User-Agent": user_agent,
        "X-Instance-ID": message.instance_id,
        "X-Instance-Name": _text(message.instance),
        "X-Event-Type": _text(message.event),
        "X-Timestamp": str(message.timestamp_ms),
        "X-Sluice-Event-Id": _text(message.event_id),
        "X-Sluice-Delivery-Id": message.delivery_id,
        "X-Sluice-Attempt": str(message.attempt),
    }
    if basic:
        headers["Authorization"] = basic
    if options.headers:
        _override(headers, options.headers, now)
    return Request(url, headers, message.body)


def _override(headers: dict[str, str], own: Mapping[str, str], now: float) -> None:
    spelled = {name.lower(): name for name in headers}
    secret = own.get(JWT_KEY)
    for name, content in own.items():
        if name == JWT_KEY or (secret and name.lower() == "authorization"):
            continue
        headers.pop(spelled.get(name.lower(), name), None)
        headers[name] = content
    if secret:
        headers["Authorization"] = f"Bearer {token(secret, int(now))}"


def token(secret: str, issued_at: int) -> str:
    """A JSON Web Token (RFC 7519) with the claims of contract 8, signed with HMAC-SHA256."""
    claims = {"iat": issued_at, "exp": issued_at + JWT_SECS, "app": "evolution", "action": "webhook"}
    signed = f"{_JWT_HEADER}.{_segment(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{signed}.{_segment(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def _segment(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


_JWT_HEADER = _segment(b'{"alg":"HS256","typ":"JWT"}')
_NOT_VALID = "url is not valid: it cannot be split into scheme, host and path"


def _text(value: str) -> str:
    """A header's value: as it stands when it is printable ASCII, else percent-encoded UTF-8."""
    if value.isascii() and value.isprintable():
        return value
    return quote(value, safe=" ", errors="replace")


@lru_cache(maxsize=8192)
def _address(url: str, suffix: str) -> tuple[str, str]:
    """The address with the event's name at the end of its path (C2), without its user; and the user's credentials."""
    end = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    path, rest = url[:end], url[end:].partition("#")[0]
    if suffix:
        path = f"{path.rstrip('/')}/{suffix.lstrip('/')}"
    try:
        user, at, host = urlsplit(path).netloc.rpartition("@")
    except ValueError as error:
        raise Misconfigured(FailureKind.REJECTED, _NOT_VALID) from error
    if not at:
        return path + rest, ""
    name, _, password = user.partition(":")
    credentials = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return path.replace(f"{user}@{host}", host, 1) + rest, f"Basic {credentials}"


@lru_cache(maxsize=8192)
def _parsed(url: str) -> URL:
    """The address as aiohttp wants it; what is plain ASCII goes out exactly as it was written."""
    try:
        return URL(url, encoded=url.isascii())
    except ValueError as error:
        raise Misconfigured(FailureKind.REJECTED, _NOT_VALID) from error


def refusal(status: int, headers: Mapping[str, str], options: WebhookOptions, now: float) -> SinkError:
    """
    What an answer other than 2xx means. Its body stays out of the text: it may quote the request.

    A redirect is a failure, since following one would turn the POST into a GET (U20), and one that is tried again,
    since a receiver that moves house may be back; its text says what to do.
    """
    detail = f"{options.far_end} answered {status}{_phrase(status)}"
    wait = retry_after(headers.get("Retry-After"), now)
    if status in options.reject_statuses:
        return Rejected(FailureKind.REJECTED, detail, status=status)
    if status == HTTPStatus.GONE:
        return Misconfigured(FailureKind.GONE, detail, status=status)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Rejected(FailureKind.TOO_LARGE, detail, status=status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Throttled(FailureKind.THROTTLED, detail, status=status, retry_after=wait)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return Unavailable(FailureKind.TIMEOUT, detail, status=status, retry_after=wait)
    if 300 <= status < 400:
        detail += "; redirects are not followed: set url to where it leads"
    return Unavailable(FailureKind.SERVER_ERROR, detail, status=status, retry_after=wait)


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a `Retry-After`, which has a number or a date (RFC 9110, 10.2.3); None where it has neither."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), RETRY_AFTER_SECS)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(at.timestamp() - now, 0.0), RETRY_AFTER_SECS)
