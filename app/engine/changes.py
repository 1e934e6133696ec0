"""What a change of the configuration means for lanes that have something: cancelled, moved, paused or let go on."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog
from aiokafka import TopicPartition

from app.config import rows
from app.engine.admission import Admission
from app.engine.agent import SinkAgent
from app.engine.controls import Controls
from app.engine.gate import Gate
from app.engine.keeper import LaneKeeper
from app.engine.lane import Lane
from app.engine.outcomes import Outcomes
from app.engine.partition import Partition
from app.observe import metrics
from app.routing.router import Router

log = structlog.get_logger()


class Changes:
    """
    Takes in which rows changed, after they are applied.

    What a lane holds in memory for a destination or an incarnation that is gone is told as cancelled one by one; what
    only the log has is counted, an upper bound, and its position is tombstoned.
    """

    def __init__(
        self,
        partitions: Mapping[TopicPartition, Partition],
        router: Router,
        controls: Controls,
        agents: Mapping[str, SinkAgent],
        admission: Admission,
        outcomes: Outcomes,
        keeper: LaneKeeper,
    ) -> None:
        self._partitions = partitions
        self._router = router
        self._controls = controls
        self._agents = agents
        self._admission = admission
        self._outcomes = outcomes
        self._keeper = keeper
        self._cancelled = metrics.counter("sluice_events_cancelled_total")

    def changed(self, keys: frozenset[str]) -> None:
        """Brings every lane and gate that these rows concern to what they say."""
        touched = self._controls.touched(keys)
        for agent in self._agents.values():
            for gate in agent.touched(touched):
                if self._router.destination(gate.id) is None:
                    self._removed(gate)
                else:
                    agent.look_again(gate)
        self._check_incarnations(keys)

    def _removed(self, gate: Gate) -> None:
        successor = self._router.successor(gate.id)
        for lane in _present(gate.members):
            if successor is None or not self._move(lane, successor):
                self._cancel(lane, "the destination was removed")
        gate.paused, gate.paused_for = "", None
        gate.failing_since, gate.rejections = None, 0

    def _check_incarnations(self, keys: Iterable[str]) -> None:
        """An instance that was deleted, or created again under its name, inherits nothing."""
        gone = set()
        for key in keys:
            kind, *names = rows.split(key)
            if kind == "instance" and len(names) == 1:
                known = self._admission.incarnations.get(names[0])
                if known is not None and known != self._router.instance_id(names[0]):
                    gone.add(names[0])
                    del self._admission.incarnations[names[0]]
        if not gone:
            return
        for partition in self._partitions.values():
            for place, lane in list(partition.lanes.items()):
                if lane.instance in gone and lane.instance_id != self._router.instance_id(lane.instance):
                    self._cancel(lane, "the instance was deleted")
                    if not lane.count:
                        del partition.lanes[place]

    def _cancel(self, lane: Lane, reason: str) -> None:
        if not (lane.count or lane.tracks):
            return
        dropped, unread = self._keeper.cancel(lane)
        self._agents[lane.gate.transport].queued -= len(dropped)
        for delivery in dropped:
            self._outcomes.end(delivery, "cancelled", detail=reason)
        if unread:
            self._cancelled.add(unread)
        log.warning(
            "lane.cancelled",
            destination=lane.destination,
            instance=lane.instance,
            reason=reason,
            known=len(dropped),
            at_most=len(dropped) + unread,
        )

    def _move(self, lane: Lane, successor: str) -> bool:
        """A renamed pipeline goes on where the old one stood; whether the lane's events have a place there."""
        if not (lane.count or lane.tracks):
            return True
        heir = self._admission.lane(lane.partition, lane.instance, lane.instance_id, successor)
        if heir is None or heir.tracks or heir.count:
            return False
        self._keeper.fall_behind(lane, "renamed", drop=True)
        position = lane.position()
        assert position is not None, "it has just fallen behind"
        heir.load(replace(position, destination=successor))
        self._keeper.inherit(heir, lane)
        dropped, _ = self._keeper.cancel(lane)
        self._agents[lane.gate.transport].queued -= len(dropped)
        for delivery in dropped:
            delivery.slot.release()  # It is read again, for the heir.
        log.info("lane.moved", destination=lane.destination, to=successor, instance=lane.instance)
        self._keeper.wake()
        return True


def _present(lanes: Iterable[Lane]) -> list[Lane]:
    """Lanes that are ours to change; those of a partition that leaves are left to its next assignee."""
    return [lane for lane in lanes if not (lane.partition.gone or lane.partition.draining)]
