"""`POST /events/{instance}`: what reaches the log, what is refused, and what happens while Kafka is away."""

import asyncio
import gzip
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from app import settings as settings_module
from app.api.quota import Quota
from app.config.rows import instance_key
from app.embedded.kafka import EmbeddedKafka
from app.log.clients import connect
from tests.integration.api_node import KEY, Client, api_node, api_settings

MESSAGE = {"event": "messages.upsert", "data": {"key": {"remoteJid": "1@s.whatsapp.net", "fromMe": False}}}


@pytest.fixture(scope="module")
async def api(broker: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """One API process for the tests that need nothing special."""
    settings = api_settings(
        broker,
        tmp_path_factory.mktemp("ingest"),
        SLUICE_MAX_EVENT_BYTES="1000000",
        SLUICE_MAX_INSTANCES="50",
        SLUICE_INGEST_EVENTS_PER_SECOND="0",
    )
    async with api_node(settings) as client:
        yield client


async def records(api: Client, instance: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The first records of an instance in the log."""
    consumer = connect(api.settings, "test").consumer(auto_offset_reset="earliest")
    await consumer.start()
    try:
        topic = api.settings.topic("events")
        consumer.assign([TopicPartition(topic, partition) for partition in range(4)])
        await consumer.seek_to_beginning()
        found: list[ConsumerRecord[bytes, bytes]] = []
        async with asyncio.timeout(15):
            while len(found) < count:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += [record for record in batch if record.key == instance.encode()]
        return found
    finally:
        await consumer.stop()


async def test_one_event(api: Client) -> None:
    """An event is answered with its id and position, and stands there under its instance with its headers."""
    status, answer = await api.post("one", {**MESSAGE, "id": "e-1", "sender": "1@s.whatsapp.net", "apikey": "secret-1"})
    (record,) = await records(api, "one", 1)
    assert (status, answer) == (
        202,
        {"accepted": 1, "ids": ["e-1"], "positions": [{"partition": record.partition, "offset": record.offset}]},
    )
    assert orjson.loads(record.value or b"") == {**MESSAGE, "id": "e-1", "sender": "1@s.whatsapp.net"}
    headers = dict(record.headers)
    assert headers["id"] == b"e-1"
    assert headers["source"] == b"http"
    assert int(headers["config-offset"]) >= 0


async def test_no_id_given(api: Client) -> None:
    """An event without an id is known by its position, and none is written into it."""
    status, answer = await api.post("anonymous", MESSAGE)
    (record,) = await records(api, "anonymous", 1)
    assert status == 202
    log, partition, offset = answer["ids"][0].rsplit("-", 2)
    assert (int(partition), int(offset)) == (record.partition, record.offset)
    assert log
    assert "id" not in dict(record.headers)
    assert orjson.loads(record.value or b"") == MESSAGE


async def test_list(api: Client) -> None:
    """A list stands in the log in its order, over several batches too, and each event has its place in the answer."""
    events = [{**MESSAGE, "id": f"n-{number}" if number % 2 else None, "pad": "x" * 500} for number in range(1000)]
    status, answer = await api.post("many", events)
    assert (status, answer["accepted"], len(answer["ids"])) == (202, 1000, 1000)
    found = await records(api, "many", 1000)
    assert [record.offset for record in found] == [position["offset"] for position in answer["positions"]]
    given = [orjson.loads(record.value or b"")["id"] for record in found]
    assert given == [event["id"] for event in events]
    assert [shown for shown in answer["ids"] if shown.startswith("n-")] == [name for name in given if name]
    assert (await api.post("many", []))[1] == {"accepted": 0, "ids": [], "positions": []}


async def test_extra_loses_apikey(api: Client) -> None:
    """An `apikey` goes nowhere: not beside the event, and not in `extra`."""
    await api.post("keyless", {**MESSAGE, "apikey": "secret-2", "extra": {"apikey": "secret-2", "a": 1}})
    (record,) = await records(api, "keyless", 1)
    assert b"secret-2" not in (record.value or b"")
    assert orjson.loads(record.value or b"")["extra"] == {"a": 1}


async def test_new_instance(api: Client) -> None:
    """An event of a new name makes the instance, with the global key only; the event knows the table that has it."""
    for key in (None, "wrong"):
        status, answer = await api.post("fresh", MESSAGE, key=key)
        assert (status, answer["response"]["message"]) == (404, ['The "fresh" instance does not exist'])
    assert (await api.find("fresh"))[0] == 404
    assert (await api.post("fresh", MESSAGE))[0] == 202
    assert (await api.find("fresh"))[0] == 200
    await api.set("fresh", {"enabled": True, "url": "https://a.example.com"})
    await api.post("fresh", MESSAGE)
    before, after = await records(api, "fresh", 2)
    assert int(dict(before.headers)["config-offset"]) < int(dict(after.headers)["config-offset"])
    for key in (None, "wrong"):
        assert (await api.post("fresh", MESSAGE, key=key))[0] == 401


async def test_instance_token(api: Client) -> None:
    """An instance's own token opens that instance and no other."""
    await api.post("mine", MESSAGE)
    await api.post("other", MESSAGE)
    consumer = connect(api.settings, "test").consumer(auto_offset_reset="earliest")
    await consumer.start()
    token = ""
    try:
        consumer.assign([TopicPartition(api.settings.topic("config"), 0)])
        await consumer.seek_to_beginning()
        async with asyncio.timeout(15):
            while not token:
                for record in (await consumer.getmany(timeout_ms=200)).get(
                    TopicPartition(api.settings.topic("config"), 0), []
                ):
                    if record.key == instance_key("mine").encode() and record.value:
                        token = orjson.loads(record.value)["body"]["token"]
    finally:
        await consumer.stop()
    assert (await api.post("mine", MESSAGE, key=token))[0] == 202
    assert (await api.find("mine", key=token))[0] == 200
    assert (await api.post("other", MESSAGE, key=token))[0] == 401
    assert (await api.find("other", key=token))[0] == 401
    assert (await api.post("never-heard-of", MESSAGE, key=token))[0] == 404
    assert (await api.ask("GET", "/metrics", key=token))[0] == 401


@pytest.mark.parametrize(
    ("content", "status", "part"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b'{"event": "call", "data": "\xff"}', 400, "no JSON"),
        (b'{"event": "call", "data": "\\ud800"}', 400, "no JSON"),
        (b'{"event": "call", "data": NaN}', 400, "no JSON"),
        (b"[" * 2000, 400, "no JSON"),
        (b'{"event": "call", "data": ' + b"[" * 400 + b"]" * 400 + b"}", 400, "JSON"),
        (b"7", 400, "not of a type(s) object,array"),
        (b'"call"', 400, "not of a type(s) object,array"),
        (b"null", 400, "not of a type(s) object,array"),
        (b"{}", 400, "`event` is missing"),
        (b'{"event": 7}', 400, "`event` is a number"),
        (b'{"event": "a b?c"}', 400, "`event` is"),
        (b'{"event": ""}', 400, "`event` is"),
        (b'{"event": "call", "id": {}}', 400, "`id` is an object"),
        (b'{"event": "call", "id": "a\\nb"}', 400, "control characters"),
        (b'{"event": "call", "only": "webhook"}', 400, "`only` is a text"),
        (b'{"event": "call", "extra": []}', 400, "`extra` is an array"),
        (b'{"event": "call", "sender": 1}', 400, "`sender` is a number"),
        (b'[{"event": "call"}, {"event": null}]', 400, "[1]: `event` is missing"),
        (b'[{"event": "call"}, 7]', 400, "[1]: the value is a number"),
        (b'[{"event": "call"}, [{"event": "call"}]]', 400, "[1]: the value is an array"),
        (b"[" + b",".join([b"1"] * 10_001) + b"]", 413, "10000 are the most"),
        (b'{"event": "call", "data": "' + b"x" * 1_000_000 + b'"}', 413, "more than 1000000 bytes"),
        (b'{"event": "call", "data": [' + b"1e15," * 120_000 + b"1]}", 413, "1000000 are the most"),
    ],
)
async def test_bad_events(content: bytes, status: int, part: str, api: Client) -> None:
    """What is no event is refused with what is wrong and where; nothing of a list is stored, no instance is made."""
    got, answer, _ = await api.ask("POST", "/events/bad", data=content)
    assert (got, answer["status"]) == (status, status)
    assert part in str(answer["response"]["message"])
    assert (await api.find("bad"))[0] == 404


@pytest.mark.parametrize("name", ["%00", "a%0Ab", "%20", "x" * 256, "%FF"])
async def test_bad_names(name: str, api: Client) -> None:
    """A name that no instance can have is refused, and makes none."""
    status, _, _ = await api.ask("POST", f"/events/{name}", json=MESSAGE)
    assert status == 400


async def test_too_large_without_length(api: Client) -> None:
    """The limit holds for a body that does not tell its length."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 32_768

    status, _, _ = await api.ask("POST", "/events/chunked", data=chunks())
    assert status == 413


async def test_compressed_bomb(api: Client) -> None:
    """The limit holds for what a compressed body unpacks to."""
    content = gzip.compress(b'{"event": "call", "data": "' + b"x" * 50_000_000 + b'"}')
    assert len(content) < 100_000
    status, _, _ = await api.ask("POST", "/events/bomb", data=content, headers={"Content-Encoding": "gzip"})
    assert status == 413


async def test_concurrent(api: Client) -> None:
    """Events sent at once by many are each stored once, at the position that each was told."""
    answers = await asyncio.gather(*(api.post("crowd", {**MESSAGE, "id": f"c-{number}"}) for number in range(300)))
    told = {answer["ids"][0]: answer["positions"][0]["offset"] for _, answer in answers}
    found = await records(api, "crowd", 300)
    assert told == {dict(record.headers)["id"].decode(): record.offset for record in found}


async def test_too_many_instances(broker: str, tmp_path: Path) -> None:
    """Beyond the limit no instance is made, and the answer names the setting; those that are known go on."""
    async with api_node(api_settings(broker, tmp_path, SLUICE_MAX_INSTANCES="2")) as api:
        assert [(await api.post(name, MESSAGE))[0] for name in ("a", "b", "c", "a")] == [202, 202, 403, 202]
        _, answer = await api.post("c", MESSAGE)
        assert "SLUICE_MAX_INSTANCES" in answer["response"]["message"][0]


async def test_quota(broker: str, tmp_path: Path) -> None:
    """An instance that sends more than its quota is told to wait, and its neighbour is not."""
    async with api_node(api_settings(broker, tmp_path, SLUICE_INGEST_EVENTS_PER_SECOND="3")) as api:
        assert (await api.post("loud", [MESSAGE] * 50))[0] == 202
        status, answer, response = await api.ask("POST", "/events/loud", json=MESSAGE)
        assert (status, answer["error"]) == (429, "Too Many Requests")
        assert "SLUICE_INGEST_EVENTS_PER_SECOND" in answer["response"]["message"][0]
        assert int(response.headers["Retry-After"]) > 10
        assert (await api.post("quiet", MESSAGE))[0] == 202


def test_quota_refills() -> None:
    """A bucket holds one second's worth, fills evenly, and a list may overdraw it once."""
    now = 0.0
    quota = Quota(10, clock=lambda: now)
    assert [quota.take("a", 1) for _ in range(10)] == [0.0] * 10
    assert quota.take("a", 1) == pytest.approx(0.1)
    now = 0.25
    assert [quota.take("a", 1) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.05)]
    assert quota.take("b", 100) == 0.0
    assert quota.take("b", 1) == pytest.approx(9.1)
    now = 100.0
    assert [quota.take("a", 1) > 0 for _ in range(11)] == [False] * 10 + [True]
    assert Quota(0).take("a", 1_000_000) == 0.0


