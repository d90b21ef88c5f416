"""Bytes waiting to be written, and backpressure for publishers.

Theory of operation. Publishing appends frames to an outbox, which is synchronous and cannot fail.
One task of the session, the writer, removes the frames and writes them. A frame is therefore
either complete in the outbox or not there at all, whatever is cancelled, and no user task ever
touches the stream.

Frames are collected in *chunks*. The last chunk is open and being filled; the writer removes the
first one, joins it and writes it in one call. While the limit is reached, publishers wait before
they append (:meth:`Outbox.wait_for_space`). They also yield once per chunk, so that a loop that
only publishes cannot starve the writer.

Most messages take a short cut, because a method call per message would double the cost of
publishing. :attr:`Outbox.easy` is a size: while the outbox is smaller, ``publish`` may extend
:attr:`Outbox.open` directly. It is 0 whenever something else must be done: the writer is asleep and
must be woken, the chunk is full, the limit is reached, or the connection is closing.

When a connection is lost, messages are kept and commands (SUB, UNSUB, PING) are discarded, because
all subscriptions are sent to the next server anyway.
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

# Writing a chunk takes several scheduler steps, so it must not be small. Filling it must not take
# long either; large messages fill even a large chunk quickly. If the connection breaks while a
# chunk is being written, its messages count as lost.
_CHUNK = 128 * 1024
_LARGE_CHUNK = 512 * 1024
_FEW = 1024
"""Number of messages that a chunk should have space for."""
# PONGs are not held up by the limit, so a peer that sends PINGs without reading the answers must
# be stopped.
_MAX_PONGS = 1024

Chunk: TypeAlias = list[bytes]
"""Frames of three pieces each: a message as :func:`.commands.pub` splits it, or a command and two
empty pieces. A list of pieces is the cheapest thing to append to, and large payloads are copied
only once, when they are written."""


class Outbox:
    """Frames in the order they were accepted, in chunks of about 128 KiB (512 KiB if frames are
    large). See the module docstring.
    """

    def __init__(
        self, limit: int, when_full: WhenOutboxFull, check_run: Callable[[], None]
    ) -> None:
        self._limit = limit
        self._when_full: WhenOutboxFull = when_full
        self._check_run = check_run
        self._chunks: deque[Chunk] = deque()
        self.open: Chunk = []
        """The chunk that is being filled."""
        self._sealed = 0
        self._commands = 0
        self._pongs = 0
        self._writer: trio.lowlevel.Task | None = None
        self._for_space = trio.lowlevel.ParkingLot()
        self._unyielded = 0
        self._share = _CHUNK
        self._closing = False
        self._closed = False
        self.size: int = 0
        """Bytes waiting, those being written included."""
        self.easy: int = 0
        """While ``size`` is below this, it is enough to add a message to :attr:`open` and its size
        to ``size``. See the module docstring."""

    # --- adding ----------------------------------------------------------------------------------

    def append(self, frame: Frame) -> None:
        """Accept a message."""
        self._wake()
        head, body, _ = frame
        self.size += len(head) + len(body) + 2
        self.open += frame

    def command(self, frame: bytes) -> None:
        """Accept a command."""
        self._wake()
        self.size += len(frame)
        self.open += (frame, b"", b"")
        self._commands += 1

    def prepend(self, frames: list[bytes]) -> None:
        """Put commands ahead of everything else, because a new server must receive them first."""
        if frames:
            data = b"".join(frames)
            self.size += len(data)
            self._seal()
            self._chunks.appendleft([data, b"", b""])
            self._wake()

    def pong(self) -> bool:
        """Answer a PING ahead of everything else. ``False`` if too many answers are waiting."""
        self._pongs += 1
        self._wake()
        return self._pongs <= _MAX_PONGS

    def has_space(self) -> bool:
        """Whether :meth:`wait_for_space` would only check for cancellation."""
        return self.size < min(self._limit, self._unyielded + self._share) and not self._closing

    async def wait_for_space(self) -> None:
        """A checkpoint that waits, or raises, while the limit is reached (see ``when_full``).

        Yields to other tasks at least once per chunk of frames, so that a loop that only publishes
        cannot starve the writer. If cancelled, nothing has happened.
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
            await self._for_space.park()

    def check_space(self) -> None:
        """Raise if the limit is reached, where :meth:`wait_for_space` would wait."""
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
        return self._sealed + len(self.open) // 3 - self._commands

    # --- writing ---------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Wait until there may be something to write. Only the writer may call this."""
        if self._chunks or self.open or self._pongs:
            return

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._writer = None
            self._set_easy()
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        self._set_easy()
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
        """Account for ``size`` bytes that have left the outbox. Wakes tasks that wait for space."""
        if self._closed:
            return
        self.size -= size
        self._unyielded = min(self._unyielded, self.size)
        self._set_easy()
        if self._for_space and self.size < self._limit:
            self._for_space.unpark_all()

    def lost(self, chunk: Chunk) -> int:
        """Account for a chunk that will never be written. Returns how many messages it held."""
        self.written(sum(map(len, chunk)))
        return chunk[2::3].count(CRLF)

    def let_writer_go(self) -> None:
        """Wake the writer from :meth:`wait`, so that it can change to another outbox."""
        self._wake()

    # --- when a connection ends ------------------------------------------------------------------

    def forget_commands(self) -> list[bytes]:
        """Remove and return the commands, which were meant for a lost server. Keeps messages."""
        self._pongs = 0
        return self._remove(lambda _, end: not end)

    def remove_messages(self, unwanted: Callable[[bytes], bool]) -> list[bytes]:
        """Remove the messages for whose head ``unwanted`` is true. Returns those heads."""
        return self._remove(lambda head, end: bool(end) and unwanted(head))

    def _remove(self, unwanted: Callable[[bytes, bytes], bool]) -> list[bytes]:
        """Remove frames, selected by their first and last pieces. Returns the first pieces."""
        self._seal()
        chunks, self._chunks = self._chunks, deque()
        gone: list[bytes] = []
        size = 0
        for chunk in chunks:
            kept: Chunk = []
            for start in range(0, len(chunk), 3):
                frame = chunk[start : start + 3]
                if unwanted(frame[0], frame[2]):
                    gone.append(frame[0])
                    size += sum(map(len, frame))
                else:
                    kept += frame
            if kept:
                self._chunks.append(kept)
        self.written(size)
        return gone

    def begin_closing(self) -> None:
        """Make every publisher call :meth:`wait_for_space` and check the connection's state."""
        self._closing = True
        self._set_easy()

    def close(self) -> None:
        """Discard everything and wake the tasks that wait for space."""
        self._closing = self._closed = True
        self._seal()
        self._chunks.clear()
        self._pongs = 0
        self.size = 0
        self._set_easy()
        self._for_space.unpark_all()

    # ---------------------------------------------------------------------------------------------

    def _begin_chunk(self) -> None:
        """Close the open chunk and begin to count towards the next yield."""
        if self.open:
            frame = len(self.open[-3]) + len(self.open[-2])
            self._share = min(max(_CHUNK, frame * _FEW), _LARGE_CHUNK)
        self._seal()
        self._unyielded = self.size
        self._set_easy()

    def _seal(self) -> None:
        if self.open:
            self._sealed += len(self.open) // 3
            self._chunks.append(self.open)
            self.open = []

    def _set_easy(self) -> None:
        at_ease = self._writer is None and not self._closing
        self.easy = min(self._limit, self._unyielded + self._share) if at_ease else 0

    def _wake(self) -> None:
        """Schedule the writer if it is asleep."""
        writer = self._writer
        if writer is not None:
            # Scheduling it from another run would corrupt both.
            self._check_run()
            self._writer = None
            self._set_easy()
            trio.lowlevel.reschedule(writer)
