"""A socket's stream that shows how sending gets on.

A large write over a slow network takes longer than the answer to a PING may, and says nothing until
it is done. Whether the peer is alive shows below: the kernel takes more from us only as the peer
acknowledges what it has. What it takes into an empty buffer shows nothing, for it does so on a dead
connection too.
"""

from __future__ import annotations

import errno

import trio

__all__ = ["TCPStream"]

_CLOSED = (errno.EBADF, errno.ENOTSOCK)


class TCPStream(trio.abc.Stream):
    """Sends as :class:`trio.SocketStream` does, and counts."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: trio.SocketStream = stream
        """Trio's own."""
        self.drained: int = 0
        """Bytes that had to wait for space in the kernel, and that it took as the peer read on."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``. If cancelled, nobody knows how much of it was sent."""
        sock = self.stream.socket
        with memoryview(data) as view:
            if not view:
                await self.stream.send_all(view)
                return
            try:
                sent = await sock.send(view)
                while sent < len(view):
                    with view[sent:] as rest:
                        taken = await sock.send(rest)
                    sent += taken
                    self.drained += taken
            except OSError as error:
                if error.errno in _CLOSED:
                    raise trio.ClosedResourceError("this socket was already closed") from None
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is space for something."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what there is, at most ``max_bytes``. If cancelled, nothing is lost."""
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the socket. Done even if cancelled."""
        await self.stream.aclose()
