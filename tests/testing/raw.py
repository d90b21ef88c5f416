"""The NATS protocol by hand, so that tests of the server do not depend on the client."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import trio

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats.testing import NatsServer


class RawClient:
    """Lines over a stream, with a time limit for reading one."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.unread = bytearray()

    async def line(self) -> str:
        """The next line, without its end; empty when the server has closed the connection."""
        with trio.fail_after(HANG_TIMEOUT):
            while b"\r\n" not in self.unread:
                try:
                    chunk = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    chunk = b""
                if not chunk:
                    return ""
                self.unread += chunk
        line, _, rest = self.unread.partition(b"\r\n")
        self.unread = rest
        return line.decode()

    async def info(self) -> dict[str, Any]:
        line = await self.line()
        assert line.startswith("INFO "), line
        return json.loads(line[5:])

    async def send(self, *lines: str) -> None:
        await self.stream.send_all("".join(f"{line}\r\n" for line in lines).encode())

    async def login(self, **options: object) -> str:
        """What the server says to these CONNECT options: ``PONG`` when all is well."""
        await self.send("CONNECT " + json.dumps({"verbose": False} | options), "PING")
        return await self.line()

    async def request(self, subject: str, payload: object) -> dict[str, Any]:
        text = json.dumps(payload)
        await self.send("SUB _R 1", f"PUB {subject} _R {len(text.encode())}", text)
        header = await self.line()
        assert header.startswith("MSG _R 1 "), header
        return json.loads(await self.line())

    async def tls(self, context: ssl.SSLContext, hostname: str = "localhost") -> Self:
        """The same connection with TLS, the handshake done."""
        assert not self.unread
        stream = trio.SSLStream(
            self.stream, context, server_hostname=hostname, https_compatible=True
        )
        with trio.fail_after(HANG_TIMEOUT):
            await stream.do_handshake()
        return type(self)(stream)


@asynccontextmanager
async def dial(server: NatsServer) -> AsyncIterator[RawClient]:
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        yield RawClient(stream)


async def answers(server: NatsServer) -> bool:
    """Whether the server's port accepts connections."""
    try:
        async with dial(server):
            return True
    except OSError:
        return False
