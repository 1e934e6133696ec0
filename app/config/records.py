"""
How a row stands in the topic: key and JSON as they are, and all that acceptance needs in headers.

Not in the value, where design 4 first put `base`: a tombstone has no value, and must name its base like any other. And
a repair can write the accepted value again byte by byte.
"""

from collections.abc import Sequence
from typing import Protocol

import orjson

from app.config.acceptance import Record


class Consumed(Protocol):
    """What we need of a record that a consumer gives."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def headers(*, base: int, at: int, apply: str, index: int, count: int, repair: bool) -> list[tuple[str, bytes]]:
    """The headers of one record, numbers as ASCII digits (`app/config/README.md` has the table)."""
    stamp = [("base", b"%d" % base), ("at", b"%d" % at), ("apply", apply.encode())]
    if count > 1:
        stamp += [("index", b"%d" % index), ("count", b"%d" % count)]
    if repair:
        stamp.append(("repair", b"1"))
    return stamp


def parse(consumed: Consumed) -> Record:
    """
    A record of the topic, whoever wrote it: one that can be no row comes marked as `broken`, not as an error, and
    without a key where that is no text of ours.
    """
    try:
        key = (consumed.key or b"").decode("ascii")
    except UnicodeDecodeError:
        key = ""
    if not key.isprintable() or not key:
        return _broken(consumed, "", f"its key {consumed.key!r:.100} is none of ours")
    try:
        return _row(consumed, key)
    except KeyError as error:
        return _broken(consumed, key, f"it has no header {error}")
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones.
        return _broken(consumed, key, str(error))


def _row(consumed: Consumed, key: str) -> Record:
    if consumed.value is not None and not isinstance(orjson.loads(consumed.value), dict):
        raise ValueError("its value is no JSON object")
    stamp = dict(consumed.headers)
    record = Record(
        offset=consumed.offset,
        key=key,
        value=consumed.value,
        base=int(stamp["base"]),
        at=int(stamp["at"]),
        apply=stamp["apply"].decode(),
        index=int(stamp.get("index", b"0")),
        count=int(stamp.get("count", b"1")),
        repair="repair" in stamp,
        timestamp=consumed.timestamp,
    )
    if not 0 <= record.index < record.count or not -1 <= record.base < record.offset:
        raise ValueError("its headers contradict each other")
    return record


def _broken(consumed: Consumed, key: str, why: str) -> Record:
    return Record(offset=consumed.offset, key=key, value=None, timestamp=consumed.timestamp, broken=why)
