"""Urlencoded bodies as upstream reads them (Express with nested forms): `webhook[events][]=CALL`; texts stay texts."""

import re
from typing import Any
from urllib.parse import parse_qsl

from app.api import errors

MAX_FIELDS = 1000
MAX_DEPTH = 5
_KEY = re.compile(r"([^\[\]]*)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


def parse(content: bytes) -> dict[str, Any]:
    """
    The object that a form stands for: `a[b]=1` nests, `a[]=1`, `a[0]=1` and a repeated `a=1` make lists.

    Raises ApiError 400 for what is no UTF-8, has more than 1,000 fields or is nested deeper than five levels.
    """
    try:
        pairs = parse_qsl(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise errors.malformed(f"the urlencoded body cannot be read: {error}") from error
    form: dict[str, Any] = {}
    for key, value in pairs:
        match = _KEY.fullmatch(key)
        path = [key] if match is None else [match[1], *_PART.findall(match[2])]
        if len(path) > MAX_DEPTH + 1:
            raise errors.malformed(f"the urlencoded body is nested deeper than {MAX_DEPTH} levels")
        _put(form, path, value)
    return {key: _listed(value) for key, value in form.items()}


def _put(form: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    for part in parents:
        child = form.setdefault(_place(form, part), {})
        if not isinstance(child, dict):
            return  # `a=1&a[b]=2` contradicts itself; the first word stands.
        form = child
    last = _place(form, last)
    if last not in form:
        form[last] = value
    elif isinstance(form[last], dict):
        form[last][_place(form[last], "")] = value
    else:
        form[last] = {"0": form[last], "1": value}


def _place(form: dict[str, Any], part: str) -> str:
    """`[]` is the next place of a list."""
    return part or str(len(form))


def _listed(value: Any) -> Any:
    """An object whose keys are places is a list."""
    if not isinstance(value, dict):
        return value
    children = {key: _listed(child) for key, child in value.items()}
    if children and all(key.isascii() and key.isdigit() and len(key) < 9 for key in children):
        return [children[key] for key in sorted(children, key=int)]
    return children
