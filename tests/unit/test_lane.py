"""Lanes: order within a key, keys side by side, and what a hand-over leaves."""

from collections import defaultdict
from dataclasses import dataclass

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from app.engine.delivery import Delivery, unordered_key
from app.engine.gate import Gate
from app.engine.lane import WHOLE, Lane
from app.engine.partition import Memory, Partition, Slot
from app.engine.window import RecentIds
from app.events.event import Event
from app.routing.route import Route


@dataclass
class Read:
    """What is needed of a record."""

    offset: int


class Rig:
    """One partition with one lane to one destination."""

    def __init__(self) -> None:
        self.partition = Partition(TopicPartition("events", 0), RecentIds(10, 600), Memory())
        self.gate = Gate("section/sales/webhook", "webhook", 512)
        self.lane = Lane(self.partition, self.gate, "sales", "uuid")
        self.offset = 0

    def arrive(self, key: str) -> Delivery | None:
        """The next event of a key; the delivery if it may be sent at once."""
        event = Event(
            instance="sales",
            name="messages.upsert",
            data=None,
            id=str(self.offset),
            partition=0,
            offset=self.offset,
            timestamp_ms=0,
            size=0,
        )
        slot = Slot(self.partition, Read(self.offset), 1, at=0.0)
        slot.pending = slot.deliveries = 1
        self.partition.hold(slot)
        self.offset += 1
        route = Route(
            destination=self.gate.id,
            instance_id="uuid",
            names={},
            matches=None,
            encode=lambda _: b"",
            order_key=None,
        )
        delivery = Delivery(self.lane, slot, event, route, key, b"")
        return delivery if self.lane.offer(delivery) else None


@given(st.lists(st.sampled_from("abc"), max_size=60), st.randoms(use_true_random=False))
def test_a_key_keeps_its_order_whatever_ends_first(keys: list[str], random: object) -> None:
    """One event of a key is under way at a time, in arrival order, and every event gets its turn."""
    rig = Rig()
    under_way = [delivery for key in keys if (delivery := rig.arrive(key)) is not None]
    ended: dict[str, list[int]] = defaultdict(list)
    while under_way:
        assert len({delivery.key for delivery in under_way}) == len(under_way)
        delivery = under_way.pop(random.randrange(len(under_way)))  # type: ignore[attr-defined]
        ended[delivery.key].append(delivery.slot.offset)
        following = rig.lane.next(delivery)
        if following is not None:
            under_way.append(following)

    assert {key: [place for place, other in enumerate(keys) if other == key] for key in set(keys)} == ended
    assert not rig.lane.heads
    assert rig.lane.count == 0


def test_without_order_all_go_at_once() -> None:
    """`order: none` makes every event a key of its own, so that each goes whatever is under way."""
    rig = Rig()

    assert all(rig.arrive(unordered_key(rig.offset)) for _ in range(5))


def test_a_failing_key_does_not_hold_the_others() -> None:
    """While one key has no end, the next events of others go on."""
    rig = Rig()
    stuck = rig.arrive("a")
    assert stuck is not None
    assert rig.arrive("a") is None

    other = rig.arrive("b")
    assert other is not None
    rig.lane.next(other)

    assert rig.arrive("b") is not None
    assert rig.arrive("a") is None


def test_lanes_are_served_in_turn() -> None:
    """A lane with much ready does not keep another from its turn."""
    loud, quiet = Rig(), Rig()
    quiet.lane.gate = loud.gate
    for _ in range(3):
        delivery = loud.arrive(unordered_key(loud.offset))
        assert delivery is not None
        loud.gate.enter(delivery)
    late = quiet.arrive("a")
    assert late is not None
    loud.gate.enter(late)

    order = [loud.gate.pop() for _ in range(5)]

    assert order[1] is late
    assert order[4] is None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.data())
def test_falling_behind_forgets_only_what_was_not_begun(keys: list[str], data: st.DataObject) -> None:
    """Above the last event that was begun all is dropped and read again, at or below it all stays."""
    rig = Rig()
    for key in keys:
        delivery = rig.arrive(key)
        if delivery is not None:
            rig.gate.enter(delivery)
    rig.partition.live = len(keys)
    rig.lane.begun = data.draw(st.integers(-1, len(keys) - 1))

    rig.lane.fall_behind(rig.partition.live, drop=True)

    kept = {delivery.slot.offset for head in rig.lane.heads.values() for delivery in (head, *(head.behind or ()))}
    assert kept == set(range(rig.lane.begun + 1))
    assert rig.lane.count == len(kept)
    assert rig.lane.tracks[WHOLE].feed == rig.lane.begun + 1
    assert rig.lane.behind()


def test_a_parked_key_is_read_again_and_the_others_go_on() -> None:
    """The parked key's later events are the reader's, those of other keys are taken live."""
    rig = Rig()
    for key in "aba":
        rig.arrive(key)
    rig.partition.live = 3

    rig.lane.park("a")

    assert not rig.lane.takes("a", 3)
    assert rig.lane.takes("b", 3)
    assert rig.lane.track_for("a", 2) is rig.lane.tracks["a"]
    assert rig.lane.track_for("b", 2) is None
    position = rig.lane.position()
    assert position is not None
    assert (position.state, position.feed, dict(position.parked)) == ("live", None, {"a": 0})


def test_a_lane_is_live_again_once_its_reading_has_come_to_the_end() -> None:
    """After the switch the intake's events are taken, and the position goes when the last event below has its end."""
    rig = Rig()
    head = rig.arrive("a")
    assert head is not None
    rig.partition.live = 1
    rig.lane.begun = 0
    rig.lane.fall_behind(1, drop=True)

    rig.lane.hand_over(rig.lane.tracks[WHOLE])

    assert rig.lane.takes("a", 1)
    assert rig.lane.position() is not None
    rig.lane.next(head)
    head.slot.release()
    assert rig.lane.position() is None


@given(st.permutations(range(20)))
def test_a_partition_settles_in_offset_order(order: list[int]) -> None:
    """Whatever order events end in, what counts as settled is the finished run at the head."""
    rig = Rig()
    rig.partition.live = 20
    for _ in range(20):
        rig.arrive(unordered_key(rig.offset))
    slots = list(rig.partition.slots)
    ended: set[int] = set()
    for place in order:
        slots[place].pending = 0
        ended.add(place)
        rig.partition.settle()
        run = next((offset for offset in range(20) if offset not in ended), 20)

        assert rig.partition.settled == run

    assert rig.partition.size == 0
