"""Options, sections and variables of every transport, and those of the webhook."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import schemas
from app import settings
from app.events.catalogue import EVENTS as CATALOGUE
from app.events.catalogue import wire_name
from schemas import Retry
from schemas._events import ALIASES, EVENTS, toggled
from schemas.webhook import Options, destination_text

TRANSPORTS = schemas.transports()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_option_has_words(transport: str) -> None:
    """Each option has a description that ends as a sentence, and a default or an example."""
    for name, field in schemas.options(transport).model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required() or field.examples, name


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_options_know_their_transport(transport: str) -> None:
    """The class of `schemas/<name>.py` carries that name."""
    assert schemas.options(transport).transport == transport


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_options_make_a_schema_for_editors(transport: str) -> None:
    """The options have a JSON Schema that refuses unknown keys."""
    assert schemas.options(transport).model_json_schema()["additionalProperties"] is False


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_variables_stand_once(transport: str) -> None:
    """Names and fields of variables are unique, and each has a description."""
    variables = schemas.variables(transport)

    assert len({variable.name for variable in variables}) == len(variables)
    assert len({variable.field for variable in variables}) == len(variables)
    assert all(variable.description for variable in variables)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sections_name_their_keys_once(transport: str) -> None:
    """Each upstream field has a place in the row, and no spelling means two fields."""
    section = schemas.section(transport)
    spellings = [spelling for field in section.fields for spelling in field.accepts]

    assert len(set(spellings)) == len(spellings)
    assert {field.stored for field in section.fields if not field.ours} < set(section.row_order)
    assert set(section.unset) <= set(section.row_order)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_row_of_defaults_makes_options(transport: str) -> None:
    """What `find` answers before any `set` can be turned into keyword arguments."""
    known = set(schemas.options(transport).model_fields)

    assert set(schemas.section(transport).to_options(schemas.section(transport).unset)) <= known


def test_events_are_those_of_the_catalogue() -> None:
    """Toggles have the catalogue's names, but for those nobody emits any more and ERRORS, a switch of its own."""
    catalogue = {event.config for event in CATALOGUE}

    assert catalogue - {"CHAMA_AI_ACTION", "NEW_JWT_TOKEN", "ERRORS"} == set(EVENTS)
    for alias, meant in ALIASES.items():
        assert wire_name(alias) == wire_name(meant)


def test_webhook_rows_become_options() -> None:
    """A stored row's keys become the options of its destination; null and absent are the defaults."""
    row = {"url": "https://h/x", "headers": None, "webhookByEvents": True, "webhookBase64": None, "enabled": True}

    options = Options(**schemas.section("webhook").to_options(row))

    assert (options.url, options.headers, options.by_events, options.base64) == ("https://h/x", {}, True, False)
    assert destination_text(options) == "https://h/x"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://H.example.com/a?b", "https://h.example.com:443"),
        ("http://h:8080", "http://h:8080"),
        ("http://me:secret@h/x", "http://h:80"),
        ("http://[::1]:9/x", "http://[::1]:9"),
        ("http://h:99999/x", ""),
    ],
)
def test_a_far_end_is_scheme_host_and_port(url: str, wanted: str) -> None:
    """Addresses of one server have one far end, without path and credentials."""
    assert Options(url=url).far_end == wanted


UNUSABLE = ["", "notaurl", "ftp://h/x", "HTTP://h/x", "http://", "http:///x", "http://:80/x", "http://[::1/"]
UNUSABLE += ["http://h:99999/", "http://h:x/", "http://h:0/", "http://h/a b", "http://h/a\nb", "http://h/\x00"]


@pytest.mark.parametrize("url", UNUSABLE)
def test_addresses_nothing_can_be_posted_to_are_refused(url: str) -> None:
    """Any text can be stored (contract 3.1); what no request can be made to has a reason, which does not quote it."""
    reason = Options(url=url).refusal()

    assert reason is not None
    assert "url" in reason


@pytest.mark.parametrize("url", ["http://h", "https://h:8443/x?y=z#a", "http://[::1]:80/", "https://olá.example.com/ü"])
def test_addresses_that_can_be_posted_to_pass(url: str) -> None:
    """What begins with http:// or https:// and names a host passes."""
    assert Options(url=url).refusal() is None


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"a b": "x"}, "header 'a b'"),
        ({"": "x"}, "header ''"),
        ({"a:": "x"}, "header 'a:'"),
        ({"X": "secret\r\nY: 1"}, "header 'X'"),
        ({"X": "secret\n"}, "header 'X'"),
        ({"X": "secret\x00"}, "header 'X'"),
        ({"X": "secret\ud800"}, "header 'X'"),
        ({"X": "secret" * 2000}, "header 'X'"),
        ({"Host": "secret"}, "header 'Host'"),
        ({"content-length": 5}, "header 'content-length'"),
        ({"Transfer-Encoding": "chunked"}, "header 'Transfer-Encoding'"),
        ({"connection": "close"}, "header 'connection'"),
        ({"A": "secret", "a": "2"}, "given twice"),
        ({"X": ["secret"]}, "header 'X'"),
        ({f"X-{number}": "secret" for number in range(65)}, "too many"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, Any], problem: str) -> None:
    """A header that would break the request is refused by name, and its value is not shown."""
    with pytest.raises(ValidationError) as caught:
        Options(url="http://h", headers=headers)

    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_header_values_become_texts() -> None:
    """Numbers and booleans are sent as JSON writes them, null is not sent."""
    options = Options(url="http://h", headers={"A": 1, "B": True, "C": None, "D": "x\ty", "E": 1.5})

    assert options.headers == {"A": "1", "B": "true", "D": "x\ty", "E": "1.5"}


