"""PINGs under way on one connection. PONGs carry nothing, so they answer the PINGs in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .._protocol import commands
from .outbox import Outbox

__all__ = ["Ping", "Pings"]


class Ping:
    """One PING: ``settled`` by its PONG, or ``lost`` with its connection."""

    __slots__ = ("confirm", "lost", "settled")

    def __init__(self, confirm: Callable[[], None]) -> None:
        self.confirm: Callable[[], None] = confirm
        self.settled: trio.Event = trio.Event()
        self.lost: bool = False

    def lose(self) -> None:
        """There will be no PONG."""
        self.lost = True
        self.settled.set()


class Pings:
    """The PINGs of one session that wait for their PONG.

    ``confirmation`` gives what to call when the server has processed all that was sent before.
    """

    def __init__(self, outbox: Outbox, confirmation: Callable[[], Callable[[], None]]) -> None:
        self.outbox: Outbox = outbox
        self._confirmation = confirmation
        self._waiting: deque[Ping] = deque()
        self._ended = False

    def send(self) -> Ping:
        """Send a PING, behind all that waits to be written."""
        ping = Ping(self._confirmation())
        if self._ended:
            ping.lose()
        else:
            self._waiting.append(ping)
            self.outbox.command(commands.PING)
        return ping

    def send_first(self) -> Ping:
        """Send a PING ahead of all that waits to be written, as the first of its session."""
        ping = Ping(self._confirmation())
        self._waiting.append(ping)
        self.outbox.prepend([commands.PING])
        return ping

    async def round_trip(self) -> bool:
        """Send a PING and wait for the PONG. ``False`` if the connection was lost instead.

        If cancelled, the PONG is still expected, and ignored.
        """
        ping = self.send()
        await ping.settled.wait()
        return not ping.lost

    def pong(self) -> None:
        """A PONG has come. A PONG without a PING is ignored."""
        if self._waiting:
            ping = self._waiting.popleft()
            ping.confirm()
            ping.settled.set()

    def unsent(self, count: int) -> None:
        """The last ``count`` PINGs were never written."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().lose()

    def end(self) -> None:
        """The connection is lost: wake the tasks that wait."""
        self._ended = True
        while self._waiting:
            self._waiting.popleft().lose()
