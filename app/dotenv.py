"""The file `.env` of the working directory (contract 11): settings for whoever does not set an environment."""

import re
from collections.abc import Mapping
from pathlib import Path

from app.settings import SettingsError

MAX_BYTES = 1 << 20

_LINE = re.compile(
    r"""
    [ \t]* (?: export [ \t]+ )? (?P<name> [A-Za-z_][A-Za-z0-9_]* ) [ \t]* = [ \t]*
    (?:
        ' (?P<single> [^']* ) '
      | " (?P<double> (?: \\. | [^"\\] )* ) "
      | (?P<bare> (?: [^\s#'"] [^\n]*? )?? )
    )
    [ \t]* (?: (?: (?<=[ \t=]) | (?<=['"]) ) \# [^\n]* )? \r? (?: \n | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANINGS = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str, source: str) -> dict[str, str]:
    r"""
    The variables of a file: `NAME=value` a line, `export` before it and `#` comments allowed.

    Single quotes keep a value as it is, double quotes know `\n`, both may run over several lines. A name that occurs
    twice has its last value. Raises SettingsError naming `source` and all lines that are neither.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    position = 0
    while position < len(text):
        if nothing := _NOTHING.match(text, position):
            position = nothing.end()
        elif line := _LINE.match(text, position):
            double = line["double"]
            if double is not None:
                values[line["name"]] = _ESCAPED.sub(lambda found: _MEANINGS.get(found[1], found[1]), double)
            else:
                values[line["name"]] = line["bare"] if line["single"] is None else line["single"]
            position = line.end()
        else:
            number = text.count("\n", 0, position) + 1
            problems.append(f"{source}:{number}: NAME=value is wanted, with both quotes of a value or none")
            end = text.find("\n", position)
            position = len(text) if end < 0 else end + 1
    if problems:
        raise SettingsError("\n".join(problems))
    return values


def missing_from(environment: Mapping[str, str], directory: Path) -> dict[str, str]:
    """What the `.env` of a directory adds to an environment, which wins; nothing where there is no such file."""
    path = directory / ".env"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(f"{path.name}: larger than {MAX_BYTES} bytes; that is no file of settings")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{path.name}: cannot be read: {error.strerror}; mend it or take it away") from error
    return {name: value for name, value in parse(text, path.name).items() if name not in environment}
