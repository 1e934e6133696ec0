"""pipelines.yaml: everything that is wrong with one is told at once, each with its place; what is right is read."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.pipelines import Loaded, load, parse
from app.config.pipelines.positions import MAX_DEPTH
from app.events import catalogue

HERE = Path(__file__).parent / "pipelines"

EVERY_MISTAKE = [
    (1, 10, "version.unknown", None),
    (2, 1, "key.unknown", "layout"),
    (3, 9, "layout.unknown", "documented"),
    (5, 66, "layout.invalid", None),
    (6, 34, "value.limit", None),
    (6, 37, "key.unknown", "initial_delay_secs"),
    (9, 20, "address.invalid", None),
    (9, 31, "key.unknown", "byEvents"),
    (9, 55, "event.unknown", "MESSAGES_UPSERT"),
    (9, 71, "event.unlisted", None),
    (10, 5, "transport.unknown", "webhook"),
    (11, 5, "key.duplicate", None),
    (12, 28, "reference.invalid", None),
    (12, 60, "type.wrong", "true"),
    (13, 3, "name.invalid", None),
    (14, 20, "key.missing", None),
    (14, 42, "layout.unknown", "documented"),
    (15, 9, "type.wrong", None),
    (18, 23, "value.limit", None),
    (18, 36, "event.unknown", "messages.upsert"),
    (18, 52, "type.wrong", None),
    (19, 23, "expression.syntax", None),
    (20, 18, "expression.syntax", None),
    (21, 12, "value.unknown", "chat"),
    (23, 9, "name.missing", None),
    (23, 50, "type.wrong", None),
    (23, 55, "key.unknown", None),
    (24, 9, "name.missing", None),
    (24, 51, "value.limit", None),
    (25, 9, "transport.unknown", None),
    (26, 9, "transport.missing", None),
    (27, 9, "type.wrong", None),
    (31, 23, "pattern.regex", None),
    (32, 7, "pattern.path", "data"),
    (33, 16, "pattern.operator", "prefix"),
    (33, 30, "pattern.type", None),
    (34, 12, "key.missing", None),
    (35, 26, "address.invalid", None),
    (35, 55, "key.missing", None),
    (35, 65, "name.duplicate", None),
    (35, 90, "type.wrong", None),
    (36, 3, "name.invalid", None),
    (36, 44, "value.limit", None),
    (41, 20, "expression.syntax", None),
    (43, 5, "key.unused", None),
    (44, 26, "reference.invalid", None),
    (45, 19, "name.duplicate", None),
    (47, 12, "value.limit", None),
    (47, 35, "type.wrong", None),
]


def test_every_mistake_of_one_file_is_told_at_once_with_its_place() -> None:
    """A file with every kind of mistake gives them all, each at the line and column of the wrong word."""
    loaded = load(HERE / "every_mistake.yaml")

    found = [(problem.line, problem.column, problem.rule, problem.near) for problem in loaded.problems]
    assert found == EVERY_MISTAKE
    assert not loaded.instances
    assert not loaded.pipelines


def one(text: str | bytes) -> str:
    """The only problem of a text, as it is shown."""
    loaded = parse(text if isinstance(text, bytes) else text.encode())
    assert len(loaded.problems) == 1, loaded.problems
    return str(loaded.problems[0])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\xff", "pipelines.yaml:1:1: not UTF-8: byte 0xff; save the file as UTF-8 [file.encoding]"),
        (b"version: 1\na: \xc3\xa9\xe9", "pipelines.yaml:2:5: not UTF-8: byte 0xe9; save the file as UTF-8"),
        ("", "pipelines.yaml:1:1: a mapping is wanted, beginning with `version: 1` [type.wrong]"),
        ("- 1", "pipelines.yaml:1:1: a mapping is wanted, beginning with `version: 1` [type.wrong]"),
        ("{}", "pipelines.yaml:1:1: `version` is missing here [key.missing]"),
        ("version: true", "pipelines.yaml:1:10: this release reads `version: 1` [version.unknown]"),
        ("version: 1\nversion: 1", "pipelines.yaml:2:1: `version` stands here twice, first in line 1 [key.duplicate]"),
        ("version: 1\ntests: [\n", "pipelines.yaml:3:1: "),
        ("version: 1\nx:\ty: z: 1", "pipelines.yaml:2:"),
        ("version: 1\n---\nversion: 1", "pipelines.yaml:2:1: one document is wanted"),
        ("version: 1\nlayout: \x07", "pipelines.yaml:2:9: "),
        ("version: 1\nlayout: !!python/name:os.system x", "pipelines.yaml:2:9: tags are not understood here"),
        ("version: 1\nlayout: *nothing", "pipelines.yaml:2:9: the alias `*nothing` names nothing [yaml.alias]"),
        ("version: 1\ninstances: &a {b: *a}", "pipelines.yaml:2:19: the alias `*a` stands within what it names"),
        ("version: 1\n? [a]\n: 1", "pipelines.yaml:2:3: a key is a text [key.type]"),
        ("version: 1\ndefaults: {<<: 5}", "pipelines.yaml:2:16: `<<` takes an alias of a mapping"),
        (f"version: 1\ntests: {'9' * 30}", "pipelines.yaml:2:8: this number is too large; as a text it needs quotes"),
        ("version: 1\ntests: " + "[" * 50_000, "pipelines.yaml:2:68: values stand in each other at most"),
        ("x" * ((4 << 20) + 1), "pipelines.yaml:0:0: a file has at most 4 MiB"),
    ],
)
def test_what_is_not_even_a_document_is_told_with_its_place(text: str | bytes, shown: str) -> None:
    """Encodings, syntax, duplicates, tags, aliases and sizes each have their own words."""
    problems = parse(text if isinstance(text, bytes) else text.encode()).problems

    assert any(str(problem).startswith(shown) for problem in problems), problems


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    """Nine short lines that mean a billion values are a problem, not a process without memory."""
    lines = ["version: 1", "a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]

    assert "with aliases [yaml.limit]" in one("\n".join(lines))


def test_a_file_that_cannot_be_read_is_a_problem_like_any_other(tmp_path: Path) -> None:
    """Missing files and folders are told, not raised."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        loaded = load(path)

        assert [problem.rule for problem in loaded.problems] == ["file.unreadable"]


