"""The HTTP server: listens first, answers everything in one shape, and stops without cutting off a request."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

import structlog
from aiohttp import web

import schemas
from app.api import errors
from app.api.auth import Keys, given_key
from app.api.errors import ApiError
from app.api.health import Readiness
from app.api.ingest import Ingest
from app.api.routes import Route, Routes
from app.api.sections import Sections
from app.config.errors import Conflict, TableError, TooLarge
from app.config.instances import TooManyInstances
from app.observe import metrics
from app.processes import BusyError
from app.settings import Settings

log = structlog.get_logger(__name__)

CORS = {"Access-Control-Allow-Origin": "*"}
CORS_METHODS = "POST,GET,PUT,DELETE"
RETRY_AFTER_SECS = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What serves requests once Kafka is there."""

    sections: Sections
    ingest: Ingest
    readiness: Readiness


class Server:
    """
    Answers on SERVER_HOST and SERVER_PORT from `start` on. Until `parts` are given, what needs Kafka answers 503 with
    `missing`.
    """

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self.parts: Parts | None = None
        self.missing = "this process has just started and is connecting to Kafka"
        transports = {"transport": schemas.transports()}
        self._routes = Routes(
            (
                Route("POST", "/events/{instance}", self._events, {}),
                Route("POST", "/{transport}/set/{instance}", self._set, transports),
                Route("GET", "/{transport}/find/{instance}", self._find, transports),
                Route("GET", "/health", self._health, {}),
                Route("GET", "/ready", self._ready, {}),
                Route("GET", "/metrics", self._metrics, {}),
            )
        )
        application = web.Application()
        application.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=max(1.0, settings.drain_secs)
        )

    async def start(self) -> None:
        """Listens; BusyError when the address is taken."""
        host, port = self._settings.server_host, self._settings.server_port
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise BusyError(
                f"the API cannot listen on {host}:{port}: {error.strerror or error}. Stop what uses that port, or "
                "choose another with SERVER_PORT (and SERVER_HOST for the address)."
            ) from error

    async def stop(self) -> None:
        """Accepts nothing new, and lets what is under way finish within SLUICE_DRAIN_SECS."""
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        label = "unknown"
        if request.method == "OPTIONS":
            response = _preflight(request)
        else:
            try:
                route, path = self._route(request)
                label = route.path
                response = await _known(route.handler(request, path))
            except ApiError as error:
                response = errors.answer(error)
            except UnicodeDecodeError:
                response = errors.answer(errors.bad_request("the path is no UTF-8; percent-encode the name as such"))
            except Exception:
                # What it was stands in the log; an answer would tell strangers.
                log.exception("request.failed", method=request.method, route=label)
                response = errors.answer(ApiError(500, "Internal Server Error"))
        response.headers.update(CORS)
        response.headers["Server"] = "sluice"
        metrics.counter("sluice_http_requests_total", route=label, status=str(response.status)).add()
        return response

    def _route(self, request: web.Request) -> tuple[Route, Mapping[str, str]]:
        found = self._routes.find(request.method, request.rel_url.raw_path)
        if found is None:
            raise errors.unknown_route(request.method, request.raw_path)
        return found

    def _connected(self) -> Parts:
        if self.parts is None:
            raise errors.unavailable(f"not ready: {self.missing}", RETRY_AFTER_SECS)
        return self.parts

    async def _events(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        return await self._connected().ingest.post(request, path)

    async def _set(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        return await self._connected().sections.set(request, path)

    async def _find(self, request: web.Request, path: Mapping[str, str]) -> web.Response:
        return await self._connected().sections.find(request, path)

    async def _health(self, _: web.Request, __: Mapping[str, str]) -> web.Response:
        return errors.json({"status": "ok"})

    async def _ready(self, _: web.Request, __: Mapping[str, str]) -> web.Response:
        missing = [self.missing] if self.parts is None else await self.parts.readiness.missing()
        if missing:
            return errors.json({"ready": False, "missing": missing}, 503, errors.retry_after(RETRY_AFTER_SECS))
        return errors.json({"ready": True, "missing": []})

    async def _metrics(self, request: web.Request, _: Mapping[str, str]) -> web.Response:
        if not self._settings.metrics_public:
            self._keys.require_global(given_key(request.headers))
        page = metrics.render(self._settings)
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})


async def _known(answer: Awaitable[web.Response]) -> web.Response:
    """The answer, or the error of the table in the words of HTTP."""
    try:
        return await answer
    except TooManyInstances as error:
        raise ApiError(403, [str(error)]) from error
    except TooLarge as error:
        raise errors.too_large(str(error)) from error
    except (Conflict, TableError) as error:
        raise errors.unavailable(str(error)) from error


def _preflight(request: web.Request) -> web.Response:
    """What a browser asks before it sends a key (contract, section 2)."""
    wanted = request.headers.get("Access-Control-Request-Headers", "apikey,content-type")
    return web.Response(
        status=204, headers={"Access-Control-Allow-Methods": CORS_METHODS, "Access-Control-Allow-Headers": wanted}
    )
