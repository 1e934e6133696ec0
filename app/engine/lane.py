"""
A lane: what is on its way from one partition and instance to one destination, in order per order key.

An order key is followed live, by the intake, or by a track: it was parked, or its lane is behind, and the catch-up
reader reads its events from the log again. The two never both feed one key.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.engine.delivery import Delivery
from app.engine.partition import Slot
from app.engine.position import LanePosition

if TYPE_CHECKING:
    from app.engine.gate import Gate
    from app.engine.partition import Partition


WHOLE = None
"""The key of the track that is the lane itself."""


class Track:
    """
    The part of a lane that the catch-up reader follows: one order key, or (`key` None) all keys without their own.

    Everything below `feed` was read; what of it has no end yet stands in `slots`.
    """

    __slots__ = ("attempts", "feed", "floor", "handed", "key", "lane", "slots", "turn")

    def __init__(self, lane: "Lane", key: str | None, feed: int) -> None:
        self.lane = lane
        self.key = key
        self.feed = feed
        """The offset the reader goes on at."""
        self.slots: dict[int, Slot] = {}
        self.handed = False
        """Its reading has reached what follows it; it stays until its slots are settled."""
        self.turn = 0
        """Counts how often it was set back, which a reader under way has to notice."""
        self.floor = 0
        """Once handed: what follows it takes nothing below this offset."""
        self.attempts = 0
        """What the head had cost already when the position was loaded."""

    @property
    def position(self) -> int:
        """Everything of this track below it has its end."""
        return min(min(self.slots, default=self.feed), self.feed)

    def set_back(self, feed: int) -> None:
        """Reads on from another offset than the one it has come to."""
        self.feed = feed
        self.turn += 1

    def settle(self, slot: Slot) -> int:
        """An event that was read again has its end; returns the bytes it frees."""
        del self.slots[slot.offset]
        partition = slot.partition
        partition.charge(-slot.size)
        partition.moved.add(self.lane)
        self.lane.retire(self)
        return slot.size


class Lane:
    """
    The way of (partition, instance, destination). One event of an order key is under way at a time; keys run side by
    side. A key whose head failed waits with all behind it, while the others go on.
    """

    __slots__ = (
        "__weakref__",
        "begun",
        "count",
        "gate",
        "heads",
        "instance",
        "instance_id",
        "partition",
        "ready",
        "size",
        "tracks",
        "waiting",
    )

    def __init__(self, partition: "Partition", gate: "Gate", instance: str, instance_id: str) -> None:
        self.partition = partition
        self.gate = gate
        self.instance = instance
        self.instance_id = instance_id
        self.heads: dict[str, Delivery] = {}
        """By key: the one event that may be under way."""
        self.ready: deque[Delivery] = deque()
        """Heads that may be begun."""
        self.begun = -1
        """The highest offset that was ever begun."""
        self.count = 0
        """Deliveries in memory that have no end yet."""
        self.size = 0
        """Their bodies' bytes."""
        self.waiting = False
        """Whether it stands in its gate's queue."""
        self.tracks: dict[str | None, Track] = {}
        """WHOLE: the lane itself is behind; the others are parked keys."""
        gate.members.add(self)

    @property
    def destination(self) -> str:
        """The destination's id."""
        return self.gate.id

    # -- who follows an event

    def behind(self) -> bool:
        """Whether the intake has nothing to do here: the lane as a whole is read again."""
        whole = self.tracks.get(WHOLE)
        return whole is not None and not whole.handed

    def takes(self, key: str, offset: int) -> bool:
        """Whether an event of the live end is for this lane now; the others are read again or were before."""
        track = self.tracks.get(key) or self.tracks.get(WHOLE)
        return track is None or (track.handed and offset >= track.floor)

    def track_for(self, key: str, offset: int) -> Track | None:
        """Whose turn it is to take an event that is read again; None when nobody wants it."""
        track = self.tracks.get(key)
        if track is None or (track.handed and offset >= track.floor):
            track = self.tracks.get(WHOLE)
        if track is None or track.handed or offset < track.feed:
            return None
        return track

    def offer(self, delivery: Delivery) -> bool:
        """Takes a delivery behind all of its key; True when it is the head and may be begun."""
        self.count += 1
        self.size += len(delivery.body)
        head = self.heads.get(delivery.key)
        if head is None:
            self.heads[delivery.key] = delivery
            return True
        if head.behind is None:
            head.behind = deque((delivery,))
        else:
            head.behind.append(delivery)
        return False

    def next(self, ended: Delivery) -> Delivery | None:
        """The delivery behind one that has its end, if there is one: the key's new head."""
        self.count -= 1
        self.size -= len(ended.body)
        behind = ended.behind
        if not behind:
            if self.heads.get(ended.key) is ended:
                del self.heads[ended.key]
            return None
        following = behind.popleft()
        following.behind = behind or None
        self.heads[ended.key] = following
        return following

    # -- transitions: each returns the slots that are free once the new position is durable, and whether what comes is
    # the reader's from now on

    def park(self, key: str) -> tuple[list[Slot], bool]:
        """The key stands for itself: its head stays in memory, what follows is read again."""
        head = self.heads[key]
        dropped = self._drop_behind(head)
        held: list[Slot] = []
        feed = head.slot.offset + 1
        track = self.tracks.get(key)
        turned = track is None or track.handed
        if track is None:
            track = self.tracks[key] = Track(self, key, feed)
        track.handed = False
        # Not below its floor: what it handed over it had taken.
        end = max(self._live_end(track), track.floor)
        track.set_back(min((delivery.slot.offset for delivery in dropped), default=end))
        for delivery in dropped:
            self._let_go(delivery.slot, held)
        self._adopt(head, track, held)
        self._follow()
        return held, turned

    def fall_behind(self, upto: int, *, drop: bool) -> tuple[list[Slot], bool]:
        """
        The lane as a whole is read again from the first event that is dropped, or from `upto`.

        `drop`: what stands above the last event that was begun is forgotten, the log has it. What stands below stays,
        or reading again from the first of it would double what was delivered since. Without `drop` all stays, and only
        the slots are freed.
        """
        held: list[Slot] = []
        whole = self.tracks.get(WHOLE)
        turned = whole is None or whole.handed
        if whole is None:
            whole = self.tracks[WHOLE] = Track(self, WHOLE, upto)
        elif whole.handed:
            self._turn_back(whole, upto)
        whole.handed = False
        for delivery in self._drop_beyond(self.begun) if drop else ():
            track = delivery.slot.track
            if track is None:
                track = self._follower(delivery.key, whole)
            elif track.key is WHOLE:
                track = whole
            track.handed = False
            track.set_back(min(track.feed, delivery.slot.offset))
            self._let_go(delivery.slot, held)
        for head in self.heads.values():
            for delivery in (head, *(head.behind or ())):
                if delivery.slot.track is None:
                    self._adopt(delivery, self._follower(delivery.key, whole), held)
        self._follow()
        return held, turned

    def hand_over(self, track: Track) -> None:
        """The reading of a track has reached what follows it. Synchronous: no await between the test and this."""
        track.handed = True
        track.floor = track.feed
        self.partition.moved.add(self)
        self.retire(track)

    def retire(self, track: Track) -> None:
        """Forgets a track that was handed over, once everything of it has its end and nothing below can come again."""
        whole = self.tracks.get(WHOLE)
        if whole is not None and whole is not track:
            if not whole.handed and whole.feed < track.floor:
                return  # The lane's own reading comes by here again, and must pass over what this track took.
            if whole.handed and self.partition.live < whole.floor:
                return  # The key is live from its floor, the lane's others from a higher one.
        if track.handed and not track.slots and self.partition.live >= track.floor:
            self.tracks.pop(track.key, None)
            self.partition.moved.add(self)
            if not self.tracks:
                self.partition.behind.discard(self)

    # -- the position

    def position(self) -> LanePosition | None:
        """What stands in `lanes`: None (a tombstone) when the intake follows everything."""
        if not self.tracks:
            return None
        whole = self.tracks.get(WHOLE)
        first = min(self.heads.values(), key=lambda head: head.slot.offset, default=None)
        return LanePosition(
            instance=self.instance,
            instance_id=self.instance_id,
            destination=self.destination,
            state="paused" if self.gate.paused else "behind" if whole is not None else "live",
            feed=whole.position if whole is not None else None,
            parked={key: track.position for key, track in self.tracks.items() if key is not None},
            parked_attempts={
                key: head.attempts
                for key in self.tracks
                if key is not None and (head := self.heads.get(key)) is not None and head.attempts
            },
            reason=self.gate.paused,
            attempts=first.attempts if first is not None else 0,
            first_failed_at=self.gate.failing_since,
            next_attempt_at=first.next_attempt_at if first is not None else None,
        )

    def load(self, position: LanePosition) -> None:
        """Stands where the position says."""
        if position.first_failed_at is not None:
            self.gate.failing_since = min(position.first_failed_at, self.gate.failing_since or position.first_failed_at)
        if position.feed is not None:
            self.tracks[WHOLE] = whole = Track(self, WHOLE, position.feed)
            whole.attempts = position.attempts
        for key, offset in position.parked.items():
            self.tracks[key] = track = Track(self, key, offset)
            track.attempts = position.parked_attempts.get(key, 0)
        self._follow()

    # -- helpers

    def _turn_back(self, whole: Track, upto: int) -> None:
        """What was handed over is read again. Its floor is above `upto` when a partition began below a position."""
        whole.feed = max(upto, whole.floor)
        for own in self.tracks.values():
            if own is not whole and own.handed and own.floor < whole.floor and upto < whole.floor:
                own.handed = False
                own.set_back(max(upto, own.floor))

    def _live_end(self, track: Track) -> int:
        whole = self.tracks.get(WHOLE)
        if whole is not None and whole is not track and not whole.handed:
            return whole.feed
        return self.partition.live

    def _follower(self, key: str, whole: Track) -> Track:
        """Which track reads the events of a key again, when the lane as a whole does not follow."""
        own = self.tracks.get(key)
        return own if own is not None and not own.handed else whole

    def _adopt(self, delivery: Delivery, track: Track, held: list[Slot]) -> None:
        old = delivery.slot
        if old.track is track:
            return
        slot = Slot(old.partition, old.record, old.size, old.at, track)
        slot.pending = slot.deliveries = 1
        track.slots[slot.offset] = slot
        self.partition.charge(slot.size)
        delivery.slot = slot
        self._let_go(old, held)

    @staticmethod
    def _let_go(slot: Slot, held: list[Slot]) -> None:
        """A slot of the live end waits for the position; one of a track is covered by the position at once."""
        if slot.track is None:
            held.append(slot)
        elif slot.offset in slot.track.slots:
            del slot.track.slots[slot.offset]
            slot.partition.charge(-slot.size)

    def _drop_behind(self, head: Delivery) -> Sequence[Delivery]:
        dropped = tuple(head.behind or ())
        head.behind = None
        self.count -= len(dropped)
        self.size -= sum(len(delivery.body) for delivery in dropped)
        return dropped

    def _drop_beyond(self, cut: int) -> list[Delivery]:
        """Forgets what stands above `cut`, nothing of which has begun."""
        dropped: list[Delivery] = []
        for key, head in list(self.heads.items()):
            if head.slot.offset > cut:
                dropped += (head, *(head.behind or ()))
                del self.heads[key]
            elif head.behind:
                dropped += (delivery for delivery in head.behind if delivery.slot.offset > cut)
                head.behind = deque(delivery for delivery in head.behind if delivery.slot.offset <= cut) or None
        self.count -= len(dropped)
        self.size -= sum(len(delivery.body) for delivery in dropped)
        kept = deque(delivery for delivery in self.ready if delivery.slot.offset <= cut)
        self.partition.moving -= len(self.ready) - len(kept)
        self.ready = kept
        return dropped

    def _follow(self) -> None:
        self.partition.behind.add(self)
        self.partition.moved.add(self)