def good(rest: str) -> Loaded:
    """What a file with this says, which has nothing wrong with it."""
    loaded = parse(f"version: 1\n{rest}".encode())
    assert loaded.problems == ()
    return loaded


def test_a_section_is_told_as_set_would_store_it() -> None:
    """Sections carry stored names, canonical event names and the line they stand in."""
    loaded = good(
        "instances:\n"
        "  sales:\n"
        "    webhook: {url: 'https://a.example', byEvents: true, events: [messages.upsert, GROUPS_UPDATE]}\n"
        "  support: {layout: evolution-2.3, webhook: {url: 'https://b.example'}}\n"
        "  off: {webhook: {enabled: false}}\n"
        "  bare:\n"
    )
    section = loaded.instances["sales"].sections["webhook"]

    assert section.line == 4
    assert section.events == ("MESSAGES_UPSERT", "GROUPS_UPDATE")
    assert section.fields == {
        "url": "https://a.example",
        "headers": None,
        "webhookByEvents": True,
        "webhookBase64": False,
    }
    assert loaded.instances["support"].layout == "evolution-2.3"
    assert loaded.instances["support"].sections["webhook"].events == catalogue.ALL_EVENTS
    assert loaded.instances["off"].sections["webhook"].events == ()
    assert loaded.instances["bare"].sections == {}


def test_a_pipeline_is_told_with_wire_names_and_its_line() -> None:
    """Event names are understood in any spelling, and a lone transport names its destination."""
    loaded = good(
        "pipelines:\n"
        "  lake:\n"
        "    from: {instances: ['sales*'], events: [MESSAGES_UPSERT, group.update]}\n"
        "    order: key\n"
        "    key: data.key.id\n"
        "    to: [{webhook: {url: '${env:LAKE}/x'}, retry: {max_attempts: 2}}]\n"
    )
    entry = loaded.pipelines["lake"]

    assert entry.line == 3
    assert entry.spec.source.events == ("messages.upsert", "groups.update")
    assert [(target.transport, target.name, target.retry) for target in entry.spec.to] == [
        ("webhook", "webhook", {"max_attempts": 2})
    ]
    assert type(entry.spec).stored(entry.spec.row()) == entry.spec


def test_words_of_yaml_1_1_keep_their_meaning() -> None:
    """`no`, `on` and 12:30 are texts, as they look, and not false, true and 750."""
    loaded = good(
        "pipelines:\n"
        "  a: {from: {events: [call]}, to: [{webhook: {url: 'http://x'}}],\n"
        "      where: {data.country: {in: [no, on, 12:30, 0o10, 1_0]}, data.date: 2024-01-01, data.n: 010}}\n"
    )

    where = loaded.pipelines["a"].spec.where
    assert where == {"data.country": {"in": ["no", "on", "12:30", 8, "1_0"]}, "data.date": "2024-01-01", "data.n": 10}


