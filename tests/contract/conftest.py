"""The far ends of the contract suite: one file each in `far_ends/`, found by the transport's name."""

from collections.abc import AsyncIterator, Generator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import schemas
import sinks
from sinks import Message, Sink, SinkContext, SinkError
from sinks._egress import EgressGuard

FAR_ENDS = Path(__file__).parent / "far_ends"


def covered() -> list[str]:
    """The transports that have a sink and a far end to test it on."""
    return [name for name in schemas.transports() if _has_sink(name) and (FAR_ENDS / f"{name}.py").exists()]


def _has_sink(name: str) -> bool:
    try:
        sinks.find(name)
    except KeyError:
        return False
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each entry of the suite for each sink."""
    if "transport" in metafunc.fixturenames:
        metafunc.parametrize("transport", covered())


@pytest.fixture
def module(transport: str) -> ModuleType:
    """The far end's module: `FarEnd`, `ALLOW`, `LARGEST`, `GAPS`."""
    return import_module(f"far_ends.{transport}")


@pytest.fixture
async def far_end(module: ModuleType) -> AsyncIterator[Any]:
    """A far end that is up."""
    far_end = module.FarEnd()
    await far_end.start()
    yield far_end
    await far_end.stop()


@pytest.fixture
async def make(transport: str, module: ModuleType) -> AsyncIterator[Any]:
    """Makes a sink of the transport that may reach the far end, not opened; it is closed after the test."""
    made = []

    def make(options: schemas.Options) -> Sink:
        context = SinkContext(egress=EgressGuard(module.ALLOW), user_agent="Sluice/test")
        made.append(sinks.find(transport)(options, context))
        return made[-1]

    yield make
    for sink in made:
        await sink.close()


@pytest.fixture
async def sink(make: Any, far_end: Any) -> Sink:
    """A sink that is open on the far end."""
    sink: Sink = make(far_end.options())
    await sink.open()
    return sink


@pytest.fixture
def message(far_end: Any) -> Any:
    """Makes the n-th message for the far end."""

    def message(number: int = 1, **changes: Any) -> Message:
        values: dict[str, Any] = {
            "body": b'{"event":"MESSAGES_UPSERT","data":{"n":%d}}' % number,
            "instance": "sales",
            "instance_id": "5c1d2c5e-0000-4000-8000-000000000001",
            "event": "messages.upsert",
            "names": {"event": "MESSAGES_UPSERT", "suffix": "/messages_upsert"},
            "event_id": f"event-{number}",
            "delivery_id": f"delivery-{number}",
            "order_key": "5511999999999@s.whatsapp.net",
            "attempt": 1,
            "timestamp_ms": 1_700_000_000_000 + number,
            "options": far_end.options(),
        }
        return Message(**(values | changes))

    return message


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """An entry that a far end declares as a gap must fail, and then counts as expected to; one that passes fails."""
    module = pyfuncitem.funcargs.get("module")
    reason = module.GAPS.get(entry(pyfuncitem.originalname)) if module else None
    if reason is None:
        return (yield)
    try:
        yield
    except (AssertionError, pytest.fail.Exception, SinkError):
        pytest.xfail(reason)
    pytest.fail(f"a gap is declared ({reason}), but the entry holds: strike it from GAPS")


def entry(test: str) -> str:
    """The entry's name as GAPS have it: the test's name in words."""
    return test.removeprefix("test_").replace("_", " ")
