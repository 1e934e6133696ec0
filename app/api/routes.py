"""
Which request is whose: one table, and how a path is read.

As upstream reads them (contract, section 2): case does not matter, a slash at the end neither, a name in the path is
URL-decoded (and may hold a slash, as `%2F`), the query changes nothing. A method that a path does not have is not
found, rather than not allowed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from aiohttp import web

Handler = Callable[[web.Request, Mapping[str, str]], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` has `{names}` for what is taken from it; `choices` says which values one may have."""

    method: str
    path: str
    handler: Handler
    choices: Mapping[str, Sequence[str]]

    def match(self, method: str, parts: Sequence[str]) -> dict[str, str] | None:
        """What the names stand for in a path of these parts, None where it is not this route's."""
        pattern = self.path.split("/")[1:]
        if len(pattern) != len(parts) or not (method == self.method or (method == "HEAD" and self.method == "GET")):
            return None
        values: dict[str, str] = {}
        for wanted, part in zip(pattern, parts, strict=True):
            if not wanted.startswith("{"):
                if wanted != part.lower():
                    return None
                continue
            name = wanted[1:-1]
            if name in self.choices:
                part = part.lower()  # noqa: PLW2901  Of a choice the case does not matter either.
                if part not in self.choices[name]:
                    return None
            elif not part:
                return None
            values[name] = part
        return values


class Routes:
    """All operations of this API."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.table = tuple(routes)

    def find(self, method: str, raw_path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a path as it came, and what its names stand for; ValueError where the path is no UTF-8."""
        parts = [unquote_to_bytes(part).decode() for part in raw_path.split("/")[1:]]
        if len(parts) > 1 and not parts[-1]:
            parts.pop()
        for route in self.table:
            values = route.match(method, parts)
            if values is not None:
                return route, values
        return None