async def test_no_room(broker: str, tmp_path: Path) -> None:
    """When the requests under way hold all the bytes there are for them, one more is told at once to come again."""
    settings = api_settings(broker, tmp_path, SLUICE_MAX_EVENT_BYTES="262144", SLUICE_INGEST_BYTES="1048576")
    async with api_node(settings) as api:
        released = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b'{"event": "call", "data": "' + b"x" * 250_000
            await released.wait()
            yield b'"}'

        under_way = [asyncio.create_task(api.ask("POST", "/events/slow", data=slow())) for _ in range(4)]
        async with asyncio.timeout(10):
            while api.process._room.held_bytes < 1_000_000:
                await asyncio.sleep(0.02)
        status, answer, response = await api.ask("POST", "/events/more", json={**MESSAGE, "pad": "x" * 100_000})
        assert (status, answer["error"]) == (503, "Service Unavailable")
        assert "nothing was stored" in answer["response"]["message"][0]
        assert "Retry-After" in response.headers
        released.set()
        assert {status for status, _, _ in await asyncio.gather(*under_way)} == {202}
        assert (await api.post("more", MESSAGE))[0] == 202


async def test_kafka_goes_away(tmp_path: Path) -> None:
    """While Kafka is away events are answered 503 in time, with what to do; when it is back they are accepted."""
    environment = {name: os.environ[name] for name in ("SLUICE_CACHE_DIR", "SLUICE_JAVA") if name in os.environ}
    environment["SLUICE_DATA_DIR"] = str(tmp_path / "kafka")
    kafka = EmbeddedKafka(settings_module.read(environment))
    address = kafka.start()
    try:
        settings = api_settings(address, tmp_path / "api", SLUICE_INGEST_TIMEOUT_SECS="1")
        async with api_node(settings) as api:
            assert (await api.post("sales", MESSAGE))[0] == 202
            state = kafka.home.read()
            assert state is not None
            assert state.process is not None
            os.kill(state.process.pid, signal.SIGSTOP)
            try:
                status, answer, response = await api.ask("POST", "/events/sales", json={**MESSAGE, "id": "again"})
                assert (status, answer["error"]) == (503, "Service Unavailable")
                assert "The outcome is unknown" in answer["response"]["message"][0]
                assert "same `id`" in answer["response"]["message"][0]
                assert int(response.headers["Retry-After"]) >= 1
                assert (await api.ask("GET", "/health"))[0] == 200
                assert (await api.ask("GET", "/ready"))[0] == 503
            finally:
                os.kill(state.process.pid, signal.SIGCONT)
            async with asyncio.timeout(30):
                while (await api.post("sales", {**MESSAGE, "id": "again"}))[0] != 202:
                    await asyncio.sleep(0.2)
    finally:
        kafka.stop()


async def test_key_is_needed(api: Client) -> None:
    """A known instance takes events with its key only."""
    await api.post("locked", MESSAGE)
    body: Any = {"status": 401, "error": "Unauthorized", "response": {"message": "Unauthorized"}}
    assert await api.post("locked", MESSAGE, key=None) == (401, body)
    assert await api.post("locked", MESSAGE, key=KEY[:-1]) == (401, body)
