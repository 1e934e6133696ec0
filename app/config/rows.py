"""Rows of the `config` topic: keys, values, and who owns them (design, sections 4 and 5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

import orjson

FORMAT = 1
Owner = Literal["file", "api", "environment", "event"]


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted row: its value and the offset where it stands in the topic."""

    key: str
    value: Mapping[str, Any]
    offset: int

    @property
    def owner(self) -> Owner:
        """Who may change it: `file` rows change with pipelines.yaml only."""
        owner: Owner = self.value.get("owner", "api")
        return owner

    @property
    def source(self) -> str:
        """Where it came from: `pipelines.yaml:12`, or the request."""
        return str(self.value.get("source", ""))

    @property
    def body(self) -> Mapping[str, Any]:
        """What the row is about, without the book-keeping around it."""
        body: Mapping[str, Any] = self.value.get("body", {})
        return body


@dataclass(frozen=True, slots=True)
class Change:
    """
    What one write wants: a new value for a key, or its end (`value` None, a tombstone).

    `base` is the offset of the row it was computed from, -1 where there was none. A row whose base is not the current
    one is ignored by every reader, and its writer computes again.
    """

    key: str
    value: Mapping[str, Any] | None
    base: int


def value(owner: Owner, source: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The value of a row."""
    return {"format": FORMAT, "owner": owner, "source": source, "body": dict(body)}


def encode(row: Mapping[str, Any]) -> bytes:
    """The row as it stands in the topic."""
    return orjson.dumps(row)


def instance_key(name: str) -> str:
    """`instance/{name}`; the name is percent-encoded so that it can hold a slash."""
    return f"instance/{quote(name, safe='')}"


def section_key(name: str, transport: str) -> str:
    """`instance/{name}/{transport}`."""
    return f"instance/{quote(name, safe='')}/{transport}"


def pipeline_key(name: str) -> str:
    """`pipeline/{name}`."""
    return f"pipeline/{quote(name, safe='')}"


def global_key(transport: str) -> str:
    """`global/{transport}`."""
    return f"global/{transport}"


def layout_key(name: str) -> str:
    """`layout/{name}`: a layout of the user's own."""
    return f"layout/{quote(name, safe='')}"


def control_key(destination_id: str) -> str:
    """`control/{destination}`: what an operator or a worker decided about a destination; its id is one encoded part."""
    return f"control/{quote(destination_id, safe='')}"


DEFAULTS_KEY = "defaults"
LOG_KEY = "meta/log"
"""The nonce of `events`: part of ids given by position, changes when the topic is re-created."""


def split(key: str) -> tuple[str, ...]:
    """The parts of a key, decoded: `("instance", name)`, `("instance", name, transport)`, `("pipeline", name)`..."""
    return tuple(unquote(part) for part in key.split("/"))
