"""
A simulated Kafka: logs with holes and a start that moves, a group with static members, transactions that fence.

Only what the engine uses of aiokafka is there, with its errors. A request takes effect at the broker some milliseconds
after it was sent, whatever becomes of the sender, and is answered some milliseconds later.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaTimeoutError, ProducerFenced

from tests.simulation.loop import EPOCH_SECS, PROCESS, START_SECS, SimulatedLoop


@dataclass(slots=True)
class Log:
    """One partition of one topic."""

    records: list[ConsumerRecord] = field(default_factory=list)
    start: int = 0
    end: int = 0
    changed: list[asyncio.Future[None]] = field(default_factory=list)

    def since(self, offset: int, maximum: int) -> list[ConsumerRecord]:
        """The records at and after an offset."""
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            if self.records[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return self.records[low : low + maximum]


@dataclass(slots=True)
class Member:
    """A member of the group, as the broker sees it."""

    id: str
    name: str
    session_secs: float
    rebalance_secs: float
    seen_at: float
    joining: Callable[[tuple[str, int, tuple[int, ...]]], None] | None = None
    assigned: tuple[int, ...] = ()


class Broker:
    """All topics, the group of the workers, and who may write transactions."""

    def __init__(self, loop: SimulatedLoop, seed: int, partitions: int) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.partitions = partitions
        self.logs: dict[TopicPartition, Log] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[str, list[tuple[TopicPartition, bytes, bytes | None]]] = {}
        self.away_until = 0.0
        """No request is taken before this moment."""
        self.deaf_until: dict[str, float] = {}
        """By static name: until then the group hears no heartbeat of that worker, which knows nothing of it."""
        self.lost_answers = 0.0
        """How often a write is done and its answer does not come."""
        self.group = Group(self)

    def log(self, topic_partition: TopicPartition) -> Log:
        """One partition, empty at first."""
        return self.logs.setdefault(topic_partition, Log())

    def append(
        self,
        topic_partition: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Any] = (),
        holes: int = 0,
    ) -> ConsumerRecord:
        """A record at the end of the log; `holes` offsets before it are left out."""
        log = self.log(topic_partition)
        now = EPOCH_SECS + self.loop.time() - START_SECS
        record = ConsumerRecord(
            topic=topic_partition.topic,
            partition=topic_partition.partition,
            offset=log.end + holes,
            timestamp=int(now * 1000),
            timestamp_type=0,
            key=key,
            value=value,
            checksum=None,
            serialized_key_size=len(key or b""),
            serialized_value_size=len(value or b""),
            headers=tuple(headers),
        )
        log.records.append(record)
        log.end = record.offset + 1
        waiting, log.changed = log.changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return record

    def truncate(self, topic_partition: TopicPartition, start: int) -> None:
        """Retention takes what lies below `start`."""
        log = self.log(topic_partition)
        log.start = max(log.start, min(start, log.end))
        log.records = [record for record in log.records if record.offset >= log.start]

    def compact(self, topic: str) -> None:
        """Leaves of each key the newest record, and no tombstone but the last record."""
        for topic_partition, log in self.logs.items():
            if topic_partition.topic == topic and log.records:
                newest = {record.key: record for record in log.records}
                last = log.records[-1]
                log.records = [
                    record
                    for record in log.records
                    if newest[record.key] is record and (record.value is not None or record is last)
                ]

    def table(self, topic_partition: TopicPartition) -> dict[bytes, bytes]:
        """The newest value of each key."""
        found: dict[bytes, bytes] = {}
        for record in self.log(topic_partition).records:
            if record.value is None:
                found.pop(record.key, None)
            else:
                found[record.key] = record.value
        return found

    def ask(self, effect: Callable[[], Any], *, slow: float = 1.0) -> "asyncio.Future[Any]":
        """Sends a request; what it does happens at the broker later, the answer comes later still."""
        future: asyncio.Future[Any] = self.loop.create_future()
        process = PROCESS.get()
        if process is not None and not process.alive:
            return future  # It was killed in this very step, and unwinds.

        def arrive() -> None:
            if self.loop.time() < self.away_until:
                self.loop.outside(self.away_until - self.loop.time() + self._hop(), arrive)
                return
            try:
                answer = effect()
            except Exception as error:  # noqa: BLE001  It is the asker's.
                self.loop.outside(self._hop(), _answer, future, None, error)
                return
            if isinstance(answer, Later):
                answer.then(lambda value: self.loop.outside(self._hop(), _answer, future, value, None))
            else:
                self.loop.outside(self._hop() * slow, _answer, future, answer, None)

        self.loop.outside(self._hop() * slow, arrive)
        return future

    def _hop(self) -> float:
        draw = self.random.random()
        return 0.0002 + draw * 0.003 if draw < 0.98 else 0.01 + self.random.random() * 0.05

    # -- transactions

    def initialise(self, transactional_id: str) -> int:
        """A new epoch: whoever wrote under the id before is fenced, and what it left open is aborted."""
        self.open.pop(transactional_id, None)
        epoch = self.epochs.get(transactional_id, -1) + 1
        self.epochs[transactional_id] = epoch
        return epoch

    def write(
        self, transactional_id: str | None, epoch: int, records: Sequence[tuple[TopicPartition, bytes, bytes | None]]
    ) -> None:
        """Takes a batch, at once or for the transaction under way."""
        if transactional_id is None:
            for topic_partition, key, value in records:
                self.append(topic_partition, key, value)
            if self.random.random() < self.lost_answers:
                raise KafkaTimeoutError("simulated: the batch was written, its acknowledgement is lost")
            return
        if self.epochs[transactional_id] != epoch:
            raise ProducerFenced
        self.open.setdefault(transactional_id, []).extend(records)

    def commit_transaction(self, transactional_id: str, epoch: int) -> None:
        """What was written becomes visible, all of it."""
        if self.epochs[transactional_id] != epoch:
            raise ProducerFenced
        for topic_partition, key, value in self.open.pop(transactional_id, ()):
            # The marker takes an offset too.
            self.append(topic_partition, key, value, holes=1)
        if self.random.random() < self.lost_answers:
            raise KafkaTimeoutError("simulated: the transaction was committed, the answer is lost")


class Later:
    """An answer that the broker gives when it has one."""

    def __init__(self) -> None:
        self.then: Callable[[Callable[[Any], None]], None] = self._set
        self._listener: Callable[[Any], None] | None = None
        self._value: Any = None

    def _set(self, listener: Callable[[Any], None]) -> None:
        self._listener = listener
        if self._value is not None:
            listener(self._value)

    def resolve(self, value: Any) -> None:
        """Gives the answer."""
        self._value = value
        if self._listener is not None:
            self._listener(value)


def _answer(future: "asyncio.Future[Any]", value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # Whoever asked may be dead.
    else:
        future.set_result(value)


class Group:
    """The group's coordinator: eager rebalances, static members, offsets with a check of the generation."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._members: dict[str, Member] = {}
        self._round = 0
        self.generation = 0
        self.preparing = False
        self.offsets: dict[TopicPartition, int] = {}
        self.rebalances = 0
        self._numbers = 0

    def join(self, name: str, member_id: str, session_secs: float, rebalance_secs: float) -> Later:
        """Answers (member id, generation, partitions) once the group is complete."""
        now = self._broker.loop.time()
        answer = Later()
        member = self._members.get(member_id)
        if member is None:
            old = next((member for member in self._members.values() if member.name == name), None)
            self._numbers += 1
            member = Member(f"{name}-{self._numbers}", name, session_secs, rebalance_secs, now)
            self._members[member.id] = member
            if old is not None:
                # A static member is back under a new id: the old one is fenced, nothing moves.
                del self._members[old.id]
                if not self.preparing:
                    member.assigned = old.assigned
                    self._watch(member)
                    answer.resolve((member.id, self.generation, member.assigned))
                    return answer
            self._watch(member)
        member.seen_at = now
        member.joining = answer.resolve
        self._prepare()
        self._complete_if_all()
        return answer

    def heartbeat(self, member_id: str, generation: int) -> str:
        """`ok`, `rebalance` or `unknown`."""
        member = self._members.get(member_id)
        if member is None:
            return "unknown"
        member.seen_at = self._broker.loop.time()
        if self.preparing or generation != self.generation:
            return "rebalance"
        return "ok"

    def commit(self, member_id: str, generation: int, offsets: dict[TopicPartition, int]) -> None:
        """Takes offsets of a member of the present generation; CommitFailedError for any other."""
        if member_id not in self._members or generation != self.generation:
            raise CommitFailedError
        self._members[member_id].seen_at = self._broker.loop.time()
        self.offsets.update(offsets)

    def _watch(self, member: Member) -> None:
        def look() -> None:
            if self._members.get(member.id) is not member:
                return
            now = self._broker.loop.time()
            late = now - member.seen_at - member.session_secs
            if member.joining is not None:
                late = -member.session_secs
            if late >= 0:
                del self._members[member.id]
                self._prepare()
                self._complete_if_all()
                return
            self._broker.loop.outside(-late + 0.001, look)

        self._broker.loop.outside(member.session_secs, look)

    def _prepare(self) -> None:
        if self.preparing:
            return
        self.preparing = True
        self._round += 1
        number = self._round
        longest = max((member.rebalance_secs for member in self._members.values()), default=0.0)

        def late() -> None:
            if self.preparing and self._round == number:
                for member in list(self._members.values()):
                    if member.joining is None:
                        del self._members[member.id]
                self._complete_if_all()

        self._broker.loop.outside(longest, late)

    def _complete_if_all(self) -> None:
        if not self.preparing or any(member.joining is None for member in self._members.values()):
            return
        self.preparing = False
        self.generation += 1
        self.rebalances += 1
        members = sorted(self._members.values(), key=lambda member: member.name)
        shift = self._broker.random.randrange(len(members)) if members else 0
        now = self._broker.loop.time()
        for place, member in enumerate(members):
            member.assigned = tuple(
                number for number in range(self._broker.partitions) if (number + shift) % len(members) == place
            )
            member.seen_at = now
            joining, member.joining = member.joining, None
            assert joining is not None
            joining((member.id, self.generation, member.assigned))
