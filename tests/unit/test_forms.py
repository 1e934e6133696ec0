"""Urlencoded bodies: nested as upstream nests them, refused where they cannot be read."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import forms
from app.api.errors import ApiError


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("", {}),
        ("a=1&b=two+words&c=%C3%A9", {"a": "1", "b": "two words", "c": "é"}),
        ("a=true", {"a": "true"}),
        ("a=", {"a": ""}),
        ("a=1&a=2&a=3", {"a": ["1", "2", "3"]}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[1]=y&a[0]=x", {"a": ["x", "y"]}),
        ("a[b]=1&a[c][]=2", {"a": {"b": "1", "c": ["2"]}}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("a=1&a[b]=2", {"a": "1"}),
        ("a[b=1", {"a[b": "1"}),
        ('{"a":1}', {'{"a":1}': ""}),
        (f"a[{'9' * 5000}]=1", {"a": {"9" * 5000: "1"}}),
    ],
)
def test_form(content: str, form: dict[str, Any]) -> None:
    """Brackets nest, empty brackets, places and repetition make lists, and every value stays a text."""
    assert forms.parse(content.encode()) == form


@pytest.mark.parametrize("content", [b"a=%FF", b"\xff", b"a[b][c][d][e][f][g]=1", b"&".join([b"a=1"] * 1001)])
def test_refused(content: bytes) -> None:
    """What is no UTF-8, too deep or too long is refused as a body that cannot be parsed."""
    with pytest.raises(ApiError) as caught:
        forms.parse(content)
    assert caught.value.status == 400


@given(pairs=st.lists(st.tuples(st.text("ab[]0", max_size=8), st.text(max_size=3)), max_size=8))
def test_any_form(pairs: list[tuple[str, str]]) -> None:
    """Whatever a form says, it is an object or refused."""
    content = "&".join(f"{quote(key)}={quote(value)}" for key, value in pairs)
    try:
        form = forms.parse(content.encode())
    except ApiError as error:
        form = {}
        status = error.status
    else:
        status = 400
    assert isinstance(form, dict)
    assert status == 400
