"""
An HTTP receiver that is fast enough not to be the limit of a bench, as its own process.

`python -m tests.bench.receiver` prints one JSON line `{"port": .., "control": ..}` and serves until its standard input
closes, so that it never outlives who started it. The control port answers `GET /stats?expected=N&conversations=K`,
`POST /reset?before=SEQUENCE`, `GET /silence` (the longest time without an arrival, by group) and `POST /rules` (a list
of `Rule`).

It understands what HTTP/1.1 clients of a bench send: keep-alive, pipelining, bodies with a Content-Length. A chunked
body is answered 411.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import uvloop
from aiohttp import web

from tests.bench.tally import Conversation, Tally

MARK = b'"bench":"'
"""
Stands once in an event's data, followed by `group/conversation/sequence/sent_ns"`: the group is what silence is
measured by (a partition, say), sequence counts from 1 in each conversation, sent_ns is the epoch time of sending.
"""
MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to the requests it matches; the first rule that matches decides, none means 200 at once."""

    path: str = ""
    """A prefix of the path."""
    mark: str = ""
    """A part of the mark, for example `/i0007-3/`."""
    every: int = 1
    """Of the matching requests only each n-th."""
    status: int = 200
    delay_secs: float = 0.0
    hang: bool = False
    """Never answers; the connection stays open."""
    reset: bool = False
    """Breaks the connection off instead of answering."""


class Book:
    """What the connections share: the tally, the rules, and when each group was last heard of."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.rules: tuple[Rule, ...] = ()
        self.matched: list[int] = []
        self.groups: dict[bytes, list[int]] = {}
        """By group: time of the last arrival, longest silence, and when that silence began; nanoseconds."""

    def set_rules(self, rules: tuple[Rule, ...]) -> None:
        """Replaces the rules and begins their counts anew."""
        self.rules = rules
        self.matched = [0] * len(rules)

    def reset(self, before: int) -> None:
        """Forgets everything counted; rules stay. Conversations go on after the sequence number `before`."""
        self.tally = Tally(before=before)
        self.groups = {}

    def rule(self, path: bytes, mark: bytes) -> Rule | None:
        """The rule for a request, or None where it is simply answered 200."""
        for number, rule in enumerate(self.rules):
            if path.startswith(rule.path.encode()) and rule.mark.encode() in mark:
                self.matched[number] += 1
                return rule if self.matched[number] % rule.every == 0 else None
        return None

    def accept(self, path: bytes, mark: bytes) -> None:
        """Counts a request that is answered 2xx."""
        now = time.time_ns()
        tally = self.tally
        if not tally.accepted:
            tally.first_ns = now
        tally.accepted += 1
        tally.last_ns = now
        if not mark:
            tally.unmarked += 1
            return
        group, conversation, sequence, sent_ns = mark.split(b"/")
        tally.latency.add((now - int(sent_ns)) // 1000)
        key = path + b" " + conversation
        seen = tally.conversations.get(key)
        if seen is None:
            seen = tally.conversations[key] = Conversation(tally.before)
        seen.add(int(sequence))
        last = self.groups.get(group)
        if last is None:
            self.groups[group] = [now, 0, now]
        else:
            silence = now - last[0]
            if silence > last[1]:
                last[1], last[2] = silence, last[0]
            last[0] = now


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.transport: Any = None
        self.buffer = b""
        self.held = False
        """Whether an answer is being delayed: what is pipelined behind it waits, as HTTP/1.1 wants."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature.
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not self.held:
            self.serve()

    def serve(self) -> None:
        """Answers every complete request of the buffer with one write."""
        buffer = self.buffer
        start = 0
        answers: list[bytes] = []
        while True:
            head_end = buffer.find(b"\r\n\r\n", start)
            if head_end < 0:
                if len(buffer) - start > MAX_HEAD_BYTES:
                    answers.append(_answer(431, close=True))
                    start = len(buffer)
                    self.finish(answers)
                    return
                break
            length = _content_length(buffer, start, head_end)
            if length < 0 or length > MAX_BODY_BYTES:
                answers.append(_answer(413 if length > 0 else 411, close=True))
                self.finish(answers)
                return
            body_start = head_end + 4
            end = body_start + length
            if len(buffer) < end:
                break
            path_start = buffer.index(b" ", start) + 1
            path = buffer[path_start : buffer.index(b" ", path_start)]
            # From the end: envelopes put data last or nearly so, and texts in it are longer than what follows it.
            at = buffer.rfind(MARK, body_start, end)
            mark = buffer[at + 9 : buffer.index(b'"', at + 9)] if at >= 0 else b""
            start = end
            rule = self.book.rule(path, mark) if self.book.rules else None
            if rule is None:
                self.book.accept(path, mark)
                answers.append(OK)
                continue
            if self.obey(rule, path, mark, answers):
                continue
            self.buffer = buffer[start:]
            self.flush(answers)
            return
        self.buffer = buffer[start:]
        self.flush(answers)

    def obey(self, rule: Rule, path: bytes, mark: bytes, answers: list[bytes]) -> bool:
        """Does what the rule says; False when the connection must wait before the next request."""
        accepted = 200 <= rule.status < 300 and not (rule.hang or rule.reset)
        if accepted:
            self.book.accept(path, mark)
        else:
            self.book.tally.refused += 1
        if rule.reset:
            self.flush(answers)
            self.held = True
            if self.transport is not None:
                self.transport.abort()
            return False
        if rule.hang:
            self.held = True
            return False
        answer = OK if rule.status == 200 else _answer(rule.status)
        if not rule.delay_secs:
            answers.append(answer)
            return True
        self.held = True
        asyncio.get_running_loop().call_later(rule.delay_secs, self.release, answer)
        return False

    def release(self, answer: bytes) -> None:
        """Sends a delayed answer and goes on with what was pipelined behind it."""
        self.held = False
        self.flush([answer])
        if self.buffer:
            self.serve()

    def flush(self, answers: list[bytes]) -> None:
        if answers and self.transport is not None:
            self.transport.write(answers[0] if len(answers) == 1 else b"".join(answers))

    def finish(self, answers: list[bytes]) -> None:
        self.flush(answers)
        self.buffer = b""
        if self.transport is not None:
            self.transport.close()


