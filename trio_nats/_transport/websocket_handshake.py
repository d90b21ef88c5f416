"""Open a WebSocket with an HTTP request, and explain answers that do not accept it."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Mapping
from urllib.parse import quote

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request
from wsproto.utilities import RemoteProtocolError

from .._protocol.parser import excerpt
from ..errors import ConfigurationError, TLSHandshakeError, WebSocketError
from ..options import SecretHeaders, WebSocketOptions, check_websocket_headers
from ..servers import DEFAULT_PORTS, Server
from .deflate import Deflate
from .websocket import WebSocketStream

__all__ = ["RecordingStream", "load_headers", "may_carry_secrets", "not_tls", "upgrade"]

_READ = 16 * 1024
_HTTP = b"HTTP/"
# The first bytes of a NATS server on a port without WebSocket.
_NATS = (b"INFO ", b"-ERR ")
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
_BODY = 1024
"""Bytes to read of the body of a refusal."""
_BODY_TIMEOUT = 1.0
"""Seconds to wait for them."""
_HARMLESS = frozenset({"accept-language", "origin", "user-agent"})
_MIN_SECRET = 8
"""Minimum length of a word that may be a secret. Shorter ones are "Bearer" and the like."""
_BETWEEN_WORDS = re.compile(r"[\s&=,;?]+")
_NOT_IN_TARGET = re.compile(r"[^!-~]+")


class NoAnswer(Exception):
    """The peer closed the stream without an answer. Used as the cause of a broken stream."""


async def load_headers(options: WebSocketOptions, server: Server) -> SecretHeaders:
    """Return the user's HTTP headers for one attempt to connect to ``server``.

    :raises ConfigurationError: if the callable raises or returns invalid headers.
    """
    source = options.headers
    if not callable(source):
        return SecretHeaders(source)
    what = "the callable for WebSocketOptions.headers"
    try:
        given = source(server)
        if inspect.isawaitable(given):
            given = await given
    except Exception as error:
        raise ConfigurationError(f"{what} raised {type(error).__name__}") from error
    headers = [SecretHeaders(given) if isinstance(given, Mapping) else given]
    del given
    try:
        return check_websocket_headers(f"what {what} gave", headers.pop())
    except TypeError as error:
        # It fails this attempt, and not the call of the user.
        raise ConfigurationError(str(error)) from None


def may_carry_secrets(headers: Mapping[str, str]) -> bool:
    """Return whether ``headers`` may contain credentials."""
    return any(name.lower() not in _HARMLESS for name in headers)


async def upgrade(
    stream: trio.abc.Stream,
    server: Server,
    headers: Mapping[str, str],
    *,
    compression: bool,
    user_agent: str,
) -> WebSocketStream:
    """Turn a stream into a WebSocket.

    If it fails or is cancelled, the caller must close ``stream``.

    :raises WebSocketError: if the peer refuses or does not speak HTTP.
    :raises trio.BrokenResourceError: if the stream breaks.
    """
    deflate = Deflate()
    connection = WSConnection(ConnectionType.CLIENT)
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    if not any(name.lower() == b"user-agent" for name, _ in extra):
        extra.append((b"User-Agent", user_agent.encode()))
    request = Request(
        host=host_header(server),
        target=request_target(server),
        extensions=[deflate] if compression else [],
        extra_headers=extra,
    )
    try:
        to_send = connection.send(request)
    except UnicodeError:
        raise WebSocketError(
            f"the host in an HTTP request must be ASCII, not {server.host!r}"
        ) from None
    await stream.send_all(to_send)
    # They hold secrets, and error reporters print variables.
    del extra, request, to_send
    accepted = await _await_acceptance(stream, connection, server, headers)
    return WebSocketStream(stream, accepted, deflate, server.url)


async def _await_acceptance(
    stream: trio.abc.Stream,
    connection: WSConnection,
    server: Server,
    headers: Mapping[str, str],
) -> Connection:
    beginning = b""
    while True:
        data = bytes(await stream.receive_some(_READ))
        if len(beginning) < len(_HTTP):
            beginning += data
            if not _HTTP.startswith(beginning[: len(_HTTP)]):
                if data and _could_be_nats(beginning):
                    continue
                raise _no_http(beginning, server)
            beginning = beginning[: len(_HTTP)]
        if not data and not beginning:
            raise trio.BrokenResourceError from NoAnswer(
                "it was closed instead of answering the WebSocket upgrade"
            )
        if not data:
            raise WebSocketError(
                f"{server} closed the connection in the middle of its answer to the WebSocket "
                "upgrade"
            )
        try:
            connection.receive_data(data)
            del data  # It may quote secrets of the request, and error reporters print variables.
            for event in connection.events():
                if isinstance(event, AcceptConnection):
                    assert connection.connection is not None
                    return connection.connection
                if isinstance(event, RejectConnection):
                    raise await _refusal(stream, connection, event, server, headers)
        except RemoteProtocolError as error:
            raise WebSocketError(
                f"{server} sent an invalid answer to the WebSocket upgrade: "
                f"{excerpt(str(error).encode())}{_invalid_answer_hint(str(error))}"
            ) from None
        except ValueError:
            # Raised by wsproto for headers that are not ASCII.
            raise WebSocketError(
                f"{server} answered the WebSocket upgrade with headers that are not ASCII"
            ) from None


def _could_be_nats(beginning: bytes) -> bool:
    """Return whether the bytes may begin a NATS line but are too few to be sure."""
    return any(len(beginning) < len(word) and word.startswith(beginning) for word in _NATS)


def _no_http(beginning: bytes, server: Server) -> WebSocketError:
    if beginning.startswith(_NATS):
        plain = "nats:// or tls://" if server.scheme == "ws" else "tls://"
        return WebSocketError(_ordinary_port(server, plain))
    if beginning.startswith(_TLS_RECORDS):
        return WebSocketError(f"{server} answered in TLS; use wss://")
    return WebSocketError(
        f"{server} does not speak HTTP: it answered with {excerpt(beginning)}; is it a WebSocket "
        "server?"
    )


def _ordinary_port(server: Server, schemes: str) -> str:
    return (
        f"{server} speaks NATS without WebSocket: this is the server's client port; use "
        f"{schemes}, or the port of its websocket block"
    )


def _invalid_answer_hint(text: str) -> str:
    if "accept token" in text:
        return ". Its Sec-WebSocket-Accept does not match our key, as if made for another request"
    if "Missing header" in text:
        return ". If there is a proxy in front of it, configure it to forward the upgrade"
    return ""


async def _refusal(
    stream: trio.abc.Stream,
    connection: WSConnection,
    refused: RejectConnection,
    server: Server,
    sent: Mapping[str, str],
) -> WebSocketError:
    """Return the error for an HTTP answer that does not accept the upgrade."""
    status = refused.status_code
    headers = {bytes(name).lower(): bytes(value) for name, value in refused.headers}
    body = await _body(stream, connection) if refused.has_body else b""
    text = " ".join(body.decode("utf-8", "replace").split())
    quoted = ""
    if text and not _quotes_secret(text, server, sent):
        quoted = f", saying {excerpt(text.encode())}"
    if 300 <= status < 400:
        # The query of a login page's URL may be secret.
        location = headers.get(b"location", b"").partition(b"?")[0]
        where = f" to {excerpt(location)}" if location else ""
        return WebSocketError(
            f"{server} redirects{where} (HTTP {status}). Redirects are not followed; if that is "
            "where the server is, use it as the URL",
            status,
        )
    hint = _status_hint(status, body)
    return WebSocketError(
        f"{server} refused the WebSocket upgrade: HTTP {status}{quoted}{hint}", status
    )


def _quotes_secret(text: str, server: Server, sent: Mapping[str, str]) -> bool:
    """Return whether an answer quotes a part of the request that may be secret."""
    words = " ".join((server.path.partition("?")[2], *sent.values()))
    return any(len(word) >= _MIN_SECRET and word in text for word in _BETWEEN_WORDS.split(words))


def _status_hint(status: int, body: bytes) -> str:
    if b"https" in body.lower() and status == 400:
        return ". It requires TLS; use wss://"
    if status in (401, 403, 407):
        return ". Check WebSocketOptions.headers, and which origins the server allows"
    if status in (200, 404, 405, 426):
        return ". Is it a WebSocket server, and is the URL's path right?"
    if status in (502, 503, 504):
        return ". The proxy does not reach the server behind it"
    return ""


async def _body(stream: trio.abc.Stream, connection: WSConnection) -> bytes:
    """Return the beginning of the body of a refusal, as far as it arrives in time."""
    body = b""
    with trio.move_on_after(_BODY_TIMEOUT):
        try:
            while True:
                for event in connection.events():
                    if isinstance(event, RejectData):
                        body += bytes(event.data)
                        if event.body_finished or len(body) >= _BODY:
                            return body[:_BODY]
                data = bytes(await stream.receive_some(_BODY))
                if not data:
                    return body
                connection.receive_data(data)
        except (trio.BrokenResourceError, RemoteProtocolError):
            pass
    return body


def host_header(server: Server) -> str:
    """Return the Host header. It omits an IPv6 zone, which is only meaningful on this machine."""
    host = server.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    return host if server.port == DEFAULT_PORTS[server.scheme] else f"{host}:{server.port}"


def request_target(server: Server) -> str:
    path = server.path if server.path.startswith("/") else f"/{server.path}"
    return _NOT_IN_TARGET.sub(lambda found: quote(found[0]), path)


# --- below the TLS of wss:// ----------------------------------------------------------------------


class RecordingStream(trio.abc.Stream):
    """The stream below TLS. Keeps the first received bytes to explain a failed handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.beginning = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See :meth:`trio.abc.ReceiveStream.receive_some`."""
        data = await self._stream.receive_some(max_bytes)
        if len(self.beginning) < len(_HTTP):
            self.beginning += bytes(data[:64])
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`trio.abc.SendStream.send_all`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See :meth:`trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """See :meth:`trio.abc.AsyncResource.aclose`."""
        await self._stream.aclose()


def not_tls(
    error: trio.BrokenResourceError, beginning: bytes, server: Server
) -> TLSHandshakeError | None:
    """Return the error for a failed handshake if the peer does not speak TLS, else ``None``."""
    if not isinstance(error.__cause__, ssl.SSLError):
        return None
    if beginning.startswith(_NATS):
        return TLSHandshakeError(_ordinary_port(server, "tls:// or nats://"))
    if beginning.startswith(_HTTP):
        return TLSHandshakeError(
            f"{server} answered the TLS handshake in plaintext HTTP, so its listener has no TLS. "
            "Enable TLS there or, if plaintext is acceptable, use ws://"
        )
    return None
