"""The bench's receiver as an HTTP server: what clients may rely on, so that a bench measures Sluice and not it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.bench.receiver import Book, Connection, Rule


def _request(path: str, sequence: int, *, conversation: str = "c", length: str = "Content-Length") -> bytes:
    body = f'{{"data":{{"bench":"0/{conversation}/{sequence}/1"}},"instance":"x"}}'.encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{length}: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def book() -> Book:
    """What the server counts."""
    return Book()


@pytest.fixture
async def port(book: Book) -> AsyncIterator[int]:
    """Where the server listens."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(book), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def _statuses(port: int, pieces: list[bytes], answers: int) -> list[int]:
    """The statuses of so many answers to what is written piece by piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        heads = [await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) for _ in range(answers)]
        return [int(head.split(b" ")[1]) for head in heads]
    finally:
        writer.close()
        await writer.wait_closed()


async def test_pipelined_requests_are_each_answered_and_counted(port: int, book: Book) -> None:
    """Several requests in one write are several deliveries."""
    assert await _statuses(port, [b"".join(_request("/a", n) for n in (1, 2, 3))], 3) == [200, 200, 200]
    stats = book.tally.stats(expected=3, conversations=1)
    assert (stats["accepted"], stats["lost"], stats["doubled"], stats["order_breaks"]) == (3, 0, 0, 0)


async def test_a_request_in_pieces_is_one_delivery(port: int, book: Book) -> None:
    """Where TCP cuts a request does not matter, nor how its client spells the header."""
    whole = _request("/a", 1, length="content-length")
    pieces = [whole[:10], whole[10:60], whole[60:-3], whole[-3:]]
    assert await _statuses(port, pieces, 1) == [200]
    assert book.tally.accepted == 1


async def test_a_chunked_body_is_refused(port: int, book: Book) -> None:
    """What the receiver cannot read is told, and never counted."""
    request = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert await _statuses(port, [request], 1) == [411]
    assert book.tally.accepted == 0


async def test_only_accepted_requests_count_as_arrived(port: int, book: Book) -> None:
    """A request that a rule answers 500 has not arrived; its repeat is no double."""
    book.set_rules((Rule(every=2, status=500),))
    assert await _statuses(port, [_request("/a", n) for n in (1, 2, 2)], 3) == [200, 500, 200]
    stats = book.tally.stats(expected=2, conversations=1)
    assert (stats["accepted"], stats["refused"], stats["lost"], stats["doubled"]) == (2, 1, 0, 0)


async def test_the_first_rule_that_matches_decides(port: int, book: Book) -> None:
    """A rule for one conversation stands before one for all."""
    book.set_rules((Rule(mark="/bad/", status=503), Rule(path="/b", status=202)))
    pieces = [_request("/a", 1, conversation="bad"), _request("/a", 1), _request("/b", 1)]
    assert await _statuses(port, pieces, 3) == [503, 200, 202]


async def test_a_delayed_answer_holds_back_what_is_pipelined_behind_it(port: int, book: Book) -> None:
    """Answers come in the order of their requests (RFC 9112, 9.3.2)."""
    book.set_rules((Rule(path="/slow", status=201, delay_secs=0.05),))
    assert await _statuses(port, [_request("/slow", 1) + _request("/a", 1)], 2) == [201, 200]
