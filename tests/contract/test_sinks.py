"""
The contract suite: what every sink promises, on its real far end (style.md, section 9).

A test's name in words is the entry's name. A far end that cannot keep one says so in its `GAPS`, with the reason.
"""

import asyncio
import inspect
import sys
from typing import Any

import pytest

from sinks import FailureKind, Misconfigured, Rejected, Unavailable

LIMIT_SECS = 5.0
"""The time limit of a destination; the engine cancels a send that takes longer."""


async def test_arrives_unchanged(sink: Any, far_end: Any, message: Any) -> None:
    """Body, id and all metadata arrive as they were given."""
    sent = message(attempt=3)
    await sink.send(sent)

    (arrival,) = far_end.received()

    assert sent.body == arrival.body
    assert arrival.tells(sent)


async def test_keeps_the_order_of_one_key(sink: Any, far_end: Any, message: Any) -> None:
    """Events of one key arrive in the order in which they were handed over."""
    sends = [sink.send(message(number)) for number in range(30)]
    if sink.pipelines:
        await asyncio.gather(*sends)
    else:
        for send in sends:
            await send

    assert [f"delivery-{number}" for number in range(30)] == [arrival.id for arrival in far_end.received()]


async def test_fifty_at_once_all_arrive(sink: Any, far_end: Any, message: Any) -> None:
    """Fifty sends of different keys under way together all arrive once."""
    await asyncio.gather(*(sink.send(message(number, order_key=str(number))) for number in range(50)))

    assert sorted(f"delivery-{number}" for number in range(50)) == sorted(a.id for a in far_end.received())


@pytest.mark.parametrize(
    "body",
    [b'"Ol\xc3\xa1, \xf0\x9f\x9a\x80 \xe2\x80\xa8 \\u0000"', b"{}", b'""', b""],
    ids=["unicode", "object", "text", "nothing"],
)
async def test_unicode_and_empty_bodies_arrive(sink: Any, far_end: Any, message: Any, body: bytes) -> None:
    """Bodies of other scripts and without content arrive byte for byte."""
    await sink.send(message(body=body))

    assert body == far_end.received()[0].body


async def test_largest_body_arrives(sink: Any, far_end: Any, message: Any, module: Any) -> None:
    """A body of the largest size that the far end takes arrives byte for byte."""
    body = b'"' + b"x" * (module.LARGEST - 2) + b'"'
    await sink.send(message(body=body))

    assert body == far_end.received()[0].body


async def test_too_large_is_rejected(sink: Any, far_end: Any, message: Any) -> None:
    """A body over the far end's limit is Rejected as too large, and the sink goes on."""
    far_end.limit = 1000
    with pytest.raises(Rejected) as caught:
        await sink.send(message(1, body=b'"' + b"x" * 1000 + b'"'))
    await sink.send(message(2))

    assert caught.value.kind is FailureKind.TOO_LARGE
    assert [arrival.id for arrival in far_end.received()] == ["delivery-2"]


async def test_far_end_down_at_open(make: Any, far_end: Any) -> None:
    """Opening towards a far end that is down raises Unavailable within the limit."""
    await far_end.stop()
    sink = make(far_end.options())
    with pytest.raises(Unavailable):
        async with asyncio.timeout(LIMIT_SECS):
            await sink.open()


async def test_far_end_down_at_send(sink: Any, far_end: Any, message: Any) -> None:
    """Sending to a far end that went down raises Unavailable within the limit."""
    await sink.send(message(1))
    await far_end.stop()

    for number in (2, 3):
        with pytest.raises(Unavailable):
            async with asyncio.timeout(LIMIT_SECS):
                await sink.send(message(number))


async def test_far_end_back_is_found_by_the_next_send(sink: Any, far_end: Any, message: Any) -> None:
    """When the far end is back the next send arrives, without help."""
    await sink.send(message(1))
    await far_end.stop()
    with pytest.raises(Unavailable):
        await sink.send(message(2))
    await far_end.start()

    await sink.send(message(3))

    assert far_end.received()[-1].id == "delivery-3"


async def test_check_finds_the_far_end_up_and_down(make: Any, far_end: Any) -> None:
    """A check passes while the far end is up, delivers nothing, and raises Unavailable while it is down."""
    sink = make(far_end.options())
    await sink.open()
    await sink.check()
    await far_end.stop()
    with pytest.raises(Unavailable):
        await sink.check()

    assert not far_end.received()


async def test_wrong_credentials_are_misconfigured(make: Any, far_end: Any, message: Any) -> None:
    """Credentials that the far end refuses are Misconfigured, once it has been asked."""
    options = far_end.wrong_credentials()
    sink = make(options)
    with pytest.raises(Misconfigured) as caught:
        await _open_and_send(sink, message(options=options))

    assert caught.value.kind is FailureKind.UNAUTHORISED


async def test_errors_show_no_secret(make: Any, far_end: Any, message: Any) -> None:
    """What is said about refused credentials does not quote them."""
    options = far_end.wrong_credentials()
    sink = make(options)
    with pytest.raises((Misconfigured, Rejected)) as caught:
        await _open_and_send(sink, message(options=options))

    assert "secret" not in caught.value.detail


async def test_closes_twice(sink: Any, message: Any) -> None:
    """Closing twice is fine, and opening again after it too."""
    await sink.send(message(1))
    await sink.close()
    await sink.close()

    await sink.open()
    await sink.send(message(2))


async def test_closes_before_open(make: Any, far_end: Any) -> None:
    """Closing a sink that never opened is fine."""
    await make(far_end.options()).close()


async def test_send_before_open_is_unavailable(make: Any, far_end: Any, message: Any) -> None:
    """Sending on a sink that is not open is Unavailable, not a defect of the interpreter's wording."""
    with pytest.raises(Unavailable):
        await make(far_end.options()).send(message())


async def test_closes_during_a_send(sink: Any, far_end: Any, message: Any) -> None:
    """A send that is under way when the sink closes ends: with a receipt or as Unavailable."""
    far_end.stall()
    send = asyncio.ensure_future(sink.send(message()))
    await far_end.arrivals(1)

    async with asyncio.timeout(LIMIT_SECS):
        await sink.close()
        (result,) = await asyncio.gather(send, return_exceptions=True)

    assert result.__class__.__name__ == "Receipt" or isinstance(result, Unavailable)


async def test_cancelling_a_send_leaves_the_sink_usable(sink: Any, far_end: Any, message: Any) -> None:
    """After a send was cancelled half-way the next ones arrive."""
    far_end.stall()
    send = asyncio.ensure_future(sink.send(message(1)))
    await far_end.arrivals(1)
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send
    far_end.release()

    await asyncio.gather(*(sink.send(message(number, order_key=str(number))) for number in (2, 3)))

    assert {"delivery-2", "delivery-3"} <= {arrival.id for arrival in far_end.received()}


async def test_sent_means_readable(sink: Any, far_end: Any, message: Any) -> None:
    """Once a send is done the event can be read at the far end, without waiting."""
    for number in range(20):
        receipt = await sink.send(message(number))
        assert receipt is not None
        assert far_end.received()[-1].id == f"delivery-{number}"


def test_declares_only_gaps_that_exist(module: Any) -> None:
    """Each declared gap names an entry of this suite and has a reason."""
    tests = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    entries = {name.removeprefix("test_").replace("_", " ") for name, _ in tests if name.startswith("test_")}

    assert set(module.GAPS) <= entries
    assert all(module.GAPS.values())


async def _open_and_send(sink: Any, message: Any) -> None:
    await sink.open()
    await sink.send(message)
