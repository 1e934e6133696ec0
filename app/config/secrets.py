"""
References to secrets: `${env:NAME}` and `${file:PATH}` inside any text of the configuration.

The reference is what is stored, shown and compared; it is resolved at the moment of use. `$${` stands for a literal
`${`. Errors name the reference, never what it stands for.
"""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = ["MASK", "Reference", "SecretError", "mask", "references", "resolve", "resolve_all"]

MASK = "***"
MAX_FILE_BYTES = 64 << 10
"""A key or a certificate, not a picture by mistake."""
MAX_CACHED_FILES = 1_000
KINDS = ("env", "file")

_PATTERN = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_files: dict[str, tuple[int, int, str]] = {}


class SecretError(Exception):
    """A reference cannot be resolved; the message names it and says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is kept."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.name}}}"


def resolve(value: str) -> str:
    """The text with every reference replaced by what it stands for; raises SecretError."""
    if "${" not in value:
        return value
    return _PATTERN.sub(lambda found: "${" if found[1] is None else _look_up(_parse(found)), value)


def resolve_all(data: Any) -> Any:
    """The same for every text inside mappings and lists; keys stay as they are."""
    if isinstance(data, str):
        return resolve(data)
    if isinstance(data, dict):
        return {key: resolve_all(each) for key, each in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(resolve_all(each) for each in data)
    return data


def references(data: Any) -> tuple[Reference, ...]:
    """Every reference inside, in the order of appearance, each once; raises SecretError for what is none."""
    return tuple(dict.fromkeys(_references(data)))


def mask(data: Any, secret_fields: Collection[str]) -> Any:
    """
    The data with the values of secret fields hidden, at any depth, to show or to log.

    A value that is one reference and nothing else stays readable: it says where the secret is, not what it is.
    """
    if isinstance(data, dict):
        return {key: _hidden(each) if key in secret_fields else mask(each, secret_fields) for key, each in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(mask(each, secret_fields) for each in data)
    return data


def _hidden(value: Any) -> Any:
    if value is None or value == "":
        return value
    if isinstance(value, str) and (found := _PATTERN.fullmatch(value)) and found[1] is not None:
        kind, colon, name = found[1].partition(":")
        if kind in KINDS and colon and name and value.endswith("}"):
            return value
    return MASK


def _references(data: Any) -> Iterator[Reference]:
    if isinstance(data, str):
        for found in _PATTERN.finditer(data):
            if found[1] is not None:
                yield _parse(found)
    elif isinstance(data, dict):
        for each in data.values():
            yield from _references(each)
    elif isinstance(data, list | tuple):
        for each in data:
            yield from _references(each)


def _parse(found: re.Match[str]) -> Reference:
    written = found[0]
    if not written.endswith("}"):
        # What follows an unclosed `${` may be the rest of a secret: it is not shown.
        raise SecretError("a reference begins with ${ and has no closing brace; write $${ for a literal ${")
    kind, colon, name = found[1].partition(":")
    if kind not in KINDS:
        near = get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.4)
        shown = f"${{{kind}:...}}" if colon else "${...}"
        hint = f"did you mean ${{{near[0]}:...}}?" if near else "use ${env:NAME} or ${file:PATH}"
        raise SecretError(f"{shown} is no reference we know: {hint} Write $${{ for a literal ${{")
    if not name:
        raise SecretError(f"${{{kind}:}} names nothing; write ${{env:NAME}} or ${{file:PATH}}")
    return Reference(kind, name)


def _look_up(reference: Reference) -> str:
    if reference.kind == "file":
        return _read_file(reference)
    found = os.environ.get(reference.name)
    if found is None:
        raise SecretError(f"{reference}: the environment has no variable {reference.name}; set it for this process")
    return found


def _read_file(reference: Reference) -> str:
    """What the file holds, without one newline at its end; read again when it was written since."""
    try:
        path = Path(reference.name).expanduser()
        status = path.stat()
        held = _files.get(reference.name)
        if held and held[:2] == (status.st_mtime_ns, status.st_size):
            return held[2]
        if status.st_size > MAX_FILE_BYTES:
            raise SecretError(f"{reference}: {status.st_size} bytes; a secret has at most {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:  # A pipe or a device has no size to look at beforehand.
            raise SecretError(f"{reference}: over {MAX_FILE_BYTES} bytes; a secret has at most so many")
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise SecretError(f"{reference}: the file cannot be read ({reason}); see that it is there for us") from error
    text = _text(content)
    if text is None:
        raise SecretError(f"{reference}: the file is not UTF-8 text")
    text = text.removesuffix("\n").removesuffix("\r")
    if len(_files) >= MAX_CACHED_FILES:
        _files.clear()
    _files[reference.name] = (status.st_mtime_ns, status.st_size, text)
    return text


def _text(content: bytes) -> str | None:
    """The text, None where it is none: the decoder's own error holds the bytes and must not travel along."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
