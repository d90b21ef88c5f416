"""PINGs under way on one wire. PONGs carry nothing, so they belong to the PINGs in order."""

from __future__ import annotations

from collections import deque

import trio

from .._protocol import commands
from .outbox import Outbox

__all__ = ["Pings"]


class Pings:
    """The PINGs of one session that wait for their PONG."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: deque[trio.Event] = deque()
        self._ended = False

    @property
    def outstanding(self) -> int:
        """How many have had no answer yet."""
        return len(self._waiting)

    def send(self) -> trio.Event:
        """Send a PING, behind all that waits to be written; the event is its PONG."""
        answered = trio.Event()
        self._waiting.append(answered)
        self._outbox.append(commands.PING)
        return answered

    async def round_trip(self) -> bool:
        """Send a PING and wait for the PONG. ``False`` if the wire was lost instead.

        Cancelled, the PONG is still expected, and ignored.
        """
        answered = self.send()
        await answered.wait()
        return not self._ended

    def pong(self) -> None:
        """A PONG has come. One that nobody asked for is ignored."""
        if self._waiting:
            self._waiting.popleft().set()

    def end(self) -> None:
        """The wire is gone: let go whoever waits."""
        self._ended = True
        while self._waiting:
            self._waiting.popleft().set()
