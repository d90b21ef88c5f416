"""A bounded queue of messages that wait to be received."""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Protocol

import trio

from ..events import SlowConsumer
from ..message import Msg
from ..options import PendingLimits
from .event_hub import EventHub
from .router import Router
from .stats import Counters

__all__ = ["PendingOwner", "PendingQueue", "pending_size"]

_logger = logging.getLogger("trio_nats.subscription")


class PendingOwner(Protocol):
    """The connection that messages arrive on."""

    @property
    def counters(self) -> Counters: ...
    @property
    def event_hub(self) -> EventHub: ...
    @property
    def router(self) -> Router: ...
    @property
    def disconnected_for(self) -> float | None: ...


class PendingQueue:
    """The queue of a subscription, or of the replies to a request.

    Its byte count grows as messages arrive, but shrinks only while the exact value matters:
    subtracting for every message would slow down receiving.
    """

    def __init__(self, owner: PendingOwner, subject: str, limits: PendingLimits) -> None:
        self._owner = owner
        self._subject = subject
        self._limits = limits
        self._max_messages = limits.messages
        self._max_bytes = limits.bytes
        self._queue: deque[Msg] = deque()
        self._bytes = 0  # exact while `_watched`, otherwise possibly too large
        self._full = False
        self._watched = False
        self._taken = trio.lowlevel.ParkingLot()
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

    def _let_go(self) -> None:
        """Make :meth:`_wait_taken` return, even if messages are left."""
        self._taken.unpark_all()

    def _lift_limits(self) -> None:
        """Accept all further messages: the subscription is about to end."""
        self._max_messages = self._max_bytes = sys.maxsize
        self._owner.router.unstall(self)

    async def _wait_taken(self) -> None:
        """Wait until no message is left to be received."""
        await trio.lowlevel.checkpoint()
        if self._queue:
            self._recount()
            self._watched = True
            await self._taken.park()

    # --- adding ----------------------------------------------------------------------------------

    def _keep(self, msg: Msg) -> None:
        """Add a message, unless a limit is reached."""
        queue = self._queue
        size = pending_size(msg)
        if queue:
            size += self._bytes
        if len(queue) >= self._max_messages or size > self._max_bytes:
            self._keep_at_limit(msg)
        else:
            queue.append(msg)
            self._bytes = size

    def _keep_at_limit(self, msg: Msg) -> None:
        """Add a message when a limit is reached, or seems to be."""
        self._recount()
        size = pending_size(msg)
        if len(self._queue) < self._max_messages and self._bytes + size <= self._max_bytes:
            self._queue.append(msg)
            self._bytes += size
            # With less than half of the space free, it would soon have to be counted again.
            self._watched = self._watched or self._bytes * 2 > self._max_bytes
        else:
            self._overflow(msg, size)

    def _overflow(self, msg: Msg, size: int) -> None:
        policy = self._limits.when_full
        first = not self._full
        self._full = self._watched = True
        if policy == "wait" and self._owner.router.stall(self):
            self._queue.append(msg)
            self._bytes += size
        elif policy == "drop_oldest":
            self._queue.append(msg)
            self._bytes += size
            while len(self._queue) > 1 and (
                len(self._queue) > self._max_messages or self._bytes > self._max_bytes
            ):
                self._forget(self._queue.popleft())
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
        if self._watched:
            self._forget(msg)
        return msg

    def _forget(self, msg: Msg) -> None:
        """Count a message that was removed while ``_watched``."""
        self._bytes -= pending_size(msg)
        # The queue counts as full until half of the space is free again.
        free = len(self._queue) * 2 <= self._max_messages and self._bytes * 2 <= self._max_bytes
        if self._full and free:
            self._full = False
            self._owner.router.unstall(self)
        if not self._queue:
            self._taken.unpark_all()
        self._watched = self._full or bool(self._taken) or not free

    def _clear(self) -> None:
        """Drop all messages, because no task will receive them."""
        self._queue.clear()
        self._bytes = 0
        self._owner.router.unstall(self)

    def _recount(self) -> None:
        """Make ``_bytes`` exact."""
        if not self._watched:
            self._bytes = sum(map(pending_size, self._queue))


def pending_size(msg: Msg) -> int:
    """Return the size at which a message counts, in bytes."""
    raw = msg.raw_headers
    return len(msg.data) if raw is None else len(msg.data) + len(raw)
