"""The metrics there are: one table, from which everything that names a metric is checked."""

from dataclasses import dataclass
from typing import Literal

FORMAT = 1
"""Of the files in which processes keep their figures."""
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Seconds: upper bounds of the buckets."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric. `merge` says how the gauges of several processes become one figure."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    merge: Literal["sum", "max", "min"] = "sum"
    buckets: tuple[float, ...] = ()


TABLE: tuple[Declared, ...] = (
    Declared("sluice_events_total", "counter", "Events taken from the log."),
    Declared("sluice_events_filtered_total", "counter", "Events that no destination wanted."),
    Declared("sluice_events_poisoned_total", "counter", "Records that are no events, by reason.", ("reason",)),
    Declared("sluice_events_repeated_total", "counter", "Events dropped because their id came before."),
    Declared("sluice_matches_total", "counter", "Pairs of event and destination.", ("transport",)),
    Declared("sluice_deliveries_total", "counter", "Deliveries that are over, by their end.", ("transport", "end")),
    Declared("sluice_attempts_failed_total", "counter", "Attempts that failed, by kind.", ("transport", "kind")),
    Declared(
        "sluice_delivery_latency_seconds",
        "histogram",
        "From the log's append to the delivery's end.",
        ("transport",),
        buckets=LATENCY,
    ),
    Declared("sluice_attempt_seconds", "histogram", "One attempt at the far end.", ("transport",), buckets=LATENCY),
    Declared("sluice_in_flight", "gauge", "Deliveries under way now.", ("transport",)),
    Declared("sluice_slots", "gauge", "Events read and not yet settled."),
    Declared("sluice_queued_deliveries", "gauge", "Deliveries waiting in lanes."),
    Declared("sluice_destinations_paused", "gauge", "Destinations that stand still while events come.", merge="max"),
    Declared("sluice_partitions_assigned", "gauge", "Partitions of `events` assigned to this machine's workers."),
    Declared("sluice_rebalances_total", "counter", "Assignments of partitions to this machine's workers."),
    Declared("sluice_waits_total", "counter", "Waits of the intake: slots, table or bytes.", ("reason",)),
    Declared("sluice_lane_transitions_total", "counter", "Lanes that became parked, behind or live.", ("state",)),
    Declared("sluice_catchup_records_total", "counter", "Records read again for lanes that are behind."),
    Declared("sluice_events_expired_total", "counter", "Events that retention took first; an upper bound."),
    Declared("sluice_events_cancelled_total", "counter", "Events of removed destinations, unread; an upper bound."),
    Declared("sluice_table_rows", "gauge", "Instances and sections in the configuration table.", merge="max"),
    Declared("sluice_table_offset", "gauge", "Offset the slowest table of this machine has reached.", merge="min"),
    Declared("sluice_ingested_events_total", "counter", "Events accepted over HTTP."),
    Declared("sluice_http_requests_total", "counter", "HTTP requests answered.", ("route", "status")),
    Declared("sluice_loop_lag_seconds", "gauge", "How late the slowest event loop woke last.", merge="max"),
    Declared("sluice_build_info", "gauge", "Always 1; the version is the label.", ("version",), merge="max"),
)
DECLARED = {metric.name: metric for metric in TABLE}
