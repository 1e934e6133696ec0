"""Random scenarios: a seed and a level say everything about a run."""

import asyncio
import random
from dataclasses import dataclass
from enum import IntEnum

from tests.simulation.expectations import Broken
from tests.simulation.far_ends import FOR_EVER, Behaviour
from tests.simulation.world import Limits, World, world

LOOK_SECS = 0.25
CALM_SECS = 240.0
"""Longest time until everything is settled, once all far ends are well."""
HEALTHY_SECS = 8.0
"""Longest time to deliver at a destination that is well, whatever becomes of the others."""
FAULTS = (
    "before-hand-over",
    "before-send",
    "after-receipt",
    "positions.write",
    "positions.written",
    "positions.initialised",
)
MODES = ("slow", "hanging", "down", "gateway", "failing", "throttling", "resetting", "flaky")


class Level(IntEnum):
    """What may happen; each holds what the ones before it do."""

    FAILURES = 1
    """One worker, and far ends that fail."""
    CRASHES = 2
    """The worker is killed, stopped and started again; Kafka is away for a while."""
    HAND_OVERS = 3
    """Two workers that come and go, planned."""
    ZOMBIES = 4
    """Workers are killed and frozen, answers of Kafka are lost, `lanes` is compacted."""
    RETENTION = 5
    """The log's start overtakes positions."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run had in it."""

    seed: int
    deliveries: int
    simulated_secs: float
    crashes: int
    doubled: int
    dead: int


def run(seed: int, level: Level) -> Result:
    """Runs one scenario to its end; raises Broken, with the seed, when an invariant does not hold."""
    scenario = random.Random(seed * 10 + level)
    partitions = 1 if level < Level.HAND_OVERS else scenario.choice((2, 3, 4))
    limits = Limits(
        slots=scenario.choice((20, 60, 200)),
        slot_bytes=scenario.choice((20_000, 200_000, 1 << 20)),
        lane_deliveries=scenario.choice((8, 16, 40)),
        lane_bytes=scenario.choice((2_000, 64 << 10)),
        parked_keys=scenario.choice((1, 4, 20)),
        near_records=scenario.choice((10, 40)),
        slice_records=scenario.choice((15, 60, 500)),
        batch_records=scenario.choice((3, 10, 100)),
    )
    with world(seed, partitions=partitions, limits_=limits) as one:
        play = _Play(one, scenario, level)
        try:
            return one.loop.run_until_complete(play.run(seed))
        except Exception as error:
            notes = "\n".join(one.notes[-60:])
            raise Broken(
                f"{type(error).__name__}: {error}\n"
                f"seed {seed}, level {level}, at {one.loop.time() - 1000:.3f} s\n{notes}"
            ) from error


