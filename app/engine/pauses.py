"""What it takes to let one destination stand still in this worker, and to let it go on."""

import time
from collections.abc import Callable

import structlog

from app.engine.controls import Controls
from app.engine.delivery import Delivery
from app.engine.gate import Gate
from app.engine.keeper import LaneKeeper
from app.routing.route import Destination
from app.routing.router import Router
from sinks import FailureKind, Misconfigured, Rejected, SinkError

log = structlog.get_logger()

LOCAL_KINDS = frozenset({FailureKind.FORBIDDEN_ADDRESS})
"""
Of what this worker's own surroundings decide: other workers find out for themselves, and a restart with other settings
heals it.
"""


class Pauses:
    """Stops and starts the gates of one sink agent. `submit` takes a head that may be sent, `dispatch` opens a gate."""

    def __init__(
        self,
        router: Router,
        controls: Controls,
        keeper: LaneKeeper,
        submit: Callable[[Delivery], None],
        dispatch: Callable[[Gate], None],
    ) -> None:
        self._router = router
        self._controls = controls
        self._keeper = keeper
        self._submit = submit
        self._dispatch = dispatch

    def pause(self, gate: Gate, delivery: Delivery, destination: Destination, failure: Misconfigured) -> None:
        """Nothing more goes to this destination until its configuration changes; what it should have had is kept."""
        delivery.attempts -= 1
        delivery.slot.partition.moving -= 1
        if not gate.paused:
            local = destination.problem is not None or failure.kind in LOCAL_KINDS
            gate.paused_for = destination
            self._stop(gate, failure.detail or failure.kind)
            if not local:
                self._controls.pause(gate.id, gate.paused)
        elif not delivery.lane.behind():
            self._keeper.pause(delivery.lane, gate.paused)

    def judge(self, gate: Gate, destination: Destination, failure: SinkError) -> None:
        """Counts a failure that paused nothing by itself: too many rejections, or too long without a receipt, do."""
        options = destination.options
        reason = ""
        if isinstance(failure, Rejected):
            gate.rejections += 1
            if 0 < options.pause_after_rejections <= gate.rejections:
                reason = f"{gate.rejections} events in a row were rejected, none accepted; the last: {failure.detail}"
        else:
            now = time.time()
            if gate.failing_since is None:
                gate.failing_since = now
            elif 0 < options.disable_after_secs <= now - gate.failing_since:
                reason = f"nothing got through for {now - gate.failing_since:.0f} s; the last: {failure.detail}"
        if reason and not gate.paused:
            gate.paused_for = destination
            self._stop(gate, reason)
            self._controls.pause(gate.id, reason)

    def rest(self, gate: Gate) -> None:
        """A lane has nothing any more: while nothing waits, nobody waits for a success."""
        if not any(lane.count or lane.tracks for lane in gate.members):
            gate.failing_since = None

    def look(self, gate: Gate) -> None:
        """Brings a gate to what the rows say: configuration or controls changed."""
        reason = self._controls.reason(gate.id)
        if reason:
            if gate.paused != reason:
                self._stop(gate, reason)
            gate.paused_for = None
        elif gate.paused and (gate.paused_for is None or self._router.destination(gate.id) != gate.paused_for):
            self._resume(gate)
        elif gate.limit.down:
            # It may have been repaired.
            gate.limit.closed_until = 0.0
            self._dispatch(gate)

    def _stop(self, gate: Gate, reason: str) -> None:
        gate.paused = reason
        log.warning("destination.paused", destination=gate.id, reason=reason)
        for lane in list(gate.members):
            if (lane.count or lane.tracks) and not (lane.partition.gone or lane.partition.draining):
                self._keeper.pause(lane, reason)

    def _resume(self, gate: Gate) -> None:
        gate.paused, gate.paused_for = "", None
        gate.rejections, gate.failing_since = 0, None
        gate.limit.closed_until = 0.0
        log.info("destination.resumed", destination=gate.id)
        for lane in list(gate.members):
            if lane.partition.gone or lane.partition.draining:
                continue
            if lane.tracks:
                lane.partition.moved.add(lane)
            for head in lane.heads.values():
                if head not in gate.in_flight and head not in lane.ready:
                    self._submit(head)
        self._keeper.wake()
        self._dispatch(gate)
