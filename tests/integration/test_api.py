"""The contract's HTTP conventions, `set` and `find`, health and keys, over real HTTP and a real Kafka."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.api import keys
from app.api.process import ApiProcess
from app.events.catalogue import ALL_EVENTS
from app.log.clients import connect
from app.processes import BusyError
from app.settings import PUBLIC_DEFAULT_KEYS, Settings, SettingsError
from tests.integration.api_node import KEY, Client, api_node, api_settings
from tests.integration.harness import Cluster, free_port

HOOK = {"webhook": {"enabled": True, "url": "https://crm.example.com/hook", "events": ["MESSAGES_UPSERT"]}}
PIPELINES = """\
version: 1
instances:
  declared:
    webhook: {url: "https://file.example.com/hook", events: [CALL]}
  bare: {}
  native:
    layout: evolution-2.3
"""


@pytest.fixture(scope="module")
async def api(broker: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """One API process for the tests that need nothing special."""
    directory = tmp_path_factory.mktemp("api")
    (directory / "pipelines.yaml").write_text(PIPELINES)
    async with api_node(api_settings(broker, directory, SLUICE_MAX_EVENT_BYTES="65536")) as client:
        status, _ = await client.post("sales", {"event": "call", "data": {}})
        assert status == 202
        yield client


def error(status: int, word: str, message: Any) -> tuple[int, Any]:
    """An error as it stands in contract 2.1."""
    return status, {"status": status, "error": word, "response": {"message": message}}


async def test_round_trip(api: Client) -> None:
    """`set` answers 201 with the row, `find` 200 with the same; `updatedAt` moves, `createdAt` and `id` stay."""
    await api.post("round", {"event": "call"})
    status, row = await api.set("round", HOOK)
    assert status == 201
    assert list(row) == [
        *("id", "url", "headers", "enabled", "events", "webhookByEvents", "webhookBase64", "createdAt", "updatedAt"),
        *("instanceId", "webhook_by_events", "webhook_base64"),
    ]
    assert await api.find("round") == (200, row)
    await asyncio.sleep(0.002)
    status, again = await api.set(
        "round", {"webhook": {"enabled": True, "url": "https://b.example.com", "base64": True}}
    )
    assert {key for key in row if row[key] != again[key]} == {"url", "webhookBase64", "webhook_base64", "updatedAt"}
    assert await api.find("round") == (200, again)
    status, off = await api.set("round", {"enabled": False})
    assert (off["enabled"], off["events"], off["url"]) == (False, [], "https://b.example.com")
    status, on = await api.set("round", {"webhook": {"enabled": True, "events": []}})
    assert on["events"] == list(ALL_EVENTS)


async def test_find_before_set(api: Client) -> None:
    """Before any `set`, `find` answers the defaults, or null in the layout that wants that."""
    assert await api.find("bare") == (
        200,
        {
            "url": "",
            "enabled": False,
            "events": [],
            "webhookByEvents": False,
            "webhookBase64": False,
            "webhook_by_events": False,
            "webhook_base64": False,
        },
    )
    assert await api.find("native") == (200, None)


async def test_file_owned(api: Client) -> None:
    """A section that pipelines.yaml declares is found, and a `set` is refused with file and line."""
    status, row = await api.find("declared")
    assert (status, row["url"], row["events"]) == (200, "https://file.example.com/hook", ["CALL"])
    status, answer = await api.set("declared", HOOK)
    assert (status, answer["error"]) == (409, "Conflict")
    (message,) = answer["response"]["message"]
    assert "pipelines.yaml:4" in message


async def test_guard_order(api: Client) -> None:
    """An unknown instance is 404 even without a key; a known one is 401 without, or with a wrong one."""
    for key in (None, "wrong", KEY):
        assert await api.find("nobody", key=key) == error(404, "Not Found", ['The "nobody" instance does not exist'])
        assert await api.set("nobody", HOOK, key=key) == error(
            404, "Not Found", ['The "nobody" instance does not exist']
        )
    for key in (None, "wrong", KEY + "x"):
        assert await api.find("sales", key=key) == error(401, "Unauthorized", "Unauthorized")
        assert await api.set("sales", {}, key=key) == error(401, "Unauthorized", "Unauthorized")


@pytest.mark.parametrize("headers", [{"apikey": KEY}, {"ApiKey": KEY}, {"Authorization": f"Bearer {KEY}"}])
async def test_key_headers(headers: dict[str, str], api: Client) -> None:
    """The key is taken from `apikey` in any case, or as a bearer token."""
    status, _ = await api.find("sales", key=None, headers=headers)
    assert status == 200


async def test_no_query(api: Client) -> None:
    """The query neither carries a key nor overrides the path."""
    status, _, _ = await api.ask("GET", f"/webhook/find/sales?apikey={KEY}", key=None)
    assert status == 401
    status, answer, _ = await api.ask("GET", "/webhook/find/nobody?instanceName=sales")
    assert (status, answer["response"]["message"]) == (404, ['The "nobody" instance does not exist'])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("sales", "/WebHook/FIND/sales/"),
        ("sales", "/webhook/find/sales/"),
        ("two words", "/webhook/find/two%20words"),
        ("with/slash", "/webhook/find/with%2Fslash"),
        ("with/slash", "/webhook/find/with%2fslash/"),
        ("Größe ✓", "/webhook/find/Gr%C3%B6%C3%9Fe%20%E2%9C%93"),
        ("100%", "/webhook/find/100%25"),
        ("set", "/webhook/find/set"),
    ],
)
async def test_paths(name: str, written: str, api: Client) -> None:
    """Paths match in any case and with a slash at the end; names are URL-decoded, and their case counts."""
    await api.ask("POST", "/events/" + written.removesuffix("/").rsplit("/", 1)[1], json={"event": "call"})
    status, answer, _ = await api.ask("GET", written)
    assert (status, answer["enabled"]) == (200, False), name
    status, _ = await api.set(written.removesuffix("/").rsplit("/", 1)[1], {"enabled": False})
    assert status == 201
    assert (await api.find("SALES"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nothing/here?a=1"),
        ("GET", "/webhook/set/sales"),
        ("PUT", "/webhook/set/sales"),
        ("DELETE", "/webhook/find/sales"),
        ("POST", "/webhook/set/"),
        ("POST", "/webhook/set"),
        ("POST", "/webhook/set/a/b"),
        ("GET", "/carrier-pigeon/find/sales"),
        ("GET", "//webhook/find/sales"),
    ],
)
async def test_unknown_route(method: str, path: str, api: Client) -> None:
    """What no route has is 404 with method and address, a wrong method too."""
    status, answer, response = await api.ask(method, path)
    assert (status, answer) == error(404, "Not Found", [f"Cannot {method} {path}"])
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("content", "status", "word", "message"),
    [
        (b"{", 400, "Internal Server Error", str),
        (b"\xff\xfe{}", 400, "Internal Server Error", str),
        (b'{"a": NaN}', 400, "Internal Server Error", str),
        (b'{"a": "\\ud800"}', 400, "Internal Server Error", str),
        (b"[" * 5000 + b"]" * 5000, 400, "Internal Server Error", str),
        (b"[]", 400, "Bad Request", [["instance is not of a type(s) object"]]),
        (b'"text"', 400, "Bad Request", [["instance is not of a type(s) object"]]),
        (b"null", 400, "Bad Request", [["instance is not of a type(s) object"]]),
        (b"", 400, "Bad Request", [['instance requires property "webhook"']]),
        (b"{}", 400, "Bad Request", [['instance requires property "webhook"']]),
        (b'{"webhook":{"enabled":1,"url":"u"}}', 400, "Bad Request", [["webhook.enabled is not of a type(s) boolean"]]),
        (b'{"webhook":{"enabled":true}}', 400, "Bad Request", [['webhook requires property "url"']]),
        (b'{"webhook":{"enabled":true,"url":1}}', 400, "Bad Request", [["webhook.url is not of a type(s) string"]]),
        (
            b'{"webhook":{"enabled":true,"url":"u","events":{"a":' + b"[" * 300 + b"]" * 300 + b"}}}",
            400,
            "Bad Request",
            [["webhook.events is not of a type(s) array"]],
        ),
        (json.dumps({"events": ["CALL"] * 5000}).encode(), 400, "Bad Request", list),
        (b'{"a":"' + b"x" * 70_000 + b'"}', 413, "Payload Too Large", list),
    ],
)
async def test_bad_bodies(content: bytes, status: int, word: str, message: Any, api: Client) -> None:
    """What is wrong with a body is told in upstream's shape and words; nothing is stored."""
    await api.post("bad-bodies", {"event": "call"})
    got, answer, _ = await api.ask(
        "POST", "/webhook/set/bad-bodies", data=content, headers={"Content-Type": "application/json"}
    )
    assert (got, answer["status"], answer["error"]) == (status, status, word)
    shown = answer["response"]["message"]
    assert isinstance(shown, message) if isinstance(message, type) else shown == message
    assert (await api.find("bad-bodies"))[1]["enabled"] is False


