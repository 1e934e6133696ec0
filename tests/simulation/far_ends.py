"""Far ends with scripted behaviour, and the sink that speaks to them."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from schemas import Options
from sinks import FailureKind, Message, Receipt, Rejected, SinkError, Throttled, Unavailable
from tests.simulation.loop import PROCESS, SimulatedLoop

FOR_EVER = 1_000_000


class SimulatedOptions(Options):
    """Options of a destination whose far end has a name."""

    name: str

    @property
    def far_end(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Behaviour:
    """
    How a far end is from now on.

    `ok`, `slow` (takes `secs`), `hanging` (never answers), `down`, `gateway` (502), `failing` (500), `throttling`,
    `resetting` (has the event, and the answer is lost), `flaky` (each `every`-th request fails in one of these ways).
    """

    mode: str = "ok"
    secs: float = 0.01
    every: int = 3


class FarEnd:
    """
    One destination's receiver.

    `accepted(message)` is called when it takes an event. `poison` says how often an event is refused, by its mark;
    `rejected` are marks that it will never take.
    """

    def __init__(
        self, loop: SimulatedLoop, name: str, seed: int, accepted: Callable[[str, Any, Message], None]
    ) -> None:
        self.name = name
        self.behaviour = Behaviour()
        self.poison: dict[str, int] = {}
        self.rejected: set[str] = set()
        self.requests = 0
        self._loop = loop
        self._accepted = accepted
        self._random = random.Random(seed)

    def request(self, message: Message) -> "asyncio.Future[Receipt]":
        """A request on its way."""
        future: asyncio.Future[Receipt] = self._loop.create_future()
        process = PROCESS.get()
        if process is not None and not process.alive:
            return future
        mark = orjson.loads(message.body)["mark"]

        def arrive() -> None:
            self.requests += 1
            behaviour = self.behaviour
            mode = behaviour.mode
            secs = behaviour.secs * (0.5 + self._random.random())
            if mode == "flaky":
                failing = self.requests % behaviour.every == 0
                mode = self._random.choice(["down", "failing", "resetting", "gateway"]) if failing else "ok"
            answer = self._answer(mode, mark)
            if answer is None or mode == "resetting" or (mode == "hanging" and self._random.random() < 0.5):
                self._accepted(self.name, mark, message)
            if mode != "hanging":
                self._loop.outside(secs, _tell, future, answer)

        self._loop.outside(0.0005 + self._random.random() * 0.002, arrive)
        return future

    def _answer(self, mode: str, mark: str) -> SinkError | None:
        match mode:
            case "down" | "resetting":
                return Unavailable(FailureKind.UNREACHABLE, f"simulated: {mode}")
            case "gateway":
                return Unavailable(FailureKind.SERVER_ERROR, "simulated: gateway", status=502)
            case "failing":
                return Unavailable(FailureKind.SERVER_ERROR, "simulated: failing", status=500)
            case "throttling":
                return Throttled(FailureKind.THROTTLED, "simulated: throttling", status=429, retry_after=1.0)
            case "hanging":
                return Unavailable(FailureKind.TIMEOUT, "simulated: never told")
        if mark in self.rejected:
            return Rejected(FailureKind.REJECTED, "simulated: rejected", status=400)
        left = self.poison.get(mark, 0)
        if left:
            self.poison[mark] = left - 1
            return Unavailable(FailureKind.SERVER_ERROR, "simulated: this event fails", status=500)
        return None


def _tell(future: "asyncio.Future[Receipt]", failure: SinkError | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(Receipt(200))
    else:
        future.set_exception(failure)
        future.exception()


def sink_for(far_ends: dict[str, FarEnd]) -> type[Any]:
    """The class that stands in the place of a transport's sink."""

    class SimulatedSink:
        max_batch = 1
        pipelines = False

        def __init__(self, options: Any, context: Any) -> None:
            self._far_end = far_ends[options.name]
            self._context = context

        async def open(self) -> None:
            await asyncio.sleep(0.001)

        async def send(self, message: Message) -> Receipt:
            return await self._far_end.request(message)

        async def close(self) -> None:
            """Nothing is held."""

    return SimulatedSink
