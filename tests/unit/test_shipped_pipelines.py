"""The pipelines.yaml that ships is data of this test: it loads, and does to events what its comments say."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.config.pipelines import Loaded, load
from app.events.event import Event
from app.routing.expressions import compile_expression
from app.routing.patterns import compile_pattern

FILE = Path(__file__).parents[2] / "pipelines.yaml"


@pytest.fixture(scope="module")
def shipped() -> Loaded:
    """What the file says."""
    return load(FILE)


def event(data: dict[str, Any], name: str = "messages.upsert") -> Event:
    """An event of sales."""
    return Event(instance="sales", name=name, data=data, id="e-1", partition=0, offset=0, timestamp_ms=1, size=1)


TEXT = {
    "key": {"remoteJid": "5511999@s.whatsapp.net", "fromMe": False, "id": "A1"},
    "pushName": "Ana",
    "messageType": "conversation",
    "message": {"conversation": "I want a refund"},
    "messageTimestamp": 1700000000,
}


def test_the_shipped_file_has_nothing_wrong_with_it(shipped: Loaded) -> None:
    """No problem and no warning, and enough in it to show each part."""
    assert shipped.problems == ()
    assert {"sales", "support", "billing"} <= set(shipped.instances)
    assert {entry.spec.order for entry in shipped.pipelines.values()} >= {"chat", "instance"}
    assert any(isinstance(entry.spec.where, str) for entry in shipped.pipelines.values())
    assert any(isinstance(entry.spec.where, dict) for entry in shipped.pipelines.values())


@pytest.mark.parametrize(
    ("pipeline", "change", "holds"),
    [
        ("inbound-text", {}, True),
        ("inbound-text", {"key": {**TEXT["key"], "fromMe": True}}, False),
        ("inbound-text", {"messageType": "imageMessage"}, False),
        ("inbound-text", {"key": {**TEXT["key"], "remoteJid": "1-2@g.us"}}, False),
        ("urgent", {}, True),
        ("urgent", {"message": {"conversation": "thank you"}}, False),
        ("urgent", {"message": {"extendedTextMessage": {"text": "This is URGENT"}}}, True),
    ],
)
def test_the_shipped_patterns_hold_where_they_should(
    shipped: Loaded, pipeline: str, change: dict[str, Any], holds: bool
) -> None:
    """Each pattern takes the events that its comment promises."""
    assert compile_pattern(shipped.pipelines[pipeline].spec.where)(event({**TEXT, **change})) is holds


def test_the_shipped_shape_flattens_a_message(shipped: Loaded) -> None:
    """The lake gets one flat row a message."""
    shape = shipped.pipelines["inbound-text"].spec.shape
    assert shape is not None

    assert orjson.dumps(compile_expression(shape, "shape")(event(TEXT))) == (
        b'{"id":"e-1","instance":"sales","chat":"5511999@s.whatsapp.net","name":"Ana","text":"I want a refund",'
        b'"sent_at":1700000000}'
    )


def test_no_address_of_one_machine_stands_in_the_shipped_file() -> None:
    """Every address comes from the environment."""
    text = FILE.read_text(encoding="utf-8")

    assert "http://" not in text
    assert "https://" not in text
