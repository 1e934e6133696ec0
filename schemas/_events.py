"""The names that events have in subscriptions and environment variables (contract, sections 1 and 12)."""

from collections.abc import Mapping
from typing import Any

from schemas._variables import Variable, flag

EVENTS: tuple[str, ...] = (
    "APPLICATION_STARTUP",
    "QRCODE_UPDATED",
    "MESSAGES_SET",
    "MESSAGES_UPSERT",
    "MESSAGES_EDITED",
    "MESSAGES_UPDATE",
    "MESSAGES_DELETE",
    "SEND_MESSAGE",
    "SEND_MESSAGE_UPDATE",
    "CONTACTS_SET",
    "CONTACTS_UPSERT",
    "CONTACTS_UPDATE",
    "PRESENCE_UPDATE",
    "CHATS_SET",
    "CHATS_UPSERT",
    "CHATS_UPDATE",
    "CHATS_DELETE",
    "GROUPS_UPSERT",
    "GROUPS_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CONNECTION_UPDATE",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "MESSAGING_HISTORY_SET",
    "CREDS_UPDATE",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "STATUS_INSTANCE",
)
"""The config name of every event that may pass; a test compares it with the catalogue."""

ALIASES: Mapping[str, str] = {"GROUP_UPDATE": "GROUPS_UPDATE"}
"""Second spellings that toggles are read under too (contract 11.8, C4), each with the name it means."""

_FIELD = "event_"


def toggles(prefix: str) -> tuple[Variable, ...]:
    """The global switch of each event for one transport: `{prefix}{EVENT}`, read into fields for `toggled`."""
    return tuple(
        Variable(
            name=f"{prefix}{event}",
            field=f"{_FIELD}{event}",
            description=f"Whether the global destination gets {ALIASES.get(event, event)}.",
            default=False,
            parse=flag,
        )
        for event in (*EVENTS, *ALIASES)
    )


def toggled(values: Mapping[str, Any]) -> frozenset[str]:
    """The config names that are switched on among a transport's settings, aliases replaced by what they mean."""
    on = {field.removeprefix(_FIELD) for field, value in values.items() if field.startswith(_FIELD) and value}
    return frozenset(ALIASES.get(event, event) for event in on)
