"""Pulling: what is asked of a consumer, and how much of it is still to come. Sans-IO.

A client that consumes keeps a bounded number of messages, or of bytes, asked for or waiting, and
asks for more once that falls below a threshold (ADR-37). Messages do not tell which pull they
answer, so they are counted all together; statuses do, by the number in the pull's reply subject.

When pulls are lost, with a connection say, a new generation begins: what waits to be received then
is only waited for, statuses of older pulls no longer count, and the room there is is asked for
again. If an old pull is alive after all, at most as much again comes once more.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["LARGEST_BATCH", "Pull", "PullFlowControl", "PullRequest"]

LARGEST_BATCH = 1_000_000
"""Messages to ask for where bytes are the limit (ADR-37)."""

MAX_REMEMBERED = 64
"""So many pulls are remembered, for the case that they are refused."""


class PullRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pull, as it is on the wire; times are in nanoseconds."""

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
        """The payload of the request."""
        return msgspec.json.encode(self)


class Pull(msgspec.Struct, frozen=True):
    """One pull: its number, and how much it asks for."""

    number: int
    batch: int
    max_bytes: int = 0


class PullFlowControl:
    """Counts what was asked for, and tells when to ask for how much.

    ``limit`` and ``threshold`` are messages, or bytes where ``by_bytes``. With ``stop_after`` no
    more messages than that are asked for. ``largest_batch`` is what the consumer allows in a pull;
    0 is any number.
    """

    def __init__(
        self,
        limit: int,
        *,
        by_bytes: bool = False,
        threshold: int | None = None,
        stop_after: int | None = None,
        largest_batch: int = 0,
    ) -> None:
        self.by_bytes = by_bytes
        self.left: int | None = stop_after
        """How many messages may still be taken; ``None``: any number."""
        self.taken_in_all: int = 0
        """Messages, since the beginning."""
        self._limit = limit
        self._threshold = math.ceil(limit / 2) if threshold is None else threshold
        self._largest_batch = largest_batch or LARGEST_BATCH
        self._pending = 0  # asked for in this generation, and not yet taken
        self._stale = 0  # what waited when the generation began
        self._stale_room = 0  # the part of the limit that it fills
        self._first = 1  # the first pull of the generation
        self._number = 0
        self._amounts: dict[int, int] = {}
        self._starved = False

    @property
    def pending(self) -> int:
        """How much was asked for and not taken yet, messages or bytes."""
        return self._pending

    @property
    def held(self) -> int:
        """How much of the limit is in use."""
        return self._pending + self._stale_room

    def taken(self, size: int = 0) -> bool:
        """A message was taken out; ``size`` matters if bytes count. Whether to ask for more."""
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
        return self._pending + self._stale_room < self._threshold

    def status_taken(self) -> None:
        """A status was taken out, which may have waited with the messages."""
        if self._stale:
            self._stale_gone(0 if self.by_bytes else 1)

    def _stale_gone(self, amount: int) -> None:
        self._stale -= 1
        self._stale_room = max(0, self._stale_room - amount) if self._stale else 0

    def next_pull(self) -> Pull | None:
        """The pull to make now, which counts as made; ``None`` if there is enough."""
        held = self.held
        if held >= self._threshold or (self._starved and held):
            return None
        amount = self._limit - held
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
        """Whether it is the number of a pull of this generation."""
        return self._first <= number <= self._number

    def ended(
        self, number: int, messages: int | None, size: int | None, *, too_large: bool = False
    ) -> bool:
        """A pull has ended, with so much of it not delivered; ``None`` is what was not told.

        ``too_large``: because of the size of what comes next. Whether it has brought nothing.
        """
        if not self.is_current(number):
            return False
        told = size if self.by_bytes else messages
        amount = self._amounts.pop(number, None)
        rest = amount if told is None else told
        if rest is not None:
            self._pending = max(0, self._pending - rest)
        # Asking for less than before is of no use: wait until there is all the room there can be.
        self._starved = too_large
        return rest is not None and rest == amount

    def withdraw(self, number: int) -> None:
        """A pull was not made, or refused."""
        self.ended(number, None, None)

    def begin_anew(self, waiting: int, waiting_bytes: int) -> None:
        """All pulls are lost. So many messages, statuses included, wait to be taken out."""
        self._first = self._number + 1
        self._amounts.clear()
        self._pending = 0
        self._starved = False
        self._stale = waiting
        self._stale_room = min(self._limit, waiting_bytes if self.by_bytes else waiting)
