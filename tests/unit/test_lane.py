"""Lanes: order within a key, keys side by side, and what a hand-over leaves."""

from collections import defaultdict

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from app.engine.gate import Gate
from app.engine.lane import Delivery, Lane
from app.engine.partition import Partition, Slot
from app.engine.window import RecentIds
from app.events.event import Event
from app.routing.route import Route


class Rig:
    """One partition with one lane to one destination."""

    def __init__(self) -> None:
        self.partition = Partition(TopicPartition("events", 0), RecentIds(10, 600))
        self.gate = Gate("section/sales/webhook", "webhook", 512)
        self.lane = Lane(self.partition, self.gate, "sales", "uuid")
        self.offset = 0

    def arrive(self, key: str | None) -> Delivery | None:
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
        slot = Slot.__new__(Slot)
        slot.partition, slot.offset, slot.pending, slot.deliveries, slot.size = self.partition, self.offset, 1, 1, 1
        self.partition.slots.append(slot)
        self.partition.size += 1
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
    ended: dict[str | None, list[int]] = defaultdict(list)
    while under_way:
        assert len({delivery.key for delivery in under_way}) == len(under_way)
        delivery = under_way.pop(random.randrange(len(under_way)))  # type: ignore[attr-defined]
        ended[delivery.key].append(delivery.slot.offset)
        following = rig.lane.next(delivery)
        if following is not None:
            under_way.append(following)

    assert {key: [place for place, other in enumerate(keys) if other == key] for key in set(keys)} == ended
    assert not rig.lane.keys
    assert rig.lane.count == 0


def test_without_order_all_go_at_once() -> None:
    """`order: none` lets every event go, whatever is under way."""
    rig = Rig()

    assert all(rig.arrive(None) for _ in range(5))


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
        delivery = loud.arrive(None)
        assert delivery is not None
        loud.gate.enter(delivery)
    late = quiet.arrive(None)
    assert late is not None
    loud.gate.enter(late)

    order = [loud.gate.pop() for _ in range(5)]

    assert order[1] is late
    assert order[4] is None


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40), st.data())
def test_a_hand_over_keeps_what_was_begun(keys: list[str | None], data: st.DataObject) -> None:
    """Below the given offset nothing is dropped, above it nothing that has not begun stays."""
    rig = Rig()
    for key in keys:
        delivery = rig.arrive(key)
        if delivery is not None:
            rig.gate.enter(delivery)
    begun = data.draw(st.integers(-1, len(keys)))

    dropped = rig.lane.drop_beyond(begun)

    kept = {delivery.slot.offset for delivery in rig.lane.ready}
    kept |= {delivery.slot.offset for behind in rig.lane.keys.values() for delivery in behind or ()}
    assert kept == {offset for offset in range(len(keys)) if offset <= begun}
    assert rig.lane.count == len(kept)
    assert dropped >= 0


@given(st.permutations(range(20)))
def test_a_partition_settles_in_offset_order(order: list[int]) -> None:
    """Whatever order events end in, what counts as settled is the finished run at the head."""
    rig = Rig()
    rig.partition.live = 20
    for _ in range(20):
        rig.arrive(None)
    slots = list(rig.partition.slots)
    ended: set[int] = set()
    for place in order:
        slots[place].pending = 0
        ended.add(place)
        rig.partition.settle()
        run = next((offset for offset in range(20) if offset not in ended), 20)

        assert rig.partition.settled == run

    assert rig.partition.size == 0
