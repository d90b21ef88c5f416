"""Move a live connection to another server without a gap: make before break.

Theory of operation. A move has these steps:

1. Connect to another server (:class:`Mover`). Nothing changes until that has succeeded.
2. Stop writing to the old server, send it a PING and wait for the PONG. The old server has then
   processed everything that was published, so order is kept when the new server gets the next
   message.
3. Subscribe on the new connection (:func:`prime`) and wait until the server has processed that.
4. Publish over the new connection. Both connections stay subscribed during the *overlap*, because
   the cluster needs time to propagate the new subscriptions.
5. Unsubscribe on the old connection and send it a PING. After the PONG the old server sends
   nothing more, and the connection is closed.

If the new connection fails before step 5, the old one is used again as if nothing had happened.

During the overlap the same messages arrive over both connections, and each must be delivered once.
Messages from the old connection are delivered immediately, because none are missing there until
step 5. Messages from the new connection are held back. Messages of one publisher arrive in the same
order over both, so the held messages that did not also arrive over the old connection (see
:mod:`.dedup`) are exactly those that follow. They are delivered when the old connection has ended.
The new server may lag behind the old one, so duplicates are filtered for a little longer. Queue
groups need none of this, because the servers send each message to one member only.

With ``echo=False`` each connection would receive what is published over the other, so publishing
pauses until step 5 is complete.

A subscription that ends during a move is unsubscribed on both connections immediately. Otherwise,
as a member of a queue group, it would be sent messages that nobody receives.

A full subscription may have paused reading (backpressure). In step 5 the old connection is read
all the same: its messages are the last ones, the server may not wait, and with ``echo=False``
publishers are waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from .._protocol import commands
from .._protocol.parser import Burst, ErrorLine, Signal
from .._protocol.server_errors import server_error
from .._transport.connector import AttemptFailed, ServerConnection
from .._transport.dial import AddressHistory
from ..errors import (
    ConnectAttempt,
    ConnectionLostError,
    NatsError,
    ProtocolError,
    fresh,
)
from ..message import Msg
from ..server_info import ServerInfo
from .dedup import DuplicateFilter
from .outbox import Outbox
from .reconnect import Reconnector, connect_error
from .request_mux import is_no_responders
from .router import Router
from .server_pool import ServerPool
from .session import Session, SessionCallbacks
from .stats import Counters

__all__ = ["Handover", "HandoverLimits", "Move", "MoveCallbacks", "Mover", "prime"]

logger = logging.getLogger("trio_nats.reconnect")

_MAX_LEAVE = 60.0
"""Seconds that the old server may take to send its remaining messages."""
_READ = 64 * 1024
_MSG_OVERHEAD = 200
_MAX_LAG = 2.0
"""Seconds by which one connection may lag behind the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverLimits:
    """How long a move may take, and how much it may hold back."""

    overlap: float = 1.0
    """Seconds for which both connections stay subscribed. It must cover the time that a cluster
    needs to propagate new subscriptions."""
    pong_timeout: float = 5.0
    """Seconds to wait for a PONG while the server sends nothing else."""
    max_held: int = 256 * 1024 * 1024
    """Bytes of messages that are held back, or that may precede the first PONG."""


class Move:
    """A requested change of servers, and its outcome."""

    def __init__(self) -> None:
        self.demanded: bool = False
        """Whether the user asked for it. If not, it may fail without an error."""
        self.error: Exception | None = None
        self.over: trio.Event = trio.Event()

    def settle(self, error: Exception | None = None) -> None:
        """Record that the move is done or has failed. Repeating this is harmless."""
        if not self.over.is_set():
            self.error = error
            self.over.set()


class MoveCallbacks(SessionCallbacks):
    """What :class:`Mover` needs of the connection that it moves."""

    session: Session | None
    info: ServerInfo

    def start(self, task: Callable[..., Awaitable[None]], *args: object) -> bool:
        """Start a background task. ``False`` if the nursery is not open yet."""
        raise NotImplementedError

    async def run_session(self, session: Session) -> None:
        """Run a session, and replace it when it ends while it is in use."""
        raise NotImplementedError

    async def replace_lost(self, session: Session) -> None:
        """Connect again, because the session in use has ended."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Use no session until the next :meth:`begin`, :meth:`resume` or :meth:`go_back`."""
        raise NotImplementedError

    def begin(self, session: Session, frames: list[bytes]) -> None:
        """Use ``session``, which has already subscribed except for ``frames``."""
        raise NotImplementedError

    def resume(self, session: Session, frames: list[bytes]) -> None:
        """Continue with the session that was in use before, and send it ``frames``."""
        raise NotImplementedError

    def go_back(self, session: Session, frames: list[bytes], lost: Session) -> None:
        """As :meth:`resume`, after ``lost`` was in use."""
        raise NotImplementedError


