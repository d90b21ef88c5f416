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
        """While true, nothing said arrives, ends of streams included: a half-open connection.

        It is held up rather than lost: what was said in that time arrives, in order, after that.
        """
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
        link = Link()
        link.ends = [stream]
        self.links.append(link)
        try:
            client = await self._meet(stream)
            if client is None:
                return
            async with await trio.open_tcp_stream(*self._target) as server:
                link.ends.append(server)
                self._announce()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, client, server, link.to_server, nursery)
                    nursery.start_soon(self._pass_on, server, client, link.to_client, nursery)
        except OSError:
            pass  # the server behind is away
        finally:
            for end in link.ends:
                close_now(end)
            self._announce()
            link.closed.set()

    async def _meet(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """The client's end as the server behind sees it; ``None`` turns the client away."""
        return stream

    async def _pass_on(
        self,
        source: trio.abc.Stream,
        sink: trio.abc.Stream,
        record: bytearray,
        nursery: trio.Nursery,
    ) -> None:
        try:
            while True:
                data = bytes(await source.receive_some(65536))
                while self._swallow:
                    await self._changed.wait()
                record += data
                if not data:
                    break
                await trio.sleep(self.delay)
                step = self.chunk or len(data)
                for start in range(0, len(data), step):
                    await sink.send_all(data[start : start + step])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if not is_gone(error):
                raise
        nursery.cancel_scope.cancel()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class TLSTerminatingProxy(PlainProxy):
    """Ends TLS and passes plaintext on, as a load balancer does.

    A client whose certificate it does not like is turned away without a word.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        super().__init__(target_port)
        self._context = context

    async def _meet(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        # Certificates are asked for, but looked at only here: a handshake that fails would say why.
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            return None
        if self.insists_on_certificate and tls.getpeercert() is None:
            return None
        return tls

    insists_on_certificate = False
    """Whether a client without a certificate is turned away after the handshake."""
