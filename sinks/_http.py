"""
HTTP for sinks: a guarded aiohttp session, and the table from its errors to the failure vocabulary.

The sessions hold no clock: whoever sends bounds the wait and cancels. They follow no redirects of their own accord,
keep no cookies, and read no proxy settings from the environment.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from typing import Any

import aiohttp
from yarl import URL

from sinks._egress import EgressGuard, GuardedResolver
from sinks._errors import FailureKind, Misconfigured, SinkError, Unavailable

CONNECTIONS_PER_HOST = 4096
"""The most that `max_in_flight` can ask for; the engine's limit per destination is the one that acts."""
KEEPALIVE_SECS = 15.0
DNS_CACHE_SECS = 30
ANSWER_BYTES = 8192
"""How much of an answer's body is read, so that its connection can be used again."""
ANSWER_SECS = 1.0
"""How long the rest of a body is waited for once the status is known."""
WHOLE_BODY_BYTES = 1 << 20
"""Above this aiohttp wants to send a body in pieces, and warns when it may not."""
ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request may raise; `failure` has a word for each."""


def open_session(guard: EgressGuard) -> aiohttp.ClientSession:
    """A session whose every connection passes the guard; to be closed with `close`."""
    connector = aiohttp.TCPConnector(
        limit=0,
        limit_per_host=CONNECTIONS_PER_HOST,
        keepalive_timeout=KEEPALIVE_SECS,
        ttl_dns_cache=DNS_CACHE_SECS,
        resolver=GuardedResolver(guard),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        # Bodies of answers are not used, so none is asked for packed and none is unpacked.
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "User-Agent"),
        read_bufsize=ANSWER_BYTES,
    )


def post(
    session: aiohttp.ClientSession, guard: EgressGuard, url: URL, body: bytes, headers: Mapping[str, str]
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """
    The one way to send: as it stands, redirects not followed.

    Raises Misconfigured for a host that is a forbidden address: aiohttp asks no resolver about those. (A middleware of
    the session would see to it too, for 3 us a request.)
    """
    guard.check_literal(url.raw_host or "")
    data = body if len(body) <= WHOLE_BODY_BYTES else BytesIO(body)
    return session.post(url, data=data, headers=headers, allow_redirects=False)


async def finish(response: aiohttp.ClientResponse) -> None:
    """Reads the rest of an answer that nobody wants, within limits; beyond them its connection is dropped."""
    content = response.content
    left = ANSWER_BYTES
    try:
        async with asyncio.timeout(ANSWER_SECS):
            while left > 0 and not content.at_eof():
                left -= len(await content.readany())
    except ERRORS:
        # The status has told the outcome; a body that breaks off changes nothing but the connection's fate.
        response.close()
        return
    if not content.at_eof():
        response.close()


async def probe(guard: EgressGuard, url: str) -> None:
    """Connects (with TLS for https) and hangs up without a request; raises a SinkError."""
    parts = URL(url)
    host, port = parts.host or "", parts.port or 0
    context = ssl.create_default_context() if parts.scheme == "https" else None
    resolver = GuardedResolver(guard)
    refused: BaseException = OSError("no address")
    try:
        for found in await resolver.resolve(host, port):
            try:
                _, writer = await asyncio.open_connection(
                    found["host"], port, ssl=context, server_hostname=host.rstrip(".") if context else None
                )
            except OSError as error:
                refused = error
            else:
                writer.transport.abort()
                return
        raise failure(refused, f"{parts.scheme}://{host}:{port}") from refused
    except socket.gaierror as error:
        raise Unavailable(
            FailureKind.UNREACHABLE, f"{parts.scheme}://{host}:{port}: its name does not resolve"
        ) from error
    finally:
        await resolver.close()


_UNREACHABLE = (Unavailable, FailureKind.UNREACHABLE)
_TIMEOUT = (Unavailable, FailureKind.TIMEOUT)
_TLS = (Unavailable, FailureKind.TLS)
_ANSWER = (Unavailable, FailureKind.SERVER_ERROR)
_ADDRESS = (Misconfigured, FailureKind.REJECTED)
_OURS = (Unavailable, FailureKind.INTERNAL)

FAILURES: Mapping[type[BaseException], tuple[type[SinkError], FailureKind, str]] = {
    aiohttp.ClientConnectorDNSError: (*_UNREACHABLE, "its name does not resolve"),
    aiohttp.ClientConnectorError: (*_UNREACHABLE, "no connection"),
    aiohttp.ClientProxyConnectionError: (*_UNREACHABLE, "no connection to the proxy"),
    aiohttp.client_exceptions.UnixClientConnectorError: (*_UNREACHABLE, "no connection"),
    aiohttp.ClientConnectionResetError: (*_UNREACHABLE, "the connection was reset"),
    aiohttp.ServerDisconnectedError: (*_UNREACHABLE, "the connection was closed before an answer came"),
    aiohttp.ServerConnectionError: (*_UNREACHABLE, "the connection failed"),
    aiohttp.ClientOSError: (*_UNREACHABLE, "the connection failed"),
    aiohttp.ClientConnectionError: (*_UNREACHABLE, "the connection failed"),
    aiohttp.ClientPayloadError: (*_UNREACHABLE, "the answer broke off"),
    aiohttp.ConnectionTimeoutError: (*_TIMEOUT, "no connection in time"),
    aiohttp.SocketTimeoutError: (*_TIMEOUT, "no answer in time"),
    aiohttp.ServerTimeoutError: (*_TIMEOUT, "no answer in time"),
    TimeoutError: (*_TIMEOUT, "no answer in time"),
    aiohttp.ClientConnectorCertificateError: (*_TLS, "its certificate is not trusted"),
    aiohttp.ServerFingerprintMismatch: (*_TLS, "its certificate is another one"),
    aiohttp.ClientConnectorSSLError: (*_TLS, "no TLS connection"),
    aiohttp.ClientSSLError: (*_TLS, "no TLS connection"),
    ssl.SSLCertVerificationError: (*_TLS, "its certificate is not trusted"),
    ssl.SSLError: (*_TLS, "no TLS connection"),
    OSError: (*_UNREACHABLE, "the connection failed"),
    # Raised for an answer that cannot be parsed, and only then: nobody asks aiohttp to judge statuses.
    aiohttp.ClientResponseError: (*_ANSWER, "its answer is not HTTP"),
    aiohttp.ClientHttpProxyError: (*_ANSWER, "the proxy refused"),
    aiohttp.InvalidURL: (*_ADDRESS, "the address is not valid"),
    aiohttp.InvalidUrlClientError: (*_ADDRESS, "the address is not valid"),
    aiohttp.NonHttpUrlClientError: (*_ADDRESS, "the address is not one of HTTP"),
    # Of redirects that are followed, web sockets, checked content types and streamed bodies: sinks use none of them.
    aiohttp.RedirectClientError: (*_OURS, "a redirect was followed"),
    aiohttp.InvalidUrlRedirectClientError: (*_OURS, "a redirect was followed"),
    aiohttp.NonHttpUrlRedirectClientError: (*_OURS, "a redirect was followed"),
    aiohttp.TooManyRedirects: (*_OURS, "a redirect was followed"),
    aiohttp.WSServerHandshakeError: (*_OURS, "a web socket was opened"),
    aiohttp.ContentTypeError: (*_OURS, "a content type was checked"),
    aiohttp.client_exceptions.UploadAbortedError: (*_OURS, "a body was streamed"),
    aiohttp.ClientError: (*_OURS, "the HTTP client failed"),
}
"""What each error of the client means; the most specific class counts. A test fails when aiohttp grows another."""


def failure(error: BaseException, far_end: str) -> SinkError:
    """The error in our words. The client's own text may quote addresses and answers, so only the system's is taken."""
    kind, word, text = next(FAILURES[cls] for cls in type(error).__mro__ if cls in FAILURES)
    cause = _cause(error)
    return kind(word, f"{far_end}: {text}" + (f" ({cause})" if cause else ""))


def _cause(error: Any) -> str:
    certificate = getattr(error, "certificate_error", error)
    for source in (certificate, getattr(error, "os_error", None), error):
        for name in ("verify_message", "reason", "strerror"):
            text = getattr(source, name, None)
            if isinstance(text, str) and text:
                return text
    return ""