class Mover:
    """Moves a connection to other servers, one move at a time."""

    def __init__(
        self,
        callbacks: MoveCallbacks,
        router: Router,
        outbox: Outbox,
        counters: Counters,
        pool: ServerPool,
        addresses: AddressHistory,
        reconnector: Reconnector,
        *,
        echo: bool,
    ) -> None:
        self._callbacks = callbacks
        self._router = router
        self._outbox = outbox
        self._counters = counters
        self._pool = pool
        self._addresses = addresses
        self._reconnector = reconnector
        self._echo = echo
        self._running = False
        self._demand = trio.Event()
        self._move: Move | None = None
        """The current move, or the last one."""
        self._next: Move | None = None
        self.handover: Handover | None = None
        """Set from step 2 until duplicates are no longer filtered."""
        self.limits: HandoverLimits = HandoverLimits()
        """Apply from the next move on."""

    def request(self, *, demanded: bool) -> Move:
        """Start a move to another server, after the current move if there is one.

        The current server is left only when another one can replace it. If the move is
        ``demanded``, the replacement may be a new connection to the same server. While
        disconnected, the next connection counts as the move.
        """
        move = self._next = self._next or Move()
        move.demanded = move.demanded or demanded
        if demanded:
            self._demand.set()
        if not self._running and self._callbacks.session is not None:
            self._running = self._callbacks.start(self._run)
        return move

    async def request_and_wait(self) -> None:
        """Change servers and wait until that is done. Raises the error if the move fails.

        If cancelled, the move continues.
        """
        move = self.request(demanded=True)
        await move.over.wait()
        if move.error is not None:
            raise fresh(move.error)

    def settle(self, error: Exception | None, *, waiting: bool) -> None:
        """Settle the current move and, if ``waiting``, the one that waits for it."""
        if self._move is not None:
            self._move.settle(error)
        if waiting and self._next is not None:
            self._next.settle(error)
            self._next = None

    @property
    def is_between(self) -> bool:
        """Whether the old connection is being finished and the new one not yet in use."""
        handover = self.handover
        return (
            self._callbacks.session is None
            and handover is not None
            and not handover.concluded.is_set()
        )

    async def settled(self) -> None:
        """Wait until messages come over one connection only, and none is held back."""
        if self.handover is not None:
            await self.handover.concluded.wait()

    def takes_care_of(self, lost: Session) -> bool:
        """Whether the current handover handles the end of the session ``lost``."""
        return self.handover is not None and self.handover.lose(lost)

    def conclude(self) -> None:
        """End a handover, because the connection in use is lost, so that no message comes twice."""
        if self.handover is not None:
            self.handover.conclude()

    def end(self, error: Exception) -> None:
        """Give up all moves, because the connection is closed."""
        if self.handover is not None:
            self.handover.give_up()
            self.handover = None
        self.settle(error, waiting=True)

    async def _run(self) -> None:
        """Make all requested moves, and leave a server in lame duck mode as soon as possible."""
        left: Session | None = None
        tries = 0
        try:
            while (session := self._callbacks.session) is not None:
                move, lame = self._next, self._callbacks.info.ldm
                if move is None and not lame:
                    return
                if session is not left:
                    left, tries = session, 0
                if tries and not (move is not None and move.demanded):
                    await self._pause(tries)
                    if session is not self._callbacks.session:
                        continue
                self._move, self._next = self._next or Move(), None
                if self._move.demanded or lame:
                    await self._make(self._move, session, logging.DEBUG if tries else logging.INFO)
                    tries += 1
        finally:
            self._running = False

    async def _pause(self, tries: int) -> None:
        """Wait before the next try, unless the user asks for a move."""
        self._demand = trio.Event()
        with trio.move_on_after(self._reconnector.delay(tries, tries)):
            await self._demand.wait()

    async def _make(self, move: Move, old: Session, level: int) -> None:
        current, peer = old.connection.server, old.connection.peer
        if peer is not None:
            self._addresses.failed(current, peer)  # So it is tried last.
        # A name with several addresses may stand for several servers.
        itself = move.demanded or old.connection.has_other_addresses
        attempts: list[ConnectAttempt] = []
        for server in self._pool.successors(current, peer, itself=itself):
            connection = await self._reconnector.once(server, attempts)
            if old is not self._callbacks.session:
                # It was lost, and this move does not replace it.
                if connection is not None:
                    await trio.aclose_forcefully(connection.stream)
                return
            if connection is None:
                continue
            if connection.info.ldm and not move.demanded:
                await trio.aclose_forcefully(connection.stream)
                continue
            try:
                await self._hand_over(old, connection)
                return
            except AttemptFailed as failed:
                attempts.append(failed.attempt)
        if old is self._callbacks.session:
            error = connect_error(attempts)
            logger.log(level, "staying with %s: %s", current, str(error))
            move.settle(error)

    async def _hand_over(self, old: Session, connection: ServerConnection) -> None:
        """Replace ``old`` with a session on ``connection``.

        Raises :exc:`AttemptFailed` if the new session fails before it is in use; ``old`` is then in
        use again.
        """
        handover = self.handover = Handover(self._router, old, self.limits)
        # Tasks that need a session wait; tasks that publish do not notice.
        self._callbacks.suspend()
        try:
            frames = handover.begin(self._outbox)
            with trio.move_on_after(self.limits.pong_timeout):
                await handover.wait_silent()
            await self._prime(connection, frames, handover)
        except AttemptFailed:
            await trio.aclose_forcefully(connection.stream)
            self._keep(handover)
            raise
        except BaseException:
            await trio.aclose_forcefully(connection.stream)
            raise
        new = handover.listen(connection, self._counters, self._callbacks)
        self._callbacks.start(self._callbacks.run_session, new)
        if not self._echo:
            await handover.leave()
        in_use = not new.ended.is_set()
        if in_use:
            handover.take_over(self._outbox)
            self._callbacks.begin(new, handover.missing())
            if self._echo:
                await handover.leave()
        elif handover.can_go_back:
            self._keep(handover)
            raise AttemptFailed(ConnectAttempt(connection.server.url, "subscribe", new.reason))
        if not in_use or handover.is_new_lost:
            if handover.can_go_back:
                self.handover = None
                self._callbacks.go_back(old, handover.go_back(self._outbox), new)
                return
            self._callbacks.start(self._callbacks.replace_lost, new)
        await handover.finish()
        self.handover = None

    def _keep(self, handover: Handover) -> None:
        """Continue with the old connection."""
        frames, old = handover.go_back(self._outbox), handover.old
        self.handover = None
        if old.ended.is_set():
            self._callbacks.start(self._callbacks.replace_lost, old)
        else:
            self._callbacks.resume(old, frames)

    async def _prime(
        self, connection: ServerConnection, frames: list[bytes], handover: Handover
    ) -> None:
        """Subscribe on a new connection. Raises :exc:`AttemptFailed` if it cannot be used."""
        limits = self.limits
        try:
            with trio.fail_after(limits.pong_timeout):
                await prime(connection, frames, handover.take_early, limits.max_held)
        except trio.TooSlowError:
            text = f"{connection.server} did not answer a PING within {limits.pong_timeout:g} s"
            error: Exception = ConnectionLostError(text)
        except trio.BrokenResourceError as broken:
            error = ConnectionLostError(f"the connection to {connection.server} broke")
            error.__cause__ = broken
        except NatsError as raised:
            error = raised
        else:
            self._counters.in_messages += handover.early
            return
        raise AttemptFailed(ConnectAttempt(connection.server.url, "subscribe", error))


