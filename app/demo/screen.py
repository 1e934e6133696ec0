"""What the demo shows: its steps, and a table of deliveries that is kept up to date."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

REFRESH_PER_SECOND = 5
PLAIN_WIDTH = 120
"""Columns where there is no terminal to ask: a log or a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One destination, or the sections of all instances together."""

    name: str
    offered: int
    """Events sent so far by the instances it listens to."""
    wanted: int
    """Of those, the ones it must get."""
    delivered: int
    retried: int
    latencies_ms: Sequence[float]
    """From the log to the end, as the ledger tells."""

    @property
    def filtered(self) -> int:
        """Events that it does not want."""
        return self.offered - self.wanted


class Screen:
    """The terminal, or plain lines where there is none. `lines` is asked for the table's content at each refresh."""

    def __init__(self, lines: Callable[[], Sequence[Line]]) -> None:
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        self._lines = lines
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self.table,
                console=self.console,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the live table away; what is printed afterwards stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line of its own, above the table."""
        self.console.print(text, soft_wrap=True)

    def table(self) -> Table:
        """The deliveries as they stand."""
        table = Table(title="Deliveries", title_justify="left")
        for number, name in enumerate(
            ("destination", "sent", "filtered", "wanted", "delivered", "retried", "p50 ms", "p99 ms")
        ):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        lines = self._lines()
        for line in lines:
            done = line.delivered >= line.wanted > 0
            table.add_row(
                line.name,
                f"{line.offered:,}",
                f"{line.filtered:,}",
                f"{line.wanted:,}",
                f"[green]{line.delivered:,}[/green]" if done else f"{line.delivered:,}",
                f"{line.retried:,}",
                _shown(percentile(line.latencies_ms, 0.50)),
                _shown(percentile(line.latencies_ms, 0.99)),
            )
        return table


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share (0 to 1) of the values does not exceed; None when there is none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
