"""
How is counted: tallies that cost an addition, and the page that adds up all processes. The table is in figures.py.

Each process writes its tallies to a file of its own once a second (replaced whole, so never torn), and `render` adds
the files up. prometheus_client's multiprocess mode is not used: it decides at import whether it is on, has no public
way to take counts that are already in buckets, names its files by process id (which repeat in containers), and lets
counters fall when a dead process's files go. Here a restarted worker goes on counting where it stopped.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from app.observe import page
from app.observe.figures import DECLARED, FORMAT, Declared
from app.settings import Settings

log = structlog.get_logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 500
"""Most label combinations of one metric in one process; what comes after is counted under `other`."""


class UndeclaredError(LookupError):
    """A metric, kind or label that the table does not have: a defect of the caller."""


class CounterTally:
    """Counts up. Hot paths add to `value` themselves."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Counts `amount` more."""
        self.value += amount


class GaugeTally:
    """Stands where it was last set; None before that, and not shown then."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def set(self, value: float) -> None:
        """Stands at `value` from now on."""
        self.value = value


class HistogramTally:
    """Counts of observations by bucket (the last is above all bounds), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


Tally = CounterTally | GaugeTally | HistogramTally
_tallies: dict[str, dict[tuple[str, ...], Tally]] = {name: {} for name in DECLARED}
_file: Path | None = None


def counter(name: str, **labels: str) -> CounterTally:
    """The tally of a declared counter; the same object for the same labels."""
    tally = _tally("counter", name, labels)
    assert isinstance(tally, CounterTally)
    return tally


def gauge(name: str, **labels: str) -> GaugeTally:
    """The tally of a declared gauge; the same object for the same labels."""
    tally = _tally("gauge", name, labels)
    assert isinstance(tally, GaugeTally)
    return tally


def histogram(name: str, **labels: str) -> HistogramTally:
    """The tally of a declared histogram; the same object for the same labels."""
    tally = _tally("histogram", name, labels)
    assert isinstance(tally, HistogramTally)
    return tally


def prepare(settings: Settings, process: str) -> None:
    """
    Makes this process keep its figures in `data_dir/metrics/{process}.json`, going on from what stands there.

    `process` is role and number (`worker-0`); two processes that run at once on one data directory differ in it.
    """
    global _file  # noqa: PLW0603  The tallies belong to the process, as the interpreter does.
    file = settings.data_dir / "metrics" / f"{process}.json"
    if file == _file:
        return
    if _file is not None:
        close()
        for series in _tallies.values():
            for tally in series.values():
                _clear(tally)
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, values, stored in page.read(file):
        if DECLARED[name].kind != "gauge":
            _add(_of(DECLARED[name], values), stored)
    _file = file


def flush() -> None:
    """Writes this process's figures; call it about once a second. A full disk costs the figures, not the process."""
    if _file is not None:
        _write(_file, gauges=True)


def close() -> None:
    """The last flush of a process that ends: its gauges are gone at once."""
    if _file is not None:
        _write(_file, gauges=False)


async def beat(measure: Callable[[], None]) -> None:
    """
    Flushes every second until cancelled; then closes. Before each flush it calls `measure`, which sets gauges, and
    measures itself how late the loop wakes.
    """
    lag = gauge("sluice_loop_lag_seconds")
    loop = asyncio.get_running_loop()
    try:
        while True:
            due = loop.time() + 1.0
            await asyncio.sleep(1.0)
            lag.set(max(0.0, loop.time() - due))
            measure()
            flush()
    finally:
        close()


def render(settings: Settings) -> bytes:
    """The page of `/metrics`: what all processes of this data directory have counted."""
    flush()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(page.Page(settings.data_dir / "metrics"))
    return generate_latest(registry)


def _tally(kind: str, name: str, labels: dict[str, str]) -> Tally:
    metric = DECLARED.get(name)
    if metric is None or metric.kind != kind or set(metric.labels) != set(labels):
        raise UndeclaredError(
            f"{kind} {name} with the labels {sorted(labels)} is not in the table of app/observe/metrics.py"
        )
    return _of(metric, tuple(str(labels[label]) for label in metric.labels))


def _of(metric: Declared, values: tuple[str, ...]) -> Tally:
    series = _tallies[metric.name]
    if values not in series and len(series) >= MAX_SERIES:
        values = ("other",) * len(metric.labels)
    if values not in series:
        new: dict[str, Any] = {"counter": CounterTally, "gauge": GaugeTally}
        series[values] = HistogramTally(metric.buckets) if metric.kind == "histogram" else new[metric.kind]()
    return series[values]


def _add(tally: Tally, stored: Any) -> None:
    if isinstance(tally, HistogramTally):
        tally.counts = [a + b for a, b in zip(tally.counts, stored[0], strict=True)]
        tally.total += stored[1]
    elif isinstance(tally, CounterTally):
        tally.value += stored


def _clear(tally: Tally) -> None:
    if isinstance(tally, HistogramTally):
        tally.counts = [0] * len(tally.counts)
        tally.total = 0.0
    else:
        tally.value = 0 if isinstance(tally, CounterTally) else None


def _write(file: Path, *, gauges: bool) -> None:
    figures: dict[str, list[tuple[Sequence[str], Any]]] = {}
    for name, series in _tallies.items():
        rows: list[tuple[Sequence[str], Any]] = []
        for values, tally in series.items():
            if isinstance(tally, HistogramTally):
                rows.append((values, (tally.counts, tally.total)))
            elif tally.value is not None and (gauges or isinstance(tally, CounterTally)):
                rows.append((values, tally.value))
        figures[name] = rows
    new = file.with_suffix(".new")
    try:
        new.write_bytes(orjson.dumps({"format": FORMAT, "at": time.time(), "figures": figures}))
        new.replace(file)
    except OSError as error:
        log.warning("metrics.not_written", file=str(file), error=str(error))
