"""
Far ends, one file each, and the door they stand behind (design, section 7).

A sink is found by its file's name: ``webhook`` is ``sinks/webhook.py`` with the class ``Sink`` in it, and
``schemas/webhook.py`` has its options. Nothing else is edited to add one.
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from schemas import Options
from sinks._errors import FailureKind, Misconfigured, Rejected, SinkError, Throttled, Unavailable

if TYPE_CHECKING:
    from sinks._egress import EgressGuard

__all__ = [
    "FailureKind",
    "Message",
    "Misconfigured",
    "Receipt",
    "Rejected",
    "Sink",
    "SinkContext",
    "SinkError",
    "Throttled",
    "Unavailable",
    "find",
]


@dataclass(slots=True, kw_only=True)
class Message:
    """One event on its way to one destination: what goes over the wire, and all that a far end may be told of it."""

    body: bytes
    """The finished JSON, UTF-8: the envelope of the layout, or what the pipeline's `shape` made."""
    instance: str
    instance_id: str
    event: str
    """The wire name, for example `messages.upsert` (contract, section 1)."""
    names: Mapping[str, str]
    """How the layout spells things for this transport, rendered: for the webhook `event` and `suffix`."""
    event_id: str
    delivery_id: str
    """The same over retries, crashes and redrives; far ends deduplicate by it."""
    order_key: str
    """Messages with one order key and one destination are sent one after another."""
    attempt: int
    """1 for the first."""
    timestamp_ms: int
    """When the log took the event, epoch milliseconds."""
    options: Options
    """The destination's options as they stand now, with secrets resolved."""


@dataclass(slots=True)
class Receipt:
    """The far end's word that it has the event."""

    status: int | None = None
    """The far end's own number, where it has one (an HTTP status)."""
    detail: str = ""


@dataclass(slots=True, frozen=True)
class SinkContext:
    """What a process lends to every sink in it."""

    egress: "EgressGuard"
    user_agent: str = "Sluice"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The transport's environment variables (`schemas.environment(name)`), by their option name."""


class Sink(Protocol):
    """
    One kind of far end. The caller holds the clock, the retries, the order and the limits.

    `__init__` stores and nothing more. `open` comes first and may be called again after a failure. `close` may be
    called twice, and on a sink that never opened. A sink survives being cancelled inside `send`.
    """

    max_batch: int
    """Above one, `send_many` gets up to this many, at most one event per order key."""
    pipelines: bool
    """True only if sends of one key under way together cannot overtake each other even when one fails."""

    def __init__(self, options: Options, context: SinkContext) -> None: ...

    async def open(self) -> None:
        """Connects, or raises a `SinkError`."""

    def send(self, message: Message) -> Awaitable[Receipt]:
        """Hands one event over; done on the far end's receipt, else raises a `SinkError`."""

    async def check(self) -> None:
        """Does no more than `send` itself needs; raises a `SinkError`."""

    async def close(self) -> None:
        """Lets go of connections."""


class BatchSink(Sink, Protocol):
    """A sink whose `max_batch` is above one."""

    def send_many(self, messages: Sequence[Message]) -> Awaitable[Sequence[Receipt | SinkError]]:
        """Hands several over; one result each, in their order."""


def find(transport: str) -> type[Sink]:
    """The class `Sink` of `sinks/<transport>.py`; KeyError where there is no such file."""
    if transport.startswith("_") or not transport.isidentifier():
        raise KeyError(transport)
    try:
        module = import_module(f"sinks.{transport}")
    except ModuleNotFoundError as error:
        if error.name != f"sinks.{transport}":
            raise
        raise KeyError(transport) from error
    return cast("type[Sink]", module.Sink)
