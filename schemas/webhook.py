"""Webhooks: each event is one HTTP POST to the receiver's address (contract, sections 3, 8 and 11.2)."""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from schemas import _options
from schemas._events import toggles
from schemas._options import option
from schemas._section import Section, SectionField
from schemas._variables import Variable, flag, flag_unless_false, integer_or_default

REJECT_STATUSES = (400, 401, 403, 404, 422)
MAX_URL = 2048
MAX_HEADERS = 64
MAX_HEADER_VALUE = 8192

OWNED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that frame the request or belong to the connection (RFC 9110, 7.6.1): only the client itself sets them."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def _header_texts(value: Any) -> Any:
    """Headers as texts: numbers and booleans as JSON writes them, null left out (contract 3.1 takes any values)."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return value
    texts = {}
    for name, content in value.items():
        if content is None:
            continue
        if isinstance(content, bool | int | float):
            texts[name] = json.dumps(content)
        elif isinstance(content, str):
            texts[name] = content
        else:
            raise ValueError(f"header {name!r}: a text, a number or a boolean is wanted")  # noqa: TRY004  pydantic's.
    return texts


def _header_rules(headers: dict[str, str]) -> dict[str, str]:
    """Headers that can stand in a request; messages name the header and never its value."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"{len(headers)} headers are too many: at most {MAX_HEADERS} are sent")
    seen: set[str] = set()
    for name, content in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"header {name!r}: a name has letters, digits and hyphens only (RFC 9110, 5.6.2)")
        lower = name.lower()
        if lower in OWNED_HEADERS:
            raise ValueError(f"header {name!r} cannot be set: it belongs to the connection; leave it out")
        if lower in seen:
            raise ValueError(f"header {name!r} is given twice; names differ by more than their case")
        seen.add(lower)
        if _CONTROL.search(content):
            raise ValueError(f"header {name!r}: its value has a line break or another control character")
        if len(content) > MAX_HEADER_VALUE:
            raise ValueError(f"header {name!r}: its value is longer than {MAX_HEADER_VALUE} characters")
    return headers


def _statuses_rule(statuses: tuple[int, ...]) -> tuple[int, ...]:
    for status in statuses:
        if not 300 <= status <= 599:
            raise ValueError(f"{status} is no status of a refusal; numbers from 300 to 599 are wanted")
    return statuses


Headers = Annotated[dict[str, str], BeforeValidator(_header_texts), AfterValidator(_header_rules)]


class Options(_options.Options):
    """A receiver's address, and what goes there beside the body."""

    # Headers hold credentials, and pydantic would print them beside its complaint.
    model_config = ConfigDict(hide_input_in_errors=True)

    transport: ClassVar[str] = "webhook"

    url: str = option(
        description="Where events are posted to; begins with `http://` or `https://`.",
        example="https://crm.example.com/hook",
        max_length=MAX_URL,
    )
    headers: Headers = option(
        {},
        description="Sent with every event; they win over the headers that Sluice sets. `jwt_key` is not sent but "
        "becomes `Authorization: Bearer` with a token signed by it (HS256, ten minutes).",
        example={"Authorization": "Bearer ${env:CRM_TOKEN}"},
        secret=True,
    )
    by_events: bool = option(False, description="Whether the event's name is appended to the path of the address.")
    base64: bool = option(False, description="Whether media stand in the body, as `data.message.base64`.")
    reject_statuses: Annotated[tuple[int, ...], AfterValidator(_statuses_rule)] = option(
        REJECT_STATUSES,
        description="Statuses that mean the receiver will never take this event: it is not tried again.",
        max_length=100,
    )

    @property
    def far_end(self) -> str:
        """Scheme, host and port: addresses of one server share its connections."""
        return _origin(self.url)

    def refusal(self) -> str | None:
        """Why no request can be made to the address, or None (contract 8, eligibility)."""
        return _refusal(self.url)


@lru_cache(maxsize=4096)
def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    default = {"http": 80, "https": 443}.get(parts.scheme, 0)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{default if port is None else port}"


@lru_cache(maxsize=4096)
def _refusal(url: str) -> str | None:
    if not url.startswith(("http://", "https://")):
        return "url begins with neither http:// nor https://, so nothing can be posted to it"
    if _CONTROL.search(url) or " " in url.strip():
        return "url has blanks or control characters in it; percent-encode them"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"url is not valid: {error}"
    if not parts.hostname:
        return "url names no host"
    if port == 0:
        return "url names port 0, where nothing can listen"
    return None


def destination_text(options: Options) -> str:
    """The envelope's `destination`: the address as configured, never with an event's name behind it (contract 8)."""
    return options.url


def _to_options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keyword arguments of `Options` for an instance's stored row."""
    return {
        "url": row.get("url") or "",
        "headers": row.get("headers") or {},
        "by_events": bool(row.get("webhookByEvents")),
        "base64": bool(row.get("webhookBase64")),
    }


SECTION = Section(
    wrapper_required=True,
    fields=(
        SectionField(
            stored="url",
            kind="string",
            accepts=("url", "webhookUrl", "webhook_url"),
            default="",
            required=True,
            max_length=MAX_URL,
        ),
        SectionField(stored="headers", kind="object", accepts=("headers", "webhookHeaders"), secret=True),
        SectionField(
            stored="webhookByEvents",
            kind="boolean",
            accepts=("byEvents", "webhookByEvents", "webhook_by_events"),
            default=False,
            alias="webhook_by_events",
        ),
        SectionField(
            stored="webhookBase64",
            kind="boolean",
            accepts=("base64", "webhookBase64", "webhook_base64"),
            default=False,
            alias="webhook_base64",
        ),
    ),
    row_order=(
        "id",
        "url",
        "headers",
        "enabled",
        "events",
        "webhookByEvents",
        "webhookBase64",
        "createdAt",
        "updatedAt",
        "instanceId",
    ),
    to_options=_to_options,
    unset={"url": "", "enabled": False, "events": [], "webhookByEvents": False, "webhookBase64": False},
)

