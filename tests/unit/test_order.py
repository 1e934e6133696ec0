"""The conversation of an event: what order is kept for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events import catalogue
from app.events.event import DEFAULT_ORDER_KEY, Event
from app.events.order import MAX_KEY_LENGTH, conversation

PHONE = "5511900000001@s.whatsapp.net"
OTHER = "5511900000002@s.whatsapp.net"
LID = "900000000000001@lid"
GROUP = "120363000000000001@g.us"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["key", "remoteJid", "remoteJidAlt", "id", "chatId", "from"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def event(name: str, data: Any) -> Event:
    """An event with this data."""
    return Event(instance="vendas", name=name, data=data, id="1", partition=0, offset=0, timestamp_ms=0, size=0)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("messages.upsert", {"key": {"remoteJid": PHONE}}, PHONE),
        ("messages.upsert", {"key": {"remoteJid": LID, "remoteJidAlt": PHONE}}, PHONE),
        ("messages.upsert", {"key": {"remoteJid": PHONE, "remoteJidAlt": LID}}, PHONE),
        ("messages.upsert", {"key": {"remoteJid": LID}}, LID),
        ("messages.upsert", {"key": {"remoteJid": GROUP, "participant": PHONE}}, GROUP),
        ("messages.upsert", {"key": {"remoteJid": "", "remoteJidAlt": PHONE}}, PHONE),
        ("messages.upsert", {"key": {"remoteJid": 5, "remoteJidAlt": None}}, ""),
        ("messages.upsert", {"key": None}, ""),
        ("messages.upsert", {}, ""),
        ("messages.upsert", None, ""),
        ("messages.upsert", [{"key": {"remoteJid": PHONE}}], ""),
        ("send.message", {"key": {"remoteJid": GROUP}}, GROUP),
        ("messages.edited", {"key": {"remoteJid": PHONE}, "type": "MESSAGE_EDIT"}, PHONE),
        ("send.message.update", {"key": {"remoteJid": PHONE}}, PHONE),
        ("messages.update", {"keyId": "1", "remoteJid": PHONE}, PHONE),
        ("messages.update", {"keyId": "1", "remoteJid": LID, "remoteJidAlt": PHONE}, PHONE),
        ("messages.update", {"key": {"remoteJid": PHONE}}, PHONE),
        ("messages.delete", {"remoteJid": PHONE, "id": "1", "fromMe": True}, PHONE),
        ("messages.delete", {"id": "1", "key": {"remoteJid": PHONE}, "status": "DELETED"}, PHONE),
        ("messages.set", [{"key": {"remoteJid": PHONE}}], ""),
        ("presence.update", {"id": GROUP, "presences": {PHONE: {"lastKnownPresence": "composing"}}}, GROUP),
        ("contacts.upsert", [{"remoteJid": PHONE}], ""),
        ("contacts.upsert", {"remoteJid": PHONE, "pushName": "Ana"}, PHONE),
        ("contacts.update", {"remoteJid": PHONE}, PHONE),
        ("chats.upsert", {"remoteJid": PHONE}, PHONE),
        ("chats.update", [{"remoteJid": PHONE}], ""),
        ("chats.delete", [PHONE], ""),
        ("groups.upsert", [{"id": GROUP}], ""),
        ("groups.update", {"id": GROUP}, GROUP),
        ("group-participants.update", {"id": GROUP, "participants": [PHONE], "action": "add"}, GROUP),
        ("labels.association", {"chatId": PHONE, "labelId": "1"}, PHONE),
        ("labels.edit", {"id": "1", "name": "Novo"}, ""),
        ("call", {"id": "1", "from": PHONE, "chatId": PHONE}, PHONE),
        ("call", {"id": "1", "from": PHONE, "chatId": LID}, PHONE),
        ("call", {"id": "1", "from": PHONE}, PHONE),
        ("call", {"event": "CB:call", "packet": {}}, ""),
        ("typebot.start", {"remoteJid": PHONE}, PHONE),
        ("typebot.change-status", {"remoteJid": PHONE, "status": "paused"}, PHONE),
        ("chama-ai.action", {"remoteJid": PHONE}, PHONE),
        ("connection.update", {"instance": "vendas", "state": "open"}, ""),
        ("remove.instance", None, ""),
        ("qrcode.updated", {"qrcode": {"instance": "vendas"}}, ""),
        ("messages.reaction", {"key": {"remoteJid": PHONE}}, ""),
    ],
)
def test_the_conversation_is_where_the_catalogue_says(name: str, data: Any, expected: str) -> None:
    """Each event is ordered with its conversation, the phone's JID before the LID, or else with its instance."""
    assert conversation(event(name, data)) == expected


def test_a_key_is_bounded() -> None:
    """A JID of any length makes a key of bounded length, the same one each time."""
    data = {"key": {"remoteJid": "9" * 1_000_000}}
    assert len(conversation(event("messages.upsert", data))) == MAX_KEY_LENGTH
    assert conversation(event("messages.upsert", data)) == conversation(event("messages.upsert", data))


@given(st.sampled_from(catalogue.EVENTS), JSON)
def test_odd_data_never_raises(entry: catalogue.CatalogueEvent, data: Any) -> None:
    """Whatever the data, there is an order key, and an array has the instance's."""
    key = conversation(event(entry.wire, data))
    assert isinstance(key, str)
    assert isinstance(data, dict) or key == DEFAULT_ORDER_KEY
