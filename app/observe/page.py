"""The page of `/metrics`: the figures of all processes of a data directory, read from their files and added up."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.observe.figures import DECLARED, FORMAT, TABLE, Declared

log = structlog.get_logger(__name__)

STALE_SECS = 15.0
"""The gauges of a process that has written nothing for so long are not shown; its counters are."""


class Page:
    """The figures of a directory's files, added up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """All metrics of the table, as prometheus_client wants them."""
        merged: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in DECLARED}
        for file in sorted(self._directory.glob("*.json")):
            for name, values, stored in read(file):
                series = merged[name]
                series[values] = _merge(DECLARED[name], series[values], stored) if values in series else stored
        for metric in TABLE:
            yield _family(metric, merged[metric.name])


def _family(metric: Declared, series: dict[tuple[str, ...], Any]) -> Metric:
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        bounds = [*map(str, metric.buckets), "+Inf"]
        for values, (counts, total) in series.items():
            below = [sum(counts[: place + 1]) for place in range(len(counts))]
            histograms.add_metric(values, list(zip(bounds, below, strict=True)), total)
        return histograms
    family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    figures = family(metric.name, metric.meaning, labels=metric.labels)
    for values, stored in series.items():
        figures.add_metric(values, stored)
    return figures


def _merge(metric: Declared, one: Any, other: Any) -> Any:
    if metric.kind == "histogram":
        return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]
    if metric.kind == "gauge" and metric.merge != "sum":
        return max(one, other) if metric.merge == "max" else min(one, other)
    return one + other


def read(file: Path) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """The figures of one file: name, label values, value. Of another version's figures, those that still fit."""
    try:
        content = orjson.loads(file.read_bytes())
        stale = time.time() - content["at"] > STALE_SECS
        figures = content["figures"] if content["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if file.exists():
            log.warning("metrics.not_read", file=str(file), error=str(error))
        return
    for name, rows in figures.items():
        metric = DECLARED.get(name)
        if metric is None or (metric.kind == "gauge" and stale):
            continue
        for values, stored in rows:
            fits = metric.kind != "histogram" or len(stored[0]) == len(metric.buckets) + 1
            if fits and len(values) == len(metric.labels):
                yield name, tuple(values), stored
