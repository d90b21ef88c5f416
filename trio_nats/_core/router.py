"""From subscription numbers to subscriptions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import trio

from .._protocol import commands
from ..errors import PermissionsViolationError
from ..message import Msg
from .outbox import Outbox

__all__ = ["Router", "Sink"]

# Servers take a number of more digits for none, and unsubscribe at once.
_MOST = 999_999_999


class Sink(Protocol):
    """Where messages of one subscription go."""

    @property
    def raw_subject(self) -> bytes: ...
    @property
    def raw_queue(self) -> bytes | None: ...
    @property
    def remaining(self) -> int | None:
        """How many messages it still wants, if it has a limit."""
        ...

    @property
    def pending(self) -> tuple[int, int]:
        """Messages and bytes not yet taken out."""
        ...

    async def wait_taken(self) -> None:
        """Return once no message waits to be received."""

    def let_go(self) -> None:
        """Have :meth:`wait_taken` return: what waits can be taken as before, or never."""

    def lift_limits(self) -> None:
        """Keep whatever still comes, for it is the last there is."""

    def push(self, msg: Msg) -> None:
        """Take a message; must not fail."""

    def push_burst(self, messages: list[Msg], size: int) -> None:
        """Take messages with ``size`` bytes of data and headers in all; must not fail."""

    def end(self, error: Exception) -> None:
        """There will be no more messages, and this is why."""


class Router:
    """All subscriptions of a connection, whichever wire is carrying them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._next_sid = 1
        self.sinks: dict[bytes, Sink] = {}
        self.live: bool = False
        """Whether there is a wire to tell about changes. Without one they wait for ``restore``."""
        self.stalled: set[Sink] = set()
        """Full subscriptions that asked for reading to stop."""
        self._may_stall = True
        self._draining: set[bytes] = set()
        self._unstalled = trio.lowlevel.ParkingLot()

    def add(self, sink: Sink) -> bytes:
        """Subscribe. Returns the number to remove it by."""
        sid = b"%d" % self._next_sid
        self._next_sid += 1
        self.sinks[sid] = sink
        if self.live:
            for frame in _frames(sid, sink):
                self._outbox.command(frame)
        return sid

    def remove(self, sid: bytes) -> None:
        """Unsubscribe. Harmless when repeated."""
        sink = self.sinks.pop(sid, None)
        if sink is None:
            return
        self.unstall(sink)
        if self.live and sid not in self._draining:
            self._outbox.command(commands.unsub(sid))
        self._draining.discard(sid)

    def quiesce(self, sid: bytes) -> None:
        """Unsubscribe, but still take what the server sends until it has heard of that."""
        if sid in self.sinks and sid not in self._draining:
            self._draining.add(sid)
            if self.live:
                self._outbox.command(commands.unsub(sid))

    def deliver(self, msg: Msg) -> None:
        """Hand a message to its subscription; one for a subscription that is gone is dropped."""
        sink = self.sinks.get(msg.sid)
        if sink is not None:
            sink.push(msg)

    def restore(self) -> list[bytes]:
        """The frames that make a new wire carry every subscription."""
        return self.difference(())

    def wanted(self) -> dict[bytes, Sink]:
        """The subscriptions that a new wire has to carry."""
        return {sid: sink for sid, sink in self.sinks.items() if sid not in self._draining}

    def difference(self, carried: Collection[bytes]) -> list[bytes]:
        """The frames for a wire that carries the subscriptions ``carried`` to carry all of them."""
        wanted = self.wanted()
        frames = [commands.unsub(sid) for sid in carried if sid not in wanted]
        for sid, sink in wanted.items():
            if sid not in carried:
                frames += _frames(sid, sink)
        return frames

    def stall(self, sink: Sink) -> bool:
        """Stop reading until :meth:`unstall`. ``False`` if it is too late for that."""
        if self._may_stall:
            self.stalled.add(sink)
        return self._may_stall

    def read_on(self) -> None:
        """Let nothing stop the reading any more, so that the last PONG can be read."""
        self._may_stall = False
        self.stalled.clear()
        self._unstalled.unpark_all()

    def unstall(self, sink: Sink) -> None:
        """``sink`` has room again, or is gone."""
        self.stalled.discard(sink)
        if not self.stalled:
            self._unstalled.unpark_all()

    async def wait_unstalled(self) -> None:
        """Wait while any subscription asked for reading to stop."""
        while self.stalled:
            await self._unstalled.park()

    def deny(self, error: PermissionsViolationError) -> bool:
        """End the subscription the server forbids (ADR-40). ``False`` if there is no such."""
        for sid in self._denied(error):
            sink = self.sinks.pop(sid)
            self._draining.discard(sid)
            self.unstall(sink)
            sink.end(error)
            return True
        return False

    def _denied(self, error: PermissionsViolationError) -> Iterable[bytes]:
        if error.sid is not None and error.sid.encode() in self.sinks:
            return [error.sid.encode()]
        subject = error.subject.encode("utf-8", "replace")
        queue = None if error.queue is None else error.queue.encode("utf-8", "replace")
        return (
            sid
            for sid, sink in self.sinks.items()
            if sink.raw_subject == subject and sink.raw_queue == queue
        )

    def end_all(self, error: Exception) -> None:
        """The connection is over."""
        sinks, self.sinks = self.sinks, {}
        self._draining.clear()
        self.live = False
        self.read_on()
        for sink in sinks.values():
            sink.end(error)


def _frames(sid: bytes, sink: Sink) -> list[bytes]:
    frames = [commands.sub(sink.raw_subject, sink.raw_queue, sid)]
    # Subscriptions count for themselves, too.
    if sink.remaining is not None and sink.remaining <= _MOST:
        frames.append(commands.unsub(sid, sink.remaining))
    return frames