async def prime(
    connection: ServerConnection,
    frames: list[bytes],
    deliver: Callable[[list[Msg]], None],
    max_size: int,
) -> None:
    """Subscribe on a connection that has no session yet, and wait until the server has done so.

    Messages that arrive before the PONG are passed to ``deliver``; what follows it stays in
    ``connection.early``. Raises the error if the connection breaks, or if more than ``max_size``
    bytes precede the PONG.
    """
    begin = b"".join(frames) + commands.PING
    await connection.stream.send_all(begin)
    connection.out_bytes += len(begin)
    size = 0
    while True:
        events, connection.early = connection.early, []
        for position, event in enumerate(events):
            if event is Signal.PONG:
                connection.early = events[position + 1 :]
                return
            if event is Signal.PING:
                await connection.stream.send_all(commands.PONG)
                connection.out_bytes += len(commands.PONG)
            elif isinstance(event, Burst):
                deliver(event.messages)
            elif isinstance(event, Msg):
                deliver([event])
            elif isinstance(event, ServerInfo):
                connection.info, connection.unverified_info = event, None
            elif isinstance(event, ErrorLine):
                raise server_error(event.text)
            elif isinstance(event, ProtocolError):
                raise event
        data = await connection.stream.receive_some(_READ)
        if not data:
            raise ConnectionLostError(f"{connection.server} closed the connection")
        size += len(data)
        connection.in_bytes += len(data)
        if size > max_size:
            raise ProtocolError(f"{connection.server} sent {size:,} bytes without answering a PING")
        connection.early = connection.parser.feed(bytes(data))


