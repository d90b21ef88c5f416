"""The ways to a server, for tests that hold over each of them: TCP, TLS, and WebSocket with both.

A test that is to hold over all of them takes a ``transport`` and is marked with :data:`EVERY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer
from trio_nats import TLSOptions
from trio_nats.servers import Scheme
from trio_nats.testing import NatsServer, ServerTLS, ServerWebSocket

__all__ = ["EVERY", "MOST", "TCP", "TLS", "TRANSPORTS", "WS", "WSS", "Transport"]


@dataclass(frozen=True)
class Transport:
    """One way, from both ends."""

    scheme: Scheme

    @property
    def encrypted(self) -> bool:
        return self.scheme in ("tls", "wss")

    @property
    def websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    @property
    def options(self) -> dict[str, Any]:
        """What :func:`open_nats` needs beside the URL."""
        return {"tls": TLSOptions(ca_file=certificates().ca_file)} if self.encrypted else {}

    def server(self, **options: Any) -> NatsServer:
        """A real server that can be reached this way."""
        certs = certificates()
        tls = ServerTLS(certs.server.cert_file, certs.server.key_file) if self.encrypted else None
        if self.websocket:
            return NatsServer(websocket=ServerWebSocket(tls=tls), **options)
        return NatsServer(tls=tls, **options)

    def url(self, server: NatsServer) -> str:
        """Where it is to be reached."""
        return server.ws_url if self.websocket else server.url

    def port(self, server: NatsServer) -> int:
        """The port of that."""
        return int(self.url(server).rpartition(":")[2])

    def through(self, port: int) -> str:
        """The URL of a proxy, or of a scripted server, at a port of this machine."""
        return f"{self.scheme}://127.0.0.1:{port}"

    async def welcome(self, peer: Peer, **info: Any) -> None:
        """What a scripted server does first, INFO included."""
        if self.encrypted:
            await peer.start_tls(server_context(certificates().server))
        if self.websocket:
            await peer.start_websocket()
        await peer.send_info(**info)


TCP, TLS, WS, WSS = Transport("nats"), Transport("tls"), Transport("ws"), Transport("wss")
TRANSPORTS = {"tcp": TCP, "tls": TLS, "ws": WS, "wss": WSS}
EVERY = pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
MOST = pytest.mark.parametrize("transport", [TCP, TLS, WS], ids=["tcp", "tls", "ws"])
"""For tests that take a while, and would hardly learn more from WebSocket inside TLS."""
