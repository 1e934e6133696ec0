"""
The failure vocabulary, the same for all sinks, in errors, ledger, metrics, dead letters and dashboard (design 6).

    SinkError
    ├── Unavailable     try again: unreachable, timeout, tls, server_error, internal
    ├── Throttled       try again when told: throttled
    ├── Rejected        never this event: rejected, too_large, unroutable
    └── Misconfigured   nothing more until the configuration changes: unauthorised, gone, forbidden_address
"""

from enum import StrEnum


class FailureKind(StrEnum):
    """What went wrong, in the operator's words."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    UNROUTABLE = "unroutable"
    UNAUTHORISED = "unauthorised"
    GONE = "gone"
    FORBIDDEN_ADDRESS = "forbidden_address"
    INTERNAL = "internal"


class SinkError(Exception):
    """A delivery that did not succeed. `detail` says what was tried, against what, and what came back; no secrets."""

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        """Seconds the far end asked to wait, if it did."""


class Unavailable(SinkError):
    """The far end, or the way to it, does not work just now."""


class Throttled(SinkError):
    """The far end asks to be left alone for a while."""


class Rejected(SinkError):
    """The far end will never take this event."""


class Misconfigured(SinkError):
    """The far end will take no event until the destination's configuration changes."""
