"""
Events that look like those of real instances, and are the same each time for one seed (contract 12.2).

All numbers are made up: phones from a range that nobody has (`55 DD 90000-xxxx`), groups and LIDs counted up.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

START_MS = 1_767_225_600_000
"""Where a generator's clock starts unless it is told otherwise: 2026-01-01, midnight UTC."""

MAX_CONVERSATIONS = 100_000

_AREA_CODES = ("11", "21", "31", "41", "51", "61", "71", "81", "85", "92")
_NAMES = (
    "Ana Souza", "Bruno Carvalho", "Camila Ribeiro", "Diego Ferreira", "Eduarda Lima", "Felipe Araújo",
    "Gabriela Martins", "Heitor Gonçalves", "Isabela Rocha", "João Pedro", "Larissa Conceição", "Mateus Oliveira",
    "Natália Barbosa", "Otávio Mendes", "Priscila Antunes", "Rafael Assunção", "Sônia Magalhães", "Thiago Nóbrega",
)  # fmt: skip
_GROUPS = ("Família", "Vendas", "Entregas zona sul", "Condomínio", "Futebol de quinta", "Suporte nível 2", "Promoções")
_TEXTS = (
    "Bom dia! Tudo bem?", "Oi, vocês entregam hoje?", "Pode me mandar o catálogo?", "Qual é o valor do frete?",
    "Já fiz o pix 👍", "Meu pedido ainda não chegou 😕", "Obrigada pela atenção!", "Amanhã às 14h está ótimo",
    "Segue o comprovante", "Vou confirmar e te aviso", "kkkkk boa", "Não consigo acessar o site",
    "Quero falar com um atendente", "Fechado, pode enviar", "A nota veio com o CNPJ errado", "Perfeito, até mais!",
)  # fmt: skip
_LINKS = ("https://loja.example.com/oferta", "https://rastreio.example.com/BR000000", "https://example.com/boleto")
_LABELS = ("Novo cliente", "Aguardando pagamento", "Pedido concluído", "Pós-venda")
_SOURCES = ("android", "android", "android", "ios", "web", "desktop")
_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
"""A picture of one point, in place of a QR code."""
_STATUSES = ("SERVER_ACK", "DELIVERY_ACK", "READ")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedEvent:
    """One event, and what a receiver's check needs: its conversation and its running number there, from 1."""

    instance: str
    event: str
    """The wire name."""
    data: Any
    sender: str | None
    """None until the instance was connected for the first time."""
    date_time: str
    conversation: str
    """What `order.conversation` says of it: a JID, or empty where order is kept with the instance."""
    sequence: int
    """Without gaps within (instance, conversation)."""

    @property
    def id(self) -> str:
        """The event's own id; it ends with the sequence."""
        return f"{self.instance}/{self.conversation or '-'}/{self.sequence}"

    def body(self) -> dict[str, Any]:
        """The event as it is sent to Sluice."""
        body = {"id": self.id, "event": self.event, "data": self.data, "date_time": self.date_time}
        return body if self.sender is None else {**body, "sender": self.sender}


class _Conversation:
    """A person or a group that an instance talks with."""

    __slots__ = ("group", "jid", "lid", "messages", "name", "participants")

    def __init__(self, chance: random.Random, number: int) -> None:
        self.group = number % 6 == 5
        self.jid = group_jid(number) if self.group else phone_jid(number)
        self.lid = lid_jid(number) if number % 5 == 3 and not self.group else None
        self.name = chance.choice(_GROUPS if self.group else _NAMES)
        self.participants = [phone_jid((number * 7 + step) % MAX_CONVERSATIONS) for step in range(4)]
        self.messages: list[dict[str, Any]] = []
        """The last messages of ours that can still change their status, or be edited or deleted."""


class _Instance:
    """One number that is connected, and its conversations."""

    __slots__ = ("conversations", "id", "name", "sender", "sequences")

    def __init__(self, chance: random.Random, name: str, number: int, conversations: int) -> None:
        self.name = name
        self.id = str(uuid5(NAMESPACE_URL, f"sluice-demo/{name}"))
        self.sender = f"551090000{number % 10_000:04d}@s.whatsapp.net"
        self.conversations = [_Conversation(chance, index) for index in range(conversations)]
        self.sequences: dict[str, int] = {}


