"""The conversation an event belongs to: what order is kept for by default (design, section 6)."""

from typing import Any

from app.events import catalogue
from app.events.event import DEFAULT_ORDER_KEY, Event

MAX_KEY_LENGTH = 256
"""Characters of the longest order key; what is longer is cut, which can only make more events wait for each other."""

_LID = "@lid"
_PATHS: dict[str, tuple[tuple[str, ...], ...]] = {
    event.wire: tuple(tuple(path.split(".")) for path in event.conversation)
    for event in catalogue.EVENTS
    if event.conversation
}


def conversation(event: Event) -> str:
    """
    The JID of the event's conversation; the phone's (or the group's) before the LID where both are there.

    DEFAULT_ORDER_KEY for data that is an array, for events without a conversation, and for data that carries none where
    the catalogue says. Never raises, whatever the data.
    """
    data = event.data
    paths = _PATHS.get(event.name)
    if paths is None or not isinstance(data, dict):
        return DEFAULT_ORDER_KEY
    lid = DEFAULT_ORDER_KEY
    for path in paths:
        value: Any = data
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            if not value.endswith(_LID):
                return value[:MAX_KEY_LENGTH]
            lid = lid or value
    return lid[:MAX_KEY_LENGTH]
