"""Subscriptions by the number (sid) that they have in the NATS protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Protocol, TypeAlias

import trio

from .._protocol import commands
from ..errors import PermissionsViolationError, ServerReportedError
from ..message import Msg
from .outbox import Outbox

__all__ = ["Router", "Sink"]

# Servers do not parse numbers with more digits, and would unsubscribe immediately.
_MAX_UNSUB_COUNT = 999_999_999
_MAX_UNCONFIRMED = 65_536

_Key: TypeAlias = tuple[bytes, bytes | None]


class Sink(Protocol):
    """Receives the messages of a subscription."""

    @property
    def _raw_subject(self) -> bytes: ...
    @property
    def _raw_queue(self) -> bytes | None: ...
    @property
    def _remaining(self) -> int | None:
        """Number of messages to receive before it ends, or ``None`` for no limit."""
        ...

    @property
    def pending(self) -> tuple[int, int]:
        """Number and size of the messages that are waiting to be received."""
        ...

    @property
    def _has_helpers(self) -> bool:
        """Whether background tasks receive and handle its messages."""
        ...

    def _is_empty(self) -> bool:
        """Whether no message is waiting or being handled."""
        ...

    def _is_handled_by(self, task: trio.lowlevel.Task) -> bool:
        """Whether ``task`` handles messages on behalf of the task that receives them."""
        ...

    async def _wait_empty(self) -> None:
        """Wait until all messages have been received."""

    async def _wait_handled(self) -> None:
        """After :meth:`_wait_empty`, wait until no message is being handled."""

    def _waits_for(self, task: trio.lowlevel.Task) -> bool:
        """Whether no other task can receive a message while ``task`` waits."""
        ...

    def _wake_waiters(self) -> None:
        """Make :meth:`_wait_empty` return even if messages are left."""

    def _end_stalls(self) -> None:
        """Never again stop reading when it is full, because the subscription is about to end."""

    def _push(self, msg: Msg) -> None:
        """Accept a message. Must not fail."""

    def _push_burst(self, messages: list[Msg], size: int) -> None:
        """Accept several messages, with ``size`` bytes of data and headers. Must not fail."""

    def _end(self, error: Exception) -> None:
        """End the subscription because of ``error``."""


class Router:
    """All subscriptions of a connection, whichever server is in use."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._next_sid = 1
        self.sinks: dict[bytes, Sink] = {}
        self._by_subject: dict[_Key, dict[bytes, None]] = {}
        self._unconfirmed = Unconfirmed()
        self.live: bool = False
        """Whether SUB and UNSUB are sent immediately. If not, :meth:`restore` includes them."""
        self.stalled: set[object] = set()
        """Full queues that keep the session from reading (backpressure)."""
        self._may_stall = True
        self._draining: set[bytes] = set()
        self.on_unsubscribe: Callable[[bytes], None] | None = None
        """During a handover, called with each subscription that ends."""
        self._unstalled = trio.lowlevel.ParkingLot()

    def add(self, sink: Sink) -> bytes:
        """Subscribe, and return the new sid."""
        sid = b"%d" % self._next_sid
        self._next_sid += 1
        self.sinks[sid] = sink
        self._by_subject.setdefault((sink._raw_subject, sink._raw_queue), {})[sid] = None
        if self.live:
            self._unconfirmed.sent(sid)
            for frame in _frames(sid, sink):
                self._outbox.command(frame)
        return sid

    def remove(self, sid: bytes) -> None:
        """Unsubscribe. May be called repeatedly."""
        sink = self._forget(sid)
        if sink is None:
            return
        if sid not in self._draining:
            self._unsubscribe(sid)
        self._draining.discard(sid)

    def _forget(self, sid: bytes) -> Sink | None:
        sink = self.sinks.pop(sid, None)
        if sink is not None:
            key = (sink._raw_subject, sink._raw_queue)
            sids = self._by_subject[key]
            del sids[sid]
            if not sids:
                del self._by_subject[key]
            self.unstall(sink)
        return sink

    def quiesce(self, sid: bytes) -> None:
        """Unsubscribe, but still deliver messages that the server has already sent."""
        if sid in self.sinks and sid not in self._draining:
            self._draining.add(sid)
            self._unsubscribe(sid)

    def _unsubscribe(self, sid: bytes) -> None:
        if self.live:
            self._outbox.command(commands.unsub(sid))
        if self.on_unsubscribe is not None:
            self.on_unsubscribe(sid)

    def deliver(self, msg: Msg) -> None:
        """Pass a message to its subscription, or drop it if there is none."""
        sink = self.sinks.get(msg.sid)
        if sink is not None:
            sink._push(msg)

    def restore(self) -> list[bytes]:
        """Return the commands that make all subscriptions on a new connection."""
        return self.difference(())

    def wanted(self) -> dict[bytes, Sink]:
        """Return the subscriptions to make on a new server."""
        return {sid: sink for sid, sink in self.sinks.items() if sid not in self._draining}

    def difference(self, carried: Collection[bytes]) -> list[bytes]:
        """Return the commands that update a server that has the subscriptions ``carried``."""
        wanted = self.wanted()
        frames = [commands.unsub(sid) for sid in carried if sid not in wanted]
        for sid, sink in wanted.items():
            if sid not in carried:
                frames += _frames(sid, sink)
        return frames

    def stall(self, queue: object) -> bool:
        """Stop reading until :meth:`unstall`. Returns ``False`` after :meth:`disable_stalls`."""
        if self._may_stall:
            self.stalled.add(queue)
        return self._may_stall

    def disable_stalls(self) -> None:
        """Keep reading from now on, so that the last PONG can be received on closing."""
        self._may_stall = False
        self.stalled.clear()
        self._unstalled.unpark_all()

    def unstall(self, queue: object) -> None:
        """Resume reading unless another queue is full. ``queue`` has space again, or has ended."""
        if queue in self.stalled:
            self.stalled.remove(queue)
            if not self.stalled:
                self._unstalled.unpark_all()

    def recheck_stalls(self) -> None:
        """Make :meth:`wait_unstalled` call ``unless`` again."""
        self._unstalled.unpark_all()

    async def wait_unstalled(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait while a queue is full and ``unless`` returns false."""
        while self.stalled and not unless():
            await self._unstalled.park()

    # --- refusals by the server ------------------------------------------------------------------

    def deny(self, error: PermissionsViolationError) -> bool:
        """End the subscription that the server does not permit (ADR-40).

        :returns: whether it was found.
        """
        sid = None if error.sid is None else error.sid.encode()
        if sid not in self.sinks:
            subject = error.subject.encode("utf-8", "replace")
            queue = None if error.queue is None else error.queue.encode("utf-8", "replace")
            sid = next(iter(self._by_subject.get((subject, queue), ())), None)
        return self._refuse(sid, error)

    def exceed(self, error: ServerReportedError) -> bool:
        """End a subscription that exceeds the maximum of the server (ADR-40).

        Servers do not say which one. They refuse all that follow once the maximum is reached, so it
        is one of the last; see :class:`Unconfirmed`.

        :returns: whether it was found.
        """
        return self._refuse(self._unconfirmed.refused(), error)

    def refuse_longest(self, error: ServerReportedError) -> bool:
        """End the subscription with the longest line, because the server refused a long line."""
        wanted = self.wanted()
        sid = max(wanted, key=lambda sid: _length(wanted[sid]), default=None)
        return self._refuse(sid, error)

    def _refuse(self, sid: bytes | None, error: ServerReportedError) -> bool:
        sink = None if sid is None else self._forget(sid)
        if sid is None or sink is None:
            return False
        self._draining.discard(sid)
        sink._end(error)
        return True

    def new_connection(self) -> None:
        """Note that all subscriptions are sent to a new server, in this order."""
        self._unconfirmed = Unconfirmed(self.wanted())

    def confirmation(self) -> Callable[[], None]:
        """Return a function to call once the server has processed everything sent so far."""
        unconfirmed = self._unconfirmed
        return partial(unconfirmed.confirm, unconfirmed.position)

    def end_all(self, error: Exception) -> None:
        """End all subscriptions."""
        sinks, self.sinks = self.sinks, {}
        self._by_subject.clear()
        self._draining.clear()
        self.live = False
        self.disable_stalls()
        for sink in sinks.values():
            sink._end(error)


class Unconfirmed:
    """Subscriptions of one connection that its server may not have processed yet, in order.

    Theory of operation. A server that has reached its maximum answers each further SUB with an
    error that does not name the subscription, and does so before it answers the next PING. So the
    first error refers to the last subscription, the next error to the one before it, and so on.
    That is wrong only if other subscriptions ended at the same time. A PONG confirms the
    subscriptions before its PING, so no later error refers to them.
    """

    def __init__(self, sids: Iterable[bytes] = ()) -> None:
        self._sids = list(sids)
        self._before = 0
        # Positions of refused subscriptions, as half-open ranges [first, end).
        self._runs: list[list[int]] = []

    @property
    def position(self) -> int:
        """Number of subscriptions so far."""
        return self._before + len(self._sids)

    def sent(self, sid: bytes) -> None:
        """Add a subscription."""
        self._sids.append(sid)
        if len(self._sids) > _MAX_UNCONFIRMED:
            self.confirm(self.position - _MAX_UNCONFIRMED // 2)

    def confirm(self, position: int) -> None:
        """Forget the subscriptions before ``position``, which the server has processed."""
        if position > self._before:
            del self._sids[: position - self._before]
            self._before = position
            self._runs = [
                [max(first, position), end] for first, end in self._runs if end > position
            ]

    def refused(self) -> bytes | None:
        """Return the subscription that an error refers to: the last one not yet refused."""
        runs = self._runs
        if not runs or runs[-1][1] < self.position:
            runs.append([self.position, self.position])
        while len(runs) > 1 and runs[-1][0] == runs[-2][1]:
            _, end = runs.pop()
            runs[-1][1] = end
        last = runs[-1]
        last[0] -= 1
        found = last[0] - self._before
        return self._sids[found] if found >= 0 else None


def _length(sink: Sink) -> int:
    return len(sink._raw_subject) + len(sink._raw_queue or b"")


def _frames(sid: bytes, sink: Sink) -> list[bytes]:
    frames = [commands.sub(sink._raw_subject, sink._raw_queue, sid)]
    # A number that is too large for the server is counted by the subscription only.
    if sink._remaining is not None and sink._remaining <= _MAX_UNSUB_COUNT:
        frames.append(commands.unsub(sid, sink._remaining))
    return frames
