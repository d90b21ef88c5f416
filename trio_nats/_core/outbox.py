"""Bytes waiting to be written, and backpressure for those who publish.

The theory of operation. Publishing appends frames to an outbox, which is synchronous and cannot
fail; one task of the session, the writer, takes them out and writes them. So a frame is in the
outbox whole or not at all, whatever is cancelled, and no user's task ever touches the stream.

Frames are collected in *chunks*. The last one is open and being filled; the writer takes the first,
joins it and writes it in one go. Publishers wait before they append (:meth:`Outbox.wait_for_space`)
while the limit is reached. They also yield once for each chunk, so that a loop that only publishes
does not keep the writer from running.

Most messages take a short cut, because a method call for each would cost as much as all else.
:attr:`Outbox.easy` is a size: while the outbox is smaller, ``publish`` may extend
:attr:`Outbox.open` directly. It is 0 whenever something else has to be done: the writer sleeps and
must be woken, the chunk is full, the limit is reached, or the connection is closing.

Messages outlive the connection to a server; commands (SUB, UNSUB, PING) do not, because the next
server is told of all subscriptions anyway. So the two are told apart when a connection is lost.
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

# Writing a chunk takes some turns of the scheduler, so it must not be small. Filling it must not
# take long either, but large messages fill a large one soon. If the connection breaks while a chunk
# is being written, what is in it counts as lost.
_CHUNK = 128 * 1024
_LARGE_CHUNK = 512 * 1024
_FEW = 1024
"""Messages that a chunk should have space for."""
# PONGs jump the queue, so a peer that asks for them and does not read them must be stopped.
_MAX_PONGS = 1024

Chunk: TypeAlias = list[bytes]
"""Frames in pieces, three each: of a message as :func:`.commands.pub` cuts it, of anything else the
frame and twice nothing. A list of pieces is the cheapest thing to add to, and big payloads are
copied only once, when they are written."""


class Outbox:
    """Frames in the order they were accepted, in chunks of about 128 KiB, 512 KiB for large ones.

    See the top of this module.
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
        """While ``size`` is below this, a message may be added to :attr:`open`, and its size to
        ``size``, without anything else. See the top of this module."""

    # --- adding ----------------------------------------------------------------------------------

    def append(self, frame: Frame) -> None:
        """Accept a message."""
        self._wake()
        head, body, _ = frame
        self.size += len(head) + len(body) + 2
        self.open += frame

    def command(self, frame: bytes) -> None:
        """Accept anything else."""
        self._wake()
        self.size += len(frame)
        self.open += (frame, b"", b"")
        self._commands += 1

    def prepend(self, frames: list[bytes]) -> None:
        """Put commands ahead of everything that waits: a new server must get them first."""
        if frames:
            data = b"".join(frames)
            self.size += len(data)
            self._seal()
            self._chunks.appendleft([data, b"", b""])
            self._wake()

    def pong(self) -> bool:
        """Answer a PING, ahead of everything. ``False`` if too many answers are waiting already."""
        self._pongs += 1
        self._wake()
        return self._pongs <= _MAX_PONGS

    def has_space(self) -> bool:
        """Whether :meth:`wait_for_space` would only look for cancellation."""
        return self.size < min(self._limit, self._unyielded + self._share) and not self._closing

    async def wait_for_space(self) -> None:
        """A checkpoint that waits while the limit is reached, or raises, as was chosen.

        Yields to other tasks at least once for every chunk's worth of frames, so that a loop that
        does nothing but publish does not keep the writer from writing. If cancelled, nothing has
        happened.
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
        """Raise where the limit is reached and :meth:`wait_for_space` would wait."""
        if self.size >= self._limit:
            raise self._full()
        if not self.has_space():
            self._begin_chunk()

    def _full(self) -> OutboxFullError:
        return OutboxFullError(
            f"{self.size:,} bytes are waiting to be written (outbox_size is "
            f"{self._limit:,}): the server is away, or slower than what is published"
        )

    @property
    def accepted(self) -> int:
        """How many messages have been appended so far."""
        return self._sealed + len(self.open) // 3 - self._commands

    # --- writing ---------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Return once there may be something to write, at once if there is. For the one writer."""
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
        """Remove the next chunk. Call :meth:`written` once it is, or :meth:`lost` if not."""
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
        """``size`` bytes taken have been dealt with; there may be space now."""
        if self._closed:
            return
        self.size -= size
        self._unyielded = min(self._unyielded, self.size)
        self._set_easy()
        if self._for_space and self.size < self._limit:
            self._for_space.unpark_all()

    def lost(self, chunk: Chunk) -> int:
        """A chunk taken will never be written. Returns how many messages were in it."""
        self.written(sum(map(len, chunk)))
        return chunk[2::3].count(CRLF)

    def let_writer_go(self) -> None:
        """Let the writer's :meth:`wait` return, so that it can look for another outbox."""
        self._wake()

    # --- when a connection ends ------------------------------------------------------------------

    def forget_commands(self) -> list[bytes]:
        """Keep only messages. Returns the commands, which were meant for a server that is gone."""
        self._pongs = 0
        return self._remove(lambda _, end: not end)

    def remove_messages(self, unwanted: Callable[[bytes], bool]) -> list[bytes]:
        """Take out the messages whose head ``unwanted`` is true for; returns those heads."""
        return self._remove(lambda head, end: bool(end) and unwanted(head))

    def _remove(self, unwanted: Callable[[bytes, bytes], bool]) -> list[bytes]:
        """Take out frames by their first and last piece; returns the first pieces."""
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
        """Send every publisher through :meth:`wait_for_space`; then they look at the state."""
        self._closing = True
        self._set_easy()

    def close(self) -> None:
        """Drop everything, and wake the tasks that wait for space."""
        self._closing = self._closed = True
        self._seal()
        self._chunks.clear()
        self._pongs = 0
        self.size = 0
        self._set_easy()
        self._for_space.unpark_all()

    # ---------------------------------------------------------------------------------------------

    def _begin_chunk(self) -> None:
        """Close the open chunk; what follows belongs to the next turn."""
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
        """Let the writer run once the current task waits for something."""
        writer = self._writer
        if writer is not None:
            # Scheduling it from another run would corrupt both.
            self._check_run()
            self._writer = None
            self._set_easy()
            trio.lowlevel.reschedule(writer)
