"""How a first start tells what it fetches: a bar on a terminal, plain lines elsewhere, nothing where nobody looks."""

import sys
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class Reporter(Protocol):
    """Whoever shows how far a start has come."""

    def say(self, text: str) -> None:
        """One thing that begins now."""

    def step(self, done: int, total: int, size_bytes: int) -> None:
        """So many files of so many are there, so many bytes so far."""

    def close(self) -> None:
        """Nothing more comes."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def step(self, done: int, total: int, size_bytes: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """Plain lines on standard error, about ten for a whole fetch."""

    def __init__(self) -> None:
        self._tenths = 0

    def say(self, text: str) -> None:
        """One line."""
        self._tenths = 0
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def step(self, done: int, total: int, size_bytes: int) -> None:
        """A line for each tenth."""
        tenths = 10 * done // total
        if tenths > self._tenths:
            self._tenths = tenths
            sys.stderr.write(f"  {done} of {total} files, {size_bytes / 1e6:.1f} MB\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Nothing is left open."""


class Bar:
    """A bar on a terminal's standard error, shown from the first file on."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("  {task.completed:.0f} of {task.total:.0f} files"),
            BarColumn(),
            TextColumn("{task.fields[size]}"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        """One line, above the bar."""
        self._console.print(text, highlight=False)

    def step(self, done: int, total: int, size_bytes: int) -> None:
        """The bar, moved on."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=total, size="")
        self._progress.update(self._task, completed=done, size=f"{size_bytes / 1e6:.1f} MB")

    def close(self) -> None:
        """The bar goes; the lines stay."""
        if self._task is not None:
            self._progress.stop()
            self._task = None


def reporter() -> Reporter:
    """The one that suits standard error."""
    return Bar() if sys.stderr.isatty() else Lines()
