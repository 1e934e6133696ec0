"""A webhook's request as a pure function of message and clock, and what answers mean (contract, section 8)."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.webhook import Options
from sinks import Message, Misconfigured
from sinks.webhook import encode, retry_after, token

NOW = 1_700_000_000.9


def message(options: Options, **changes: Any) -> Message:
    """A message for these options."""
    values: dict[str, Any] = {
        "body": b"{}",
        "instance": "sales",
        "instance_id": "uuid-1",
        "event": "group-participants.update",
        "names": {"event": "GROUP_PARTICIPANTS_UPDATE", "suffix": "/group_participants_update"},
        "event_id": "event-1",
        "delivery_id": "delivery-1",
        "order_key": "",
        "attempt": 1,
        "timestamp_ms": 1,
        "options": options,
    }
    return Message(**(values | changes))


def headers(given: dict[str, Any], **changes: Any) -> dict[str, str]:
    """The headers of a request whose destination has these headers."""
    options = Options(url="http://h/", headers=given)
    return dict(encode(message(options, **changes), "Sluice", NOW).headers)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://h/x", "https://h/x/group_participants_update"),
        ("https://h/x/", "https://h/x/group_participants_update"),
        ("https://h/x//", "https://h/x/group_participants_update"),
        ("https://h", "https://h/group_participants_update"),
        ("https://h?a=1", "https://h/group_participants_update?a=1"),
        ("https://h/x?a=/b/&c", "https://h/x/group_participants_update?a=/b/&c"),
        ("https://h/x#part", "https://h/x/group_participants_update"),
        ("https://h/x/?a#b?c", "https://h/x/group_participants_update?a"),
        ("https://h/x#a?b", "https://h/x/group_participants_update"),
    ],
)
def test_the_events_name_ends_the_path(url: str, wanted: str) -> None:
    """By events, exactly one slash and the name stand before the query (C2)."""
    assert encode(message(Options(url=url, by_events=True)), "Sluice", NOW).url == wanted


def test_without_by_events_the_address_stays() -> None:
    """Without by-events the address is the configured one, to the byte."""
    url = "https://h/x//?sig=a%2Bb%2F%3D&x=%26"

    assert encode(message(Options(url=url)), "Sluice", NOW).url == url


def test_a_user_in_the_address_becomes_a_header() -> None:
    """Credentials in the address go out as Basic authorization and leave the address."""
    request = encode(message(Options(url="https://me:p%40ss@h:81/x?a@b")), "Sluice", NOW)

    assert request.url == "https://h:81/x?a@b"
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_own_authorization_wins_over_the_address() -> None:
    """The destination's Authorization replaces the one made of the address, whatever its case."""
    request = encode(message(Options(url="https://me:x@h/", headers={"authorization": "Own"})), "Sluice", NOW)

    assert {name: value for name, value in request.headers.items() if name.lower() == "authorization"} == {
        "authorization": "Own"
    }


def test_an_address_that_cannot_be_split_is_misconfigured() -> None:
    """An address that is no address is told as configuration, without quoting it."""
    with pytest.raises(Misconfigured) as caught:
        encode(message(Options(url="http://[secret/x")), "Sluice", NOW)

    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("name", ["Content-Type", "user-agent", "X-INSTANCE-ID", "x-sluice-delivery-id", "Accept"])
def test_own_headers_win(name: str) -> None:
    """Each header of ours can be replaced, and then stands once."""
    sent = headers({name: "own"})

    assert [value for key, value in sent.items() if key.lower() == name.lower()] == ["own"]


def test_jwt_key_becomes_a_token() -> None:
    """`jwt_key` is not sent; Authorization has a token signed by it, whatever Authorization was given (contract 8)."""
    sent = headers({"jwt_key": "sesame", "authorization": "Own", "X-Own": "1"})

    assert "jwt_key" not in sent
    assert "authorization" not in sent
    assert sent["X-Own"] == "1"
    head, claims, signature = sent["Authorization"].removeprefix("Bearer ").split(".")
    assert json.loads(decoded(head)) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(decoded(claims)) == {
        "iat": 1_700_000_000,
        "exp": 1_700_000_600,
        "app": "evolution",
        "action": "webhook",
    }
    assert decoded(signature) == hmac.new(b"sesame", f"{head}.{claims}".encode(), hashlib.sha256).digest()


def test_an_empty_jwt_key_is_ignored() -> None:
    """An empty `jwt_key` is neither sent nor used, and the given Authorization stays (U22)."""
    sent = headers({"jwt_key": "", "Authorization": "Own"})

    assert "jwt_key" not in sent
    assert sent["Authorization"] == "Own"


@given(st.text(min_size=1))
def test_tokens_are_signed_whatever_the_key(secret: str) -> None:
    """Every text that UTF-8 can carry is a key."""
    head, claims, signature = token(secret, 0).split(".")

    assert decoded(signature) == hmac.new(secret.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sales", "sales"),
        ("my shop #1", "my shop #1"),
        ("loja açaí", "loja a%C3%A7a%C3%AD"),
        ("a\r\nb: c", "a%0D%0Ab%3A c"),
    ],
)
def test_names_of_instances_are_safe_in_headers(name: str, wanted: str) -> None:
    """An instance's name stands as it is when it is printable ASCII, and percent-encoded when it is not."""
    assert headers({}, instance=name)["X-Instance-Name"] == wanted


@given(instance=st.text(), event_id=st.text(), event=st.text())
def test_no_text_breaks_a_header(instance: str, event_id: str, event: str) -> None:
    """Whatever producers put into names and ids, each header stays one line of ASCII."""
    sent = headers({}, instance=instance, event_id=event_id, event=event)

    assert all(value.isascii() and value.isprintable() for value in sent.values())


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("99999999", 86400.0),
        ("9" * 5000, 86400.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 59.1),
        ("Tue, 14 Nov 2023 22:14:20", 59.1),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Fri, 14 Nov 2042 22:00:00 GMT", 86400.0),
        ("Fri, 99 Nov 2042 22:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, wanted: float | None) -> None:
    """Both forms of RFC 9110, 10.2.3, within a day; what is neither counts as not given."""
    assert retry_after(value, NOW) == (wanted if wanted is None else pytest.approx(wanted))


@given(st.text())
def test_retry_after_survives_every_text(value: str) -> None:
    """No text that a far end sends raises, and every wait is within a day."""
    wait = retry_after(value, NOW)

    assert wait is None or 0 <= wait <= 86400


def decoded(segment: str) -> bytes:
    """A segment of a token."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