class Generator(Iterator[GeneratedEvent]):
    """
    Events without end: first each instance connects, then all talk, mixed.

    `conversations` is the number each instance has, at least 1. `start_ms` sets the generator's clock, which goes on by
    some milliseconds an event. One seed gives one row of events.
    """

    def __init__(self, seed: int, instances: Sequence[str], conversations: int, *, start_ms: int = START_MS) -> None:
        if not instances:
            raise ValueError("no instances were given; at least one name is wanted")
        if not 1 <= conversations <= MAX_CONVERSATIONS:
            raise ValueError(f"{conversations} conversations were asked for; 1 to {MAX_CONVERSATIONS} can be had")
        self._chance = random.Random(seed)
        self._now_ms = start_ms
        self._instances = [
            _Instance(self._chance, name, number, conversations) for number, name in enumerate(instances)
        ]
        self._opening = [step for instance in self._instances for step in self._connecting(instance)]
        self._opening.reverse()
        self._makers = tuple(_WEIGHTS)
        self._weights = tuple(_WEIGHTS.values())

    def __next__(self) -> GeneratedEvent:
        """The next event; there is always one."""
        self._now_ms += self._chance.randint(1, 40)
        if self._opening:
            instance, event, data, connected = self._opening.pop()
            return self._event(instance, event, data, "", connected=connected)
        instance = self._chance.choice(self._instances)
        conversation = self._chance.choice(instance.conversations)
        make = self._chance.choices(self._makers, self._weights)[0]
        event, data, key = make(self, instance, conversation)
        return self._event(instance, event, data, key)

    def _event(
        self, instance: _Instance, event: str, data: Any, conversation: str, *, connected: bool = True
    ) -> GeneratedEvent:
        sequence = instance.sequences.get(conversation, 0) + 1
        instance.sequences[conversation] = sequence
        moment = datetime.fromtimestamp(self._now_ms / 1000, UTC).replace(tzinfo=None)
        return GeneratedEvent(
            instance=instance.name,
            event=event,
            data=data,
            sender=instance.sender if connected else None,
            date_time=moment.isoformat(timespec="milliseconds") + "Z",
            conversation=conversation,
            sequence=sequence,
        )

    def _connecting(self, instance: _Instance) -> list[tuple[_Instance, str, Any, bool]]:
        """What an instance sends from its creation until it is connected and has its contacts, chats and groups."""
        name, chats = instance.name, instance.conversations[:20]
        people = [chat for chat in chats if not chat.group]
        groups = [chat for chat in chats if chat.group]
        state = {"instance": name, "statusReason": 200}
        opened = {"wuid": instance.sender, "profileName": name.title(), "profilePictureUrl": None}
        label = {"id": "1", "name": _LABELS[0], "color": 4, "deleted": False, "instance": name}
        return [
            (instance, "instance.create", {"instanceName": name, "instanceId": instance.id}, False),
            (instance, "qrcode.updated", self._qrcode(name), False),
            (instance, "connection.update", {**state, "state": "connecting"}, False),
            (instance, "connection.update", {**state, "state": "open", **opened}, True),
            (instance, "contacts.upsert", [_contact(instance, chat) for chat in people], True),
            (instance, "chats.upsert", [_chat(instance, chat) for chat in chats], True),
            (instance, "groups.upsert", [_group(chat) for chat in groups], True),
            (instance, "labels.edit", label, True),
        ]

    def _qrcode(self, name: str) -> dict[str, Any]:
        code = f"2@{self._chance.getrandbits(240):060x}"
        return {"qrcode": {"instance": name, "pairingCode": None, "code": code, "base64": _DOT}}

    def message(self, instance: _Instance, conversation: _Conversation, *, own: bool) -> dict[str, Any]:
        """One message; its `key.id` ends with the number it has in its conversation, ten digits."""
        chance = self._chance
        number = instance.sequences.get(conversation.jid, 0) + 1
        key: dict[str, Any] = {"remoteJid": conversation.jid, "fromMe": own, "id": f"3EB0DE{number:010d}"}
        if conversation.lid is not None:
            key |= {"remoteJid": conversation.lid, "remoteJidAlt": conversation.jid, "addressingMode": "lid"}
        if conversation.group and not own:
            key["participant"] = chance.choice(conversation.participants)
        kind, content = self._content()
        return {
            "key": key,
            "pushName": "Você" if own else (chance.choice(_NAMES) if conversation.group else conversation.name),
            "status": "PENDING" if own else "DELIVERY_ACK",
            "message": content,
            "messageType": kind,
            "messageTimestamp": self._now_ms // 1000,
            "instanceId": instance.id,
            "source": chance.choice(_SOURCES),
        }

    def _content(self) -> tuple[str, dict[str, Any]]:
        chance = self._chance
        text, dice = chance.choice(_TEXTS), chance.random()
        if dice < 0.65:
            return "conversation", {"conversation": text}
        if dice < 0.85:
            return "extendedTextMessage", {
                "extendedTextMessage": {"text": f"{text} {chance.choice(_LINKS)}", "previewType": "NONE"}
            }
        digest = f"{chance.getrandbits(256):064x}"
        image = {
            "mimetype": "image/jpeg", "caption": text, "fileSha256": digest, "height": 1280, "width": 960,
            "fileLength": chance.randint(20_000, 400_000),
        }  # fmt: skip
        return "imageMessage", {"imageMessage": image, "mediaUrl": f"https://media.example.com/{digest[:32]}.jpeg"}

    def received(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """A message of the other side."""
        return "messages.upsert", self.message(instance, conversation, own=False), conversation.jid

    def own(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """A message that the instance's owner wrote on the phone, or that was sent through the API."""
        data = self.message(instance, conversation, own=True)
        conversation.messages = [*conversation.messages[-4:], data]
        return self._chance.choice(("send.message", "messages.upsert")), data, conversation.jid

    def update(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """The next status of one of our messages."""
        if not conversation.messages:
            return self.own(instance, conversation)
        message = conversation.messages[0]
        before = message["status"]
        status = _STATUSES[_STATUSES.index(before) + 1 if before in _STATUSES else 0]
        if status == _STATUSES[-1]:
            conversation.messages = conversation.messages[1:]
        else:
            conversation.messages = [{**message, "status": status}, *conversation.messages[1:]]
        data = {
            "keyId": message["key"]["id"], "remoteJid": conversation.jid, "fromMe": True, "status": status,
            "instanceId": instance.id,
        }  # fmt: skip
        return "messages.update", data, conversation.jid

    def edited(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """One of our messages with another text, or deleted for everybody."""
        if not conversation.messages:
            return self.own(instance, conversation)
        message = conversation.messages[-1]
        conversation.messages = conversation.messages[:-1]
        if self._chance.random() < 0.5:
            return "messages.delete", {**message["key"], "status": "DELETED"}, conversation.jid
        text = self._chance.choice(_TEXTS)
        data = {
            "key": message["key"], "type": "MESSAGE_EDIT", "editedMessage": {"conversation": text},
            "timestampMs": self._now_ms,
        }  # fmt: skip
        return "messages.edited", data, conversation.jid

    def presence(self, _: _Instance, conversation: _Conversation) -> "_Made":
        """Somebody writes, or is there."""
        who = self._chance.choice(conversation.participants) if conversation.group else conversation.jid
        state = self._chance.choice(("available", "composing", "composing", "paused", "recording"))
        return (
            "presence.update",
            {"id": conversation.jid, "presences": {who: {"lastKnownPresence": state}}},
            conversation.jid,
        )

    def contact(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """A contact changed: one alone, as a message brings it, or several from a sync."""
        if self._chance.random() < 0.7 and not conversation.group:
            return "contacts.update", _contact(instance, conversation), conversation.jid
        people = [chat for chat in instance.conversations[:5] if not chat.group]
        return "contacts.update", [_contact(instance, chat) for chat in people], ""

    def chat(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """A chat changed; always in an array."""
        return "chats.update", [{"remoteJid": conversation.jid, "instanceId": instance.id}], ""

    def group(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """Somebody joins, leaves or rules a group, or it gets another subject."""
        if not conversation.group:
            return self.presence(instance, conversation)
        if self._chance.random() < 0.3:
            return "groups.update", [{"id": conversation.jid, "subject": self._chance.choice(_GROUPS)}], ""
        who = self._chance.choice(conversation.participants)
        data = {
            "id": conversation.jid, "participants": [who],
            "action": self._chance.choice(("add", "remove", "promote", "demote")),
            "participantsData": [{"jid": who, "phoneNumber": who, "name": self._chance.choice(_NAMES)}],
        }  # fmt: skip
        return "group-participants.update", data, conversation.jid

    def label(self, instance: _Instance, conversation: _Conversation) -> "_Made":
        """A label put on a chat or taken off, or changed itself."""
        number = self._chance.randrange(len(_LABELS))
        if self._chance.random() < 0.2:
            data = {"id": str(number + 1), "name": _LABELS[number], "color": number, "deleted": False}
            return "labels.edit", {**data, "instance": instance.name}, ""
        data = {
            "instance": instance.name, "type": self._chance.choice(("add", "remove")), "chatId": conversation.jid,
            "labelId": str(number + 1),
        }  # fmt: skip
        return "labels.association", data, conversation.jid

    def call(self, _: _Instance, conversation: _Conversation) -> "_Made":
        """A call comes in."""
        caller = conversation.participants[0] if conversation.group else conversation.jid
        moment = datetime.fromtimestamp(self._now_ms / 1000, UTC).replace(tzinfo=None)
        data = {
            "id": f"{self._chance.getrandbits(64):016X}", "from": caller, "chatId": conversation.jid,
            "date": moment.isoformat(timespec="milliseconds") + "Z", "status": "offer",
            "isVideo": self._chance.random() < 0.3, "isGroup": conversation.group,
        }  # fmt: skip
        return "call", data, conversation.jid

    def connection(self, instance: _Instance, _: _Conversation) -> "_Made":
        """The connection blinks, or a new code is to be scanned."""
        if self._chance.random() < 0.3:
            return "qrcode.updated", self._qrcode(instance.name), ""
        state = self._chance.choice(("close", "connecting", "open"))
        reason = 428 if state == "close" else 200
        return "connection.update", {"instance": instance.name, "state": state, "statusReason": reason}, ""


_Made = tuple[str, Any, str]
"""Event, data, conversation."""

_WEIGHTS: Mapping[Callable[[Generator, _Instance, _Conversation], _Made], float] = {
    Generator.received: 44,
    Generator.own: 14,
    Generator.update: 22,
    Generator.presence: 8,
    Generator.contact: 3,
    Generator.chat: 3,
    Generator.edited: 2,
    Generator.group: 2,
    Generator.label: 1,
    Generator.call: 0.5,
    Generator.connection: 0.5,
}
"""How often each thing happens, roughly as on a shop's number."""


def phone_jid(number: int) -> str:
    """The JID of a person; 0 to 99,999 are different persons."""
    return f"55{_AREA_CODES[number // 10_000]}90000{number % 10_000:04d}@s.whatsapp.net"


def group_jid(number: int) -> str:
    """The JID of a group."""
    return f"120363{number:012d}@g.us"


def lid_jid(number: int) -> str:
    """The LID of a person."""
    return f"900000{number:09d}@lid"


def plain_event(instance: str, conversation: str, sequence: int, size: int, *, sent_at_ns: int = 0) -> bytes:
    """
    A `messages.upsert` of exactly `size` bytes for load, made in about a microsecond.

    `conversation` is its JID, `sequence` its `data.key.id` as text, `sent_at_ns` its `data.sentAt`. A size below what
    the fields take (about 350 bytes) gives the smallest there is.
    """
    head, tail = _plain_frame(instance, conversation)
    middle = b'%d"},"sentAt":%d,"messageTimestamp":%d,' % (sequence, sent_at_ns, sent_at_ns // 1_000_000_000)
    padding = size - len(head) - len(middle) - len(tail)
    return b"".join((head, middle, tail[:_PADDED], b"x" * padding, tail[_PADDED:]))


_PADDED_TEXT = b'"message":{"conversation":"'
_PADDED = len(_PADDED_TEXT)


@lru_cache(maxsize=65_536)
def _plain_frame(instance: str, conversation: str) -> tuple[bytes, bytes]:
    jid, instance_id = orjson.dumps(conversation), orjson.dumps(str(uuid5(NAMESPACE_URL, f"sluice-demo/{instance}")))
    head = b'{"event":"messages.upsert","data":{"key":{"remoteJid":' + jid + b',"fromMe":false,"id":"'
    return head, (
        _PADDED_TEXT + b'"},"messageType":"conversation","pushName":"Carga","status":"DELIVERY_ACK","instanceId":'
        + instance_id + b',"source":"android"}}'
    )  # fmt: skip


def _contact(instance: _Instance, chat: _Conversation) -> dict[str, Any]:
    return {"remoteJid": chat.jid, "pushName": chat.name, "profilePicUrl": None, "instanceId": instance.id}


def _chat(instance: _Instance, chat: _Conversation) -> dict[str, Any]:
    return {"remoteJid": chat.jid, "instanceId": instance.id, "name": chat.name, "unreadMessages": 0}


def _group(chat: _Conversation) -> dict[str, Any]:
    people = [{"id": jid, "admin": "superadmin" if not index else None} for index, jid in enumerate(chat.participants)]
    return {"id": chat.jid, "subject": chat.name, "size": len(people), "participants": people}
