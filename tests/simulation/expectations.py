"""What ought to become of every event, what has, and whether it all would survive a crash at this moment."""

from collections import defaultdict
from dataclasses import dataclass

import orjson
from aiokafka import TopicPartition

from app.engine.position import LanePosition, decode
from tests.simulation.kafka import Broker


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True, eq=False)
class Expected:
    """One event for one destination."""

    partition: int
    offset: int
    instance: str
    destination: str
    key: str
    appended_at: float
    accepted_at: list[float]
    receipts: int = 0
    """How often a worker heard that it was delivered."""
    decided: str = ""
    """An end other than `delivered` that some worker decided, durable or not."""
    ended: str = ""
    """The end in the ledger."""
    excused: bool = False
    """Retention took the event while it had no end."""

    @property
    def done(self) -> bool:
        return bool(self.accepted_at or self.decided or self.excused)

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset} key {self.key!r} to {self.destination}"


class Expectations:
    """Everything that was put into the log, by place and destination."""

    def __init__(self, broker: Broker, events_topic: str, lanes_topic: str, ledger_topic: str, dead_topic: str) -> None:
        self._broker = broker
        self._topics = (events_topic, lanes_topic, ledger_topic, dead_topic)
        self.all: dict[tuple[int, int, str], Expected] = {}
        self.open: dict[tuple[int, int, str], Expected] = {}
        """Those that have no durable end."""
        self._by_key: dict[tuple[int, str, str, str], list[Expected]] = defaultdict(list)
        self._read: dict[TopicPartition, int] = defaultdict(int)
        self._positions: dict[bytes, LanePosition] = {}

    def add(self, expected: Expected) -> None:
        """One more."""
        place = (expected.partition, expected.offset, expected.destination)
        self.all[place] = self.open[place] = expected
        self._by_key[self._chain(expected)].append(expected)

    def accepted(self, expected: Expected, now: float) -> None:
        """A far end has it: what comes before it in its key must have been there, or have another end."""
        first = not expected.done
        expected.accepted_at.append(now)
        if first:
            for earlier in self._by_key[self._chain(expected)]:
                if earlier.offset >= expected.offset:
                    break
                if not earlier.done:
                    raise Broken(f"order: {expected} arrived before {earlier}")

    def read_ledger(self) -> None:
        """Takes the ends that were written since the last time."""
        for number in range(self._broker.partitions):
            ledger = TopicPartition(self._topics[2], number)
            records = self._broker.log(ledger).records
            for record in records[self._read[ledger] :]:
                told = orjson.loads(record.value)
                expected = self.all.get((told["partition"], told["offset"], told["destination"]))
                if expected is None:
                    raise Broken(f"the ledger tells of what nobody wanted: {told}")
                if told["end"] == "delivered" and not expected.accepted_at:
                    raise Broken(f"the ledger says delivered, and {expected} was not")
                expected.ended = told["end"]
                self.open.pop((told["partition"], told["offset"], told["destination"]), None)
            self._read[ledger] = len(records)

    def excuse(self, partition: int, start: int) -> None:
        """Retention takes what lies below `start`."""
        self.read_ledger()
        for place, expected in list(self.open.items()):
            if expected.partition == partition and expected.offset < start:
                expected.excused = True
                del self.open[place]

    def check_recoverable(self) -> None:
        """Were all workers killed now, everything without a durable end would be read again."""
        self.read_ledger()
        positions = {
            number: {
                key: self._decoded(value)
                for key, value in self._broker.table(TopicPartition(self._topics[1], number)).items()
            }
            for number in range(self._broker.partitions)
        }
        for expected in self.open.values():
            committed = self._broker.group.offsets.get(TopicPartition(self._topics[0], expected.partition), 0)
            position = positions[expected.partition].get(f"uuid-{expected.instance}|{expected.destination}".encode())
            if position is not None and expected.key in position.parked:
                needed = position.parked[expected.key]
            elif position is not None and position.feed is not None:
                needed = position.feed
            else:
                needed = committed
            if expected.offset < needed:
                raise Broken(f"lost at a crash now: {expected}; committed {committed}, position {position}")

    def positions(self) -> dict[int, dict[bytes, bytes]]:
        """What stands in `lanes`."""
        return {
            number: self._broker.table(TopicPartition(self._topics[1], number))
            for number in range(self._broker.partitions)
        }

    def dead_letters(self) -> int:
        """How many there are."""
        return sum(
            len(self._broker.log(TopicPartition(self._topics[3], number)).records)
            for number in range(self._broker.partitions)
        )

    def _decoded(self, value: bytes) -> LanePosition:
        position = self._positions.get(value)
        if position is None:
            position = self._positions[value] = decode(value)
        return position

    @staticmethod
    def _chain(expected: Expected) -> tuple[int, str, str, str]:
        return (expected.partition, expected.instance, expected.destination, expected.key)