async def test_duplicate_keys(api: Client) -> None:
    """Of two keys with one name the last counts, as in upstream's parser."""
    await api.post("twice", {"event": "call"})
    content = b'{"enabled": true, "url": "https://a.example.com", "url": "https://b.example.com"}'
    status, row, _ = await api.ask("POST", "/webhook/set/twice", data=content)
    assert (status, row["url"]) == (201, "https://b.example.com")


async def test_form(api: Client) -> None:
    """A urlencoded body is read as upstream reads it, nested, lists and booleans as texts."""
    await api.post("form", {"event": "call"})
    content = (
        "webhook[enabled]=true&webhook[url]=https://a.example.com&webhook[events][]=CALL&webhook[events][]=chats.set"
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, row, _ = await api.ask("POST", "/webhook/set/form", data=content, headers=headers)
    assert (status, row["events"], row["enabled"]) == (201, ["CALL", "CHATS_SET"], True)
    status, _, _ = await api.ask("POST", "/webhook/set/form", data="a[b][c][d][e][f][g]=1", headers=headers)
    assert status == 400


async def test_unknown_events_warn(api: Client) -> None:
    """An event that the catalogue does not know is kept, and the answer of `set` says so."""
    await api.post("warned", {"event": "call"})
    status, row = await api.set("warned", {**HOOK["webhook"], "events": ["contacts.delete", "CALL"]})
    assert (status, row["events"]) == (201, ["CONTACTS_DELETE", "CALL"])
    assert row.pop("warnings") == ["the event CONTACTS_DELETE is not known; it is kept"]
    assert await api.find("warned") == (200, row)


async def test_cors(api: Client) -> None:
    """Browsers of any origin may ask, and learn so before they send a key."""
    headers = {"Origin": "https://a.example.com", "Access-Control-Request-Headers": "apikey"}
    status, _, response = await api.ask("OPTIONS", "/webhook/set/sales", key=None, headers=headers)
    assert status == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Access-Control-Allow-Methods"] == "POST,GET,PUT,DELETE"
    assert response.headers["Access-Control-Allow-Headers"] == "apikey"
    _, _, response = await api.ask("GET", "/webhook/find/sales", key=None)
    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_health_and_ready(api: Client) -> None:
    """Without a worker the process is alive and not ready, and says what is missing; neither asks for a key."""
    status, answer, _ = await api.ask("GET", "/health", key=None)
    assert (status, answer) == (200, {"status": "ok"})
    status, answer, response = await api.ask("GET", "/ready", key=None)
    assert (status, answer["ready"]) == (503, False)
    assert "no worker reads" in answer["missing"][0]
    assert int(response.headers["Retry-After"]) >= 1


async def test_ready(api: Client) -> None:
    """Once every partition is assigned to somebody in the workers' group, the process is ready."""
    consumer = connect(api.settings, "test").consumer(
        api.settings.topic("events"), group=api.settings.topic("workers"), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            while (await api.ask("GET", "/ready"))[0] != 200:
                await asyncio.sleep(0.2)
    finally:
        await consumer.stop()
    async with asyncio.timeout(20):
        while (await api.ask("GET", "/ready"))[0] != 503:
            await asyncio.sleep(0.2)


async def test_metrics(api: Client) -> None:
    """Metrics are for the global key, and count requests and events."""
    assert (await api.ask("GET", "/metrics", key=None))[0] == 401
    assert (await api.ask("GET", "/metrics", key="wrong"))[0] == 401
    status, page, response = await api.ask("GET", "/metrics")
    assert (status, response.content_type) == (200, "text/plain")
    text = page.decode()
    assert "sluice_ingested_events_total " in text
    assert 'sluice_http_requests_total{route="/metrics",status="401"}' in text
    assert "sluice_build_info" in text


async def test_two_nodes(broker: str, tmp_path: Path) -> None:
    """A `find` on one node sees every `set` that another has answered, at once."""
    first = api_settings(broker, tmp_path / "one")
    second = api_settings(broker, tmp_path / "two", first.topic_prefix)
    async with api_node(first) as one, api_node(second, number=1) as two:
        assert (await one.post("shared", {"event": "call"}))[0] == 202
        for round_ in range(20):
            status, row = await one.set("shared", {"enabled": True, "url": f"https://{round_}.example.com"})
            assert status == 201
            assert await two.find("shared") == (200, row)


async def test_kafka_away_at_start(tmp_path: Path) -> None:
    """Without Kafka the process is alive, says what is missing, and answers 503 for the rest."""
    settings = api_settings(f"127.0.0.1:{free_port()}", tmp_path)
    async with api_node(settings, connected=False) as api:
        assert (await api.ask("GET", "/health"))[0] == 200
        async with asyncio.timeout(10):
            while "does not answer" not in str((await api.ask("GET", "/ready"))[1]):
                await asyncio.sleep(0.1)
        assert (await api.ask("GET", "/ready"))[0] == 503
        status, answer, response = await api.ask("POST", "/events/sales", json={"event": "call"})
        assert (status, answer["error"]) == (503, "Service Unavailable")
        assert "Retry-After" in response.headers


async def test_port_taken(api: Client, tmp_path: Path) -> None:
    """A port that is taken is told with the setting to change."""
    settings = api_settings(
        api.settings.brokers[0], tmp_path, api.settings.topic_prefix, SERVER_PORT=str(api.settings.server_port)
    )
    with pytest.raises(BusyError, match="SERVER_PORT"):
        await ApiProcess(settings, number=1).start()


async def test_requests_finish(broker: str, tmp_path: Path) -> None:
    """A process that is told to stop finishes what is under way and accepts nothing new."""
    settings = api_settings(broker, tmp_path)
    process = ApiProcess(settings)
    await process.start()
    async with aiohttp.ClientSession() as session:
        client = Client(process, settings, session)
        await client.connected()
        await client.post("last", {"event": "call"})
        under_way = [asyncio.create_task(client.post("last", {"event": "call"})) for _ in range(50)]
        await asyncio.sleep(0.005)
        await process.stop()
        outcomes = await asyncio.gather(*under_way, return_exceptions=True)
        answered = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        assert {status for status, _ in answered} <= {202, 503}
        assert any(status == 202 for status, _ in answered)
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.find("last")


def test_key_is_made_once(make_plain_settings: Callable[..., Settings]) -> None:
    """Without a key in the settings one is made, kept for its owner's eyes, and shown only the first time."""
    settings = make_plain_settings(AUTHENTICATION_API_KEY="")
    key, made = keys.load(settings)
    assert made
    assert len(key) >= 32
    assert keys.load(settings) == (key, False)
    file = settings.data_dir / keys.FILE_NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in settings.data_dir.iterdir()] == [keys.FILE_NAME]


@pytest.mark.parametrize(
    "content", ["", "short", *sorted(PUBLIC_DEFAULT_KEYS), "line\nbreak in it", "gr\xf6\xdfe-0123456789"]
)
def test_bad_key_file(content: str, make_plain_settings: Callable[..., Settings]) -> None:
    """A kept key that is empty, short, published or unreadable is refused with the file's name."""
    settings = make_plain_settings(AUTHENTICATION_API_KEY="")
    settings.data_dir.mkdir(parents=True)
    (settings.data_dir / keys.FILE_NAME).write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match="api-key"):
        keys.load(settings)


async def test_sigterm(broker: str, tmp_path: Path) -> None:
    """As a process of its own it ends with 0 after SIGTERM, connected or not."""
    async with Cluster(broker, tmp_path / "connected") as cluster:
        node = await cluster.api()
        await asyncio.sleep(0.5)
        assert await node.stop() == 0
    async with Cluster(f"127.0.0.1:{free_port()}", tmp_path / "alone") as cluster:
        node = await cluster.api()
        assert await node.stop() == 0
        assert "does not answer" in node.log_tail()
