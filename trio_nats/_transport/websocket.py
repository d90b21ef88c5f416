"""NATS over WebSocket: a byte stream in binary messages, whose boundaries have no meaning.

wsproto encodes and decodes the frames. The stream here buffers at most one read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import trio
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from ..errors import ProtocolError
from .deflate import Deflate

__all__ = ["WebSocketStream"]

_READ = 64 * 1024
_FRAME = 256 * 1024
"""Maximum size of a frame, which most chunks of the outbox do not reach. It limits how much is
copied, masked and compressed at once, and what the server must buffer of a compressed message."""
_CLOSE_TIMEOUT = 0.1
"""Seconds to wait for the Close frame to be written, which takes no time unless the network is
stuck."""


class ClosedByServer(Exception):
    """The server sent a Close frame. Used as the cause of a broken stream."""


class WebSocketStream(trio.abc.Stream):
    """An open WebSocket as a Trio stream, for one sending and one receiving task.

    Pings and Closes are answered by the sending task, after the current frame, if it is writing;
    otherwise by the receiving task. If an error or a cancellation interrupts the writing of a
    frame, nothing more can be sent.
    """

    def __init__(
        self, transport: trio.abc.Stream, connection: Connection, deflate: Deflate, server: str
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._deflate = deflate
        self._server = server
        self._lock = trio.Lock()
        self._control_frames = b""
        """Control frames that wait to be written."""
        self._incomplete = False
        """Whether an earlier frame was not written completely."""
        self._decoded = b""
        """Decoded bytes that have not been returned yet."""
        self._ended: Exception | None = None
        """Why nothing more can be received."""
        self._closed = False
        self.max_payload: Callable[[], int] | None = None
        """Returns the server's ``max_payload``, once known. nats-server closes the connection if a
        compressed message inflates to more, even if that is several NATS messages."""

    # --- receiving --------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See :meth:`trio.abc.ReceiveStream.receive_some`.

        :raises ProtocolError: if the server violates the WebSocket protocol or sends text.
        """
        limit = _READ if max_bytes is None else max_bytes
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        waited = False
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if not self._decoded:
                self._decode(limit)
            if self._control_frames and await self._send_control_frames():
                waited = True
            if self._decoded or self._ended is not None:
                break
            data = await self._transport.receive_some(limit)
            waited = True
            if not data:
                return b""
            self._connection.receive_data(bytes(data))
        if not waited:
            await trio.lowlevel.checkpoint()
        if not self._decoded:
            self._raise_ended()
        # No checkpoint from here on, so nothing is lost.
        data, self._decoded = self._decoded[:limit], self._decoded[limit:]
        return data

    def _raise_ended(self) -> None:
        if isinstance(self._ended, ProtocolError):
            raise ProtocolError(*self._ended.args)
        raise trio.BrokenResourceError from self._ended

    def _decode(self, limit: int) -> None:
        """Decode up to about ``limit`` bytes of the received data."""
        pieces: list[bytes] = []
        space = limit
        try:
            if self._deflate.inflating:
                space -= self._inflate(pieces, space)
            if space > 0 and self._ended is None:
                for event in self._connection.events():
                    space -= self._handle(event, pieces, space)
                    if space <= 0 or self._ended is not None:
                        break
        except zlib.error:
            self._fail("a message that cannot be inflated", CloseReason.INVALID_FRAME_PAYLOAD_DATA)
        self._decoded = pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _inflate(self, pieces: list[bytes], space: int) -> int:
        piece = self._deflate.inflate(space)
        pieces.append(piece)
        return len(piece)

    def _handle(self, event: Event, pieces: list[bytes], space: int) -> int:
        """Handle one event. Returns how many bytes were added to ``pieces``."""
        if isinstance(event, BytesMessage):
            data = bytes(event.data)
            if self._deflate.compressed:
                self._deflate.feed(data, event.message_finished)
                return self._inflate(pieces, space)
            pieces.append(data)
            return len(data)
        if isinstance(event, Ping):
            # Answering the latest of several Pings is enough, so at most one Pong waits.
            self._control_frames = self._connection.send(event.response())
        elif isinstance(event, TextMessage):
            self._fail("text instead of binary data", CloseReason.UNSUPPORTED_DATA)
        elif isinstance(event, CloseConnection):
            self._end(event)
        return 0

    def _end(self, event: CloseConnection) -> None:
        # wsproto reports a malformed frame as a Close, without changing the state.
        malformed = self._connection.state is ConnectionState.OPEN
        if not malformed:
            self._ended = ClosedByServer(f"the server closed the WebSocket: {_close_text(event)}")
            self._queue_close(event.response())
        elif "CLOSE" in (event.reason or ""):
            # wsproto rejects the reserved status that nats-server sends to clients that did not
            # answer its PINGs. It is a valid Close all the same.
            self._ended = ClosedByServer(f"the server closed the WebSocket ({event.reason})")
            self._queue_close(CloseConnection(code=CloseReason.PROTOCOL_ERROR))
        else:
            self._fail(f"a malformed frame: {event.reason}", CloseReason(event.code))

    def _fail(self, what: str, code: CloseReason) -> None:
        self._ended = ProtocolError(f"{self._server} broke the WebSocket protocol: {what}")
        self._queue_close(CloseConnection(code=code))

    def _queue_close(self, event: CloseConnection) -> None:
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._control_frames += self._connection.send(event)

    async def _send_control_frames(self) -> bool:
        """Write control frames, unless the sender will. Returns whether it has written."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            return False
        try:
            await self._write(b"")
        except trio.BrokenResourceError:
            # Continue to read what the server sent before it closed the connection.
            self._control_frames = b""
        finally:
            self._lock.release()
        return True

    # --- sending ----------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`trio.abc.SendStream.send_all`. If cancelled, nothing more can be sent."""
        if not data:
            await trio.lowlevel.checkpoint()
            return
        try:
            # Without a checkpoint, because writing to the transport executes one.
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            try:
                await self._lock.acquire()
            except BaseException:
                self._incomplete = True
                raise
        try:
            view, step = memoryview(data), self._frame_size()
            for start in range(0, len(view), step):
                if self._closed:
                    raise trio.ClosedResourceError
                if self._connection.state is not ConnectionState.OPEN:
                    raise trio.BrokenResourceError from self._ended
                # Not in a variable: it may hold credentials, and error reporters print variables.
                await self._write(
                    self._connection.send(BytesMessage(data=bytes(view[start : start + step])))
                )
            while self._control_frames:
                await self._write(b"")
        finally:
            self._lock.release()

    def _frame_size(self) -> int:
        if self.max_payload is None or not self._deflate.enabled():
            return _FRAME
        return max(1, min(_FRAME, self.max_payload()))

    async def _write(self, frame: bytes) -> None:
        """Write waiting control frames, then ``frame``. The caller holds the lock."""
        if self._incomplete:
            raise trio.BrokenResourceError("an earlier frame was not written completely")
        due, self._control_frames = self._control_frames, b""
        try:
            await self._transport.send_all(due + frame if due else frame)
        except BaseException:
            self._incomplete = True
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """See :meth:`trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._transport.wait_send_all_might_not_block()

    # --- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send a Close frame if that is possible without waiting, and close the connection.

        If cancelled, it is closed all the same.
        """
        if not self._closed:
            self._closed = True
            self.max_payload = None
            try:
                await self._send_close()
            finally:
                await self._transport.aclose()
        else:
            await trio.lowlevel.checkpoint()

    async def _send_close(self) -> None:
        # Without a Close frame, proxies would report an abnormal end. Streams are closed
        # forcefully, in a cancelled scope, so writing must be shielded. After an incomplete frame,
        # nothing more can be written.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            self._queue_close(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
            if self._control_frames and not self._incomplete:
                with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await self._write(b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._lock.release()


def _close_text(event: CloseConnection) -> str:
    """Describe a Close frame, such as ``1008 (policy violation): 'Authentication Failure'``."""
    name = ""
    if event.code in CloseReason.__members__.values():
        name = f" ({CloseReason(event.code).name.lower().replace('_', ' ')})"
    reason = "".join(char if char.isprintable() else "?" for char in event.reason or "")
    return f"{int(event.code)}{name}" + (f": {reason!r}" if reason else "")
