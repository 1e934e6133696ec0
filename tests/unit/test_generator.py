"""Made-up events: the same for a seed, in the shapes of the contract, and with what a check needs."""

from collections import Counter, defaultdict
from itertools import islice
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.demo.generator import GeneratedEvent, Generator, group_jid, lid_jid, phone_jid, plain_event
from app.events import catalogue
from app.events.decode import decode
from app.events.event import Event
from app.events.order import conversation

INSTANCES = ("vendas", "suporte", "loja-são-paulo")


def generate(count: int, seed: int = 7, conversations: int = 12) -> list[GeneratedEvent]:
    """The first events of a seed."""
    return list(islice(Generator(seed, INSTANCES, conversations), count))


def read(instance: str, value: bytes) -> Event:
    """The event as Sluice reads it from the log."""
    record: Any = SimpleNamespace(
        key=instance.encode(), value=value, headers=(), partition=0, offset=0, timestamp=1_767_225_600_000
    )
    return decode(record, "k7")


def test_one_seed_gives_one_row_of_events() -> None:
    """The same seed gives the same events, another seed others."""
    assert generate(500) == generate(500)
    assert generate(500) != generate(500, seed=8)


def test_every_event_is_read_as_it_was_meant() -> None:
    """Each event passes the decoder, is known to the catalogue, and has the conversation it says."""
    for made in generate(4000):
        event = read(made.instance, orjson.dumps(made.body()))
        assert catalogue.is_known(event.name)
        assert (event.instance, event.name, event.data) == (made.instance, made.event, made.data)
        assert (event.id, event.sender, event.date_time) == (made.id, made.sender, made.date_time)
        assert conversation(event) == made.conversation


def test_sequences_have_no_gaps() -> None:
    """Within instance and conversation events are numbered from 1, and their ids are apart."""
    events = generate(4000)
    numbers = defaultdict(list)
    for made in events:
        numbers[made.instance, made.conversation].append(made.sequence)
    assert all(given == list(range(1, len(given) + 1)) for given in numbers.values())
    assert len({made.id for made in events}) == len(events)
    assert all(made.id.endswith(f"/{made.sequence}") for made in events)


def test_a_message_carries_its_number() -> None:
    """The last ten digits of a message's id are its number in the conversation."""
    messages = [made for made in generate(4000) if made.event in ("messages.upsert", "send.message")]
    assert messages
    assert all(int(made.data["key"]["id"][-10:]) == made.sequence for made in messages)


def test_an_update_follows_its_message() -> None:
    """No message changes its status before it was sent, none goes back, and no status is told twice."""
    sent: dict[tuple[str, str, str], int] = {}
    order = ("PENDING", "SERVER_ACK", "DELIVERY_ACK", "READ")
    updates = 0
    for made in generate(4000):
        if made.event in ("messages.upsert", "send.message") and made.data["key"]["fromMe"]:
            sent[made.instance, made.conversation, made.data["key"]["id"]] = 0
        elif made.event == "messages.update":
            updates += 1
            key = (made.instance, made.conversation, made.data["keyId"])
            assert order.index(made.data["status"]) == sent[key] + 1
            sent[key] += 1
    assert updates > 100


def test_an_instance_connects_before_it_talks() -> None:
    """The sender is absent until the connection is open, and present ever after."""
    for instance in INSTANCES:
        events = [made for made in generate(400) if made.instance == instance]
        assert [made.event for made in events[:4]] == [
            "instance.create",
            "qrcode.updated",
            "connection.update",
            "connection.update",
        ]
        assert [made.sender is None for made in events[:4]] == [True, True, True, False]
        assert all(made.sender for made in events[3:])


def test_there_is_something_of_everything() -> None:
    """A few thousand events have all kinds, objects and arrays, texts and media, own and others', groups and LIDs."""
    events = generate(6000)
    kinds = Counter(made.event for made in events)
    assert {
        "messages.upsert", "send.message", "messages.update", "messages.edited", "messages.delete", "presence.update",
        "contacts.upsert", "contacts.update", "chats.upsert", "chats.update", "groups.upsert", "groups.update",
        "group-participants.update", "connection.update", "qrcode.updated", "labels.edit", "labels.association", "call",
    } <= set(kinds)  # fmt: skip
    messages = [made.data for made in events if made.event == "messages.upsert"]
    assert {data["messageType"] for data in messages} == {"conversation", "extendedTextMessage", "imageMessage"}
    assert {data["key"]["fromMe"] for data in messages} == {True, False}
    assert any("mediaUrl" in data["message"] for data in messages)
    assert any(data["key"]["remoteJid"].endswith("@lid") for data in messages)
    assert any(data["key"]["remoteJid"].endswith("@g.us") for data in messages)
    assert {type(made.data) for made in events if made.event == "contacts.update"} == {dict, list}


def test_times_only_go_on() -> None:
    """Events stand in the order of their times."""
    times = [made.date_time for made in generate(500)]
    assert times == sorted(times)


@pytest.mark.parametrize(("instances", "conversations"), [((), 1), (("a",), 0), (("a",), 100_001)])
def test_what_cannot_be_made_is_refused(instances: tuple[str, ...], conversations: int) -> None:
    """Without instances, or with no or too many conversations, there is nothing to make."""
    with pytest.raises(ValueError, match=r"wanted|can be had"):
        Generator(1, instances, conversations)


def test_jids_are_apart() -> None:
    """Each number has its own JIDs."""
    made = [make(number) for make in (phone_jid, group_jid, lid_jid) for number in (0, 1, 9_999, 10_000, 99_999)]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("size", [512, 1024, 65_536])
def test_a_plain_event_has_the_size_that_was_asked_for(size: int) -> None:
    """Load has exactly the bytes it says, whatever the numbers in it, and is an event like any other."""
    for sequence in (1, 10, 123_456_789):
        value = plain_event("loja-são-paulo", phone_jid(3), sequence, size, sent_at_ns=1_767_225_600_000_000_123)
        event = read("loja-são-paulo", value)
        assert len(value) == size
        assert event.name == "messages.upsert"
        assert event.data["key"]["id"] == str(sequence)
        assert event.data["sentAt"] == 1_767_225_600_000_000_123
        assert event.data["messageTimestamp"] == 1_767_225_600
        assert conversation(event) == phone_jid(3)


def test_a_plain_event_below_its_fields_is_still_an_event() -> None:
    """A size that cannot be had gives the smallest event."""
    assert read("vendas", plain_event("vendas", phone_jid(1), 5, 1)).data["message"] == {"conversation": ""}
