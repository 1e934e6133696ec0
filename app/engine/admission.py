"""How an event enters a lane, the same for the live end and for what is read again."""

from collections.abc import Mapping

from app.config.table import ConfigTable
from app.engine.agent import SinkAgent
from app.engine.delivery import Delivery, unordered_key
from app.engine.keeper import MAX_LANE_BYTES, MAX_LANE_DELIVERIES, LaneKeeper
from app.engine.lane import Lane, Track
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition, Slot
from app.events.event import Event
from app.routing.route import Route, ShapeError
from app.routing.router import Router
from sinks import FailureKind


class Admission:
    """Makes deliveries of routed events, and the lanes they go through."""

    def __init__(
        self,
        table: ConfigTable,
        router: Router,
        agents: Mapping[str, SinkAgent],
        outcomes: Outcomes,
        keeper: LaneKeeper,
    ) -> None:
        self._table = table
        self._router = router
        self._agents = agents
        self._outcomes = outcomes
        self._keeper = keeper
        self.incarnations: dict[str, str] = {}
        """The uuid of each instance that a lane was made for."""

    def lane(self, partition: Partition, instance: str, instance_id: str, destination_id: str) -> Lane | None:
        """The lane of a destination, made when it is first needed; None when the destination does not exist."""
        key = (instance_id, destination_id)
        lane = partition.lanes.get(key)
        if lane is None:
            destination = self._router.destination(destination_id)
            if destination is None:
                return None
            gate = self._agents[destination.transport].gate(destination_id)
            lane = partition.lanes[key] = Lane(partition, gate, instance, instance_id)
            self.incarnations[instance] = instance_id
        return lane

    def live(self, lane: Lane, slot: Slot, event: Event, route: Route) -> None:
        """Takes an event of the live end, unless the lane's own reading takes it."""
        key = order_key(event, route)
        if lane.tracks and not lane.takes(key, event.offset):
            return
        gate = lane.gate
        if gate.paused or lane.count >= MAX_LANE_DELIVERIES or lane.size >= MAX_LANE_BYTES:
            self._keeper.fall_behind(
                lane, gate.paused or "queue_full", drop=bool(gate.paused), upto=event.offset, slot=slot
            )
            return
        self._admit(lane, slot, event, route, key)

    def again(self, track: Track, slot: Slot, event: Event, route: Route, key: str) -> None:
        """Takes an event that was read again, for a track."""
        track.slots[slot.offset] = slot
        slot.partition.charge(slot.size)
        delivery = self._admit(track.lane, slot, event, route, key)
        if delivery is not None and track.attempts:
            delivery.attempts, track.attempts = track.attempts, 0

    def _admit(self, lane: Lane, slot: Slot, event: Event, route: Route, key: str) -> Delivery | None:
        agent = self._agents[lane.gate.transport]
        agent.matched.add(1)
        slot.pending += 1
        slot.deliveries += 1
        try:
            body = route.encode(event)
        except ShapeError as error:
            lane.begun = max(lane.begun, slot.offset)
            failed = Delivery(lane, slot, event, route, key, b"")
            self._outcomes.end(failed, "dead", kind=FailureKind.REJECTED, detail=str(error))
            return None
        delivery = Delivery(lane, slot, event, route, key, body)
        delivery.config_offset = self._table.position - 1
        slot.grow(len(body))
        agent.queued += 1
        if lane.offer(delivery):
            agent.submit(delivery)
        return delivery


def order_key(event: Event, route: Route) -> str:
    """The order key of an event on a route. Without an order every event is a key of its own."""
    if route.order_key is None:
        return unordered_key(event.offset)
    try:
        return route.order_key(event)
    except ShapeError:
        # The body fails the same way, and is dead-lettered with the reason.
        return unordered_key(event.offset)