ENVELOPE = ("event", "instance", "data", "destination", "date_time", "sender", "server_url", "apikey")


def _timeout(value: str) -> float:
    """Milliseconds as seconds, within the limits of `timeout_secs`."""
    seconds = integer_or_default(30_000)(value) / 1000
    if not 0.05 <= seconds <= 600:
        raise ValueError("milliseconds from 50 to 600000 are wanted")
    return seconds


def _whole(default: int, most: int) -> Callable[[str], int]:
    """Upstream's reading of a whole number (0 gives the default), and our limit on it."""

    def parse(value: str) -> int:
        result = integer_or_default(default)(value)
        if result > most:
            raise ValueError(f"a whole number of at most {most} is wanted")
        return result

    return parse


def _jitter(value: str) -> float:
    """A share; 0 gives the default, as upstream reads it (contract 11.2)."""
    try:
        share = float(value)
    except ValueError:
        raise ValueError("a number from 0 to 1 is wanted") from None
    if not 0 <= share <= 1:
        raise ValueError("a number from 0 to 1 is wanted")
    return share or 0.2


def _statuses(value: str) -> tuple[int, ...]:
    """A comma list of statuses; an empty text means none."""
    try:
        return _statuses_rule(tuple(int(part) for part in value.split(",") if part.strip()))
    except ValueError:
        raise ValueError("a comma list of statuses from 300 to 599 is wanted, or nothing for none") from None


def _global_headers(value: str) -> Mapping[str, str]:
    """A JSON object of headers."""
    try:
        given = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"a JSON object of header names and values is wanted ({error.msg})") from None
    if not isinstance(given, dict):
        raise ValueError("a JSON object of header names and values is wanted")  # noqa: TRY004  The table's one error.
    return _header_rules(_header_texts(given))


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="WEBHOOK_GLOBAL_ENABLED",
        field="global_enabled",
        description="Whether events of every instance also go to `WEBHOOK_GLOBAL_URL`.",
        default=False,
        parse=flag,
    ),
    Variable(
        name="WEBHOOK_GLOBAL_URL",
        field="global_url",
        description="The global destination's address.",
        default="",
        example="https://hub.example.com/events",
    ),
    Variable(
        name="WEBHOOK_GLOBAL_HEADERS",
        field="global_headers",
        description="Headers of the global destination, a JSON object.",
        default=None,
        parse=_global_headers,
        example='{"Authorization": "Bearer ..."}',
        secret=True,
    ),
    Variable(
        name="WEBHOOK_GLOBAL_WEBHOOK_BY_EVENTS",
        field="global_by_events",
        description="Whether the event's name is appended to the path of the global address.",
        default=False,
        parse=flag,
    ),
    Variable(
        name="WEBHOOK_REQUEST_TIMEOUT_MS",
        field="timeout_secs",
        description="Longest wait for a receiver's answer, unless the destination says otherwise.",
        default=30.0,
        parse=_timeout,
        unit="milliseconds",
        default_text="30000",
    ),
    Variable(
        name="WEBHOOK_RETRY_MAX_ATTEMPTS",
        field="retry_max_attempts",
        description="Attempts in all, the first included; 0 means the default.",
        default=10,
        parse=_whole(10, 1000),
    ),
    Variable(
        name="WEBHOOK_RETRY_INITIAL_DELAY_SECONDS",
        field="retry_initial_delay_secs",
        description="Wait before the fourth attempt.",
        default=5,
        parse=_whole(5, 86400),
        unit="seconds",
    ),
    Variable(
        name="WEBHOOK_RETRY_USE_EXPONENTIAL_BACKOFF",
        field="retry_exponential",
        description="Whether the wait doubles with each attempt; true unless exactly `false`.",
        default=True,
        parse=flag_unless_false,
    ),
    Variable(
        name="WEBHOOK_RETRY_MAX_DELAY_SECONDS",
        field="retry_max_delay_secs",
        description="The longest wait between attempts.",
        default=300,
        parse=_whole(300, 86400),
        unit="seconds",
    ),
    Variable(
        name="WEBHOOK_RETRY_JITTER_FACTOR",
        field="retry_jitter_factor",
        description="Share of the wait that is random, both ways; 0 means the default.",
        default=0.2,
        parse=_jitter,
    ),
    Variable(
        name="WEBHOOK_RETRY_NON_RETRYABLE_STATUS_CODES",
        field="reject_statuses",
        description="Statuses after which an event is not tried again; set but empty means none.",
        default=REJECT_STATUSES,
        parse=_statuses,
        empty_counts=True,
    ),
    Variable(
        name="WEBHOOK_EVENTS_ERRORS",
        field="errors_enabled",
        description="Whether requests to the API that end in an error are posted to `WEBHOOK_EVENTS_ERRORS_WEBHOOK`.",
        default=False,
        parse=flag,
    ),
    Variable(
        name="WEBHOOK_EVENTS_ERRORS_WEBHOOK",
        field="errors_url",
        description="Where errors of the API are posted to (contract 2.2).",
        default="",
    ),
    *toggles("WEBHOOK_EVENTS_"),
)
