"""A bench's figures: a table for people, a JSON file for programs."""

import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table as RichTable

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(slots=True, kw_only=True)
class Table:
    """The rows of one scenario, its notes, and the raw figures behind them."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def add(self, *cells: str) -> None:
        """Adds a row; one cell a column."""
        assert len(cells) == len(self.columns), cells
        self.rows.append(cells)

    def note(self, text: str) -> None:
        """Adds a line under the table."""
        self.notes.append(text)

    def show(self, console: Console) -> None:
        """Prints it."""
        shown = RichTable(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in self.notes:
            console.print(f"  {note}")

    def write(self) -> Path:
        """Writes the JSON file; its path."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self.name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
        content = {
            "scenario": self.name,
            "title": self.title,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "cores": psutil.cpu_count(),
                "python": platform.python_version(),
                "load_before": psutil.getloadavg()[0],
            },
            "table": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "notes": self.notes,
            **self.data,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path
