"""Real TCP proxies on the loopback interface, which can break and delay connections.

::

    async with PlainProxy(server.port) as proxy:
        ...                        # connect to proxy.port
        proxy.cut(reset=True)      # every connection through it is reset
        proxy.refuse()             # and new ones are refused, until proxy.accept()

Settings can be changed at any time, and apply to all current and future connections.
"""

from __future__ import annotations

import ssl

import trio

from tests.support.background import LOOPBACK, LoopbackServer, close_now, is_gone

__all__ = ["Link", "PlainProxy", "TLSTerminatingProxy"]


class Link:
    """One connection through a proxy, and the decrypted data that passed."""

    def __init__(self) -> None:
        self.to_server = bytearray()
        """Data from the client that the proxy has read."""

        self.to_client = bytearray()
        """Data from the server that the proxy has read."""

        self.ends: list[trio.SocketStream] = []
        self.closed = trio.Event()
        """Set when the proxy has closed both sides."""

    def cut(self, *, reset: bool = False) -> None:
        """Close both sides now: with FIN, or with RST when ``reset``."""
        for end in self.ends:
            close_now(end, reset=reset)


class PlainProxy(LoopbackServer):
    """Forwards TCP to ``target_port``, and misbehaves on request."""

    def __init__(self, target_port: int, *, target_host: str = LOOPBACK) -> None:
        super().__init__()
        self._target = (target_host, target_port)
        self._changed = trio.Event()
        self._swallow = False
        self.links: list[Link] = []
        """Every connection so far, in order of arrival."""

        self.delay = 0.0
        """Delay of every chunk in seconds, in both directions."""

        self.chunk: int | None = None
        """Forward data in pieces of at most this many bytes, each in its own write."""

    @property
    def to_server(self) -> bytes:
        """Data from clients on all connections, in order of the connections."""
        return b"".join(bytes(link.to_server) for link in self.links)

    @property
    def to_client(self) -> bytes:
        """Data from the server on all connections, in order of the connections."""
        return b"".join(bytes(link.to_client) for link in self.links)

    @property
    def swallow(self) -> bool:
        """While true, no data and no end of stream arrives, as on a half-open connection.

        Data is delayed and not lost: it arrives, in order, once this is false again.
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
        """Wait until the ``index``-th connection has reached the target."""
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
            pass  # the target refused the connection
        finally:
            for end in link.ends:
                close_now(end)
            self._announce()
            link.closed.set()

    async def _meet(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """Return the stream to forward from, or ``None`` to reject the client."""
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
    """Terminates TLS and forwards plaintext, like a load balancer.

    Clients without a certificate may be rejected silently.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        super().__init__(target_port)
        self._context = context

    async def _meet(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        # Request certificates, but check them only here: a failed handshake would send an alert.
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            return None
        if self.insists_on_certificate and tls.getpeercert() is None:
            return None
        return tls

    insists_on_certificate = False
    """Whether to reject a client without a certificate after the handshake."""
