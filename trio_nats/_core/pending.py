"""A bounded queue of messages that are waiting to be received.

Theory of operation. Subtracting the bytes of each message at ``receive()`` would slow it down. So
``_bytes`` grows until the queue is empty, and may be too large. When it seems to reach a limit, the
messages are counted. If they take more than half of the space, ``_bytes_exact`` is set, and each
message is subtracted from then on, until half of the space is free again.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

import trio

from .._event_hub import EventHub
from ..events import Event, SlowConsumer
from ..message import Msg
from ..options import PendingLimits
from .router import Router
from .stats import Counters

__all__ = ["PendingOwner", "PendingQueue", "pending_size"]

_logger = logging.getLogger("trio_nats.subscription")


class PendingOwner(Protocol):
    """The connection that delivers the messages."""

    @property
    def counters(self) -> Counters: ...
    @property
    def event_hub(self) -> EventHub[Event]: ...
    @property
    def router(self) -> Router: ...
    @property
    def disconnected_for(self) -> float | None: ...


class PendingQueue:
    """The queue of a subscription, or of the replies to a request. See the module docstring."""

    def __init__(self, owner: PendingOwner, subject: str, limits: PendingLimits) -> None:
        self._owner = owner
        self._subject = subject
        self._limits = limits
        self._max_messages = limits.messages
        self._max_bytes = limits.bytes
        self._queue: deque[Msg] = deque()
        self._bytes = 0
        self._full = False
        self._bytes_exact = False
        self._may_stall = True
        self._empty_waiters = trio.lowlevel.ParkingLot()
        self._dropped = 0

    @property
    def subject(self) -> str:
        """The subject of the subscription, including wildcards, or of the request."""
        return self._subject

    @property
    def pending(self) -> tuple[int, int]:
        """Number of messages waiting to be received, and their size in bytes."""
        self._recount()
        return len(self._queue), self._bytes

    @property
    def dropped(self) -> int:
        """Number of messages dropped because the limits were reached."""
        return self._dropped

    def _wake_waiters(self) -> None:
        """Make :meth:`_wait_empty` return even if messages are left."""
        self._empty_waiters.unpark_all()

    def _end_stalls(self) -> None:
        """Never again stop reading when it is full, because the subscription is about to end.

        Instead, raise the limits by the default limits.
        """
        spare = PendingLimits()
        self._may_stall = False
        self._max_messages = self._limits.messages + spare.messages
        self._max_bytes = self._limits.bytes + spare.bytes
        self._owner.router.unstall(self)

    async def _wait_empty(self) -> None:
        """Wait until all messages have been received."""
        await trio.lowlevel.checkpoint()
        if self._queue:
            self._recount()
            self._bytes_exact = True
            await self._empty_waiters.park()

    # --- adding ----------------------------------------------------------------------------------

    def _enqueue(self, msg: Msg) -> None:
        """Add a message, unless a limit is reached."""
        queue = self._queue
        size = pending_size(msg)
        if queue:
            size += self._bytes
        if len(queue) >= self._max_messages or size > self._max_bytes:
            self._enqueue_at_limit(msg)
        else:
            queue.append(msg)
            self._bytes = size

    def _enqueue_at_limit(self, msg: Msg) -> None:
        """Add a message if the limits, which seem to be reached, still allow it."""
        self._recount()
        size = pending_size(msg)
        if len(self._queue) < self._max_messages and self._bytes + size <= self._max_bytes:
            self._queue.append(msg)
            self._bytes += size
            # If less than half of the space is free, they would soon have to be counted again.
            self._bytes_exact = self._bytes_exact or self._bytes * 2 > self._max_bytes
        else:
            self._overflow(msg, size)

    def _overflow(self, msg: Msg, size: int) -> None:
        policy = self._limits.when_full
        first = not self._full
        self._full = self._bytes_exact = True
        if policy == "wait" and self._may_stall and self._owner.router.stall(self):
            self._queue.append(msg)
            self._bytes += size
        elif policy == "drop_oldest":
            self._queue.append(msg)
            self._bytes += size
            while len(self._queue) > 1 and (
                len(self._queue) > self._max_messages or self._bytes > self._max_bytes
            ):
                self._uncount(self._queue.popleft())
                self._count_drop()
        else:
            self._count_drop()
        if first:
            _logger.warning(
                "slow consumer: %s has %d messages pending", repr(self), len(self._queue)
            )
            self._owner.event_hub.emit(
                SlowConsumer(self._subject, len(self._queue), self._bytes, self._dropped)
            )

    def _count_drop(self) -> None:
        self._dropped += 1
        self._owner.counters.dropped += 1

    # --- removing --------------------------------------------------------------------------------

    def _pop(self) -> Msg:
        """Remove and return the oldest message. The queue must not be empty."""
        msg = self._queue.popleft()
        if self._bytes_exact:
            self._uncount(msg)
        return msg

    def _uncount(self, msg: Msg) -> None:
        """Subtract a message that was removed while ``_bytes_exact``."""
        self._bytes -= pending_size(msg)
        # The queue counts as full (warns once, stalls the reader) until half of it is free again.
        free = len(self._queue) * 2 <= self._max_messages and self._bytes * 2 <= self._max_bytes
        if self._full and free:
            self._full = False
            self._owner.router.unstall(self)
        if not self._queue:
            self._empty_waiters.unpark_all()
        self._bytes_exact = self._full or bool(self._empty_waiters) or not free

    def _clear(self) -> None:
        """Drop all messages, because no task will receive them any more."""
        self._queue.clear()
        self._bytes = 0
        self._owner.router.unstall(self)

    def _recount(self) -> None:
        """Make ``_bytes`` exact."""
        if not self._bytes_exact:
            self._bytes = sum(map(pending_size, self._queue))


def pending_size(msg: Msg) -> int:
    """Return how many bytes a message counts towards the limits."""
    raw = msg.raw_headers
    return len(msg.data) if raw is None else len(msg.data) + len(raw)
