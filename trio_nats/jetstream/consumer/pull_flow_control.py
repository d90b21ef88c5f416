"""Flow control of pull requests: how much is requested, and how much to request next. Sans-IO.

Theory of operation (ADR-37): ``consume`` keeps at most ``limit`` messages, or bytes, that are
either requested or have arrived and wait to be received. When that falls below ``threshold``,
another pull request asks for the difference. A user who receives slowly thereby slows down the
server.

A message does not tell which pull request it answers, so messages are counted together. A status
does: the reply subject of each pull request contains its number. A status that ends a pull request
early tells how much of it was not delivered, which then can be requested again.

Without ``prefetch`` it requests one message for each task that waits for one, and nothing in
advance.

Pull requests are lost with a connection, or with the leader of the consumer. A new generation
begins then: statuses of earlier pull requests are ignored, messages that have arrived still fill
their part of the limit, and the rest is requested again. If an earlier pull request was alive after
all, up to ``limit`` more arrives, once.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["LARGEST_BATCH", "Pull", "PullFlowControl", "PullRequest"]

LARGEST_BATCH = 1_000_000
"""Number of messages to request if bytes are the limit (ADR-37)."""

MAX_REMEMBERED = 64
"""Number of pull requests of which the amount is remembered, in case they end early."""


class PullRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pull request as sent to the server. Times are in nanoseconds."""

    batch: int
    expires: int = 0
    max_bytes: int = 0
    no_wait: bool = False
    idle_heartbeat: int = 0
    group: str = ""
    id: str = ""
    min_pending: int = 0
    min_ack_pending: int = 0
    priority: int = 0

    def encode(self) -> bytes:
        """Return the payload of the request."""
        return msgspec.json.encode(self)


class Pull(msgspec.Struct, frozen=True):
    """The number of a pull request, and how much it asks for."""

    number: int
    batch: int
    max_bytes: int = 0


class PullFlowControl:
    """Counts what was requested and received, and decides on the next pull request.

    :param limit: the most to have requested or waiting: messages, or bytes with ``by_bytes``.
    :param by_bytes: whether ``limit`` and ``threshold`` are in bytes.
    :param threshold: request more below this. Default: half of ``limit``.
    :param stop_after: number of messages to request in all. Default: no limit.
    :param largest_batch: the most messages that the consumer allows in a pull request; 0 for no
        limit.
    :param prefetch: whether to request messages in advance. Otherwise set :attr:`wanted`.
    """

    def __init__(
        self,
        limit: int,
        *,
        by_bytes: bool = False,
        threshold: int | None = None,
        stop_after: int | None = None,
        largest_batch: int = 0,
        prefetch: bool = True,
    ) -> None:
        self.by_bytes = by_bytes
        self.wanted: int | None = None if prefetch else 0
        """Number of tasks that wait for a message; ``None`` to request messages in advance."""
        self.left: int | None = stop_after
        """Number of messages left until ``stop_after``; ``None`` for no limit."""
        self.taken_in_all: int = 0
        """Number of messages received in all."""
        self._limit = limit
        self._threshold = math.ceil(limit / 2) if threshold is None else threshold
        self._largest_batch = largest_batch or LARGEST_BATCH
        self._pending = 0  # requested in this generation, and not received yet
        self._stale = 0  # messages that waited when the generation began
        self._stale_room = 0  # the part of the limit that they fill
        self._first = 1  # the first pull request of the generation
        self._number = 0
        self._amounts: dict[int, int] = {}
        self._starved = False

    @property
    def pending(self) -> int:
        """Messages, or bytes, that were requested and not received yet."""
        return self._pending

    @property
    def held(self) -> int:
        """The part of the limit that is in use."""
        return self._pending + self._stale_room

    def taken(self, size: int = 0) -> bool:
        """Count a message that was received. Return whether to request more.

        :param size: its size in bytes; only needed with ``by_bytes``.
        """
        self.taken_in_all += 1
        self._starved = False
        if self.left is not None:
            self.left -= 1
        amount = size if self.by_bytes else 1
        if self._stale:
            self._stale_gone(amount)
        elif self._pending > amount:
            self._pending -= amount
        else:
            self._pending = 0
        return self.wanted is None and self._pending + self._stale_room < self._threshold

    def status_taken(self) -> None:
        """Count a status that was taken out; it may have waited among the messages."""
        if self._stale:
            self._stale_gone(0 if self.by_bytes else 1)

    def _stale_gone(self, amount: int) -> None:
        self._stale -= 1
        self._stale_room = max(0, self._stale_room - amount) if self._stale else 0

    def next_pull(self) -> Pull | None:
        """Return the pull request to send now, counting it as sent; ``None`` if none is due."""
        held, limit, threshold = self.held, self._limit, self._threshold
        if self.wanted is not None:
            limit = threshold = min(limit, self.wanted)
        if held >= threshold or (self._starved and held):
            return None
        amount = limit - held
        batch = self._largest_batch
        if not self.by_bytes:
            batch = amount = min(amount, batch, self._messages_left(held))
        elif self.left is not None:
            batch = min(batch, self.left)
        if batch <= 0:
            return None
        self._number += 1
        self._pending += amount
        self._amounts[self._number] = amount
        if len(self._amounts) > MAX_REMEMBERED:
            del self._amounts[next(iter(self._amounts))]
        return Pull(self._number, batch, amount if self.by_bytes else 0)

    def _messages_left(self, held: int) -> int:
        return self._limit if self.left is None else self.left - held

    def is_current(self, number: int) -> bool:
        """Whether this is the number of a pull request of this generation."""
        return self._first <= number <= self._number

    def ended(
        self, number: int, messages: int | None, size: int | None, *, too_large: bool = False
    ) -> bool:
        """Count a pull request that has ended early.

        :param number: its number.
        :param messages: messages that it has not delivered; ``None`` if unknown.
        :param size: bytes that it has not delivered; ``None`` if unknown.
        :param too_large: whether it ended because the next message is larger than the rest.
        :returns: whether it asked for the whole limit, and has delivered nothing.
        """
        if not self.is_current(number):
            return False
        told = size if self.by_bytes else messages
        amount = self._amounts.pop(number, None)
        rest = amount if told is None else told
        if rest is None and self.wanted is not None:
            rest = 1  # It is no longer remembered. Without prefetch most ask for one message.
        if rest is not None:
            self._pending = max(0, self._pending - rest)
        # A smaller request would end the same way, so wait until the whole limit is free.
        self._starved = too_large
        return rest is not None and rest == amount == self._limit

    def withdraw(self, number: int) -> None:
        """Count a pull request as not sent."""
        self.ended(number, None, None)

    def start_generation(self, waiting: int, waiting_bytes: int) -> None:
        """Begin a new generation, because all pull requests are lost.

        :param waiting: number of messages and statuses that have arrived and wait.
        :param waiting_bytes: their size in bytes.
        """
        self._first = self._number + 1
        self._amounts.clear()
        self._pending = 0
        self._starved = False
        self._stale = waiting
        self._stale_room = min(self._limit, waiting_bytes if self.by_bytes else waiting)
