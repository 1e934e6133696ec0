"""
S3: five receivers for every event, one of them refusing and one hanging, beside the healthy three alone.

Both states have the same load in the same run, A-B-A; what counts is that every delivery of the healthy three arrives
in time, in order, and about as fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.far_end import FarEnd
from tests.bench.load import Workload
from tests.bench.processes import produce
from tests.bench.report import Table
from tests.integration.harness import Cluster, free_port

KNOWN = "known"
"""An instance by which one sees that the file is applied."""
HEALTHY = ("one", "two", "three")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    per_second: int = 1000
    seconds: int = 15
    instances: int = 100
    conversations: int = 5
    rounds: int = 2
    """Of A-B; the last A follows them."""
    in_time_secs: float = 5.0
    """After the last event was sent."""

    @property
    def events(self) -> int:
        """Of one state of one round."""
        whole = self.instances * self.conversations
        return max(1, round(self.per_second * self.seconds / whole)) * whole


QUICK = Size(seconds=5, rounds=1)


async def run(brokers: str, directory: Path, size: Size) -> Table:
    """One run; the table of its figures."""
    states = ["well"] + ["sick", "well"] * size.rounds
    rows: dict[str, list[dict[str, Any]]] = {"well": [], "sick": []}
    for number, state in enumerate(states):
        rows[state].append(await _state(brokers, directory / str(number), size, sick=state == "sick"))
    return _table(size, rows)


async def _state(brokers: str, directory: Path, size: Size, *, sick: bool) -> dict[str, Any]:
    workload = Workload(instances=size.instances, conversations=size.conversations)
    async with FarEnd() as healthy, FarEnd() as hanging:
        await hanging.rules({"hang": True})
        urls = [f"{healthy.url}/{name}" for name in HEALTHY]
        if sick:
            urls += [f"http://127.0.0.1:{free_port()}/refusing", f"{hanging.url}/hanging"]
        environment = {"WEBHOOK_REQUEST_TIMEOUT_MS": "5000"}
        async with Cluster(brokers, directory, pipelines=fan_out(workload, urls), environment=environment) as cluster:
            await cluster.run("init")
            await cluster.api()
            await cluster.knows(KNOWN)
            await cluster.worker(0, members=1)
            warm = workload.all_conversations
            await produce(brokers, cluster.events, workload, events=warm, per_second=size.per_second)
            await healthy.arrived(warm * len(HEALTHY), within_secs=30)
            await healthy.reset(before=workload.expected(warm))
            await produce(brokers, cluster.events, workload, events=size.events, first=warm, per_second=size.per_second)
            await healthy.arrived(size.events * len(HEALTHY), within_secs=size.in_time_secs)
            return await healthy.stats(
                expected=workload.expected(size.events), conversations=workload.all_conversations * len(HEALTHY)
            )


def fan_out(workload: Workload, urls: list[str], names: list[str] | None = None) -> Mapping[str, Any]:
    """A pipelines.yaml that sends every event of some instances (of all, by default) to all the addresses."""
    return {
        "version": 1,
        # A section is what the API shows, and the file is applied as a whole.
        "instances": {name: {} for name in workload.names()}
        | {KNOWN: {"webhook": {"url": urls[0], "events": ["CALL"]}}},
        "pipelines": {
            "everything": {
                "from": {"instances": names or ["*"], "events": ["messages.upsert"]},
                "to": [{"name": f"receiver-{number}", "webhook": {"url": url}} for number, url in enumerate(urls)],
            }
        },
    }


def _table(size: Size, rows: Mapping[str, list[dict[str, Any]]]) -> Table:
    table = Table(
        name="s3",
        title=f"S3: {size.events:,} events at {size.per_second:,}/s, each to all receivers; the healthy three",
        columns=("beside", "accepted", "late or lost", "doubled", "breaks", "p50 ms", "p99 ms"),
    )
    for state, label in (("well", "nobody"), ("sick", "one refusing, one hanging")):
        runs = rows[state]
        table.add(
            label,
            f"{sum(run['accepted'] for run in runs):,}",
            *(str(sum(run[name] for run in runs)) for name in ("lost", "doubled", "order_breaks")),
            *(f"{median(run[name] for run in runs):.1f}" for name in ("p50_ms", "p99_ms")),
        )
    table.note(f"in time: within {size.in_time_secs:g} s of the last event")
    table.data = {"rows": rows, "target": "all deliveries of the healthy three arrive in time"}
    return table