def test_anchors_and_merges_spare_repetition() -> None:
    """What `<<` brings fills gaps, and its mistakes are told where they are written."""
    loaded = good(
        "instances:\n"
        "  a: &a {webhook: &hook {url: 'http://a', byEvents: true, events: [CALL]}}\n"
        "  b: {webhook: {<<: *hook, url: 'http://b'}}\n"
        "  c: *a\n"
    )

    assert [loaded.instances[name].sections["webhook"].fields["url"] for name in "abc"] == [
        "http://a",
        "http://b",
        "http://a",
    ]
    assert loaded.instances["b"].sections["webhook"].fields["webhookByEvents"] is True
    assert (
        one("version: 1\ndefaults: {retry: {<<: &r {max_attempts: 0}}}\n")
        == "pipelines.yaml:2:42: 1 or more is wanted [value.limit]"
    )


def test_an_event_of_the_next_release_is_a_warning_only() -> None:
    """A name that looks like none of the catalogue's can be asked for by name."""
    loaded = parse(b"version: 1\npipelines: {a: {from: {events: [quantum.leap]}, to: [{webhook: {url: 'http://x'}}]}}")

    assert [(problem.severity, problem.rule) for problem in loaded.problems] == [("warning", "event.unlisted")]
    assert not loaded.errors
    assert loaded.pipelines["a"].spec.source.events == ("quantum.leap",)


def test_values_are_not_shown_in_problems() -> None:
    """A secret that stands in the wrong place is not repeated in what is said about it."""
    loaded = parse(
        b"version: 1\ninstances: {a: {webhook: {url: 5, headers: {'a b': hunter2, x: [hunter2]}, byEvents: hunter2}}}"
    )

    assert loaded.errors
    assert "hunter2" not in "\n".join(str(problem) for problem in loaded.problems)


def test_ten_thousand_instances_are_read() -> None:
    """The largest reasonable file has no problem but its size."""
    lines = [f"  i{number}: {{webhook: {{url: 'http://x/{number}', events: [CALL]}}}}" for number in range(10_000)]

    assert len(good("instances:\n" + "\n".join(lines)).instances) == 10_000


_words = st.sampled_from(
    [
        "version",
        "1",
        "instances",
        "pipelines",
        "webhook",
        "url",
        "from",
        "events",
        "to",
        "where",
        "shape",
        "<<",
        "null",
        "a",
        "'x",
        '"${env:',
        "&a",
        "*a",
        "!!str",
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "- ",
        ",",
        "\n",
        "\n  ",
        "|",
        "#",
        "?",
        "\t",
        "\x85",
        "\U0001f600",
        "---",
        "order",
        "key",
        "any",
        "not",
        "name",
        "retry",
        "tests",
        "layouts",
        "defaults",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_words, max_size=40).map("".join).map(str.encode) | st.binary(max_size=60))
def test_no_bytes_make_the_loader_raise(content: bytes) -> None:
    """Whatever stands in the file, the outcome is problems with places, or what it says."""
    loaded = parse(content)

    assert all(problem.message and problem.line >= 0 for problem in loaded.problems)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["webhook", "url", "from", "events", "to", "where", "name", "retry", "a", "layout"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["instances", "pipelines", "tests", "layouts", "defaults", "layout"]),
)
def test_no_data_makes_the_loader_raise(data: object, key: str) -> None:
    """Any JSON under any key of the file has its place among the problems, if it is not right."""
    content = (
        orjson.dumps(
            {"version": 1, key: {"x": data} if key in ("instances", "pipelines", "layouts") else data},
            option=orjson.OPT_PASSTHROUGH_SUBCLASS,
        )
        if _fits(data)
        else b"version: 1"
    )
    parse(content)


def _fits(data: object) -> bool:
    """Whether JSON can say it within 64 bits."""
    try:
        orjson.dumps(data)
    except TypeError:
        return False
    return True


def test_depth_is_limited() -> None:
    """The limit on nesting holds through aliases too."""
    levels = "\n".join(f"b{n}: &a{n} {'[' * 30}*a{n - 1}{']' * 30}" for n in range(1, 8))

    assert "levels, with aliases" in one(f"version: 1\na: &a0 x\n{levels}")
    assert MAX_DEPTH < 100
