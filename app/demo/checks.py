"""What must have arrived against what did: pure, and independent of the engine that is being shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 5
"""Examples named per kind of problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One delivery that must arrive."""

    delivery_id: str
    destination: str
    path: str
    order_key: str
    """Deliveries with one destination, instance and order key must arrive in the order they are listed in."""
    instance: str
    event_id: str
    event: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One delivery that a receiver accepted."""

    delivery_id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One record of the ledger."""

    delivery_id: str
    destination: str
    end: str
    attempts: int
    latency_ms: float


def problems(expected: Sequence[Expected], arrivals: Sequence[Arrival], ends: Sequence[End]) -> list[str]:
    """
    Everything that is wrong, a sentence each; empty when every expected delivery was accepted exactly once, at its
    path, in order, nothing else was, and the ledger says `delivered` of each exactly once.
    """
    wanted = {delivery.delivery_id: delivery for delivery in expected}
    accepted = Counter(arrival.delivery_id for arrival in arrivals)
    found: list[str] = []
    if len(wanted) != len(expected):
        found.append(f"{len(expected) - len(wanted)} expected deliveries share a delivery id with another one")
    found += _named("missing", [delivery for delivery in expected if not accepted[delivery.delivery_id]])
    found += _named("arrived more than once", [delivery for delivery in expected if accepted[delivery.delivery_id] > 1])
    strangers = Counter(arrival.path for arrival in arrivals if arrival.delivery_id not in wanted)
    for path, count in strangers.most_common(SHOWN):
        found.append(f"{count} deliveries arrived at {path} that nobody expected")
    astray = [
        f"{wanted[arrival.delivery_id].path} came to {arrival.path}"
        for arrival in arrivals
        if arrival.delivery_id in wanted and wanted[arrival.delivery_id].path != arrival.path
    ]
    if astray:
        found.append(f"{len(astray)} arrived at the wrong path: what belongs to {'; '.join(astray[:SHOWN])}")
    found += _out_of_order(expected, arrivals, wanted)
    found += _ledger(wanted, ends)
    return found


def _out_of_order(
    expected: Sequence[Expected], arrivals: Sequence[Arrival], wanted: dict[str, Expected]
) -> Iterable[str]:
    turns: dict[str, int] = {}
    turn: Counter[tuple[str, str, str]] = Counter()
    for delivery in expected:
        line = (delivery.destination, delivery.instance, delivery.order_key)
        turns[delivery.delivery_id] = turn[line]
        turn[line] += 1
    latest: dict[tuple[str, str, str], int] = defaultdict(lambda: -1)
    overtaken = []
    # A repeat is told as such, and no matter of order.
    for delivery_id in dict.fromkeys(arrival.delivery_id for arrival in arrivals):
        known = wanted.get(delivery_id)
        if known is None:
            continue
        line = (known.destination, known.instance, known.order_key)
        if turns[delivery_id] < latest[line]:
            overtaken.append(known)
        latest[line] = max(latest[line], turns[delivery_id])
    return _named("arrived after a later one of its conversation", overtaken)


def _ledger(wanted: dict[str, Expected], ends: Sequence[End]) -> Iterable[str]:
    told = Counter(end.delivery_id for end in ends)
    yield from _named("not in the ledger", [wanted[key] for key in wanted if not told[key]])
    yield from _named("in the ledger more than once", [wanted[key] for key in wanted if told[key] > 1])
    for name, count in Counter(end.end for end in ends if end.end != "delivered").items():
        yield f"the ledger says `{name}` of {count} deliveries"
    strangers = Counter(end.destination for end in ends if end.delivery_id not in wanted)
    for destination, count in strangers.most_common(SHOWN):
        yield f"the ledger has {count} deliveries to {destination} that nobody expected"


def _named(what: str, deliveries: Sequence[Expected]) -> list[str]:
    if not deliveries:
        return []
    examples = ", ".join(
        f"{delivery.event} {delivery.event_id} of {delivery.instance} to {delivery.destination}"
        for delivery in deliveries[:SHOWN]
    )
    more = f" and {len(deliveries) - SHOWN} more" if len(deliveries) > SHOWN else ""
    return [f"{len(deliveries)} {what}: {examples}{more}"]
