"""What order is kept for: from a pipeline's `order:` to the function that names an event's order key (design 6)."""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Literal

import orjson

from app.events.event import DEFAULT_ORDER_KEY, Event
from app.events.order import conversation
from app.routing.expressions import compile_expression

Order = Literal["chat", "instance", "key", "none"]
OrderKey = Callable[[Event], str]
MAX_KEY_CHARACTERS = 256
"""Lanes keep keys in memory and in the `lanes` topic."""


def order_key(order: Order, key: str | None, purpose: str) -> OrderKey | None:
    """The function that names an event's order key; None where no order is kept."""
    if order == "none":
        return None
    return _by_expression(key, purpose) if order == "key" and key is not None else _ORDERS[order]


def _instance(_event: Event) -> str:
    return DEFAULT_ORDER_KEY


_ORDERS: Mapping[str, OrderKey] = {"chat": conversation, "instance": _instance}


def _by_expression(text: str, purpose: str) -> OrderKey:
    """The expression's result as text; null, like the conversation that is not there, is the instance itself."""
    expression = compile_expression(text, purpose)

    def by_expression(event: Event) -> str:
        return _as_key(expression(event))

    return by_expression


def _as_key(value: Any) -> str:
    if value is None:
        return DEFAULT_ORDER_KEY
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text if len(text) <= MAX_KEY_CHARACTERS else _digest(text)


def _digest(text: str) -> str:
    """Long keys by their hash: the same key for the same text, whatever process asks."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
