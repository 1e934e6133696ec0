"""Keys, values and headers of the `config` topic."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import records, rows
from app.config.acceptance import Known, Record
from app.config.instances import check_name
from app.config.loose_ends import FORGET_AFTER_SECS, OWN_REPAIR_AFTER_SECS, LooseEnds

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(names, names)
def test_keys_hold_any_name_and_never_mix(first: str, second: str) -> None:
    """A name with slashes, percents or snowmen comes back as it was, and two names never share a key."""
    assert rows.split(rows.instance_key(first)) == ("instance", first)
    assert rows.split(rows.section_key(first, "x")) == ("instance", first, "x")
    assert rows.split(rows.pipeline_key(first)) == ("pipeline", first)
    assert (rows.instance_key(first) == rows.instance_key(second)) == (first == second)
    assert not rows.instance_key(first).startswith(f"{rows.instance_key(second)}/")
    assert rows.section_key(first, "x").isascii()


def test_a_row_tells_owner_source_and_body() -> None:
    """The book-keeping stands around the body."""
    row = rows.Row("defaults", rows.value("file", "pipelines.yaml:3", {"a": 1}), 7)
    assert (row.owner, row.source, row.body) == ("file", "pipelines.yaml:3", {"a": 1})


def consumed(
    key: bytes | None = b"defaults", value: bytes | None = b"{}", headers: list[tuple[str, bytes]] | None = None
) -> SimpleNamespace:
    """A record as a consumer gives it."""
    if headers is None:
        headers = records.headers(base=-1, at=3, apply="w", index=0, count=1, repair=False)
    return SimpleNamespace(offset=9, timestamp=5, key=key, value=value, headers=headers)


@given(
    st.integers(-1, 8),
    st.integers(0, 2**60),
    st.text("abc019", max_size=12),
    st.integers(1, 9),
    st.booleans(),
    st.data(),
)
def test_headers_come_back(base: int, at: int, apply: str, count: int, repair: bool, data: st.DataObject) -> None:
    """What a writer stamps on a record is what every reader finds."""
    index = data.draw(st.integers(0, count - 1))
    stamp = records.headers(base=base, at=at, apply=apply, index=index, count=count, repair=repair)
    assert records.parse(consumed(value=None, headers=stamp)) == Record(
        offset=9,
        key="defaults",
        value=None,
        base=base,
        at=at,
        apply=apply,
        index=index,
        count=count,
        repair=repair,
        timestamp=5,
    )


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (consumed(headers=[]), "no header 'base'"),
        (consumed(headers=[("base", b"x"), ("at", b"0"), ("apply", b"w")]), "invalid literal"),
        (consumed(headers=[("base", b"9"), ("at", b"0"), ("apply", b"w")]), "contradict"),
        (consumed(headers=[("base", b"1"), ("at", b"0"), ("apply", b"w"), ("index", b"2")]), "contradict"),
        (consumed(headers=[("base", b"1"), ("at", b"0"), ("apply", b"\xff")]), "utf-8"),
        (consumed(value=b"{"), "unexpected end"),
        (consumed(value=b"[]"), "no JSON object"),
        (consumed(key=b"\xff"), "none of ours"),
        (consumed(key=b"a\nb"), "none of ours"),
        (consumed(key=None), "none of ours"),
    ],
)
def test_what_can_be_no_row_says_why(record: SimpleNamespace, why: str) -> None:
    """A record that somebody else wrote is marked, and no value of it is kept."""
    found = records.parse(record)
    assert why in found.broken
    assert found.value is None


@pytest.mark.parametrize("name", ["a", "sales/eu", "ünï ☃", "x" * 255, " "])
def test_names_that_instances_may_have(name: str) -> None:
    """Nearly everything: names come from URLs and from other people's systems."""
    assert check_name(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "empty"), ("x" * 256, "256"), ("a\nb", "character 2"), ("\x7f", "U+007F"), ("\ud800", "D800")],
)
def test_names_that_instances_may_not_have(name: str, why: str) -> None:
    """The limit, the place and the character are told."""
    assert why in (check_name(name) or "")


ACCEPTED = Known(changed=4, last=4, value=b"{}")
IGNORED = Known(changed=4, last=6, value=b"{}")


def test_an_ignored_record_is_repaired_once_after_a_while() -> None:
    """Only what stays the last of its key is due, later for others than for its writer, and once."""
    loose = LooseEnds(5.0, jitter=lambda: 0.5)
    loose.see("a", IGNORED, now=0.0)
    loose.see("b", IGNORED, now=0.0)
    loose.see("c", IGNORED, now=0.0)
    loose.see("b", ACCEPTED, now=1.0)
    loose.hurry("c", now=1.0)
    assert loose.take_repairs(now=1.0) == []
    assert loose.take_repairs(now=1.0 + OWN_REPAIR_AFTER_SECS) == ["c"]
    assert loose.take_repairs(now=7.4) == []
    assert loose.take_repairs(now=7.5) == ["a"]
    assert loose.take_repairs(now=100.0) == []


def test_deleted_keys_are_forgotten_after_an_hour_unless_created_again() -> None:
    """Nothing is kept for ever about what is gone."""
    loose = LooseEnds(5.0)
    gone = Known(changed=4, last=4)
    loose.see("a", gone, now=0.0)
    loose.see("b", gone, now=0.0)
    loose.see("b", ACCEPTED, now=1.0)
    assert loose.take_forgettable(now=FORGET_AFTER_SECS - 1) == []
    assert loose.take_forgettable(now=FORGET_AFTER_SECS) == ["a"]
    assert loose.take_forgettable(now=2 * FORGET_AFTER_SECS) == []
