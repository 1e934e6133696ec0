"""An instance's section of one transport: what `set` accepts, what is stored, what `find` shows (contract 3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionField:
    """One key of a section, beside `enabled` and `events`, which every section has."""

    stored: str
    """The key in the stored row, and so in the answers of `set` and `find` (contract 3.3)."""
    kind: Literal["string", "boolean", "object"]
    accepts: tuple[str, ...]
    """All spellings understood in a body, the strict one first (contract 3.5)."""
    default: Any = None
    required: bool = False
    """Required by the strict form (contract 3.1)."""
    alias: str | None = None
    """A second, additive key in answers."""
    secret: bool = False
    max_length: int | None = None
    ours: bool = False
    """A key of ours: stands after the upstream's keys and only when set (contract 5)."""


KEEP = SectionField(stored="keep", kind="boolean", accepts=("keep",), default=False, ours=True)
"""Beside `enabled: false`: the destination is paused, not removed; what comes meanwhile waits in the log (design 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The shape of a section, and how its stored row becomes the options of a destination."""

    wrapper_required: bool
    fields: tuple[SectionField, ...]
    """The transport's own; those that every section has come behind them by themselves."""
    row_order: tuple[str, ...]
    """The stored row's keys in their exact order (contract 3.3), without aliases and keys of ours."""
    to_options: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """From a stored row to the keyword arguments of the transport's `Options`."""
    unset: Mapping[str, Any]
    """What `find` answers before any `set`, where the layout wants defaults."""

    def __post_init__(self) -> None:
        """Adds what every section has."""
        object.__setattr__(self, "fields", (*self.fields, KEEP))
