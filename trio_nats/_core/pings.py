"""Unanswered PINGs of one connection. PONGs carry no data, so they match the PINGs in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .._protocol import commands
from .outbox import Outbox

__all__ = ["Ping", "Pings"]


class Ping:
    """One PING. ``settled`` is set by its PONG, or with ``lost`` when the connection ends."""

    __slots__ = ("confirm", "lost", "settled")

    def __init__(self, confirm: Callable[[], None]) -> None:
        self.confirm: Callable[[], None] = confirm
        self.settled: trio.Event = trio.Event()
        self.lost: bool = False

    def lose(self) -> None:
        """Mark the PING as lost: no PONG will arrive."""
        self.lost = True
        self.settled.set()


class Pings:
    """The PINGs of one session that wait for their PONG.

    ``confirmation`` returns the function to call when the server has processed everything sent
    before the PING.
    """

    def __init__(self, outbox: Outbox, confirmation: Callable[[], Callable[[], None]]) -> None:
        self.outbox: Outbox = outbox
        self._confirmation = confirmation
        self._waiting: deque[Ping] = deque()
        self._ended = False

    def send(self) -> Ping:
        """Send a PING after everything that waits to be written."""
        ping = Ping(self._confirmation())
        if self._ended:
            ping.lose()
        else:
            self._waiting.append(ping)
            self.outbox.command(commands.PING)
        return ping

    def send_first(self) -> Ping:
        """Send the first PING of a session, ahead of everything that waits to be written."""
        ping = Ping(self._confirmation())
        self._waiting.append(ping)
        self.outbox.prepend([commands.PING])
        return ping

    async def round_trip(self) -> bool:
        """Send a PING and wait for the PONG. ``False`` if the connection was lost instead.

        If cancelled, the PONG is still expected and then ignored.
        """
        ping = self.send()
        await ping.settled.wait()
        return not ping.lost

    def pong(self) -> None:
        """Match a PONG with the oldest PING. Ignored if there is none."""
        if self._waiting:
            ping = self._waiting.popleft()
            ping.confirm()
            ping.settled.set()

    def unsent(self, count: int) -> None:
        """Give up the last ``count`` PINGs, which were never written."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().lose()

    def end(self) -> None:
        """Give up all PINGs, because the connection is lost, and wake the tasks that wait."""
        self._ended = True
        while self._waiting:
            self._waiting.popleft().lose()
