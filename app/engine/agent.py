"""
The sink agent of one transport: it holds the clock, the retries and the limits, and alone awaits the sink.

The path of a delivery has no await: `submit` begins it or queues it, `_done` is the call-back of its receipt.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, cast
from weakref import WeakValueDictionary

import structlog
from mode import Service

from app.engine import retry
from app.engine.controls import Controls, Touched
from app.engine.delivery import Delivery
from app.engine.faults import fault
from app.engine.gate import Budget, Gate
from app.engine.keeper import ATTEMPTS_BEFORE_PARKING, PROBES, LaneKeeper
from app.engine.outcomes import Outcomes
from app.engine.pauses import Pauses
from app.observe import metrics
from app.routing.route import Destination
from app.routing.router import Router
from sinks import FailureKind, Message, Misconfigured, Receipt, Sink, SinkContext, SinkError, Unavailable, find

log = structlog.get_logger()

TICK_SECS = 0.1
"""How often attempts are compared with their timeouts; a timeout is late by at most this."""
IDLE_SECS = 900.0
"""A far end that nothing was sent to for so long loses its connections; no attempt may last as long."""


class _FarEnd:
    """One sink in use: the connections to one far end."""

    __slots__ = ("sink", "used")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.used = time.monotonic()
        """When something was last sent."""


class SinkAgent(Service):
    """Delivers everything of one transport, for all destinations of that kind."""

    def __init__(
        self,
        transport: str,
        router: Router,
        outcomes: Outcomes,
        keeper: LaneKeeper,
        budget: Budget,
        context: SinkContext,
        controls: Controls,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transport = transport
        self.queued = 0
        """Deliveries that were begun or wait, and have no end yet."""
        self.matched = metrics.counter("sluice_matches_total", transport=transport)
        self._router = router
        self._outcomes = outcomes
        self._keeper = keeper
        self._budget = budget
        self._context = context
        self._controls = controls
        self._pauses = Pauses(router, controls, keeper, self.submit, self._dispatch)
        self._kind = find(transport)
        self._far_ends: dict[str, _FarEnd] = {}
        self._opening: dict[str, asyncio.Task[_FarEnd]] = {}
        # A gate lives as long as a lane or a delivery refers to it.
        self._gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()
        self._busy: set[Gate] = set()
        self._attempt_secs = metrics.histogram("sluice_attempt_seconds", transport=transport)
        self._crashing: list[asyncio.Task[None]] = []
        self._failures: dict[FailureKind, metrics.CounterTally] = {}

    @property
    def paused(self) -> int:
        """Destinations that stand still, of those that something came for."""
        return sum(bool(gate.paused) for gate in self._gates.values())

    @property
    def in_flight(self) -> int:
        """Deliveries under way now."""
        return sum(len(gate.in_flight) for gate in self._busy)

    def gate(self, destination_id: str) -> Gate:
        """The gate of a destination, made when it is first needed."""
        gate = self._gates.get(destination_id)
        if gate is None:
            destination = self._router.destination(destination_id)
            maximum = destination.options.max_in_flight if destination else 1
            gate = self._gates[destination_id] = Gate(destination_id, self.transport, maximum)
            gate.paused = self._controls.reason(destination_id)
        return gate

    def submit(self, delivery: Delivery) -> None:
        """Takes a head that may be sent: begins it, or queues it behind the destination's limit."""
        delivery.slot.partition.moving += 1
        delivery.next_attempt_at = None
        gate = delivery.lane.gate
        gate.enter(delivery)
        self._dispatch(gate)

    async def on_start(self) -> None:
        """Notes the loop; sinks are opened when they are first needed."""
        self._loop = asyncio.get_running_loop()

    async def on_stop(self) -> None:
        """Closes the sinks; what is still under way is abandoned and will be sent again by the next assignee."""
        for gate in list(self._gates.values()):
            if gate.timer is not None:
                gate.timer.cancel()
            for future in gate.in_flight.values():
                future.cancel()
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*(far_end.sink.close() for far_end in self._far_ends.values()))

    def _dispatch(self, gate: Gate) -> None:
        budget = self._budget
        limit = gate.limit
        while gate.lanes and not gate.paused:
            now = time.monotonic()
            if not limit.admits(now):
                if gate.timer is None and now < limit.closed_until:
                    delay = limit.closed_until - now
                    gate.timer = self._loop.call_later(delay, self._safely, self._reopen, gate)
                return
            if budget.active >= budget.maximum:
                if not gate.queued:
                    gate.queued = True
                    budget.waiting.append(partial(self._readmit, gate))
                return
            delivery = gate.pop()
            if delivery is not None:
                self._begin(gate, delivery, now)

    def _reopen(self, gate: Gate) -> None:
        gate.timer = None
        self._dispatch(gate)

    def _readmit(self, gate: Gate) -> None:
        gate.queued = False
        self._dispatch(gate)

    def _begin(self, gate: Gate, delivery: Delivery, now: float) -> None:
        lane = delivery.lane
        lane.begun = max(lane.begun, delivery.slot.offset)
        destination = self._router.destination(gate.id)
        if destination is None:
            self._cancel(delivery)
            return
        options = destination.options
        if options.expire_secs is not None and time.time() - delivery.timestamp_ms / 1000.0 > options.expire_secs:
            self._outcomes.end(delivery, "expired", detail=f"older than expire_secs ({options.expire_secs:g} s)")
            self._advance(delivery)
            return
        delivery.attempts += 1
        delivery.started = now
        delivery.next_attempt_at = None
        if destination.problem is not None:
            self._failed(gate, delivery, destination, Misconfigured(FailureKind.REJECTED, destination.problem))
            return
        fault("before-send")
        gate.limit.maximum = options.max_in_flight
        gate.timeout_secs = options.timeout_secs
        message = Message(
            body=delivery.body,
            options=options,
            names=delivery.names,
            instance=lane.instance,
            instance_id=lane.instance_id,
            event=delivery.event_name,
            event_id=delivery.event_id,
            delivery_id=delivery.id,
            order_key=delivery.key,
            attempt=delivery.attempts,
            timestamp_ms=delivery.timestamp_ms,
        )
        far_end = self._far_ends.get(options.far_end)
        if far_end is None:
            pending: Awaitable[Receipt] = self._open_and_send(message)
        else:
            far_end.used = now
            pending = far_end.sink.send(message)
        future: asyncio.Future[Receipt] = (
            pending
            if isinstance(pending, asyncio.Future)
            else self._loop.create_task(cast("Coroutine[Any, Any, Receipt]", pending))
        )
        gate.in_flight[delivery] = future
        self._busy.add(gate)
        gate.limit.active += 1
        self._budget.active += 1
        future.add_done_callback(partial(self._safely, self._done, gate, delivery))

    def _safely(self, action: Callable[..., None], *arguments: Any) -> None:
        """Runs a call-back; a defect in one ends the process, where the loop would log it and go on without it."""
        try:
            action(*arguments)
        except Exception as error:
            crash = self._loop.create_task(self.crash(error))
            self._crashing.append(crash)
            raise

    async def _open_and_send(self, message: Message) -> Receipt:
        name = message.options.far_end
        ready = self._far_ends.get(name)
        if ready is not None:
            # It was opened between the start of this task and its first step.
            return await ready.sink.send(message)
        opening = self._opening.get(name)
        if opening is None:
            opening = self._opening[name] = self._loop.create_task(self._open(message))
            # Whoever waited may be gone (timed out) when it fails; the next delivery opens again.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        far_end = await asyncio.shield(opening)
        return await far_end.sink.send(message)

    async def _open(self, message: Message) -> _FarEnd:
        name = message.options.far_end
        sink = self._kind(message.options, self._context)
        try:
            await sink.open()
        finally:
            del self._opening[name]
        far_end = self._far_ends[name] = _FarEnd(sink)
        return far_end

    def _done(self, gate: Gate, delivery: Delivery, future: asyncio.Future[Receipt]) -> None:
        del gate.in_flight[delivery]
        if not gate.in_flight:
            self._busy.discard(gate)
        gate.limit.active -= 1
        budget = self._budget
        budget.release()
        now = time.monotonic()
        elapsed = now - delivery.started
        failure = _failure(future, gate.timeout_secs)
        if not delivery.slot.partition.gone:
            self._attempt_secs.observe(elapsed)
            if failure is None:
                gate.limit.succeeded(now, elapsed, wanted_more=bool(gate.lanes))
                gate.succeeded_at, gate.failing_since, gate.rejections = now, None, 0
                fault("after-receipt")
                self._outcomes.end(delivery, "delivered", status=future.result().status)
                self._advance(delivery)
            else:
                gate.limit.failed(now, failure, retry.chance())
                destination = self._router.destination(gate.id)
                if destination is None:
                    self._cancel(delivery)
                else:
                    self._failed(gate, delivery, destination, failure)
        self._dispatch(gate)
        if budget.waiting:
            budget.serve()

    def _cancel(self, delivery: Delivery) -> None:
        """Nobody wants it any more."""
        self._outcomes.end(delivery, "cancelled", detail="the destination was removed")
        self._advance(delivery)

    def _failed(self, gate: Gate, delivery: Delivery, destination: Destination, failure: SinkError) -> None:
        self._count_failure(failure.kind)
        log.debug(
            "delivery.failed",
            destination=gate.id,
            event_id=delivery.event_id,
            attempt=delivery.attempts,
            kind=failure.kind,
            status=failure.status,
            detail=failure.detail,
        )
        if delivery.first_failed_at is None:
            delivery.first_failed_at = time.time()
        if isinstance(failure, Misconfigured):
            self._pauses.pause(gate, delivery, destination, failure)
            return
        spared = gate.spares(delivery, failure)
        delivery.failed_at = time.monotonic()
        if spared:
            delivery.attempts = max(1, delivery.attempts - 1)
            if gate.limit.down:
                # The gate decides when its next probe is, and the lane's other keys have their turn at it first.
                gate.enter(delivery)
                self._recede(delivery)
                self._pauses.judge(gate, destination, failure)
                return
        decision = retry.decide(destination.retry, delivery.attempts, failure, retry.chance(), spared=spared)
        if isinstance(decision, retry.Wait):
            delivery.slot.partition.moving -= 1
            delivery.next_attempt_at = time.time() + decision.secs
            if delivery.attempts >= ATTEMPTS_BEFORE_PARKING:
                self._keeper.park(delivery)
            self._loop.call_later(decision.secs, self._safely, self._again, delivery)
        else:
            self._outcomes.end(delivery, "dead", kind=failure.kind, status=failure.status, detail=decision.reason)
            self._advance(delivery)
        self._pauses.judge(gate, destination, failure)

    def _recede(self, delivery: Delivery) -> None:
        """The destination is down: its lane keeps a few events to probe with, the log has the others."""
        lane = delivery.lane
        if not lane.behind():
            self._keeper.fall_behind(lane, "destination_down", drop=True)
        if len(lane.heads) < PROBES and lane.behind() and not lane.partition.draining:
            # This event may be what does not get through: it steps aside, so that others are read to probe with.
            self._keeper.park(delivery)
            self._keeper.wake()

    def touched(self, touched: Touched) -> list[Gate]:
        """Our gates of these destinations."""
        gates = self._gates
        found = [gate for name in touched.ids if (gate := gates.get(name)) is not None]
        if touched.prefixes:
            found += [gate for name, gate in list(gates.items()) if name.startswith(touched.prefixes)]
        return found

    def look_again(self, gate: Gate) -> None:
        """Configuration or controls of a destination changed: a pause begins or ends accordingly."""
        self._pauses.look(gate)

    def _again(self, delivery: Delivery) -> None:
        partition = delivery.slot.partition
        if partition.gone or partition.draining or delivery.lane.heads.get(delivery.key) is not delivery:
            return
        # Who resumed the destination meanwhile did not wait for this moment.
        if not delivery.lane.gate.paused and delivery.next_attempt_at is not None:
            self.submit(delivery)

    def _advance(self, delivery: Delivery) -> None:
        """The delivery has its end: what waited behind it in its key is the new head."""
        delivery.slot.partition.moving -= 1
        self.queued -= 1
        lane = delivery.lane
        following = lane.next(delivery)
        if lane.count == 0:
            if lane.gate.failing_since is not None:
                self._pauses.rest(lane.gate)
            if lane.tracks:
                self._keeper.wake()
        if following is not None:
            following.slot.partition.moving += 1
            following.lane.gate.enter(following)

    def _count_failure(self, kind: FailureKind) -> None:
        tally = self._failures.get(kind)
        if tally is None:
            tally = metrics.counter("sluice_attempts_failed_total", transport=self.transport, kind=kind)
            self._failures[kind] = tally
        tally.add(1)

    @Service.task
    async def _close_idle(self) -> None:
        while not self.should_stop:
            await self.sleep(IDLE_SECS / 10)
            idle_since = time.monotonic() - IDLE_SECS
            for name, far_end in list(self._far_ends.items()):
                if far_end.used < idle_since:
                    del self._far_ends[name]
                    await far_end.sink.close()

    @Service.task
    async def _time_out(self) -> None:
        while not self.should_stop:
            await self.sleep(TICK_SECS)
            now = time.monotonic()
            for gate in self._busy:
                for delivery, future in gate.in_flight.items():
                    if now - delivery.started < gate.timeout_secs:
                        break
                    future.cancel()


def _failure(future: asyncio.Future[Receipt], timeout_secs: float) -> SinkError | None:
    if future.cancelled():
        return Unavailable(FailureKind.TIMEOUT, f"no answer within {timeout_secs:g} s; it may have arrived")
    error = future.exception()
    if error is None or isinstance(error, SinkError):
        return error
    log.error("sink.defect", error=repr(error), exc_info=error)
    return Unavailable(FailureKind.INTERNAL, f"defect of ours: {type(error).__name__}")
