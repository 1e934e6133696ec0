"""
Every event there is, by its names (contract, sections 1 and 12): one table, and what is read from it.

An event has one wire name (`messages.upsert`). Programs write it in other spellings too; `wire_name` understands all of
them, `spellings` makes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

MAX_NAME_LENGTH = 100
"""Characters of the longest event name; the longest of the catalogue has 25."""

_CACHED_NAMES = 4096
_SEPARATORS = str.maketrans({".": "_", "-": "_", " ": "_"})
_WELL_FORMED = re.compile(r"[A-Za-z0-9]+(?:[._\- ][A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEvent:
    """One event of the catalogue (contract, section 12)."""

    wire: str
    config: str
    """The upper-case spelling: in payloads, in subscriptions, in environment variables."""
    listed: str | None = None
    """How the API's list of 31 events spells it; None for what is not in that list."""
    aliases: tuple[str, ...] = ()
    """Further upper-case spellings that mean this event (contract 12.1)."""
    emitted: bool = True
    """Whether upstream 2.x sends it. The others can be subscribed to, and pass when a producer sends them."""
    conversation: tuple[str, ...] = ()
    """Where `data` carries the conversation, dotted; the first that holds a text wins, a phone's JID before a LID."""


class Spellings(NamedTuple):
    """The spellings of one event (contract, section 1)."""

    upper: str
    """Config name: `MESSAGES_UPSERT`."""
    snake: str
    """`messages_upsert`."""
    kebab: str
    """URL slug: `messages-upsert`."""
    dotted: str
    """Wire name, hyphens kept: `group-participants.update`."""
    queue: str
    """Wire name with each underscore as a dot; differs from `dotted` for names outside the catalogue only."""


_MESSAGE = ("key.remoteJid", "key.remoteJidAlt")
_CHAT = ("remoteJid", "remoteJidAlt")
_UPDATE = (*_CHAT, *_MESSAGE)
_DELETION = (*_MESSAGE, *_CHAT)


def _event(wire: str, *conversation: str, listed: bool = True, emitted: bool = True) -> CatalogueEvent:
    config = wire.translate(_SEPARATORS).upper()
    return CatalogueEvent(
        wire=wire, config=config, listed=config if listed else None, emitted=emitted, conversation=conversation
    )


EVENTS: tuple[CatalogueEvent, ...] = (
    _event("application.startup", emitted=False),
    _event("qrcode.updated"),
    _event("messages.set", *_MESSAGE),
    _event("messages.upsert", *_MESSAGE),
    _event("messages.edited", *_MESSAGE),
    _event("messages.update", *_UPDATE),
    _event("messages.delete", *_DELETION),
    _event("send.message", *_MESSAGE),
    _event("send.message.update", *_MESSAGE),
    _event("contacts.set", *_CHAT, emitted=False),
    _event("contacts.upsert", *_CHAT),
    _event("contacts.update", *_CHAT),
    _event("presence.update", "id"),
    _event("chats.set", *_CHAT),
    _event("chats.upsert", *_CHAT),
    _event("chats.update", *_CHAT),
    _event("chats.delete", *_CHAT),
    _event("groups.upsert", "id"),
    CatalogueEvent(
        wire="groups.update",
        config="GROUPS_UPDATE",
        listed="GROUP_UPDATE",
        aliases=("GROUP_UPDATE",),
        conversation=("id",),
    ),
    _event("group-participants.update", "id"),
    _event("connection.update"),
    _event("labels.edit"),
    _event("labels.association", "chatId"),
    _event("call", "chatId", "from"),
    _event("typebot.start", *_CHAT),
    _event("typebot.change-status", *_CHAT),
    _event("remove.instance"),
    _event("logout.instance"),
    _event("instance.create"),
    _event("instance.delete"),
    _event("status.instance"),
    _event("messaging-history.set", listed=False),
    _event("creds.update", listed=False, emitted=False),
    CatalogueEvent(wire="new.jwt", config="NEW_JWT_TOKEN", aliases=("NEW_JWT", "NEW_TOKEN"), emitted=False),
    _event("chama-ai.action", *_CHAT, listed=False, emitted=False),
    CatalogueEvent(wire="error", config="ERRORS", aliases=("ERROR", "ERRORS_WEBHOOK")),
)
"""The catalogue; the events of the API's list come first and in that list's order."""

ALL_EVENTS: tuple[str, ...] = tuple(event.listed for event in EVENTS if event.listed is not None)
"""What an empty list of events stands for, spelled and ordered as the API answers it (contract, section 12)."""

_BY_WIRE: Mapping[str, CatalogueEvent] = MappingProxyType({event.wire: event for event in EVENTS})
_WIRE_BY_CONFIG: Mapping[str, str] = MappingProxyType(
    {spelling: event.wire for event in EVENTS for spelling in (event.config, *event.aliases)}
)


def wire_name(text: str) -> str | None:
    """
    The wire name of an event in any spelling, any case, with `.`, `-`, `_` or a blank between its words.

    A well-formed name that the catalogue does not know comes back in lower case with its dots kept (a blank becomes a
    dot). None for what is no event name: words of ASCII letters and digits with one separator between them, at most
    100 characters, blanks around it ignored.
    """
    if text in _BY_WIRE:
        return text
    if len(text) > MAX_NAME_LENGTH:
        return None
    return _normalised(text)


@lru_cache(maxsize=_CACHED_NAMES)
def _normalised(text: str) -> str | None:
    name = text.strip(" ")
    if _WELL_FORMED.fullmatch(name) is None:
        return None
    known = _WIRE_BY_CONFIG.get(name.translate(_SEPARATORS).upper())
    return known or name.lower().replace(" ", ".")


def is_known(wire: str) -> bool:
    """Whether the catalogue has this wire name."""
    return wire in _BY_WIRE


def subscription(text: str) -> str:
    """A name in the body of a `set` as it is stored and echoed: canonical in case and separators (contract 3.5)."""
    return text.strip().translate(_SEPARATORS).upper()


def subscribed(text: str) -> str | None:
    """The wire name that a subscription means, or None where the catalogue has none (contract 12.1)."""
    return _WIRE_BY_CONFIG.get(subscription(text))


def covers(subscribed_name: str, wire: str) -> bool:
    """Whether a subscription means this event: `GROUP_UPDATE` and `GROUPS_UPDATE` both mean `groups.update` (C4)."""
    config = subscription(subscribed_name)
    return _WIRE_BY_CONFIG.get(config, config) == (wire if wire in _BY_WIRE else subscription(wire))


@lru_cache(maxsize=_CACHED_NAMES)
def spellings(wire: str) -> Spellings:
    """All spellings of a wire name, known or not."""
    known = _BY_WIRE.get(wire)
    upper = known.config if known is not None else wire.translate(_SEPARATORS).upper()
    snake = upper.lower()
    return Spellings(
        upper=upper, snake=snake, kebab=snake.replace("_", "-"), dotted=wire, queue=wire.replace("_", ".").lower()
    )
