"""Probes: each makes one connection, takes a bounded time and reads a bounded number of bytes.

None of them logs in.
"""

from __future__ import annotations

import base64
import os
import secrets
import ssl
import time
from collections.abc import Sequence
from socket import SOCK_STREAM, gaierror

import trio

from trio_nats._nursery import open_nursery

from ..._protocol.parser import excerpt
from ..._transport.dial import Address, DialError, dial, resolve
from ..._transport.tls_handshake import read_info
from ...errors import NoInfoError, ProtocolError, ServerReportedError
from ...servers import Server
from .report import Dial, Greeted, Greeting, Lookup, Web

__all__ = ["ask_for_websocket", "dial_each", "greet", "look_up", "unverified_context"]

MAX_ADDRESSES = 8
_MAX_HTTP = 16 * 1024
_INFO_LIMIT = 1024 * 1024
_MAX_EXCERPT = 60


async def look_up(server: Server, seconds: float) -> tuple[Lookup, Sequence[Address]]:
    """Resolve the server's name."""
    began = time.monotonic()
    error, targets = "", list[Address]()
    with trio.move_on_after(seconds) as scope:
        try:
            targets = await resolve(server.host, server.port)
        except gaierror as raised:
            error = raised.strerror or str(raised)
        except UnicodeError:
            error = "not a valid host name"
    if scope.cancelled_caught:
        error = f"no answer within {seconds:g} s"
    took = time.monotonic() - began
    shown = tuple(str(address[0]) for _, address in targets)
    return Lookup(addresses=shown, seconds=took, error=error), targets[:MAX_ADDRESSES]


async def dial_each(targets: Sequence[Address], seconds: float) -> tuple[Dial, ...]:
    """Connect to all addresses concurrently, and close the connections."""
    dials: dict[Address, Dial] = {}

    async def one(target: Address) -> None:
        dials[target] = await _dial_one(target, seconds)

    async with open_nursery() as nursery:
        for target in targets:
            nursery.start_soon(one, target)
    return tuple(dials[target] for target in targets)


async def _dial_one(target: Address, seconds: float) -> Dial:
    family, address = target
    shown, local, error = str(address[0]), "", ""
    began = time.monotonic()
    try:
        with trio.socket.socket(family, SOCK_STREAM) as sock:
            with trio.move_on_after(seconds) as scope:
                await sock.connect(address)
                local = str(sock.getsockname()[0])
    except OSError as raised:
        # The error's own text repeats the address.
        error = os.strerror(raised.errno) if raised.errno else str(raised)
    else:
        if scope.cancelled_caught:
            error = f"no answer within {seconds:g} s"
    return Dial(address=shown, seconds=time.monotonic() - began, error=error, local=local)


class _RecordingStream(trio.abc.ReceiveStream):
    """A stream that keeps the first received bytes."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self.said = b""
        self.spoke_at: float | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self.spoke_at is None:
            self.spoke_at = time.monotonic()
        self.said += bytes(data[: _MAX_EXCERPT + 1 - len(self.said)])
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def greet(server: Server, seconds: float, info_timeout: float) -> Greeting | None:
    """Connect, send nothing, and return what arrives within ``info_timeout``.

    Returns ``None`` if there was no connection within ``seconds``.
    """
    try:
        with trio.fail_after(seconds):
            raw = await dial(server)
    except (DialError, trio.TooSlowError):
        return None
    began = time.monotonic()
    stream = _RecordingStream(raw)
    greeting = None
    try:
        with trio.move_on_after(info_timeout):
            greeting = await _read_greeting(stream, began)
    finally:
        await trio.aclose_forcefully(raw)
    if greeting is not None:
        return greeting
    kind: Greeted = "foreign" if stream.said else "silence"
    return Greeting(kind=kind, seconds=time.monotonic() - began, text=excerpt(stream.said))


async def _read_greeting(stream: _RecordingStream, began: float) -> Greeting:
    def took() -> float:
        return (stream.spoke_at or time.monotonic()) - began

    try:
        info, _, _ = await read_info(stream, _INFO_LIMIT)
        return Greeting(kind="info", seconds=took(), info=info)
    except NoInfoError as error:
        if error.closed and not stream.said:
            return Greeting(kind="closed", seconds=took())
        return Greeting(kind="foreign", seconds=took(), text=excerpt(stream.said))
    except ProtocolError as error:
        return Greeting(kind="nonsense", seconds=took(), text=str(error))
    except ServerReportedError as error:
        return Greeting(kind="error", seconds=took(), text=error.message)
    except trio.BrokenResourceError:
        return Greeting(kind="closed", seconds=took())


def unverified_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate and old protocol versions, for probing only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


async def ask_for_websocket(server: Server, *, over_tls: bool, seconds: float) -> Web | None:
    """Send an HTTP request for a WebSocket. Returns ``None`` if the response is not HTTP."""
    said = b""
    with trio.move_on_after(seconds):
        try:
            stream: trio.abc.Stream = await dial(server)
        except DialError:
            return None
        try:
            if over_tls:
                name = server.tls_name or server.host
                stream = trio.SSLStream(
                    stream, unverified_context(), server_hostname=name, https_compatible=True
                )
            await stream.send_all(_upgrade_request(server))
            while len(said) < _MAX_HTTP and b"INFO {" not in said:
                data = await stream.receive_some(_MAX_HTTP - len(said))
                if not data:
                    break
                said += bytes(data)
        except (trio.BrokenResourceError, ssl.SSLError, ValueError):
            pass  # not TLS, or not a valid host name
        finally:
            await trio.aclose_forcefully(stream)
    return read_answer(said, over_tls=over_tls)


def _upgrade_request(server: Server) -> bytes:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [
        # Do not send the URL's path: it may hold a secret, and this peer has not been verified.
        "GET / HTTP/1.1",
        f"Host: {server.address}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    ]
    return "\r\n".join((*lines, "", "")).encode("ascii", "replace")


def read_answer(said: bytes, *, over_tls: bool) -> Web | None:
    """Classify a peer by its response."""
    if not said.startswith(b"HTTP/"):
        return None
    status, _, rest = said.partition(b"\r\n")
    return Web(
        over_tls=over_tls,
        status=status[:80].decode("ascii", "replace"),
        is_nats=b" 101 " in status and b"INFO {" in rest,
        is_monitoring=b"varz" in rest and b"connz" in rest,
    )