class _Play:
    """One run: what is sent, what goes wrong when, and what must be true at the end."""

    def __init__(self, one: World, scenario: random.Random, level: Level) -> None:
        self._world = one
        self._random = scenario
        self._level = level
        self._steady: set[str] = set()
        self._prompt = True
        """Whether all far ends answer within a drain."""
        self._numbers = 2 if level >= Level.HAND_OVERS else 1
        self._secs = scenario.choice((6.0, 15.0, 30.0))

    async def run(self, seed: int) -> Result:
        one = self._world
        self._build()
        looking = asyncio.ensure_future(self._look())
        works = [self._send(), *(self._behave(name) for name in one.far_ends)]
        if self._level >= Level.CRASHES:
            works.append(self._disturb())
        one.start(0)
        if self._level >= Level.HAND_OVERS and self._random.random() < 0.7:
            one.start(1)
        all_work = asyncio.gather(*works)
        await asyncio.wait((looking, all_work), return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            all_work.cancel()
            looking.result()
        all_work.result()
        await self._calm(looking)
        looking.cancel()
        one.look()
        self._judge()
        found = one.expectations.all.values()
        return Result(
            seed=seed,
            deliveries=len(found),
            simulated_secs=one.loop.time() - 1000.0,
            crashes=one.crashes,
            doubled=sum(max(0, len(expected.accepted_at) - 1) for expected in found),
            dead=sum(expected.ended == "dead" for expected in found),
        )

    def _build(self) -> None:
        one, draw = self._world, self._random
        for instance in ("sales", "help")[: draw.choice((1, 1, 2))]:
            for number in range(draw.choice((1, 2, 3))):
                name = f"{instance}-{number}"
                only = draw.choice((None, None, 2, 3))
                far_end = one.destination(
                    instance,
                    name,
                    order=draw.choice(("chat", "chat", "chat", "instance", "none")),
                    wants=None if only is None else lambda given, only=only: given % only == 0,  # type: ignore[misc]
                )
                if draw.random() < 0.3:
                    self._steady.add(name)
                    continue
                for _ in range(draw.choice((0, 0, 1, 3))):
                    mark = f"{draw.randrange(one.broker.partitions)}-{draw.randrange(200)}"
                    far_end.poison[mark] = draw.choice((1, 2, 3, 4, FOR_EVER))
                if draw.random() < 0.2:
                    far_end.rejected.add(f"0-{draw.randrange(100)}")
        one.broker.lost_answers = draw.choice((0.0, 0.02)) if self._level >= Level.ZOMBIES else 0.0

    async def _send(self) -> None:
        one, draw = self._world, self._random
        chats = [f"c{number}" for number in range(draw.choice((1, 3, 10, 30)))]
        pause = draw.choice((0.01, 0.05, 0.2))
        burst = draw.choice((1, 1, 5, 20))
        end = one.loop.time() + self._secs
        number = 0
        while one.loop.time() < end and number < 300:
            for _ in range(draw.randint(1, burst)):
                number += 1
                one.send(
                    draw.randrange(one.broker.partitions),
                    draw.choice(list(one.routes.by_instance)),
                    draw.choice(chats),
                    number,
                    size=draw.choice((10, 100, 100, 2000)),
                    holes=draw.choice((0, 0, 0, 0, 1, 3)),
                )
                if draw.random() < 0.01:
                    one.send_poison(draw.randrange(one.broker.partitions))
            await asyncio.sleep(pause * draw.random() * 2)

    async def _behave(self, name: str) -> None:
        one = self._world
        draw = random.Random(self._random.random())
        if name in self._steady:
            return
        far_end = one.far_ends[name]
        end = one.loop.time() + self._secs * draw.choice((0.5, 1.0, 1.5))
        while one.loop.time() < end:
            await asyncio.sleep(draw.random() * self._secs / 2)
            mode = draw.choice(MODES)
            secs = draw.choice((0.3, 1.0, 3.0)) if mode == "slow" else draw.choice((0.002, 0.02, 0.1))
            if mode in ("slow", "hanging") or mode in ("resetting", "flaky"):
                self._prompt = False
            far_end.behaviour = Behaviour(mode, secs, draw.choice((2, 3, 7)))
            one.note(f"{name} is {far_end.behaviour}")
            await asyncio.sleep(draw.random() * self._secs / 2)
            far_end.behaviour = Behaviour(secs=draw.choice((0.002, 0.02, 0.1)))
            one.note(f"{name} is well")
        far_end.behaviour = Behaviour()

    async def _disturb(self) -> None:
        one = self._world
        draw = random.Random(self._random.random())
        kinds = ["kill", "stop", "fault", "away"]
        if self._level >= Level.HAND_OVERS:
            kinds = ["stop", "come"]
        if self._level >= Level.ZOMBIES:
            kinds += ["kill", "fault", "away", "freeze", "freeze", "compact", "deafen"]
        if self._level >= Level.RETENTION:
            kinds += ["truncate", "truncate"]
        end = one.loop.time() + self._secs
        while one.loop.time() < end:
            await asyncio.sleep(draw.random() * self._secs / 2)
            number = draw.randrange(self._numbers)
            kind = draw.choice(kinds)
            one.note(f"{kind} {number}")
            await self._one_disturbance(kind, number, draw)

    async def _one_disturbance(self, kind: str, number: int, draw: random.Random) -> None:  # noqa: C901  A table of kinds.
        one = self._world
        worker = one.workers.get(number)
        match kind:
            case "kill":
                one.kill(number)
                await asyncio.sleep(draw.choice((0.1, 1.0, 10.0)))
                one.start(number)
            case "stop":
                if worker is not None and not worker.ended and not worker.process.frozen:
                    worker.stop()
                    while not worker.ended:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(draw.choice((0.1, 1.0, 10.0)))
                one.start(number)
            case "come":
                one.start(number)
            case "fault":
                one.kill_at = (draw.choice(FAULTS), draw.randint(1, 20))
            case "away":
                self._prompt = False  # A drain meanwhile cannot write its ends.
                one.broker.away_until = one.loop.time() + draw.choice((0.5, 3.0, 8.0))
            case "freeze":
                if worker is not None and not worker.ended:
                    one.crashes += 1
                    worker.process.freeze()
                    await asyncio.sleep(draw.choice((0.5, 5.0, 8.0, 15.0)))
                    worker.process.thaw()
            case "deafen":
                one.crashes += 1
                one.broker.deaf_until[f"worker-{number}"] = one.loop.time() + draw.choice((3.0, 10.0, 15.0))
            case "compact":
                one.broker.compact(one.settings.topic("lanes"))
            case "truncate":
                one.truncate(draw.randrange(one.broker.partitions), draw.choice((0.3, 0.7, 1.0)))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECS)
            self._world.look()

    async def _calm(self, looking: "asyncio.Future[None]") -> None:
        """All is well again; everything must come to its end."""
        one = self._world
        one.kill_at = None
        one.note("calm")
        for number in range(self._numbers):
            if number == 0 or number in one.workers:
                one.start(number)
        deadline = one.loop.time() + CALM_SECS
        while not one.settled():
            if looking.done():
                looking.result()
            if one.loop.time() > deadline:
                raise Broken(f"not settled after {CALM_SECS:g} s\n{one.unsettled()}")
            await asyncio.sleep(0.5)

    def _judge(self) -> None:
        one = self._world
        undisturbed = self._level == Level.FAILURES
        for expected in one.expectations.all.values():
            if expected.excused:
                continue
            if expected.ended == "dead" and not self._may_die(expected.destination):
                raise Broken(f"dead for no reason: {expected}")
            if one.crashes == 0 and self._level != Level.CRASHES and self._prompt and expected.receipts > 1:
                raise Broken(f"doubled {expected.receipts} times: {expected}")
            if undisturbed and expected.receipts > 1:
                raise Broken(f"doubled {expected.receipts} times: {expected}")
            # Heads that fail stay in memory: with little of it they hold up the intake.
            roomy = one.limits.slot_bytes > 100_000
            if undisturbed and roomy and expected.destination in self._steady:
                late = expected.accepted_at[0] - expected.appended_at
                if late > HEALTHY_SECS:
                    raise Broken(f"{late:.1f} s late at a destination that is well: {expected}")
        if one.expectations.dead_letters() < one.poisoned and self._level < Level.RETENTION:
            raise Broken(f"{one.poisoned} records are no events, {one.expectations.dead_letters()} dead letters")

    def _may_die(self, destination: str) -> bool:
        return destination not in self._steady
