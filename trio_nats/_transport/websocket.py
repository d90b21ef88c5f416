"""NATS over WebSocket: a byte stream in binary messages, whose boundaries have no meaning.

wsproto handles the frames. This is the stream around it, which buffers at most one read.
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
# Hardly any chunk of the writer is larger. It limits how much is copied, masked and compressed at
# a time, and how much of a compressed message the server must buffer.
_FRAME = 256 * 1024
# Seconds to wait for the Close frame to be written. It takes no time unless the network is stuck.
_FAREWELL = 0.1


class ClosedByServer(Exception):
    """The server sent a Close frame. Used as the cause of a broken stream."""


class WebSocketStream(trio.abc.Stream):
    """An open WebSocket as a Trio stream, for one sending and one receiving task.

    If the sender is writing, it answers Pings and Closes after the current frame; otherwise the
    receiver does. If a frame is not written completely, because of an error or a cancellation,
    nothing more can be sent.
    """

    def __init__(
        self, transport: trio.abc.Stream, connection: Connection, deflate: Deflate, server: str
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._deflate = deflate
        self._server = server
        self._lock = trio.Lock()
        self._due = b""
        """Control frames that must be written."""
        self._torn = False
        """Whether an earlier frame was not written completely."""
        self._held = b""
        """Decoded bytes that have not been returned yet."""
        self._ended: Exception | None = None
        """Why nothing more can be received."""
        self._closed = False
        self.max_payload: Callable[[], int] | None = None
        """The server's limit, when it is known. nats-server closes the connection if a compressed
        message inflates to more, however many NATS messages that is."""

    # --- receiving --------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See :meth:`trio.abc.ReceiveStream.receive_some`.

        Raises :exc:`ProtocolError` if the server violates the WebSocket protocol or sends text.
        """
        limit = _READ if max_bytes is None else max_bytes
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        waited = False
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if not self._held:
                self._decode(limit)
            if self._due and await self._answer():
                waited = True
            if self._held or self._ended is not None:
                break
            data = await self._transport.receive_some(limit)
            waited = True
            if not data:
                return b""
            self._connection.receive_data(bytes(data))
        if not waited:
            await trio.lowlevel.checkpoint()
        if not self._held:
            self._raise_ended()
        # No checkpoint from here on, so nothing is lost.
        data, self._held = self._held[:limit], self._held[limit:]
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
        self._held = pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _inflate(self, pieces: list[bytes], space: int) -> int:
        piece = self._deflate.inflate(space)
        pieces.append(piece)
        return len(piece)

    def _handle(self, event: Event, pieces: list[bytes], space: int) -> int:
        """Handle one event. Returns how many bytes it added."""
        if isinstance(event, BytesMessage):
            data = bytes(event.data)
            if self._deflate.compressed:
                self._deflate.feed(data, event.message_finished)
                return self._inflate(pieces, space)
            pieces.append(data)
            return len(data)
        if isinstance(event, Ping):
            # Answering the latest of several Pings is enough, so at most one answer is due.
            self._due = self._connection.send(event.response())
        elif isinstance(event, TextMessage):
            self._fail("text instead of binary data", CloseReason.UNSUPPORTED_DATA)
        elif isinstance(event, CloseConnection):
            self._end(event)
        return 0

    def _end(self, event: CloseConnection) -> None:
        malformed = self._connection.state is ConnectionState.OPEN  # how wsproto reports it
        if not malformed:
            self._ended = ClosedByServer(f"the server closed the WebSocket: {_close_text(event)}")
            self._say(event.response())
        elif "CLOSE" in (event.reason or ""):
            # nats-server uses a reserved status for clients that did not answer its PINGs. It is a
            # valid Close all the same.
            self._ended = ClosedByServer(f"the server closed the WebSocket ({event.reason})")
            self._say(CloseConnection(code=CloseReason.PROTOCOL_ERROR))
        else:
            self._fail(f"a malformed frame: {event.reason}", CloseReason(event.code))

    def _fail(self, what: str, code: CloseReason) -> None:
        self._ended = ProtocolError(f"{self._server} broke the WebSocket protocol: {what}")
        self._say(CloseConnection(code=code))

    def _say(self, event: CloseConnection) -> None:
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._due += self._connection.send(event)

    async def _answer(self) -> bool:
        """Write control frames, unless the sender will. Returns whether it has waited."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            return False
        try:
            await self._write(b"")
        except trio.BrokenResourceError:
            # Continue to read what the server sent before it closed the connection.
            self._due = b""
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
            # No checkpoint here: writing to the transport is one.
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            try:
                await self._lock.acquire()
            except BaseException:
                self._torn = True
                raise
        try:
            view, step = memoryview(data), self._frame_size()
            for start in range(0, len(view), step):
                if self._closed:
                    raise trio.ClosedResourceError
                if self._connection.state is not ConnectionState.OPEN:
                    raise trio.BrokenResourceError from self._ended
                # In no variable, because it may hold credentials, and a traceback may show it.
                await self._write(
                    self._connection.send(BytesMessage(data=bytes(view[start : start + step])))
                )
            while self._due:
                await self._write(b"")
        finally:
            self._lock.release()

    def _frame_size(self) -> int:
        if self.max_payload is None or not self._deflate.enabled():
            return _FRAME
        return max(1, min(_FRAME, self.max_payload()))

    async def _write(self, frame: bytes) -> None:
        """Write control frames that are due, and then ``frame``. The caller holds the lock."""
        if self._torn:
            raise trio.BrokenResourceError("an earlier frame was not written completely")
        due, self._due = self._due, b""
        try:
            await self._transport.send_all(due + frame if due else frame)
        except BaseException:
            self._torn = True
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """See :meth:`trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._transport.wait_send_all_might_not_block()

    # --- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send a Close frame if that is possible at once, and close the connection.

        If cancelled, it is closed all the same.
        """
        if not self._closed:
            self._closed = True
            self.max_payload = None
            try:
                await self._say_goodbye()
            finally:
                await self._transport.aclose()
        else:
            await trio.lowlevel.checkpoint()

    async def _say_goodbye(self) -> None:
        # Without a Close frame proxies would report an abnormal end. Streams are closed forcefully,
        # in a cancelled scope, so writing must be shielded. If a task was cancelled in the middle
        # of a frame, the stream is torn and nothing can be written.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            self._say(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
            if self._due and not self._torn:
                with trio.move_on_after(_FAREWELL, shield=True):
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
