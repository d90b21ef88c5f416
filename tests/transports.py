"""The ways to a server, for tests that hold over each of them: TCP, TLS, and WebSocket with both.

A test that is to hold over all of them takes a ``transport`` and is marked with
:data:`ALL_TRANSPORTS`. A ``nats_server`` that it takes as well can be reached that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, Script, ScriptedServer
from trio_nats import Connection, TLSOptions, open_nats
from trio_nats.servers import Scheme
from trio_nats.testing import NatsServer, ServerTLS, ServerWebSocket

__all__ = [
    "ALL_BUT_WSS",
    "ALL_TRANSPORTS",
    "TCP",
    "TCP_AND_WSS",
    "TLS",
    "TRANSPORTS",
    "WS",
    "WSS",
    "Transport",
]


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

    @property
    def server_options(self) -> dict[str, Any]:
        """What a real server needs to be reached this way."""
        certs = certificates()
        tls = ServerTLS(certs.server.cert_file, certs.server.key_file) if self.encrypted else None
        return {"websocket": ServerWebSocket(tls=tls)} if self.websocket else {"tls": tls}

    def server(self, **options: Any) -> NatsServer:
        """A real server that can be reached this way."""
        return NatsServer(**self.server_options, **options)

    def scripted(self, *scripts: Script) -> ScriptedServer:
        """A scripted server; its scripts begin where the bytes of NATS do, so with INFO."""

        def inside(script: Script) -> Script:
            async def whole(peer: Peer) -> None:
                await self.arrive(peer)
                await script(peer)

            return whole

        return ScriptedServer(*map(inside, scripts))

    def open(
        self, server: NatsServer | ScriptedServer, **options: Any
    ) -> AbstractAsyncContextManager[Connection]:
        """:func:`open_nats`, to a server of either kind."""
        return open_nats(self.url(server), **self.options | options)

    def url(self, server: NatsServer | ScriptedServer) -> str:
        """Where it is to be reached."""
        if isinstance(server, ScriptedServer):
            return self.through(server.port)
        return server.ws_url if self.websocket else server.url

    def port(self, server: NatsServer) -> int:
        """The port of that."""
        return int(self.url(server).rpartition(":")[2])

    def through(self, port: int) -> str:
        """The URL of a proxy, or of a scripted server, at a port of this machine."""
        return f"{self.scheme}://127.0.0.1:{port}"

    async def arrive(self, peer: Peer) -> None:
        """What a scripted server does before anything of NATS is said."""
        if self.encrypted:
            await peer.start_tls(server_context(certificates().server))
        if self.websocket:
            await peer.start_websocket()

    async def welcome(self, peer: Peer, **info: Any) -> None:
        """What a scripted server does first, INFO included."""
        await self.arrive(peer)
        await peer.send_info(**info)


TCP, TLS, WS, WSS = Transport("nats"), Transport("tls"), Transport("ws"), Transport("wss")
TRANSPORTS = {"tcp": TCP, "tls": TLS, "ws": WS, "wss": WSS}


def _over(names: Sequence[str]) -> pytest.MarkDecorator:
    params = [
        # The fixture ``nats_server`` goes by its mark. The fast tests keep to TCP.
        pytest.param(
            way,
            id=name,
            marks=[
                pytest.mark.nats_server(**way.server_options),
                *([] if way is TCP else [pytest.mark.slow]),
            ],
        )
        for name, way in TRANSPORTS.items()
        if name in names
    ]
    return pytest.mark.parametrize("transport", params)


ALL_TRANSPORTS = _over(["tcp", "tls", "ws", "wss"])
ALL_BUT_WSS = _over(["tcp", "tls", "ws"])
"""For tests that take a while, and would hardly learn more from WebSocket inside TLS."""
TCP_AND_WSS = _over(["tcp", "wss"])
"""The plainest, and the one with every layer: for what the transport has little to do with."""
