"""Real TCP proxies on the loopback interface, to do to a connection what networks do.

::

    async with PlainProxy(server.port) as proxy:
        ...                        # connect to proxy.port
        proxy.cut(reset=True)      # every connection through it is reset
        proxy.refuse()             # and new ones are refused, until proxy.accept()

The knobs can be turned at any time and hold for all connections, present and future.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from tests.support.background import LOOPBACK, LoopbackServer, close_now, is_gone

__all__ = ["Link", "PlainProxy", "TLSTerminatingProxy"]


class Link:
    """One connection through a proxy, and what passed along it (in clear)."""

    def __init__(self) -> None:
        self.to_server = bytearray()
        """What the client said, as far as the proxy has read it."""

        self.to_client = bytearray()
        """What the server said, as far as the proxy has read it."""

        self.ends: list[trio.SocketStream] = []
        self.closed = trio.Event()
        """Set when the proxy has closed both sides."""

    def cut(self, *, reset: bool = False) -> None:
        """Close both sides now: with FIN, or with RST when ``reset``."""
        for end in self.ends:
            close_now(end, reset=reset)


class PlainProxy(LoopbackServer):
    """Passes TCP on to ``target_port``, and misbehaves when told to."""

    def __init__(self, target_port: int, *, target_host: str = LOOPBACK) -> None:
        super().__init__()
        self._target = (target_host, target_port)
        self._changed = trio.Event()
        self._swallow = False
        self.links: list[Link] = []
        """Every connection so far, in order of arrival."""

        self.delay = 0.0
        """Seconds by which every chunk is held up, in both directions."""

        self.chunk: int | None = None
        """Pass data on in pieces of at most this many bytes, each in a write of its own."""

    @property
    def to_server(self) -> bytes:
        """What clients said on all connections, in order of arrival of the connections."""
        return b"".join(bytes(link.to_server) for link in self.links)

    @property
    def to_client(self) -> bytes:
        """What servers said on all connections, in order of arrival of the connections."""
        return b"".join(bytes(link.to_client) for link in self.links)

    @property
    def swallow(self) -> bool:
        """While true, all that is said vanishes, ends of streams too: a half-open connection."""
        return self._swallow

    @swallow.setter
    def swallow(self, value: bool) -> None:
        self._swallow = value
        self._announce()

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection now: with FIN, or with RST when ``reset``."""
        for link in self.links:
            link.cut(reset=reset)

    async def link(self, index: int = 0) -> Link:
        """The ``index``-th connection, once it has reached the server behind."""
        while len(self.links) <= index:
            await self._changed.wait()
        return self.links[index]

    # -- one connection ------------------------------------------------------------------------

    async def _handle(self, stream: trio.SocketStream) -> None:
        client = await self._meet(stream)
        link = Link()
        try:
            with await trio.open_tcp_stream(*self._target) as server:
                pass
        except OSError:
            return

    async def _meet(self, stream: trio.SocketStream) -> trio.abc.HalfCloseableStream:
        raise NotImplementedError

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
