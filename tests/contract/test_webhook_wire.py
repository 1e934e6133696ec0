"""What the webhook sink puts on the wire, and what it makes of every answer and of none."""

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, NoReturn

import pytest
from far_ends.webhook import ALLOW, Answer, FarEnd

from schemas.webhook import Options
from sinks import FailureKind, Message, Misconfigured, Receipt, Rejected, SinkContext, SinkError, Throttled, Unavailable
from sinks._egress import EgressGuard
from sinks.webhook import Sink


@pytest.fixture
async def receiver() -> AsyncIterator[FarEnd]:
    """A receiver that is up."""
    receiver = FarEnd()
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    """A webhook sink that is open and may post to loopback."""
    sink = Sink(Options(url="http://127.0.0.1/"), SinkContext(egress=EgressGuard(ALLOW), user_agent="Sluice/test"))
    await sink.open()
    yield sink
    await sink.close()


def message(options: Options, **changes: Any) -> Message:
    """A message for these options."""
    values: dict[str, Any] = {
        "body": b'{"event":"MESSAGES_UPSERT"}',
        "instance": "sales",
        "instance_id": "uuid-1",
        "event": "messages.upsert",
        "names": {"event": "MESSAGES_UPSERT", "suffix": "/messages_upsert"},
        "event_id": "event-1",
        "delivery_id": "delivery-1",
        "order_key": "chat",
        "attempt": 2,
        "timestamp_ms": 1_700_000_000_000,
        "options": options,
    }
    return Message(**(values | changes))


async def failing(sink: Sink, options: Options) -> SinkError:
    """The error that a send to these options ends with, well before any engine's time limit."""
    with pytest.raises(SinkError) as caught:
        async with asyncio.timeout(10):
            await sink.send(message(options))
    return caught.value


async def test_sends_these_headers_and_no_others(sink: Sink, receiver: FarEnd) -> None:
    """A request carries exactly the headers of contract 8, our metadata, and what frames it."""
    await sink.send(message(receiver.options()))

    (arrival,) = receiver.received()
    assert arrival.line == "POST /hook HTTP/1.1"
    assert arrival.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "application/json, text/plain, */*",
        "content-type": "application/json",
        "content-length": "27",
        "user-agent": "Sluice/test",
        "x-instance-id": "uuid-1",
        "x-instance-name": "sales",
        "x-event-type": "messages.upsert",
        "x-timestamp": "1700000000000",
        "x-sluice-event-id": "event-1",
        "x-sluice-delivery-id": "delivery-1",
        "x-sluice-attempt": "2",
    }


async def test_custom_headers_and_the_events_name_arrive(sink: Sink, receiver: FarEnd) -> None:
    """The destination's headers replace ours whatever their case, and the event's name stands before the query."""
    options = Options(
        url=f"{receiver.url}/?key=a%2Bb", by_events=True, headers={"content-type": "text/x", "x-own": "Olá"}
    )
    await sink.send(message(options))

    (arrival,) = receiver.received()
    assert arrival.path == "/hook/messages_upsert?key=a%2Bb"
    assert (arrival.headers["content-type"], arrival.headers["x-own"]) == ("text/x", "Olá")


async def test_one_connection_is_used_again(sink: Sink, receiver: FarEnd) -> None:
    """Answers with bodies and failures do not cost the connection."""
    receiver.script.extend([Answer(body=b"ok"), Answer(status=500, body=b"{}"), Answer(status=204), Answer()])
    for _ in range(4):
        await asyncio.gather(sink.send(message(receiver.options())), return_exceptions=True)

    assert (len(receiver.received()), receiver.connections) == (4, 1)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_receipt(sink: Sink, receiver: FarEnd, status: int) -> None:
    """Any 2xx is a receipt with its status."""
    receiver.usual = Answer(status=status)

    assert await sink.send(message(receiver.options())) == Receipt(status)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (301, Unavailable, FailureKind.SERVER_ERROR),
        (302, Unavailable, FailureKind.SERVER_ERROR),
        (303, Unavailable, FailureKind.SERVER_ERROR),
        (307, Unavailable, FailureKind.SERVER_ERROR),
        (400, Rejected, FailureKind.REJECTED),
        (401, Rejected, FailureKind.REJECTED),
        (403, Rejected, FailureKind.REJECTED),
        (404, Rejected, FailureKind.REJECTED),
        (405, Unavailable, FailureKind.SERVER_ERROR),
        (408, Unavailable, FailureKind.TIMEOUT),
        (410, Misconfigured, FailureKind.GONE),
        (413, Rejected, FailureKind.TOO_LARGE),
        (422, Rejected, FailureKind.REJECTED),
        (425, Unavailable, FailureKind.TIMEOUT),
        (429, Throttled, FailureKind.THROTTLED),
        (500, Unavailable, FailureKind.SERVER_ERROR),
        (503, Unavailable, FailureKind.SERVER_ERROR),
        (599, Unavailable, FailureKind.SERVER_ERROR),
        (799, Unavailable, FailureKind.SERVER_ERROR),
    ],
)
async def test_a_status_means_one_reaction(
    sink: Sink, receiver: FarEnd, status: int, error: type[SinkError], kind: FailureKind
) -> None:
    """Each status has one reaction; its text names the receiver and the status and nothing of the answer's body."""
    receiver.usual = Answer(status=status, body=b"sesame-secret", headers={"Location": f"{receiver.url}/elsewhere"})

    failure = await failing(sink, Options(url=f"{receiver.url}?token=sesame-secret"))

    assert (type(failure), failure.kind, failure.status) == (error, kind, status)
    assert f"http://127.0.0.1:{receiver.port} answered {status}" in failure.detail
    assert "secret" not in failure.detail
    assert len(receiver.received()) == 1


