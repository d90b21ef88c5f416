"""Raw connections to a real server, to send bytes that no client sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.support.certs import certificates, client_context
from trio_nats.testing import NatsServer

__all__ = ["RawConnection", "raw_connection"]


class RawConnection:
    """A raw connection after CONNECT."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def until_pong(self, *commands: bytes) -> bytes:
        """Send ``commands`` and PING. Return all data before the PONG, or before the end."""
        await self.send(b"".join(commands) + b"PING\r\n")
        received = self._unread
        while b"PONG\r\n" not in received:
            data = await self._stream.receive_some()
            if not data:
                return received
            received += data
        received, _, self._unread = received.partition(b"PONG\r\n")
        return received


@asynccontextmanager
async def raw_connection(server: NatsServer) -> AsyncIterator[RawConnection]:
    """A connection that the server has accepted, over TLS if it requires that."""
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        info = b""
        while not info.endswith(b"\r\n"):
            info += await stream.receive_some()
        assert info.startswith(b"INFO ")
        connection = RawConnection(stream)
        if server.url.startswith("tls://"):
            context = client_context(certificates().ca_file)
            connection = RawConnection(trio.SSLStream(stream, context, server_hostname=server.host))
        await connection.until_pong(
            b'CONNECT {"verbose": false, "headers": true, "no_responders": true}\r\n'
        )
        yield connection
