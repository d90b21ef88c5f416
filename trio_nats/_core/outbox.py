"""Frames waiting to be written, and backpressure for publishers.

Theory of operation. Publishing appends frames to an outbox, which is synchronous and cannot fail.
One task of the session, the writer, removes the frames and writes them. So a frame is either
complete in the outbox or not there at all, even if the publisher is cancelled, and no user task
ever touches the stream.

Frames are collected in *chunks*. Publishers fill the last one, :attr:`Outbox.open_chunk`. The
writer removes the first one, joins it and writes it in one call. While the outbox is full,
publishers wait before they append (:meth:`Outbox.wait_for_space`). They also yield once per chunk,
so that a loop that only publishes cannot starve the writer.

Most messages take a fast path, because a method call per message would double the cost of
publishing. While :attr:`Outbox.size` is below :attr:`Outbox.fast_path_limit`, ``publish`` extends
:attr:`Outbox.open_chunk` directly. The limit is the size at which the chunk or the outbox is full.
It is 0 while every publisher must take the slow path: to wake a writer that is asleep, or because
the connection is closing.

When a connection is lost, messages are kept. Commands (SUB, UNSUB, PING) are discarded, because all
subscriptions are sent to the next server anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import trio

from .._protocol import commands
from .._protocol.commands import CRLF, Frame
from ..errors import OutboxFullError
from .settings import WhenOutboxFull

__all__ = ["Chunk", "Outbox"]

# Writing a chunk costs several scheduler steps, so chunks must not be small. Filling one must not
# take long either, because publishers yield only once per chunk. If the connection breaks while a
# chunk is being written, all its messages count as lost.
_CHUNK = 128 * 1024
_LARGE_CHUNK = 512 * 1024
_MESSAGES_PER_CHUNK = 1024
"""Number of messages that a chunk has space for, if that takes no more than a large chunk."""
_MAX_PONGS = 1024
"""Maximum number of PONGs waiting. ``outbox_size`` does not limit them, so a peer that sends PINGs
without reading the answers has to be stopped."""

Chunk: TypeAlias = list[bytes]
"""Frames of three pieces each: a message as :func:`._protocol.commands.pub` splits it, or a
command and two empty pieces. Nothing is cheaper to append to than a list, and payloads are copied
only once, when they are written."""


class Outbox:
    """Frames in the order in which they were appended. See the module docstring.

    :param limit: size in bytes from which publishers have to wait.
    :param when_full: whether :meth:`wait_for_space` waits or raises while that is reached.
    :param check_run: raises if another ``trio.run()`` is current.
    """

    def __init__(
        self, limit: int, when_full: WhenOutboxFull, check_run: Callable[[], None]
    ) -> None:
        self._limit = limit
        self._when_full: WhenOutboxFull = when_full
        self._check_run = check_run
        self._chunks: deque[Chunk] = deque()
        self.open_chunk: Chunk = []
        """The chunk that is being filled."""
        self._sealed_frames = 0
        self._commands = 0
        self._pongs = 0
        self._writer: trio.lowlevel.Task | None = None
        self._space_waiters = trio.lowlevel.ParkingLot()
        self._size_at_yield = 0
        self._chunk_size = _CHUNK
        self._closing = False
        self._closed = False
        self.size: int = 0
        """Bytes waiting, including those being written."""
        self.fast_path_limit: int = 0
        """While :attr:`size` is below this, ``publish`` may extend :attr:`open_chunk` and add to
        ``size`` without calling a method. See the module docstring."""

    # --- adding ----------------------------------------------------------------------------------

    def append(self, frame: Frame) -> None:
        """Append a message."""
        self._wake()
        head, body, _ = frame
        self.size += len(head) + len(body) + 2
        self.open_chunk += frame

    def command(self, frame: bytes) -> None:
        """Append a command."""
        self._wake()
        self.size += len(frame)
        self.open_chunk += (frame, b"", b"")
        self._commands += 1

    def prepend(self, frames: list[bytes]) -> None:
        """Put commands ahead of everything else, for a new server to receive them first."""
        if frames:
            data = b"".join(frames)
            self.size += len(data)
            self._seal()
            self._chunks.appendleft([data, b"", b""])
            self._wake()

    def pong(self) -> bool:
        """Put a PONG ahead of everything else. Returns ``False`` if too many are waiting."""
        self._pongs += 1
        self._wake()
        return self._pongs <= _MAX_PONGS

    def has_space(self) -> bool:
        """Whether :meth:`wait_for_space` would only check for cancellation."""
        return (
            self.size < min(self._limit, self._size_at_yield + self._chunk_size)
            and not self._closing
        )

    async def wait_for_space(self) -> None:
        """Execute a checkpoint, and wait while the outbox is full.

        Yields to other tasks only once per chunk. If cancelled, nothing has changed.

        :raises OutboxFullError: instead of waiting, if ``when_full`` is ``"raise"``.
        """
        if self.has_space():
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._begin_chunk()
        if self.size < self._limit:
            await trio.lowlevel.checkpoint()
        self._check_run()
        while self.size >= self._limit:
            if self._when_full == "raise":
                error = self._full()
                await trio.lowlevel.checkpoint()
                raise error
            await self._space_waiters.park()

    def check_space(self) -> None:
        """Raise :exc:`OutboxFullError` if the outbox is full."""
        if self.size >= self._limit:
            raise self._full()
        if not self.has_space():
            self._begin_chunk()

    def _full(self) -> OutboxFullError:
        return OutboxFullError(
            f"{self.size:,} bytes are waiting to be written (outbox_size is "
            f"{self._limit:,}): there is no connection, or you publish faster than the server "
            "accepts; wait for it, or pass a larger outbox_size to open_nats"
        )

    @property
    def accepted(self) -> int:
        """Number of messages appended so far."""
        return self._sealed_frames + len(self.open_chunk) // 3 - self._commands

    # --- writing ---------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Wait until there is something to write, or :meth:`wake_writer` is called.

        Only the writer may call this.
        """
        if self._chunks or self.open_chunk or self._pongs:
            return

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._writer = None
            self._update_fast_path()
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        self._update_fast_path()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def take(self) -> Chunk:
        """Remove and return the next chunk. Call :meth:`written` or :meth:`lost` afterwards."""
        if not self._chunks:
            self._seal()
        chunk = self._chunks.popleft() if self._chunks else []
        if self._pongs:
            pongs = commands.PONG * self._pongs
            self.size += len(pongs)
            self._pongs = 0
            chunk[:0] = (pongs, b"", b"")
        return chunk

    def written(self, size: int) -> None:
        """Note that ``size`` bytes have left the outbox, and wake tasks that wait for space."""
        if self._closed:
            return
        self.size -= size
        self._size_at_yield = min(self._size_at_yield, self.size)
        self._update_fast_path()
        if self._space_waiters and self.size < self._limit:
            self._space_waiters.unpark_all()

    def lost(self, chunk: Chunk) -> int:
        """Note that a chunk cannot be written. Returns the number of its messages."""
        self.written(sum(map(len, chunk)))
        return chunk[2::3].count(CRLF)

    def wake_writer(self) -> None:
        """Wake the writer from :meth:`wait`, so that it can switch to another outbox."""
        self._wake()

    # --- when a connection ends ------------------------------------------------------------------

    def remove_commands(self) -> list[bytes]:
        """Remove and return the commands. Keeps messages, and forgets PONGs."""
        self._pongs = 0
        return self._remove(lambda _, end: not end)

    def remove_messages(self, unwanted: Callable[[bytes], bool]) -> list[bytes]:
        """Remove messages whose control line and headers are ``unwanted``. Returns these."""
        return self._remove(lambda head, end: bool(end) and unwanted(head))

    def _remove(self, unwanted: Callable[[bytes, bytes], bool]) -> list[bytes]:
        """Remove frames, selected by their first and last pieces. Returns the first pieces."""
        self._seal()
        chunks, self._chunks = self._chunks, deque()
        removed: list[bytes] = []
        size = 0
        for chunk in chunks:
            kept: Chunk = []
            for start in range(0, len(chunk), 3):
                frame = chunk[start : start + 3]
                if unwanted(frame[0], frame[2]):
                    removed.append(frame[0])
                    size += sum(map(len, frame))
                else:
                    kept += frame
            if kept:
                self._chunks.append(kept)
        self.written(size)
        return removed

    def begin_closing(self) -> None:
        """Make every publisher take the slow path, which checks the connection's state."""
        self._closing = True
        self._update_fast_path()

    def close(self) -> None:
        """Discard everything and wake the tasks that wait for space."""
        self._closing = self._closed = True
        self._seal()
        self._chunks.clear()
        self._pongs = 0
        self.size = 0
        self._update_fast_path()
        self._space_waiters.unpark_all()

    # ---------------------------------------------------------------------------------------------

    def _begin_chunk(self) -> None:
        """Seal the open chunk and begin another, after which publishers yield again."""
        if self.open_chunk:
            frame = len(self.open_chunk[-3]) + len(self.open_chunk[-2])
            self._chunk_size = min(max(_CHUNK, frame * _MESSAGES_PER_CHUNK), _LARGE_CHUNK)
        self._seal()
        self._size_at_yield = self.size
        self._update_fast_path()

    def _seal(self) -> None:
        if self.open_chunk:
            self._sealed_frames += len(self.open_chunk) // 3
            self._chunks.append(self.open_chunk)
            self.open_chunk = []

    def _update_fast_path(self) -> None:
        if self._writer is None and not self._closing:
            self.fast_path_limit = min(self._limit, self._size_at_yield + self._chunk_size)
        else:
            self.fast_path_limit = 0

    def _wake(self) -> None:
        """Schedule the writer if it is asleep."""
        writer = self._writer
        if writer is not None:
            # Scheduling it from another run would corrupt both.
            self._check_run()
            self._writer = None
            self._update_fast_path()
            trio.lowlevel.reschedule(writer)
