"""Metrics: what is declared, what a page shows, and how the processes of one machine become one."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.observe import metrics, page
from app.observe.figures import TABLE
from app.observe.metrics import UndeclaredError
from app.settings import Settings

LATENCY = "sluice_delivery_latency_seconds"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No process has begun: counts are zero and stand in no file."""
    file = metrics._file
    metrics._file = None
    yield
    metrics._file = file


def shown(settings: Settings) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus reads from the page: value by name and labels."""
    families = text_string_to_metric_families(metrics.render(settings).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def another_process(settings: Settings, name: str, figures: dict[str, list[object]], *, age_secs: float = 0) -> Path:
    """The file of a process that is not this one."""
    file = settings.data_dir / "metrics" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps({"format": 1, "at": time.time() - age_secs, "figures": figures}))
    return file


@pytest.mark.parametrize(
    ("make", "name", "labels"),
    [
        (metrics.counter, "sluice_nothing_total", {}),
        (metrics.counter, "sluice_slots", {}),
        (metrics.gauge, "sluice_events_total", {}),
        (metrics.histogram, "sluice_events_total", {}),
        (metrics.counter, "sluice_deliveries_total", {"transport": "webhook"}),
        (metrics.counter, "sluice_events_total", {"instance": "sales"}),
    ],
)
def test_undeclared(make: Callable[..., object], name: str, labels: dict[str, str]) -> None:
    """A metric, kind or label that the table does not have is refused when it is asked for."""
    with pytest.raises(UndeclaredError, match=name):
        make(name, **labels)


def test_names() -> None:
    """Names are unique, begin with ours, and counters end in `_total`, as Prometheus wants it."""
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names))
    assert all(name.startswith("sluice_") for name in names)
    assert [m.name for m in TABLE if (m.kind == "counter") != m.name.endswith("_total")] == []


def test_counts_show(make_plain_settings: Callable[..., Settings]) -> None:
    """What was counted stands on the page, with its labels."""
    settings = make_plain_settings()
    metrics.prepare(settings, "worker-0")
    before = shown(settings)
    metrics.counter("sluice_deliveries_total", transport="webhook", end="delivered").add(3)
    metrics.counter("sluice_deliveries_total", transport="webhook", end="delivered").value += 1
    metrics.gauge("sluice_slots").set(7)
    key = ("sluice_deliveries_total", (("end", "delivered"), ("transport", "webhook")))
    after = shown(settings)
    assert after[key] - before.get(key, 0) == 4
    assert after["sluice_slots", ()] == 7


def test_histogram(make_plain_settings: Callable[..., Settings]) -> None:
    """An observation is in its bucket and all above it; one on a bound is within it; the sum adds up."""
    settings = make_plain_settings()
    metrics.prepare(settings, "worker-0")
    tally = metrics.histogram(LATENCY, transport="histogram-test")
    for seconds in (0.0005, 0.005, 0.006, 99_999.0):
        tally.observe(seconds)
    page_ = shown(settings)

    def bucket(bound: str) -> float:
        return page_[f"{LATENCY}_bucket", (("le", bound), ("transport", "histogram-test"))]

    assert [bucket(bound) for bound in ("0.001", "0.0025", "0.005", "0.01", "3600.0", "+Inf")] == [1, 1, 2, 3, 3, 4]
    assert page_[f"{LATENCY}_count", (("transport", "histogram-test"),)] == 4
    assert page_[f"{LATENCY}_sum", (("transport", "histogram-test"),)] == pytest.approx(99_999.0115)


def test_processes_add_up(make_plain_settings: Callable[..., Settings]) -> None:
    """Counters and most gauges of several processes are added; the loop's lag is the worst, the offset the least."""
    settings = make_plain_settings()
    for name, value in (("worker-0", 2), ("worker-1", 5)):
        figures: dict[str, list[object]] = {
            metric: [[[], value]]
            for metric in ("sluice_events_total", "sluice_slots", "sluice_loop_lag_seconds", "sluice_table_offset")
        }
        figures[LATENCY] = [[["webhook"], [[value] + [0] * 17, 0.5]]]
        another_process(settings, name, figures)
    page_ = shown(settings)
    assert page_["sluice_events_total", ()] == 7
    assert page_["sluice_slots", ()] == 7
    assert page_["sluice_loop_lag_seconds", ()] == 5
    assert page_["sluice_table_offset", ()] == 2
    assert page_[f"{LATENCY}_count", (("transport", "webhook"),)] == 7


