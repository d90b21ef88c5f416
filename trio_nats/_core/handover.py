"""From one live wire to another without a gap: make before break.

Both wires are subscribed for a while, so no message is missed; and each message is handed out once.
What the old wire brings is handed out at once, for it is complete until the server there has
processed our UNSUBs. What the new wire brings is held back until then. Of the two the old wire's
messages are a beginning and the new wire's an end of what was published, per publisher in the same
order, so what remains of the new wire's after taking out what the old one brought too is exactly
what comes next. The new wire may lag behind, so its messages are looked at for a while longer.

Messages have no identity in NATS; two are taken for one if they are alike in subject, reply,
headers and data and came over both wires during the overlap. Members of queue groups need none of
this: the servers hand each message to one member only.

Published messages change wires at a PING: once the old server has answered it, it has processed
all it was sent, and only then does the new one get the next, so order is kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeAlias

import trio

from .._protocol import commands
from .._protocol.parser import ErrorLine, Signal
from .._protocol.server_errors import server_error
from .._transport.opening import Wire
from ..errors import ConnectionLostError, ProtocolError
from ..message import Msg
from .outbox import Outbox
from .router import Router
from .session import Session

__all__ = ["Handover", "prime"]

logger = logging.getLogger("trio_nats.reconnect")

_READ = 64 * 1024
_MAX_HELD = 256 * 1024 * 1024

_Likeness: TypeAlias = tuple[bytes, bytes, bytes | None, bytes, bytes | None]


def _likeness(msg: Msg) -> _Likeness:
    return msg.sid, msg.raw_subject, msg.raw_reply, msg.data, msg.raw_headers


async def prime(wire: Wire, frames: list[bytes]) -> None:
    """Subscribe on a wire that has no session yet, and wait until the server has done it.

    What it sends in the meantime stays in ``wire.early``. Raises whatever breaks the wire.
    """
    await wire.stream.send_all(b"".join(frames) + commands.PING)
    position = 0
    while True:
        for event in wire.early[position:]:
            if event is Signal.PONG:
                wire.early.remove(event)
                return
            if event is Signal.PING:
                await wire.stream.send_all(commands.PONG)
            elif isinstance(event, ErrorLine):
                raise server_error(event.text)
            elif isinstance(event, ProtocolError):
                raise event
        position = len(wire.early)
        data = await wire.stream.receive_some(_READ)
        if not data:
            raise ConnectionLostError(f"{wire.server} closed the connection")
        wire.early += wire.parser.feed(bytes(data))


class Handover:
    """Watches the messages of both wires while both are subscribed."""

    def __init__(self, router: Router, old: Session) -> None:
        self._router = router
        self._old = old
        self._private = Outbox(_MAX_HELD, "wait", lambda: None)
        # What the old wire brought. The older half is forgotten first: some of it was published
        # before the new server knew of us, so its other copy never comes, and later messages that
        # merely look like it must not be taken for that.
        self._seen_early: Counter[_Likeness] = Counter()
        self._seen: Counter[_Likeness] = Counter()
        self._held: list[Msg] = []
        self._held_bytes = 0
        self._new: Session | None = None
        self._primed: frozenset[bytes] = frozenset()
        self._shared: frozenset[bytes] = frozenset()
        self.concluded: trio.Event = trio.Event()
        """Set when the old wire is out of use and nothing is held back any more."""

    def begin(self) -> list[bytes]:
        """Start watching the old wire; returns the frames to subscribe with on the new one.

        Without limits on the number of messages: the new server would count those that are not
        handed out. Subscriptions count for themselves.
        """
        self._old.divert = self._from_old
        wanted = self._router.wanted()
        self._primed = frozenset(wanted)
        return [commands.sub(sink.raw_subject, sink.raw_queue, sid) for sid, sink in wanted.items()]

    def abandon(self) -> None:
        """There will be no new wire: the old one goes on as if nothing had happened."""
        self._old.divert = None

    async def silence_old(self, outbox: Outbox) -> None:
        """Have the old wire leave ``outbox`` alone, and wait until its server has what it took."""
        # More may have been subscribed to since the beginning, and the old wire knows of that.
        self._shared = frozenset(self._router.wanted())
        self._old.detach(self._private)
        self._old.pings.unsent(outbox.forget_commands())
        await self._old.pings.round_trip()

    def missing(self) -> list[bytes]:
        """What the new wire has yet to hear about subscriptions when it takes over."""
        return self._router.difference(self._primed, self._shared)

    def take_over(self, new: Session) -> None:
        """The new wire is in use from now on; hold back what it brings."""
        self._new = new
        new.divert = self._from_new

    async def finish(self, overlap: float, patience: float) -> None:
        """End the overlap: unsubscribe on the old wire, hand out what only the new one brought."""
        with trio.move_on_after(overlap / 2):
            await self._old.ended.wait()
        self._seen_early, self._seen = self._seen, Counter()
        with trio.move_on_after(overlap / 2):
            await self._old.ended.wait()
        with trio.move_on_after(patience):
            for sid in self._shared:
                self._private.append(commands.unsub(sid))
            await self._old.pings.round_trip()
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
        held, self._held = self._held, []
        if self._new is not None:
            self._new.divert = self._from_new_alone
        for msg in held:
            self._from_new_alone(msg)
        self._seen_early.clear()

    def _from_old(self, msg: Msg) -> None:
        sink = self._router.sinks.get(msg.sid)
        if sink is not None:
            if sink.raw_queue is None:
                self._seen[_likeness(msg)] += 1
            sink.push(msg)

    def _from_new(self, msg: Msg) -> None:
        sink = self._router.sinks.get(msg.sid)
        if sink is None:
            return
        if sink.raw_queue is not None or msg.sid not in self._shared:
            sink.push(msg)
            return
        self._held.append(msg)
        self._held_bytes += len(msg.data)
        if self._held_bytes > _MAX_HELD:
            logger.warning("too much arrived while changing servers; ending the overlap early")
            self.conclude()

    def _from_new_alone(self, msg: Msg) -> None:
        likeness = _likeness(msg)
        for seen in (self._seen_early, self._seen):
            if seen[likeness] > 0:
                seen[likeness] -= 1
                return
        self._router.deliver(msg)


def _drop(msg: Msg) -> None:
    """The old wire brought this after its time: the new one has brought it too."""
