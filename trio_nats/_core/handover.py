"""From one live wire to another without a gap: make before break.

Both wires are subscribed for a while, so no message is missed; and each message is handed out once.
What the old wire brings is handed out at once, for it is complete until the server there has
processed our UNSUBs. What the new wire brings is held back until then. Of the two the old wire's
messages are a beginning and the new wire's an end of what was published, per publisher in the same
order, so what remains of the new wire's after taking out what the old one brought too (see
``dedup``) is exactly what comes next. The new wire may lag behind, so its messages are looked at
for a while longer. Members of queue groups need none of this: the servers hand each message to one
member only.

Published messages change wires at a PING: once the old server has answered it, it has processed
all it was sent, and only then does the new one get the next, so order is kept. With ``echo=False``
each wire would be sent what goes out over the other, so nothing is published while both are
subscribed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from .._protocol import commands
from .._protocol.parser import Burst, ErrorLine, Signal
from .._protocol.server_errors import server_error
from .._transport.connector import ServerConnection
from ..errors import ConnectionLostError, ProtocolError
from ..message import Msg
from ..server_info import ServerInfo
from .dedup import DuplicateFilter
from .outbox import Outbox
from .request_mux import is_no_responders
from .router import Router
from .session import Session, SessionCallbacks
from .stats import Counters

__all__ = ["Handover", "Move", "prime"]

logger = logging.getLogger("trio_nats.reconnect")

_READ = 64 * 1024
_MAX_HELD = 256 * 1024 * 1024
_MSG_OVERHEAD = 200
_MAX_LAG = 2.0
"""Seconds by which one wire may lag behind the other."""


class Move:
    """A change of servers that was asked for, and how it came out."""

    def __init__(self) -> None:
        self.demanded: bool = False
        """Whether the user asked for it. If not, there is nothing to do where no other server can
        be reached."""
        self.error: Exception | None = None
        self.over: trio.Event = trio.Event()

    def settle(self, error: Exception | None = None) -> None:
        """It is done, or has failed. Harmless when repeated."""
        if not self.over.is_set():
            self.error = error
            self.over.set()


async def prime(
    wire: ServerConnection, frames: list[bytes], take: Callable[[list[Msg]], None]
) -> None:
    """Subscribe on a wire that has no session yet, and wait until the server has done it.

    Messages that come before that are given to ``take`` as they come, and what comes behind it
    stays in ``wire.early``. Raises whatever breaks the wire.
    """
    begin = b"".join(frames) + commands.PING
    await wire.stream.send_all(begin)
    wire.out_bytes += len(begin)
    size = 0
    while True:
        events, wire.early = wire.early, []
        for position, event in enumerate(events):
            if event is Signal.PONG:
                wire.early = events[position + 1 :]
                return
            if event is Signal.PING:
                await wire.stream.send_all(commands.PONG)
                wire.out_bytes += len(commands.PONG)
            elif isinstance(event, Burst):
                take(event.messages)
            elif isinstance(event, Msg):
                take([event])
            elif isinstance(event, ServerInfo):
                wire.info, wire.unverified_info = event, None
            elif isinstance(event, ErrorLine):
                raise server_error(event.text)
            elif isinstance(event, ProtocolError):
                raise event
        data = await wire.stream.receive_some(_READ)
        if not data:
            raise ConnectionLostError(f"{wire.server} closed the connection")
        size += len(data)
        wire.in_bytes += len(data)
        if size > _MAX_HELD:
            raise ProtocolError(f"{wire.server} sends and sends, and does not answer a PING")
        wire.early = wire.parser.feed(bytes(data))


class Handover:
    """Watches the messages of both wires while both are subscribed."""

    def __init__(self, router: Router, old: Session) -> None:
        self._router = router
        self._old = old
        self._private = Outbox(_MAX_HELD, "wait", lambda: None)
        self._duplicates = DuplicateFilter(_MAX_LAG)
        self._held: list[tuple[Msg, float]] = []
        self._held_bytes = 0
        self._aside = self._private
        self.early: int = 0
        """How many messages the new wire brought before it had a session."""
        self._new: Session | None = None
        self._shared: frozenset[bytes] = frozenset()
        self._unwritten: list[bytes] = []
        self.concluded: trio.Event = trio.Event()
        """Set when the old wire is out of use and nothing is held back any more."""

    def begin(self, outbox: Outbox) -> list[bytes]:
        """Take ``outbox`` from the old wire, and watch what that one brings from now on.

        Returns the frames to subscribe with on the new one, without limits on the number of
        messages: its server would count those that are not handed out. Subscriptions count for
        themselves.
        """
        wanted = self._router.wanted()
        self._shared = frozenset(wanted)
        self._old.divert = self._from_old
        self._old.detach(self._private)
        self._unwritten = _unsent(self._old, outbox)
        return [
            commands.sub(sink._raw_subject, sink._raw_queue, sid) for sid, sink in wanted.items()
        ]

    async def wait_silent(self) -> None:
        """Wait until the old wire's server has all that was written to it."""
        await self._old.pings.round_trip()

    def abandon(self, outbox: Outbox) -> None:
        """Go on with the old connection, and tell its server what has changed."""
        self.concluded.set()
        self._old.divert = None
        self._old.detach(outbox)
        _unsent(self._old, self._private)
        outbox.prepend(self._unwritten + self.missing())

    def missing(self) -> list[bytes]:
        """What a wire with the subscriptions there were at the beginning has yet to hear."""
        return self._router.difference(self._shared)

    def take_early(self, messages: list[Msg]) -> None:
        """Hold back what the new wire brings before it has a session."""
        self.early += len(messages)
        for msg in messages:
            self._from_new(msg)

    def listen(
        self, wire: ServerConnection, counters: Counters, callbacks: SessionCallbacks
    ) -> Session:
        """A session for the new wire that holds back what it brings, and publishes nothing yet."""
        aside = Outbox(_MAX_HELD, "wait", lambda: None)
        self._new = Session(wire, self._router, aside, counters, callbacks)
        self._new.divert = self._from_new
        self._aside = aside
        return self._new

    def take_over(self, outbox: Outbox) -> None:
        """The new wire is in use from now on, and publishes what is in ``outbox``."""
        assert self._new is not None
        self._new.detach(outbox)
        _unsent(self._new, self._aside)

    async def leave(self, overlap: float, patience: float) -> None:
        """End the overlap: unsubscribe on the old wire, and wait until its server has done it."""
        with trio.move_on_after(overlap):
            await self._old.ended.wait()
        with trio.move_on_after(patience):
            for sid in self._shared:
                self._private.command(commands.unsub(sid))
            await self._old.pings.round_trip()

    async def finish(self, overlap: float) -> None:
        """Hand out what only the new connection brought; late duplicates are still looked for."""
        self.conclude()
        await trio.sleep(overlap)
        if self._new is not None:
            self._new.divert = None

    def conclude(self) -> None:
        """Hand out what was held back and is new; from here on nothing is held back.

        Harmless when repeated.
        """
        if self.concluded.is_set():
            return
        self.concluded.set()
        self._old.divert = _drop
        self._old.stop(ConnectionLostError("another connection has taken its place"))
        if self._new is not None:
            self._new.divert = self._from_new_alone
        held, self._held = self._held, []
        for msg, came in held:
            if not self._duplicates.is_duplicate(msg, came):
                self._router.deliver(msg)

    def give_up(self) -> None:
        """The connection is over, and with it what was held back for its subscriptions."""
        self.concluded.set()
        self._held.clear()

    def _from_old(self, msg: Msg) -> None:
        sink = self._router.sinks.get(msg.sid)
        if sink is not None:
            if sink._raw_queue is None:
                self._duplicates.remember(msg, trio.current_time())
            sink._push(msg)

    def _from_new(self, msg: Msg) -> None:
        if self.concluded.is_set():  # in the midst of a batch
            self._from_new_alone(msg)
            return
        sink = self._router.sinks.get(msg.sid)
        if sink is None:
            return
        # "No responders" is the new server's answer to what was published there.
        if sink._raw_queue is not None or msg.sid not in self._shared or is_no_responders(msg):
            sink._push(msg)
            return
        self._held.append((msg, trio.current_time()))
        self._held_bytes += len(msg.data) + len(msg.raw_headers or b"") + _MSG_OVERHEAD
        if self._held_bytes > _MAX_HELD:
            if self._new is None:
                raise ProtocolError("the new server sends and sends, and does not answer a PING")
            logger.warning("too much arrived while changing servers; ending the overlap early")
            self.conclude()

    def _from_new_alone(self, msg: Msg) -> None:
        if not self._duplicates.is_duplicate(msg, trio.current_time()):
            self._router.deliver(msg)


def _unsent(session: Session, outbox: Outbox) -> list[bytes]:
    """What waits for a wire besides messages and PINGs, which are given up."""
    gone = outbox.forget_commands()
    session.pings.unsent(gone.count(commands.PING))
    return [frame for frame in gone if frame != commands.PING]


def _drop(msg: Msg) -> None:
    """The old wire brought this after its time: the new one has brought it too."""