async def test_the_list_of_rejected_statuses_decides(sink: Sink, receiver: FarEnd) -> None:
    """With an empty list a 404 is tried again; with 500 in it a 500 is not."""
    receiver.script.extend([Answer(status=404), Answer(status=500)])

    assert isinstance(await failing(sink, Options(url=receiver.url, reject_statuses=())), Unavailable)
    assert isinstance(await failing(sink, Options(url=receiver.url, reject_statuses=(500,))), Rejected)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_read_in_both_forms(sink: Sink, receiver: FarEnd, status: int) -> None:
    """Seconds and a date both say how long to wait."""
    receiver.script.append(Answer(status=status, headers={"Retry-After": "7"}))
    receiver.script.append(Answer(status=status, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)}))

    assert (await failing(sink, receiver.options())).retry_after == 7
    assert (await failing(sink, receiver.options())).retry_after == pytest.approx(100, abs=20)


async def test_a_reset_instead_of_an_answer_is_unreachable(sink: Sink, receiver: FarEnd) -> None:
    """A connection that is cut after the request is unreachable, and the next send works."""
    receiver.script.extend([Answer(reset=True), Answer(reset=True, raw=b"HTTP/1.1 200 OK\r\nContent-Le"), Answer()])

    assert (await failing(sink, receiver.options())).kind is FailureKind.UNREACHABLE
    assert (await failing(sink, receiver.options())).kind is FailureKind.UNREACHABLE
    assert (await sink.send(message(receiver.options()))).status == 200