def test_dead_process(make_plain_settings: Callable[..., Settings]) -> None:
    """Of a process that fell silent the counters stay and the gauges go."""
    settings = make_plain_settings()
    figures: dict[str, list[object]] = {"sluice_events_total": [[[], 9]], "sluice_slots": [[[], 9]]}
    another_process(settings, "worker-3", figures, age_secs=page.STALE_SECS + 1)
    page_ = shown(settings)
    assert page_["sluice_events_total", ()] == 9
    assert ("sluice_slots", ()) not in page_


def test_restart_goes_on(make_plain_settings: Callable[..., Settings]) -> None:
    """A process that starts again counts on from where it stopped, so that no counter falls."""
    settings = make_plain_settings()
    another_process(settings, "worker-0", {"sluice_rebalances_total": [[[], 40]]}, age_secs=3600)
    before = metrics.counter("sluice_rebalances_total").value
    metrics.prepare(settings, "worker-0")
    metrics.counter("sluice_rebalances_total").add()
    assert shown(settings)["sluice_rebalances_total", ()] == before + 41


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format":1}', b'{"format":9,"at":0,"figures":{}}', b'{"format":1,"at":"x","figures":{}}'],
)
def test_torn_file(content: bytes, make_plain_settings: Callable[..., Settings]) -> None:
    """A file that is no file of figures costs its figures and nothing else."""
    settings = make_plain_settings()
    another_process(settings, "worker-1", {"sluice_waits_total": [[["slots"], 2]]})
    another_process(settings, "worker-2", {}).write_bytes(content)
    assert shown(settings)["sluice_waits_total", (("reason", "slots"),)] == 2


def test_other_version(make_plain_settings: Callable[..., Settings]) -> None:
    """Figures of a version with other metrics, labels or buckets are passed over."""
    settings = make_plain_settings()
    figures: dict[str, list[object]] = {
        "sluice_gone_total": [[[], 1]],
        "sluice_waits_total": [[["slots", "more"], 2], [["table"], 3]],
        LATENCY: [[["webhook"], [[1, 2], 0.5]]],
    }
    another_process(settings, "worker-1", figures)
    page_ = shown(settings)
    assert page_["sluice_waits_total", (("reason", "table"),)] == 3
    assert not [name for name, _ in page_ if "gone" in name or name.startswith(LATENCY)]


def test_bounded_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Label combinations beyond the limit are counted together under `other`."""
    monkeypatch.setattr(metrics, "MAX_SERIES", len(metrics._tallies["sluice_http_requests_total"]) + 1)
    first = metrics.counter("sluice_http_requests_total", route="/a", status="200")
    second = metrics.counter("sluice_http_requests_total", route="/b", status="200")
    assert first is not second
    assert second is metrics.counter("sluice_http_requests_total", route="/c", status="404")
    metrics._tallies["sluice_http_requests_total"].clear()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="wants a place nobody can write to")
def test_disk_full(make_plain_settings: Callable[..., Settings]) -> None:
    """A directory that cannot be written costs the figures, not the process."""
    settings = make_plain_settings()
    metrics.prepare(settings, "worker-0")
    target = settings.data_dir / "metrics" / "worker-0.new"
    target.symlink_to("/dev/full")
    metrics.flush()
    target.unlink()
    metrics.flush()
    assert (settings.data_dir / "metrics" / "worker-0.json").exists()


def test_close_drops_gauges(make_plain_settings: Callable[..., Settings]) -> None:
    """A process that ends takes its gauges along at once."""
    settings = make_plain_settings()
    metrics.prepare(settings, "worker-0")
    metrics.gauge("sluice_queued_deliveries").set(3)
    metrics.close()
    metrics._file = None
    assert ("sluice_queued_deliveries", ()) not in shown(settings)
