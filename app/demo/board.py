"""The demo's own books: what was sent, what must come of it, what the ledger says."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from app.demo.checks import Arrival, End, Expected, problems
from app.demo.expectations import Destination
from app.demo.generator import GeneratedEvent
from app.demo.receiver import Request
from app.demo.screen import Line


class Board:
    """
    Everything about the events of one run.

    `run` begins the id of each of its events, so that what an earlier run left behind is not counted.
    """

    def __init__(self, run: str, destinations: Sequence[Destination]) -> None:
        self.run = run
        self.destinations = list(destinations)
        self.expected: list[Expected] = []
        self.ends: list[End] = []
        self.sent = 0
        self._offered: Counter[str] = Counter()
        self._wanted: Counter[str] = Counter()
        self._destination_of: dict[str, str] = {}
        self._delivered: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._latencies: defaultdict[str, list[float]] = defaultdict(list)
        self._read = 0

    def event_id(self, event: GeneratedEvent) -> str:
        """The id that an event is sent with."""
        return f"{self.run}/{event.id}"

    def send(self, event: GeneratedEvent) -> None:
        """Notes that an event is about to be sent, and what must come of it."""
        self.sent += 1
        event_id = self.event_id(event)
        for destination in self.destinations:
            if destination.offered(event):
                self._offered[destination.id] += 1
            expected = destination.wants(event, event_id)
            if expected is not None:
                self._wanted[destination.id] += 1
                self._destination_of[expected.delivery_id] = destination.id
                self.expected.append(expected)

    def tell(self, record: Mapping[str, Any]) -> None:
        """Takes a record of the ledger; those of other runs are left out."""
        if not str(record.get("event_id", "")).startswith(f"{self.run}/"):
            return
        end = End(
            delivery_id=record["delivery_id"],
            destination=record["destination"],
            end=record["end"],
            attempts=record["attempts"],
            latency_ms=record["latency_ms"],
        )
        self.ends.append(end)
        self._latencies[end.destination].append(end.latency_ms)

    def see(self, requests: Sequence[Request]) -> None:
        """Counts what the receiver got since the last call."""
        for request in requests[self._read :]:
            destination = self._destination_of.get(request.delivery_id)
            if destination is not None:
                (self._delivered if request.accepted else self._retried)[destination] += 1
        self._read = len(requests)

    @property
    def settled(self) -> bool:
        """Whether as much was delivered, and told by the ledger, as must come."""
        return self._delivered.total() >= len(self.expected) and len(self.ends) >= len(self.expected)

    def lines(self) -> list[Line]:
        """One line a destination."""
        return [
            Line(
                name=destination.id,
                offered=self._offered[destination.id],
                wanted=self._wanted[destination.id],
                delivered=self._delivered[destination.id],
                retried=self._retried[destination.id],
                latencies_ms=self._latencies[destination.id],
            )
            for destination in self.destinations
        ]

    def problems(self, requests: Sequence[Request]) -> list[str]:
        """What is wrong, a sentence each. Requests that are not of this run are left out."""
        arrivals = [
            Arrival(delivery_id=request.delivery_id, path=request.path) for request in requests if request.accepted
        ]
        return problems(self.expected, arrivals, self.ends)