async def test_a_broken_body_does_not_undo_a_receipt(sink: Sink, receiver: FarEnd) -> None:
    """Once the status is there the outcome is, although the body breaks off; the next send works."""
    receiver.script.append(Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal"))

    assert (await sink.send(message(receiver.options()))).status == 200
    assert (await sink.send(message(receiver.options()))).status == 200
    assert receiver.connections == 2


@pytest.mark.parametrize("status", [200, 500])
async def test_an_endless_body_is_cut_off(sink: Sink, receiver: FarEnd, status: int) -> None:
    """A body without end costs its connection and nothing else; the status decides."""
    receiver.script.append(Answer(status=status, endless=True))
    async with asyncio.timeout(10):
        (result,) = await asyncio.gather(sink.send(message(receiver.options())), return_exceptions=True)
        await sink.send(message(receiver.options()))

    assert result.status == status
    assert receiver.connections == 2


async def test_a_body_that_does_not_come_is_not_waited_for(sink: Sink, receiver: FarEnd) -> None:
    """A status is a receipt even when the announced body stays away."""
    receiver.script.append(Answer(stays=True, raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"))

    assert (await sink.send(message(receiver.options()))).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x00\xff" * 50 + b"\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
    ],
    ids=["another protocol", "binary", "no number", "no such version"],
)
async def test_an_answer_that_is_not_http_is_a_server_error(sink: Sink, receiver: FarEnd, raw: bytes) -> None:
    """What cannot be read as HTTP is the far end's error, and no receipt."""
    receiver.script.append(Answer(raw=raw))
    failure = await failing(sink, receiver.options())

    assert (type(failure), failure.kind) == (Unavailable, FailureKind.SERVER_ERROR)


async def test_headers_without_end_are_a_server_error(sink: Sink, receiver: FarEnd) -> None:
    """An answer with a header longer than any sane one is given up."""
    receiver.script.append(Answer(headers={"X-Long": "x" * 100_000}))

    assert (await failing(sink, receiver.options())).kind is FailureKind.SERVER_ERROR


async def test_a_refused_port_is_unreachable(sink: Sink, receiver: FarEnd) -> None:
    """Where nothing listens the text names the address and what the system said."""
    await receiver.stop()
    failure = await failing(sink, receiver.options())

    assert (type(failure), failure.kind) == (Unavailable, FailureKind.UNREACHABLE)
    assert failure.detail.startswith(f"http://127.0.0.1:{receiver.port}: no connection (")


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_a_name_that_does_not_resolve_is_unreachable(sink: Sink, host: str) -> None:
    """A name that nobody knows, or nobody can, is unreachable and says so."""
    failure = await failing(sink, Options(url=f"http://{host}/hook"))

    assert (type(failure), failure.kind) == (Unavailable, FailureKind.UNREACHABLE)
    assert f"http://{host}:80: its name does not resolve" in failure.detail


async def test_the_engines_clock_cuts_a_silent_receiver_off(sink: Sink, receiver: FarEnd) -> None:
    """The sink has no clock of its own: it waits until it is cancelled, and then goes on."""
    receiver.script.append(Answer(silent=True))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sink.send(message(receiver.options()))

    assert (await sink.send(message(receiver.options()))).status == 200


@pytest.fixture
def certificate(tmp_path: Path, missing: Callable[[str, str], NoReturn]) -> tuple[Path, Path]:
    """A certificate for loopback that nobody signed, and its key."""
    if not shutil.which("openssl"):
        missing("openssl", "it makes the receiver's certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_a_certificate_nobody_signed_is_tls(sink: Sink, certificate: tuple[Path, Path]) -> None:
    """A receiver with a certificate of its own making is refused, in send and in check."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    receiver = FarEnd(context)
    await receiver.start()
    try:
        failure = await failing(sink, receiver.options())
        checked = Sink(receiver.options(), SinkContext(egress=EgressGuard(ALLOW)))
        with pytest.raises(Unavailable) as caught:
            await checked.check()
    finally:
        await receiver.stop()

    assert (type(failure), failure.kind) == (Unavailable, FailureKind.TLS)
    assert "not trusted (self-signed certificate)" in failure.detail
    assert caught.value.kind is FailureKind.TLS
    assert not receiver.received()


async def test_a_receiver_without_tls_behind_https_is_tls(sink: Sink) -> None:
    """`https://` to a port that speaks plain HTTP is an error of TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    failure = await failing(sink, Options(url=f"https://127.0.0.1:{port}/"))
    server.close()
    await server.wait_closed()

    assert (type(failure), failure.kind) == (Unavailable, FailureKind.TLS)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "0x7f000001"])
async def test_addresses_are_checked_at_connect_time(receiver: FarEnd, host: str) -> None:
    """Loopback is refused however it is written, in send and in check, and nothing arrives."""
    options = Options(url=f"http://{host}:{receiver.port}/hook")
    sink = Sink(options, SinkContext(egress=EgressGuard()))
    await sink.open()
    failure = await failing(sink, options)
    with pytest.raises(Misconfigured):
        await sink.check()
    await sink.close()

    assert (type(failure), failure.kind) == (Misconfigured, FailureKind.FORBIDDEN_ADDRESS)
    assert "SLUICE_EGRESS_ALLOW" in failure.detail
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "127.1"])
async def test_numbers_that_pass_for_addresses_are_refused(sink: Sink, receiver: FarEnd, host: str) -> None:
    """Old spellings of an IPv4 address are refused even where the address itself is allowed."""
    failure = await failing(sink, Options(url=f"http://{host}:{receiver.port}/hook"))

    assert isinstance(failure, Misconfigured)
    assert receiver.connections == 0


async def test_a_host_pattern_admits_what_the_name_resolves_to(receiver: FarEnd) -> None:
    """A name that the operator allows may resolve to loopback, while the same address under its number may not."""
    sink = Sink(receiver.options(), SinkContext(egress=EgressGuard(["local*"])))
    await sink.open()
    await sink.send(message(Options(url=receiver.url.replace("127.0.0.1", "localhost"))))
    failure = await failing(sink, receiver.options())
    await sink.close()

    assert len(receiver.received()) == 1
    assert failure.kind is FailureKind.FORBIDDEN_ADDRESS
