"""PINGs, and how a session notices that its server is gone.

Theory of operation. PONGs carry no data, so the oldest unanswered PING is the one that a PONG
answers. :class:`Pings` keeps them in order. They serve two purposes. ``flush``, draining and a
handover wait for a PONG, because the server sends it when it has processed everything before the
PING. :func:`ping_until_unresponsive` detects a dead connection that TCP has not reported.

That loop sends a PING at every interval and gives up after ``max_pings_out`` in a row without a
sign of the peer. A PONG is not the only sign. A server that is busy sending, or that has yet to
read a long outbox, answers late, so received bytes and bytes that the peer's TCP has acknowledged
count as well. While a full subscription keeps the session from reading, a PONG cannot be seen, so
no PING counts as unanswered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .._protocol import commands
from .outbox import Outbox

__all__ = ["Ping", "Pings", "ping_until_unresponsive"]


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
    """The PINGs of one session that have not been answered yet.

    :param confirmation: called for each PING; returns the function to call once the server has
        processed everything that was sent before it.
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
        """Mark the last ``count`` PINGs as lost: they were never written."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().lose()

    def end(self) -> None:
        """Mark all PINGs as lost, because the connection has ended. Wakes the tasks that wait."""
        self._ended = True
        while self._waiting:
            self._waiting.popleft().lose()


async def ping_until_unresponsive(
    pings: Pings,
    interval: float,
    max_out: int,
    activity: Callable[[], object],
    is_stalled: Callable[[], bool],
) -> str:
    """Send a PING every ``interval`` seconds until the peer does not respond any more.

    :param max_out: how many PINGs in a row may be unanswered.
    :param activity: returns a value that changes only if the peer is alive.
    :param is_stalled: whether the session has stopped reading, so that no PONG can be seen.
    :returns: the reason to give for ending the session.
    """
    current = activity()
    unanswered = 0
    while True:
        await trio.sleep(interval)
        previous, current = current, activity()
        if current != previous or is_stalled():
            unanswered = 0
        if unanswered >= max_out:
            return (
                f"{unanswered} PINGs in a row were not answered "
                f"(ping_interval {interval:g} s, max_pings_out {max_out})"
            )
        unanswered += 1
        pings.send()
