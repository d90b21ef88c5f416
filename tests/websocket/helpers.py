"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from wsproto.connection import Connection, ConnectionType

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, Script
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.websocket import upgrade_response
from trio_nats import ConnectAttempt, ConnectError, ReconnectPolicy, TLSOptions, open_nats
from trio_nats._transport.deflate import Deflate
from trio_nats._transport.websocket import WebSocketStream
from trio_nats.testing import ServerTLS

__all__ = ["CERTS", "HANG_TIMEOUT", "QUICK", "agrees", "failure", "lets_in", "over", "server_tls"]
__all__ += ["trusting"]


QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)
CERTS = certificates()
TRUSTED = TLSOptions(ca_file=CERTS.ca_file)


def trusting(url: str) -> TLSOptions | None:
    """The TLS options that ``url`` needs."""
    return TRUSTED if url.startswith(("wss:", "tls:")) else None


def server_tls(**options: Any) -> ServerTLS:
    return ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, **options)


async def failure(url: str, **options: Any) -> ConnectAttempt:
    """How the one attempt to connect to ``url`` ended."""
    options = {"tls": trusting(url)} | options
    with trio.fail_after(HANG_TIMEOUT):
        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, **options):
                pass
    (attempt,) = caught.value.attempts
    return attempt


def agrees(then: Callable[[Peer], Awaitable[object]], *headers: bytes, tls: bool = False) -> Script:
    """Agree to the upgrade by hand, and go on with ``then``, which sends and receives frames."""

    async def script(peer: Peer) -> None:
        if tls:
            await peer.start_tls(server_context(CERTS.server))
        _, asked = await peer.receive_request()
        await peer.send(upgrade_response(asked[b"sec-websocket-key"], *headers))
        await then(peer)

    return script


def lets_in(
    then: Callable[[Peer], Awaitable[object]] = Peer.serve,
    *,
    compression: bool = False,
    **info: Any,
) -> Script:
    """A server that lets the client in over ``ws://``, and then does ``then``."""

    async def script(peer: Peer) -> None:
        await peer.start_websocket(compression=compression)
        await peer.send_info(**info)
        await peer.accept_connect()
        await then(peer)

    return script


FORGETS = "server_no_context_takeover"


def over(
    transport: trio.abc.Stream, *, compressed: bool = False, agreed: str = FORGETS
) -> WebSocketStream:
    """The client's stream, as it is after the upgrade; ``agreed`` is about the compression."""
    deflate = Deflate()
    if compressed:
        deflate.finalize(f"permessage-deflate; {agreed}")
    connection = Connection(ConnectionType.CLIENT, [deflate])
    return WebSocketStream(transport, connection, deflate, "ws://server:80")
