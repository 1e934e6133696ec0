"""The catalogue: every event by every spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events import catalogue
from schemas import _events

ALL = [
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
    "GROUP_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CONNECTION_UPDATE",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "STATUS_INSTANCE",
]

TABLE = [
    ("APPLICATION_STARTUP", "application.startup", "application-startup"),
    ("INSTANCE_CREATE", "instance.create", "instance-create"),
    ("INSTANCE_DELETE", "instance.delete", "instance-delete"),
    ("QRCODE_UPDATED", "qrcode.updated", "qrcode-updated"),
    ("CONNECTION_UPDATE", "connection.update", "connection-update"),
    ("STATUS_INSTANCE", "status.instance", "status-instance"),
    ("REMOVE_INSTANCE", "remove.instance", "remove-instance"),
    ("LOGOUT_INSTANCE", "logout.instance", "logout-instance"),
    ("MESSAGES_SET", "messages.set", "messages-set"),
    ("MESSAGES_UPSERT", "messages.upsert", "messages-upsert"),
    ("MESSAGES_EDITED", "messages.edited", "messages-edited"),
    ("MESSAGES_UPDATE", "messages.update", "messages-update"),
    ("MESSAGES_DELETE", "messages.delete", "messages-delete"),
    ("SEND_MESSAGE", "send.message", "send-message"),
    ("SEND_MESSAGE_UPDATE", "send.message.update", "send-message-update"),
    ("CONTACTS_SET", "contacts.set", "contacts-set"),
    ("CONTACTS_UPSERT", "contacts.upsert", "contacts-upsert"),
    ("CONTACTS_UPDATE", "contacts.update", "contacts-update"),
    ("PRESENCE_UPDATE", "presence.update", "presence-update"),
    ("CHATS_SET", "chats.set", "chats-set"),
    ("CHATS_UPSERT", "chats.upsert", "chats-upsert"),
    ("CHATS_UPDATE", "chats.update", "chats-update"),
    ("CHATS_DELETE", "chats.delete", "chats-delete"),
    ("GROUPS_UPSERT", "groups.upsert", "groups-upsert"),
    ("GROUPS_UPDATE", "groups.update", "groups-update"),
    ("GROUP_PARTICIPANTS_UPDATE", "group-participants.update", "group-participants-update"),
    ("LABELS_EDIT", "labels.edit", "labels-edit"),
    ("LABELS_ASSOCIATION", "labels.association", "labels-association"),
    ("CALL", "call", "call"),
    ("TYPEBOT_START", "typebot.start", "typebot-start"),
    ("TYPEBOT_CHANGE_STATUS", "typebot.change-status", "typebot-change-status"),
    ("MESSAGING_HISTORY_SET", "messaging-history.set", "messaging-history-set"),
    ("CREDS_UPDATE", "creds.update", "creds-update"),
    ("NEW_JWT_TOKEN", "new.jwt", "new-jwt-token"),
    ("CHAMA_AI_ACTION", "chama-ai.action", "chama-ai-action"),
    ("ERRORS", "error", "errors"),
]


def test_all_events_are_the_apis_31_in_its_order() -> None:
    """What an empty list of events stands for compares equal with what the API answers."""
    assert list(catalogue.ALL_EVENTS) == ALL
    assert len(catalogue.ALL_EVENTS) == 31


def test_table_is_complete() -> None:
    """Every event of the contract is in the catalogue, and no other."""
    assert {(event.config, event.wire) for event in catalogue.EVENTS} == {(upper, wire) for upper, wire, _ in TABLE}


@pytest.mark.parametrize(("upper", "wire", "slug"), TABLE)
def test_every_event_has_its_spellings(upper: str, wire: str, slug: str) -> None:
    """Each event is spelled as section 1 of the contract says, and each spelling leads back to it."""
    spelled = catalogue.spellings(wire)
    assert spelled == (upper, slug.replace("-", "_"), slug, wire, wire)
    for spelling in (*spelled, wire.replace("-", "."), f"  {upper} "):
        assert catalogue.wire_name(spelling) == wire
    assert catalogue.is_known(wire)
    assert catalogue.covers(upper, wire)


@pytest.mark.parametrize(
    ("sent", "wire"),
    [
        ("GROUP_UPDATE", "groups.update"),
        ("GROUPS_UPDATE", "groups.update"),
        ("group.update", "groups.update"),
        ("Groups-Update", "groups.update"),
        ("group.participants.update", "group-participants.update"),
        ("group participants update", "group-participants.update"),
        ("typebot.change.status", "typebot.change-status"),
        ("NEW_TOKEN", "new.jwt"),
        ("NEW_JWT_TOKEN", "new.jwt"),
        ("ERRORS_WEBHOOK", "error"),
    ],
)
def test_aliases_mean_their_event(sent: str, wire: str) -> None:
    """Every other name that clients send for an event means that event, in a record and in a subscription."""
    assert catalogue.wire_name(sent) == wire
    assert catalogue.subscribed(sent) == wire
    assert catalogue.covers(sent, wire)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (" messages.upsert ", "MESSAGES_UPSERT"),
        ("groups-update", "GROUPS_UPDATE"),
        ("GROUP_UPDATE", "GROUP_UPDATE"),
        ("new_token", "NEW_TOKEN"),
        ("typebot send message", "TYPEBOT_SEND_MESSAGE"),
    ],
)
def test_a_subscription_is_stored_as_it_was_sent(sent: str, stored: str) -> None:
    """A subscription changes in case and separators only, so that a client reads back what it wrote."""
    assert catalogue.subscription(sent) == stored


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "..",
        "messages..upsert",
        ".messages",
        "messages.",
        "messages/upsert",
        "messages.upsert\n",
        "messages\x00upsert",
        "mensagem.é",
        "x" * 101,
        "*",
        "\ud800",
    ],
)
def test_what_is_no_event_name_is_refused(text: str) -> None:
    """Names that are empty, too long, or could leave their place in an address are no event names."""
    assert catalogue.wire_name(text) is None


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("messages.reaction", "messages.reaction"),
        ("Messages.Reaction", "messages.reaction"),
        ("newsletter-view.update", "newsletter-view.update"),
        ("NEWSLETTER_UPDATE", "newsletter_update"),
        ("poll votes", "poll.votes"),
        ("x" * 100, "x" * 100),
    ],
)
def test_an_unknown_name_passes_in_lower_case(text: str, wire: str) -> None:
    """A name of the next upstream release stays as it is but for its case, and is not known."""
    assert catalogue.wire_name(text) == wire
    assert not catalogue.is_known(wire)


def test_an_unknown_event_reaches_who_names_it() -> None:
    """A subscription to a name that the catalogue does not know covers it in any spelling, and nothing else."""
    assert catalogue.covers("MESSAGES_REACTION", "messages.reaction")
    assert catalogue.covers("messages.reaction", "messages_reaction")
    assert not catalogue.covers("MESSAGES_REACTION", "messages.upsert")
    assert not catalogue.covers("MESSAGES_UPSERT", "messages.update")
    assert catalogue.spellings("messages.reaction").upper == "MESSAGES_REACTION"
    assert catalogue.spellings("poll_votes").queue == "poll.votes"


def test_no_two_events_share_a_spelling() -> None:
    """Every spelling of the catalogue means one event."""
    spelled = [name for event in catalogue.EVENTS for name in (event.config, *event.aliases)]
    assert len(spelled) == len(set(spelled))
    slugs = [catalogue.spellings(event.wire).kebab for event in catalogue.EVENTS]
    assert len(slugs) == len(set(slugs))


def test_the_variables_name_the_catalogues_events() -> None:
    """The switches of the environment exist for every event that can pass, spelled as in the catalogue."""
    configs = {event.config for event in catalogue.EVENTS}
    assert configs - set(_events.EVENTS) == {"NEW_JWT_TOKEN", "CHAMA_AI_ACTION", "ERRORS"}
    assert set(_events.EVENTS) <= configs
    for alias, config in _events.ALIASES.items():
        assert catalogue.subscribed(alias) == catalogue.subscribed(config)


@given(st.text(max_size=120))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    """A name that was normalised stays as it is, and so does a subscription."""
    wire = catalogue.wire_name(text)
    assert wire is None or catalogue.wire_name(wire) == wire
    stored = catalogue.subscription(text)
    assert catalogue.subscription(stored) == stored


@given(st.from_regex(r"[A-Za-z0-9]{1,8}([ ._-][A-Za-z0-9]{1,8}){0,4}", fullmatch=True))
def test_every_well_formed_name_has_spellings_that_find_it(name: str) -> None:
    """Whoever subscribes to a name in upper case gets it under the name that the wire has."""
    wire = catalogue.wire_name(name)
    assert wire is not None
    assert catalogue.wire_name(wire) == wire
    assert catalogue.covers(catalogue.spellings(wire).upper, wire)
    assert catalogue.covers(name, wire)


@given(st.sampled_from(TABLE), st.data())
def test_any_case_and_separator_of_a_known_name_means_it(row: tuple[str, str, str], data: st.DataObject) -> None:
    """A known name is understood in any mixture of cases and separators."""
    upper, wire, _ = row
    separators = st.sampled_from("._- ")
    mixed = "".join(
        data.draw(separators) if letter == "_" else letter.swapcase() if data.draw(st.booleans()) else letter
        for letter in upper
    )
    assert catalogue.wire_name(mixed) == wire
    assert catalogue.covers(mixed, wire)