def read(**environment: str) -> dict[str, Any]:
    """The webhook's settings in an environment."""
    return dict(settings.read(environment).transports["webhook"])


def test_webhook_defaults_are_upstreams() -> None:
    """Unset, the variables have the defaults of contract 11.2, and make a valid retry policy."""
    values = read()
    prefix = "retry_"
    retry = Retry(**{name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)})

    assert retry == Retry()
    assert values["timeout_secs"] == 30.0
    assert values["reject_statuses"] == (400, 401, 403, 404, 422)
    assert (values["global_enabled"], values["global_url"], values["global_by_events"]) == (False, "", False)
    assert toggled(values) == frozenset()


@pytest.mark.parametrize(
    ("name", "given", "field", "wanted"),
    [
        ("WEBHOOK_REQUEST_TIMEOUT_MS", "60000", "timeout_secs", 60.0),
        ("WEBHOOK_REQUEST_TIMEOUT_MS", "0", "timeout_secs", 30.0),
        ("WEBHOOK_REQUEST_TIMEOUT_MS", "", "timeout_secs", 30.0),
        ("WEBHOOK_RETRY_MAX_ATTEMPTS", "0", "retry_max_attempts", 10),
        ("WEBHOOK_RETRY_MAX_ATTEMPTS", "3x", "retry_max_attempts", 3),
        ("WEBHOOK_RETRY_JITTER_FACTOR", "0", "retry_jitter_factor", 0.2),
        ("WEBHOOK_RETRY_JITTER_FACTOR", "0.5", "retry_jitter_factor", 0.5),
        ("WEBHOOK_RETRY_USE_EXPONENTIAL_BACKOFF", "no", "retry_exponential", True),
        ("WEBHOOK_RETRY_USE_EXPONENTIAL_BACKOFF", "false", "retry_exponential", False),
        ("WEBHOOK_RETRY_NON_RETRYABLE_STATUS_CODES", "", "reject_statuses", ()),
        ("WEBHOOK_RETRY_NON_RETRYABLE_STATUS_CODES", "404, 410,", "reject_statuses", (404, 410)),
        ("WEBHOOK_GLOBAL_ENABLED", "TRUE", "global_enabled", False),
        ("WEBHOOK_GLOBAL_HEADERS", '{"A": 1}', "global_headers", {"A": "1"}),
    ],
)
def test_webhook_variables_are_read_as_upstream_does(name: str, given: str, field: str, wanted: object) -> None:
    """Parsing follows contract 11: 0 means the default, booleans are exact, an empty list is a list."""
    assert read(**{name: given})[field] == wanted


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("WEBHOOK_REQUEST_TIMEOUT_MS", "700000"),
        ("WEBHOOK_RETRY_MAX_ATTEMPTS", "5000"),
        ("WEBHOOK_RETRY_JITTER_FACTOR", "2"),
        ("WEBHOOK_RETRY_JITTER_FACTOR", "much"),
        ("WEBHOOK_RETRY_NON_RETRYABLE_STATUS_CODES", "4xx"),
        ("WEBHOOK_RETRY_NON_RETRYABLE_STATUS_CODES", "200"),
        ("WEBHOOK_GLOBAL_HEADERS", "secret"),
        ("WEBHOOK_GLOBAL_HEADERS", '{"Host": "secret"}'),
    ],
)
def test_webhook_variables_that_are_wrong_are_named(name: str, given: str) -> None:
    """A value out of limits is refused at start with its variable's name, and secrets are not shown."""
    with pytest.raises(settings.SettingsError, match=name) as caught:
        read(**{name: given})

    assert "secret" not in str(caught.value)


def test_both_spellings_of_the_group_toggle_count() -> None:
    """GROUP_UPDATE and GROUPS_UPDATE switch the same event on (C4)."""
    for spelling in (*ALIASES, "GROUPS_UPDATE"):
        assert toggled(read(**{f"WEBHOOK_EVENTS_{spelling}": "true"})) == {"GROUPS_UPDATE"}


def test_every_event_has_a_toggle() -> None:
    """Each event of the catalogue can be switched on for the global webhook."""
    values = read(**{f"WEBHOOK_EVENTS_{event}": "true" for event in EVENTS})

    assert toggled(values) == set(EVENTS)


def test_a_transport_is_one_file() -> None:
    """Transports are found by their files' names, and files of helpers are none."""
    here = Path(schemas.__file__).parent

    assert set(TRANSPORTS) == {path.stem for path in here.glob("[!_]*.py")}
