"""References to secrets: resolved where they are used, shown as they are written, never leaked."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.secrets import MASK, MAX_FILE_BYTES, Reference, SecretError, mask, references, resolve, resolve_all


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("plain", "plain"),
        ("${env:TOKEN}", "t0ken"),
        ("Bearer ${env:TOKEN}", "Bearer t0ken"),
        ("${env:TOKEN}-${env:TOKEN}", "t0ken-t0ken"),
        ("$${env:TOKEN}", "${env:TOKEN}"),
        ("$$${env:TOKEN}", "$${env:TOKEN}"),
        ("costs $5 {here}", "costs $5 {here}"),
        ("${env:NESTED}", "${env:TOKEN}"),
        ("${env:EMPTY}", ""),
    ],
)
def test_environment_references_are_replaced_once(monkeypatch: pytest.MonkeyPatch, written: str, resolved: str) -> None:
    """A reference becomes what it stands for, which is not looked into again; `$${` is a literal `${`."""
    monkeypatch.setenv("TOKEN", "t0ken")
    monkeypatch.setenv("NESTED", "${env:TOKEN}")
    monkeypatch.setenv("EMPTY", "")
    assert resolve(written) == resolved


@pytest.mark.parametrize(
    ("content", "resolved"), [(b"s3cret\n", "s3cret"), (b"s3cret\r\n", "s3cret"), (b"a\n\n", "a\n"), (b"", "")]
)
def test_one_newline_at_the_end_of_a_file_does_not_belong_to_the_secret(
    tmp_path: Path, content: bytes, resolved: str
) -> None:
    """Editors end files with a newline; only that one is taken off."""
    (tmp_path / "key").write_bytes(content)
    assert resolve(f"${{file:{tmp_path}/key}}") == resolved


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    """A rotated secret is in use without a restart."""
    path = tmp_path / "key"
    path.write_text("first")
    assert resolve(f"${{file:{path}}}") == "first"
    path.write_text("other")
    os.utime(path, ns=(1, 1))
    assert resolve(f"${{file:{path}}}") == "other"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${env:MISSING_ONE}", r"\$\{env:MISSING_ONE\}: the environment has no variable"),
        ("${file:/nowhere/at/all}", r"\$\{file:/nowhere/at/all\}: .*cannot be read"),
        ("${vault:x}", r"\$\{env:NAME\} or \$\{file:PATH\}"),
        ("${ENV:x}", r"did you mean \$\{env:"),
        ("${environment:x}", r"did you mean \$\{env:"),
        ("${files:x}", r"did you mean \$\{file:"),
        ("${env:}", "names nothing"),
        ("${}", "no reference we know"),
        ("${env:X", "no closing brace"),
        ("${file:\0}", "cannot be read"),
    ],
)
def test_what_cannot_be_resolved_says_why_and_what_to_do(written: str, message: str) -> None:
    """The error names the reference as it is written."""
    with pytest.raises(SecretError, match=message):
        resolve(written)


def test_a_file_too_large_or_not_text_is_refused_without_its_content(tmp_path: Path) -> None:
    """The limit and the encoding are told, the bytes are not."""
    (tmp_path / "large").write_bytes(b"topsecret" * MAX_FILE_BYTES)
    (tmp_path / "binary").write_bytes(b"topsecret\xff")
    for name, message in (("large", "at most"), ("binary", "not UTF-8")):
        with pytest.raises(SecretError, match=message) as caught:
            resolve(f"${{file:{tmp_path}/{name}}}")
        assert "topsecret" not in repr((caught.value, caught.value.__cause__, caught.value.__context__))


def test_resolve_all_goes_into_mappings_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts at any depth are resolved, everything else stays."""
    monkeypatch.setenv("TOKEN", "t0ken")
    data = {"headers": {"authorization": "${env:TOKEN}"}, "list": ["${env:TOKEN}", 1, None], "on": True}
    assert resolve_all(data) == {"headers": {"authorization": "t0ken"}, "list": ["t0ken", 1, None], "on": True}


def test_references_lists_each_once() -> None:
    """What a configuration needs can be told without looking anything up."""
    data = {"a": "${env:B} ${file:C}", "d": ["${env:B}", "$${env:E}", 5]}
    assert references(data) == (Reference("env", "B"), Reference("file", "C"))
    assert [str(each) for each in references(data)] == ["${env:B}", "${file:C}"]


def test_mask_hides_secrets_and_shows_references() -> None:
    """What may be shown to an operator: where a secret is, never what it is."""
    data = {
        "url": "https://example.com",
        "secret": "abc",
        "nested": [{"secret": "${env:X}"}, {"secret": "x${env:X}"}, {"secret": "$${env:X}"}],
        "headers": {"secret": {"deep": "abc"}},
        "none": {"secret": None},
    }
    assert mask(data, {"secret"}) == {
        "url": "https://example.com",
        "secret": MASK,
        "nested": [{"secret": "${env:X}"}, {"secret": MASK}, {"secret": MASK}],
        "headers": {"secret": MASK},
        "none": {"secret": None},
    }


@given(st.text())
def test_text_without_a_reference_stays_as_it_is(text: str) -> None:
    """Whatever else a value holds, it is sent as it was written; what is refused is refused with our error."""
    if "${" in text:
        try:
            resolve(text)
        except SecretError:
            return
    else:
        assert resolve(text) == text
