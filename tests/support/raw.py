"""Bytes that no client sends, to a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_nats.testing import NatsServer

__all__ = ["RawConnection", "raw_connection"]


class RawConnection:
    """Bytes to and from a server, after CONNECT."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def until_pong(self, *commands: bytes) -> bytes:
        """Send ``commands`` and PING; everything that comes before the PONG, or all there is."""
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
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        connection = RawConnection(stream)
        info = await connection.until_pong(
            b'CONNECT {"verbose": false, "headers": true, "no_responders": true}\r\n'
        )
        assert info.startswith(b"INFO ")
        yield connection
