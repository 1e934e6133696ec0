"""
An event loop whose time jumps to the next timer, and processes in it that can be killed or frozen between two steps.

Every callback belongs to the process that its context names, as asyncio hands contexts on from task to task. A killed
process runs nothing more, not even a `finally`; a frozen one runs later what was due meanwhile. What belongs to nobody
is the world outside: Kafka and the far ends.
"""

import asyncio
import contextlib
import logging
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

START_SECS = 1_000.0
EPOCH_SECS = 1_700_000_000.0
MAX_TURNS = 100_000
"""Most turns of the loop in a row with something due in each."""
TURN_SECS = 1e-7
"""What a turn takes at least: whoever waits for the rest of a moment gets to its end."""
PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)


class Killed(BaseException):
    """Unwinds the callback in which its process was killed."""


class StuckError(Exception):
    """Nothing is due any more, and the run has not ended."""


class _Selector(selectors.BaseSelector):
    """Waits for nothing: time goes on at once."""

    def __init__(self) -> None:
        self.now = START_SECS
        self._turns = 0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, int(fileobj), events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError("nothing is due any more")
        self.now += max(timeout, TURN_SECS)
        if timeout > 0.0:
            self._turns = 0
        else:
            self._turns += 1
            if self._turns > MAX_TURNS:
                raise StuckError("time does not go on: somebody is busy for ever")
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class SimulatedLoop(asyncio.SelectorEventLoop):
    """One thread, no wall clock, no sockets; callbacks that are due at once run in the order they were given."""

    def __init__(self) -> None:
        self._selector_of_time = _Selector()
        super().__init__(self._selector_of_time)
        self.set_exception_handler(self._failed)
        self.set_task_factory(_task)
        self.failures: list[str] = []
        """What asyncio would only have logged, of processes that live."""

    def time(self) -> float:
        """Simulated seconds."""
        return self._selector_of_time.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """As asyncio's, for the process that the context names."""
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        context = context or copy_context()
        box: list[asyncio.Handle] = []
        handle = super().call_soon(process.run, box, callback, args, context, context=context)
        box.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        """As asyncio's, for the process that the context names."""
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        context = context or copy_context()
        box: list[asyncio.Handle] = []
        handle = super().call_at(when, process.run, box, callback, args, context, context=context)
        box.append(handle)
        return handle

    def outside(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        """Something happens in the world after so long, whatever becomes of the process that asked for it."""
        self.call_later(delay, callback, *args, context=Context())

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        process = PROCESS.get()
        if process is not None and not process.alive:
            return
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.failures.append(f"{context.get('message')}: {error!r}")


def _task(loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.adopt(task)
    return task


class Process:
    """What runs in one worker's process: made of callbacks whose context names it."""

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self._loop = loop
        self._held: list[tuple[list[asyncio.Handle], Callable[..., Any], tuple[Any, ...], Context]] = []
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._left: list[asyncio.Task[Any]] = []

    def run(
        self, box: list[asyncio.Handle], callback: Callable[..., Any], args: tuple[Any, ...], context: Context
    ) -> None:
        """Runs a callback that is due, unless the process cannot."""
        if not self.alive or box[0].cancelled():
            return
        if self.frozen:
            self._held.append((box, callback, args, context))
            return
        with contextlib.suppress(Killed):
            callback(*args)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task in the process."""
        context = copy_context()
        context.run(PROCESS.set, self)
        return self._loop.create_task(work, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task was started in the process."""
        if self.alive:
            self.tasks.add(task)
        else:
            self._left.append(task)

    def kill(self) -> None:
        """As kill -9 does: no further step of it is run."""
        self.alive = False
        self._held.clear()
        # Nobody else may hold them any more; let go of, they would run what stands in a `finally`.
        self._left = list(self.tasks)

    def freeze(self) -> None:
        """As SIGSTOP does."""
        self.frozen = True

    def thaw(self) -> None:
        """As SIGCONT does: what was due meanwhile is run now, in its order."""
        self.frozen = False
        held, self._held = self._held, []
        for box, callback, args, context in held:
            asyncio.SelectorEventLoop.call_soon(self._loop, self.run, box, callback, args, context, context=context)


@contextlib.contextmanager
def simulated_time(seed: int) -> Iterator[SimulatedLoop]:
    """A loop, and for as long as it lasts `time` tells its time, and `random` is the seed's."""
    loop = SimulatedLoop()
    state = random.getstate()
    random.seed(seed)
    try:
        with (
            patch("time.monotonic", loop.time),
            patch("time.time", lambda: EPOCH_SECS + loop.time() - START_SECS),
        ):
            yield loop
    finally:
        random.setstate(state)
        _abandon(loop)


def _abandon(loop: SimulatedLoop) -> None:
    """Takes the loop down with whatever killed processes left in it."""
    logging.disable(logging.CRITICAL)
    asyncio._set_running_loop(loop)
    try:
        for _ in range(3):  # Closing one may start another.
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]
    finally:
        asyncio._set_running_loop(None)
        logging.disable(logging.NOTSET)
    loop._ready.clear()  # type: ignore[attr-defined]
    loop._scheduled.clear()  # type: ignore[attr-defined]
    loop.close()
