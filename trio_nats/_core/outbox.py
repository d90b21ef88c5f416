"""What waits to be written, and who waits for room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .._protocol import commands
from ..errors import OutboxFullError
from .settings import WhenFull

__all__ = ["Outbox"]

# A chunk is joined and written in one go. Larger ones gain nothing, and what is in one when the
# wire breaks counts as lost.
_CHUNK = 64 * 1024
# PONGs jump the queue, so a peer that asks for them and does not read them must be stopped.
_MAX_PONGS = 1024


class Outbox:
    """Frames in the order they were accepted, in chunks of about 64 KiB.

    Appending is synchronous and never fails, so a frame is in it whole or not at all, whatever is
    cancelled. Waiting for room comes before.
    """

    def __init__(self, limit: int, when_full: WhenFull, check_run: Callable[[], None]) -> None:
        self._limit = limit
        self._when_full: WhenFull = when_full
        self._check_run = check_run
        self._chunks: deque[list[bytes]] = deque()
        self._open: list[bytes] = []
        self._open_size = 0
        self._pongs = 0
        self._writer: trio.lowlevel.Task | None = None
        self._for_room = trio.lowlevel.ParkingLot()
        self._unyielded = 0
        self._closed = False
        self.size: int = 0
        """Bytes waiting, those being written included."""

    def append(self, frame: bytes) -> None:
        """Accept one whole frame."""
        if self._writer is not None:
            self._wake()
        size = len(frame)
        self.size += size
        self._open_size += size
        self._open.append(frame)
        if self._open_size >= _CHUNK:
            self._seal()

    def prepend(self, frames: list[bytes]) -> None:
        """Put frames before all that waits: what a new wire has to hear first."""
        if frames:
            self.size += sum(map(len, frames))
            self._seal()
            self._chunks.appendleft(frames)
            self._wake()

    def pong(self) -> bool:
        """Answer a PING, ahead of everything. ``False`` if too many answers are waiting already."""
        self._pongs += 1
        self._wake()
        return self._pongs <= _MAX_PONGS

    def has_room(self) -> bool:
        """Whether :meth:`room` would only look for cancellation."""
        return self.size < self._limit and self.size - self._unyielded < _CHUNK

    async def room(self) -> None:
        """A checkpoint that waits while the limit is reached, or raises, as was chosen.

        Yields to other tasks at least once for every chunk's worth of frames, so that a loop that
        does nothing but publish does not keep the writer from writing. Cancelled, nothing has
        happened.
        """
        if self.has_room():
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        if self.size < self._limit:
            self._unyielded = self.size
            await trio.lowlevel.checkpoint()
        self._check_run()
        while self.size >= self._limit:
            if self._when_full == "raise":
                error = self._full()
                await trio.lowlevel.checkpoint()
                raise error
            await self._for_room.park()

    def check_room(self) -> None:
        """Raise where the limit is reached and :meth:`room` would wait."""
        if self.size >= self._limit:
            raise self._full()

    def _full(self) -> OutboxFullError:
        return OutboxFullError(
            f"{self.size:,} bytes are waiting to be written (pending_size is "
            f"{self._limit:,}): the server is away, or slower than what is published"
        )

    async def wait(self) -> None:
        """Return once there may be something to write, at once if there is. For the one writer."""
        if self._chunks or self._open or self._pongs:
            return

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def take(self) -> list[bytes]:
        """Remove the next chunk. Call :meth:`written` once it is, or :meth:`lost` if not."""
        if self._chunks:
            chunk = self._chunks.popleft()
        else:
            chunk, self._open, self._open_size = self._open, [], 0
        if self._pongs:
            self.size += len(commands.PONG) * self._pongs
            chunk = [commands.PONG * self._pongs, *chunk]
            self._pongs = 0
        return chunk

    def written(self, size: int) -> None:
        """``size`` bytes taken are done with; there may be room now."""
        if self._closed:
            return
        self.size -= size
        self._unyielded = min(self._unyielded, self.size)
        if self._for_room and self.size < self._limit:
            self._for_room.unpark_all()

    def lost(self, chunk: list[bytes]) -> int:
        """A chunk taken will never be written. Returns how many messages were in it."""
        self.written(sum(map(len, chunk)))
        return sum(map(_is_message, chunk))

    def release_writer(self) -> None:
        """Let the writer's :meth:`wait` return, so that it can look for another outbox."""
        self._wake()

    def forget_commands(self) -> int:
        """Keep only messages: what else waits was meant for a wire that is gone.

        Returns how many PINGs of ours were among it.
        """
        self._seal()
        waiting = [frame for chunk in self._chunks for frame in chunk]
        gone = [frame for frame in waiting if not _is_message(frame)]
        kept = [[frame for frame in chunk if _is_message(frame)] for chunk in self._chunks]
        self._chunks = deque(chunk for chunk in kept if chunk)
        self._pongs = 0
        self.written(sum(map(len, gone)))
        return gone.count(commands.PING)

    def close(self) -> None:
        """Drop everything, and let go whoever waits for room."""
        self._closed = True
        self._chunks.clear()
        self._open, self._open_size, self._pongs = [], 0, 0
        self.size = 0
        self._for_room.unpark_all()

    def _seal(self) -> None:
        if self._open:
            self._chunks.append(self._open)
            self._open, self._open_size = [], 0

    def _wake(self) -> None:
        """Have the writer run, after the present task has gone on to wait for something."""
        writer = self._writer
        if writer is not None:
            # Scheduling it from another run would corrupt both.
            self._check_run()
            self._writer = None
            trio.lowlevel.reschedule(writer)


def _is_message(frame: bytes) -> bool:
    return frame.startswith((b"PUB ", b"HPUB "))
