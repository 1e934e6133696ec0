"""The values that routing is made of: a route (an event's way to a destination) and a destination."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.events.event import Event
from schemas import Options, Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    The way of one (instance, event name) to one destination, compiled once and used for every such event.

    All callables are pure. `matches` is None when every event passes; `encode` makes the finished body (the layout's
    envelope, or the pipeline's shape) and may raise ShapeError; `order_key` is None for `order: none`.
    """

    destination: str
    """The destination's id: `section/{instance}/{transport}`, `global/{transport}` or `pipeline/{name}/{to}`."""
    instance_id: str
    """The uuid of the instance's incarnation."""
    names: Mapping[str, str]
    """What the layout spells for this transport and event, rendered."""
    matches: Callable[[Event], bool] | None
    encode: Callable[[Event], bytes]
    order_key: Callable[[Event], str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place events go to, as the configuration stands now. Read at the moment of sending."""

    id: str
    transport: str
    options: Options
    """Secrets resolved."""
    retry: Retry
    problem: str | None = None
    """Why nothing can be sent (a secret that is not there, an address no sink can use), in the operator's words."""


class ShapeError(Exception):
    """A shape, key or template that failed on an event; the message names the expression and the event's part."""