def _content_length(buffer: bytes, start: int, head_end: int) -> int:
    """The body's length; 0 without the header, -1 for a chunked body."""
    at = buffer.find(b"Content-Length: ", start, head_end)
    if at >= 0:
        stop = buffer.find(b"\r\n", at + 16, head_end)
        return int(buffer[at + 16 : stop if stop >= 0 else head_end])
    for line in buffer[start:head_end].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        if name == b"content-length":
            return int(value)
        if name == b"transfer-encoding":
            return -1
    return 0


def _answer(status: int, *, close: bool = False) -> bytes:
    ending = "Connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status} Bench\r\nContent-Length: 0\r\n{ending}\r\n".encode()


def control(book: Book) -> web.Application:
    """The HTTP application of the control port."""

    async def stats(request: web.Request) -> web.Response:
        query = {name: int(value) for name, value in request.query.items()}
        return web.json_response(book.tally.stats(query.get("expected"), query.get("conversations")))

    async def reset(request: web.Request) -> web.Response:
        book.reset(int(request.query.get("before", 0)))
        return web.json_response({})

    async def silence(_: web.Request) -> web.Response:
        # Silences are listed with their begin, so that a reader can leave out those around a start or an end.
        return web.json_response(
            {group.decode(): {"longest_ns": last[1], "began_ns": last[2]} for group, last in book.groups.items()}
        )

    async def rules(request: web.Request) -> web.Response:
        book.set_rules(tuple(Rule(**entry) for entry in await request.json()))
        return web.json_response([asdict(rule) for rule in book.rules])

    application = web.Application()
    application.add_routes(
        [
            web.get("/stats", stats),
            web.post("/reset", reset),
            web.get("/silence", silence),
            web.post("/rules", rules),
        ]
    )
    return application


async def serve(port: int, control_port: int) -> None:
    """Serves until standard input closes."""
    loop = asyncio.get_running_loop()
    book = Book()
    server = await loop.create_server(lambda: Connection(book), "127.0.0.1", port, backlog=1024)
    runner = web.AppRunner(control(book), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", control_port)
    await site.start()
    ports = {
        "port": server.sockets[0].getsockname()[1],
        "control": runner.addresses[0][1],
    }
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: ended.set() if not sys.stdin.buffer.raw.read(1) else None)
    await ended.wait()
    loop.remove_reader(sys.stdin.fileno())
    server.close()
    await runner.cleanup()


def main() -> None:
    """Parses the ports and serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control", type=int, default=0)
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.port, chosen.control))


if __name__ == "__main__":
    main()
