"""A TCP stream that shows whether sending makes progress.

A large write over a slow network may take longer than the server may take to answer a PING. This
stream shows that the peer is alive all the same: while the send buffer is full, the kernel accepts
more data only as the peer acknowledges earlier data. Data that is accepted into a buffer with space
proves nothing, because that happens on a dead connection, too.
"""

from __future__ import annotations

import errno

import trio

__all__ = ["TCPStream"]

_CLOSED = (errno.EBADF, errno.ENOTSOCK)


class TCPStream(trio.abc.Stream):
    """Wraps a :class:`trio.SocketStream`, and counts the bytes that prove the peer alive."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: trio.SocketStream = stream
        """The wrapped stream."""
        self.progress: int = 0
        """Bytes that were accepted after they had waited for space in the send buffer."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``. If cancelled, an unknown part of it has been sent."""
        sock = self.stream.socket
        with memoryview(data) as view:
            if not view:
                await self.stream.send_all(view)
                return
            try:
                sent = await sock.send(view)
                while sent < len(view):
                    with view[sent:] as rest:
                        accepted = await sock.send(rest)
                    sent += accepted
                    self.progress += accepted
            except OSError as error:
                if error.errno in _CLOSED:
                    raise trio.ClosedResourceError("this socket was already closed") from None
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the send buffer has space."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive up to ``max_bytes``. If cancelled, nothing is lost."""
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the socket. If cancelled, it is closed all the same."""
        await self.stream.aclose()