class Handover:
    """The messages of both connections while both are subscribed."""

    def __init__(self, router: Router, old: Session, limits: HandoverLimits) -> None:
        self.old: Session = old
        self._router = router
        self._limits = limits
        self._private = Outbox(limits.max_held, "wait", lambda: None)
        self._aside = self._private
        self._duplicates = DuplicateFilter(_MAX_LAG)
        self._held: list[tuple[Msg, float]] = []
        self._held_bytes = 0
        self._leaving = trio.CancelScope()
        self._has_left = False
        self._new: Session | None = None
        self._shared: frozenset[bytes] = frozenset()
        self._unwritten: list[bytes] = []
        self.early: int = 0
        """Number of messages that arrived over the new connection before it had a session."""
        self.is_new_lost: bool = False
        """Whether the new session ended while the old connection was still in use."""
        self.concluded: trio.Event = trio.Event()
        """Set when only one connection is in use and no message is held back."""

    def begin(self, outbox: Outbox) -> list[bytes]:
        """Detach ``outbox`` from the old connection, and remember its messages from now on.

        Returns the frames that subscribe on the new connection. They set no limits on the number of
        messages, because its server would count messages that are not delivered; subscriptions
        count themselves.
        """
        wanted = self._router.wanted()
        self._shared = frozenset(wanted)
        self.old.divert = self._from_old
        self.old.detach(self._private)
        self._unwritten = _unsent(self.old, outbox)
        for frame in self._unwritten:
            if frame.startswith(b"UNSUB "):
                self._private.command(frame)
        self._router.on_unsubscribe = self._unsubscribe
        return [
            commands.sub(sink._raw_subject, sink._raw_queue, sid) for sid, sink in wanted.items()
        ]

    async def wait_silent(self) -> None:
        """Wait until the old server has processed everything that was written to it."""
        await self.old.pings.round_trip()

    def missing(self) -> list[bytes]:
        """Return the frames for all changes of subscriptions since :meth:`begin`."""
        return self._router.difference(self._shared)

    def take_early(self, messages: list[Msg]) -> None:
        """Hold back messages that arrive over the new connection before it has a session."""
        self.early += len(messages)
        for msg in messages:
            self._from_new(msg)

    def listen(
        self, connection: ServerConnection, counters: Counters, callbacks: SessionCallbacks
    ) -> Session:
        """Return a session that holds back messages of the new connection and publishes nothing."""
        aside = Outbox(self._limits.max_held, "wait", lambda: None)
        self._new = Session(connection, self._router, aside, counters, callbacks)
        self._new.divert = self._from_new
        self._aside = aside
        for sid in self._shared.difference(self._router.wanted()):
            aside.command(commands.unsub(sid))
        return self._new

    def take_over(self, outbox: Outbox) -> None:
        """Use the new connection from now on, and publish what is in ``outbox``."""
        assert self._new is not None
        self._new.detach(outbox)
        _unsent(self._new, self._aside)
        self._aside = self._private

    def _unsubscribe(self, sid: bytes) -> None:
        """Unsubscribe on both connections, if they carry the subscription."""
        if sid in self._shared:
            for outbox in {self._private, self._aside}:
                outbox.command(commands.unsub(sid))

    # --- the end of the overlap ------------------------------------------------------------------

    async def leave(self) -> None:
        """End the overlap: unsubscribe on the old connection, and wait for its last messages.

        Returns early if the new connection is lost.
        """
        with self._leaving:
            with trio.move_on_after(self._limits.overlap):
                await self.old.ended.wait()
            self._has_left = True
            for sid in self._shared:
                self._private.command(commands.unsub(sid))
            self.old.read_on()
            pong = self.old.pings.send().settled
            with trio.move_on_after(_MAX_LEAVE):
                received = -1
                # The PONG follows everything that the server has buffered for a slow reader.
                while not pong.is_set() and received != self.old.received:
                    received = self.old.received
                    with trio.move_on_after(self._limits.pong_timeout):
                        await pong.wait()

    def lose(self, lost: Session) -> bool:
        """Note that a session has ended. Returns whether the handover handles that."""
        if lost is not self._new or self.concluded.is_set():
            return False
        self.is_new_lost = True
        self._leaving.cancel()
        return True

    @property
    def can_go_back(self) -> bool:
        """Whether the old connection still carries all subscriptions."""
        return not (self._has_left or self.concluded.is_set() or self.old.ended.is_set())

    def go_back(self, outbox: Outbox) -> list[bytes]:
        """Use the old connection again. Held messages are dropped, because they arrive there too.

        Returns the frames for all changes of subscriptions.
        """
        self.give_up()
        self.old.divert = None
        outbox.forget_commands()
        self.old.detach(outbox)
        _unsent(self.old, self._private)
        return self._unwritten + self.missing()

    async def finish(self) -> None:
        """Deliver what arrived over the new connection only. Late duplicates are still filtered."""
        self.conclude()
        await trio.sleep(self._limits.overlap)
        if self._new is not None:
            self._new.divert = None

    def conclude(self) -> None:
        """Deliver held messages that are not duplicates. From here on nothing is held back.

        Repeating this is harmless.
        """
        if self.concluded.is_set():
            return
        self._end_watch()
        self.old.divert = _drop
        self.old.stop(ConnectionLostError("another connection has taken its place"))
        if self._new is not None:
            self._new.divert = self._from_new_alone
        held, self._held = self._held, []
        for msg, came in held:
            if not self._duplicates.is_duplicate(msg, came):
                self._router.deliver(msg)

    def give_up(self) -> None:
        """Abandon the handover and drop the held messages."""
        self._end_watch()
        self._held.clear()

    def _end_watch(self) -> None:
        self.concluded.set()
        self._leaving.cancel()
        self._router.on_unsubscribe = None

    # --- messages --------------------------------------------------------------------------------

    def _from_old(self, msg: Msg) -> None:
        sink = self._router.sinks.get(msg.sid)
        if sink is not None:
            if sink._raw_queue is None:
                self._duplicates.remember(msg, trio.current_time())
            sink._push(msg)

    def _from_new(self, msg: Msg) -> None:
        if self.concluded.is_set():  # in the middle of a batch
            self._from_new_alone(msg)
            return
        sink = self._router.sinks.get(msg.sid)
        if sink is None:
            return
        # "No responders" answers a request published over the new connection.
        if sink._raw_queue is not None or msg.sid not in self._shared or is_no_responders(msg):
            sink._push(msg)
            return
        self._held.append((msg, trio.current_time()))
        self._held_bytes += len(msg.data) + len(msg.raw_headers or b"") + _MSG_OVERHEAD
        if self._held_bytes > self._limits.max_held:
            if self._new is None:
                raise ProtocolError(
                    f"the new server sent {self._held_bytes:,} bytes without answering a PING"
                )
            logger.warning("too much arrived while changing servers; ending the overlap early")
            self.conclude()

    def _from_new_alone(self, msg: Msg) -> None:
        if not self._duplicates.is_duplicate(msg, trio.current_time()):
            self._router.deliver(msg)


def _unsent(session: Session, outbox: Outbox) -> list[bytes]:
    """Remove unwritten commands. PINGs are given up, the other commands returned."""
    gone = outbox.forget_commands()
    session.pings.unsent(gone.count(commands.PING))
    return [frame for frame in gone if frame != commands.PING]


def _drop(msg: Msg) -> None:
    """Ignore a message that came too late over the old connection; it arrives over the new one."""
