"""Move a live connection to another server without a gap: make before break.

Theory of operation. Two callers request a move from :class:`Mover`: the supervisor, when the server
announces lame duck mode (:meth:`.supervisor.Supervisor.on_info`), and the user, by
:meth:`.BaseConnection.reconnect`. A move has these steps:

1. Connect to another server (:class:`Mover`). Nothing changes until that has succeeded.
2. Stop writing to the old server, send it a PING and wait for the PONG. The old server has then
   processed everything that was published, so order is kept when the new server gets the next
   message.
3. Subscribe on the new connection and wait until its server has processed that
   (:func:`resubscribe`).
4. Publish over the new connection. Both connections stay subscribed during the *overlap*, because
   the cluster needs time to propagate the new subscriptions.
5. Unsubscribe on the old connection and send it a PING. After the PONG the old server sends
   nothing more, and the connection is closed.

If the new connection fails before step 5, the old one is used again, and subscriptions
notice nothing.

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
all the same: only its last messages follow, the server may be about to shut down, and with
``echo=False`` publishers are waiting.
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

__all__ = ["Handover", "HandoverLimits", "Move", "MoveCallbacks", "Mover", "resubscribe"]

logger = logging.getLogger("trio_nats.reconnect")

_LEAVE_TIMEOUT = 60.0
"""Seconds that the old server may take to send its remaining messages."""
_READ = 64 * 1024
_MSG_OVERHEAD = 200
"""Bytes that a held message takes besides its data and headers, roughly."""
_MAX_LAG = 2.0
"""Seconds by which one connection may lag behind the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverLimits:
    """Limits of the duration of a handover, and of the messages that it holds back."""

    overlap: float = 1.0
    """Seconds for which both connections stay subscribed. It must cover the time that a cluster
    needs to propagate new subscriptions."""
    pong_timeout: float = 5.0
    """Seconds to wait for a PONG. In step 5 they start again whenever the server sends anything."""
    max_held: int = 256 * 1024 * 1024
    """Bytes of messages to hold back, or to receive before the first PONG."""


class Move:
    """A requested change of servers, and its outcome."""

    def __init__(self) -> None:
        self.by_user: bool = False
        """Whether the user asked for the move. If so, a failure is reported to the user."""
        self.error: Exception | None = None
        self.done: trio.Event = trio.Event()

    def finish(self, error: Exception | None = None) -> None:
        """Record that the move has succeeded or failed. Only the first call counts."""
        if not self.done.is_set():
            self.error = error
            self.done.set()


class MoveCallbacks(SessionCallbacks):
    """The connection's side of a move, which :class:`Mover` calls."""

    session: Session | None
    info: ServerInfo

    def start(self, task: Callable[..., Awaitable[None]], *args: object) -> bool:
        """Start a background task. Returns ``False`` if the nursery is not open yet."""
        raise NotImplementedError

    async def run_session(self, session: Session) -> None:
        """Run a session. If it is still in use when it ends, replace it."""
        raise NotImplementedError

    async def replace_lost(self, session: Session) -> None:
        """Reconnect, because the session in use has ended."""
        raise NotImplementedError

    def suspend_session(self) -> None:
        """Use no session until one of the following methods is called."""
        raise NotImplementedError

    def begin_session(self, session: Session, frames: list[bytes]) -> None:
        """Use a new session, and send it ``frames``, the subscriptions that it lacks."""
        raise NotImplementedError

    def resume_session(self, session: Session, frames: list[bytes]) -> None:
        """Use the suspended session again, and send it ``frames``."""
        raise NotImplementedError

    def fall_back(self, session: Session, frames: list[bytes], lost: Session) -> None:
        """Return to a session after its replacement, ``lost``, was in use and failed."""
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
        self._user_request = trio.Event()
        self._move: Move | None = None
        """The current move or, if none is running, the last one."""
        self._next: Move | None = None
        self.handover: Handover | None = None
        """The handover from step 2 until duplicates are no longer filtered, or ``None``."""
        self.limits: HandoverLimits = HandoverLimits()
        """Limits of the handovers that begin from now on."""

    def request(self, *, by_user: bool) -> Move:
        """Request a move to another server. It starts when the current move, if any, has ended.

        The current server is left only when another one can replace it. For a move ``by_user``,
        the replacement may be a new connection to the same server. If the connection is lost
        by then, reconnecting completes the move.
        """
        move = self._next = self._next or Move()
        move.by_user = move.by_user or by_user
        if by_user:
            self._user_request.set()
        if not self._running and self._callbacks.session is not None:
            self._running = self._callbacks.start(self._run)
        return move

    async def move_and_wait(self) -> None:
        """Move to another server and wait until that has succeeded.

        If cancelled, the move continues in the background.

        :raises NatsError: if the move fails; the current server is then still in use.
        """
        move = self.request(by_user=True)
        await move.done.wait()
        if move.error is not None:
            raise fresh(move.error)

    def finish(self, error: Exception | None, *, waiting: bool) -> None:
        """Finish the current move and, if ``waiting``, the requested one that has not started."""
        if self._move is not None:
            self._move.finish(error)
        if waiting and self._next is not None:
            self._next.finish(error)
            self._next = None

    @property
    def is_changing(self) -> bool:
        """Whether a handover has suspended the old session and not yet begun the new one."""
        handover = self.handover
        return (
            self._callbacks.session is None
            and handover is not None
            and not handover.concluded.is_set()
        )

    async def wait_concluded(self) -> None:
        """Wait until only one connection delivers messages, and none are held back."""
        if self.handover is not None:
            await self.handover.concluded.wait()

    def handles_loss_of(self, lost: Session) -> bool:
        """Note that a session was lost. Returns whether the current handover deals with that."""
        return self.handover is not None and self.handover.note_lost(lost)

    def conclude(self) -> None:
        """End the handover early, because the connection in use is lost."""
        if self.handover is not None:
            self.handover.conclude()

    def end(self, error: Exception) -> None:
        """Abandon all moves, because the connection is closed."""
        if self.handover is not None:
            self.handover.abandon()
            self.handover = None
        self.finish(error, waiting=True)

    async def _run(self) -> None:
        """Make all requested moves, and retry leaving a server in lame duck mode."""
        tried: Session | None = None
        tries = 0
        try:
            while (session := self._callbacks.session) is not None:
                move, is_lame_duck = self._next, self._callbacks.info.ldm
                if move is None and not is_lame_duck:
                    return
                if session is not tried:
                    tried, tries = session, 0
                if tries and not (move is not None and move.by_user):
                    await self._pause(tries)
                    if session is not self._callbacks.session:
                        continue
                self._move, self._next = self._next or Move(), None
                if self._move.by_user or is_lame_duck:
                    await self._make(self._move, session, logging.DEBUG if tries else logging.INFO)
                    tries += 1
        finally:
            self._running = False

    async def _pause(self, tries: int) -> None:
        """Wait before the next try, or until the user requests a move."""
        self._user_request = trio.Event()
        with trio.move_on_after(self._reconnector.delay(tries, tries)):
            await self._user_request.wait()

    async def _make(self, move: Move, old: Session, level: int) -> None:
        current, peer = old.connection.server, old.connection.peer
        if peer is not None:
            self._addresses.failed(current, peer)  # to try this address last
        # A host name with several addresses may stand for several servers.
        include_current = move.by_user or old.connection.has_other_addresses
        attempts: list[ConnectAttempt] = []
        for server in self._pool.successors(current, peer, include_current=include_current):
            connection = await self._reconnector.once(server, attempts)
            if old is not self._callbacks.session:
                # It was lost in between, and its loss is already being dealt with.
                if connection is not None:
                    await trio.aclose_forcefully(connection.stream)
                return
            if connection is None:
                continue
            if connection.info.ldm and not move.by_user:
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
            move.finish(error)

    async def _hand_over(self, old: Session, connection: ServerConnection) -> None:
        """Replace ``old`` with a session on ``connection``.

        :raises AttemptFailed: if the new connection fails before it is in use; ``old`` is then in
            use again.
        """
        handover = self.handover = Handover(self._router, old, self.limits)
        # From here on, tasks that need a session wait. Publishing continues into the outbox.
        self._callbacks.suspend_session()
        try:
            frames = handover.begin(self._outbox)
            with trio.move_on_after(self.limits.pong_timeout):
                await handover.wait_flushed()
            await self._resubscribe(connection, frames, handover)
        except AttemptFailed:
            await trio.aclose_forcefully(connection.stream)
            self._return_to_old(handover)
            raise
        except BaseException:
            await trio.aclose_forcefully(connection.stream)
            raise
        new = handover.create_session(connection, self._counters, self._callbacks)
        self._callbacks.start(self._callbacks.run_session, new)
        if not self._echo:
            await handover.leave_old()
        in_use = not new.ended.is_set()
        if in_use:
            handover.take_over(self._outbox)
            self._callbacks.begin_session(new, handover.subscription_changes())
            if self._echo:
                await handover.leave_old()
        elif handover.can_fall_back:
            self._return_to_old(handover)
            raise AttemptFailed(ConnectAttempt(connection.server.url, "subscribe", new.reason))
        if not in_use or handover.is_new_lost:
            if handover.can_fall_back:
                self.handover = None
                self._callbacks.fall_back(old, handover.fall_back(self._outbox), new)
                return
            self._callbacks.start(self._callbacks.replace_lost, new)
        await handover.finish()
        self.handover = None

    def _return_to_old(self, handover: Handover) -> None:
        """Continue with the old connection, or replace it if it has ended."""
        frames, old = handover.fall_back(self._outbox), handover.old
        self.handover = None
        if old.ended.is_set():
            self._callbacks.start(self._callbacks.replace_lost, old)
        else:
            self._callbacks.resume_session(old, frames)

    async def _resubscribe(
        self, connection: ServerConnection, frames: list[bytes], handover: Handover
    ) -> None:
        """Subscribe on a new connection.

        :raises AttemptFailed: if that fails.
        """
        limits = self.limits
        try:
            with trio.fail_after(limits.pong_timeout):
                await resubscribe(connection, frames, handover.hold_early, limits.max_held)
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


async def resubscribe(
    connection: ServerConnection,
    frames: list[bytes],
    deliver: Callable[[list[Msg]], None],
    max_size: int,
) -> None:
    """Subscribe on a connection that has no session yet, and wait until the server has done so.

    :param frames: the SUB commands.
    :param deliver: called with the messages that arrive before the PONG. Later events stay in
        ``connection.early``.
    :param max_size: maximum number of bytes to receive before the PONG.
    :raises NatsError: if the server refuses or breaks the protocol.
    :raises trio.BrokenResourceError: if the connection breaks.
    """
    data = b"".join(frames) + commands.PING
    await connection.stream.send_all(data)
    connection.out_bytes += len(data)
    received = 0
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
        chunk = await connection.stream.receive_some(_READ)
        if not chunk:
            raise ConnectionLostError(f"{connection.server} closed the connection")
        received += len(chunk)
        connection.in_bytes += len(chunk)
        if received > max_size:
            raise ProtocolError(
                f"{connection.server} sent {received:,} bytes without answering a PING"
            )
        connection.early = connection.parser.feed(bytes(chunk))


class Handover:
    """Merges the messages of two connections while both are subscribed."""

    def __init__(self, router: Router, old: Session, limits: HandoverLimits) -> None:
        self.old: Session = old
        self._router = router
        self._limits = limits
        # Messages wait in the connection's own outbox. These two carry commands only.
        self._old_outbox = Outbox(limits.max_held, "wait", lambda: None)
        self._new_outbox: Outbox | None = None
        self._duplicates = DuplicateFilter(_MAX_LAG)
        self._held: list[tuple[Msg, float]] = []
        self._held_bytes = 0
        self._leave_scope = trio.CancelScope()
        self._left_old = False
        self._new: Session | None = None
        self._shared: frozenset[bytes] = frozenset()
        self._unwritten: list[bytes] = []
        self.early: int = 0
        """Number of messages that arrived over the new connection before it had a session."""
        self.is_new_lost: bool = False
        """Whether the new session ended before the handover was concluded."""
        self.concluded: trio.Event = trio.Event()
        """Set when only one connection delivers messages, and none are held back."""

    def begin(self, outbox: Outbox) -> list[bytes]:
        """Detach ``outbox`` from the old connection, and remember the messages it delivers.

        :returns: the SUB commands for the new connection. They set no limit on the number of
            messages, because its server would count duplicates, too. Subscriptions count the
            messages themselves.
        """
        wanted = self._router.wanted()
        self._shared = frozenset(wanted)
        self.old.divert = self._from_old
        self.old.switch_outbox(self._old_outbox)
        self._unwritten = _remove_commands(self.old, outbox)
        for frame in self._unwritten:
            if frame.startswith(b"UNSUB "):
                self._old_outbox.command(frame)
        self._router.on_unsubscribe = self._unsubscribe
        return [
            commands.sub(sink._raw_subject, sink._raw_queue, sid) for sid, sink in wanted.items()
        ]

    async def wait_flushed(self) -> None:
        """Wait until the old server has processed everything that was sent to it."""
        await self.old.pings.round_trip()

    def subscription_changes(self) -> list[bytes]:
        """Return the commands for all changes of subscriptions since :meth:`begin`."""
        return self._router.difference(self._shared)

    def hold_early(self, messages: list[Msg]) -> None:
        """Hold back messages that arrive over the new connection before it has a session."""
        self.early += len(messages)
        for msg in messages:
            self._from_new(msg)

    def create_session(
        self, connection: ServerConnection, counters: Counters, callbacks: SessionCallbacks
    ) -> Session:
        """Return a session that publishes nothing and whose messages are held back."""
        outbox = self._new_outbox = Outbox(self._limits.max_held, "wait", lambda: None)
        self._new = Session(connection, self._router, outbox, counters, callbacks)
        self._new.divert = self._from_new
        for sid in self._shared.difference(self._router.wanted()):
            outbox.command(commands.unsub(sid))
        return self._new

    def take_over(self, outbox: Outbox) -> None:
        """Publish what is in ``outbox`` over the new connection from now on."""
        assert self._new is not None
        assert self._new_outbox is not None
        self._new.switch_outbox(outbox)
        _remove_commands(self._new, self._new_outbox)
        self._new_outbox = None

    def _unsubscribe(self, sid: bytes) -> None:
        """Unsubscribe on both connections, if they share the subscription."""
        if sid in self._shared:
            self._old_outbox.command(commands.unsub(sid))
            if self._new_outbox is not None:
                self._new_outbox.command(commands.unsub(sid))

    # --- the end of the overlap ------------------------------------------------------------------

    async def leave_old(self) -> None:
        """Wait for the overlap, then unsubscribe on the old connection and read its last messages.

        Returns early if the new connection is lost.
        """
        with self._leave_scope:
            with trio.move_on_after(self._limits.overlap):
                await self.old.ended.wait()
            self._left_old = True
            for sid in self._shared:
                self._old_outbox.command(commands.unsub(sid))
            self.old.ignore_stalls()
            pong = self.old.pings.send().settled
            with trio.move_on_after(_LEAVE_TIMEOUT):
                received = -1
                # The PONG follows everything that the server has buffered for a slow reader.
                while not pong.is_set() and received != self.old.received:
                    received = self.old.received
                    with trio.move_on_after(self._limits.pong_timeout):
                        await pong.wait()

    def note_lost(self, lost: Session) -> bool:
        """Note that a session has ended. Returns whether the handover deals with that."""
        if lost is not self._new or self.concluded.is_set():
            return False
        self.is_new_lost = True
        self._leave_scope.cancel()
        return True

    @property
    def can_fall_back(self) -> bool:
        """Whether the old connection still carries all subscriptions."""
        return not (self._left_old or self.concluded.is_set() or self.old.ended.is_set())

    def fall_back(self, outbox: Outbox) -> list[bytes]:
        """Use the old connection again. Held messages are dropped, because they arrive there too.

        :returns: the commands for all changes of subscriptions.
        """
        self.abandon()
        self.old.divert = None
        outbox.remove_commands()
        self.old.switch_outbox(outbox)
        _remove_commands(self.old, self._old_outbox)
        return self._unwritten + self.subscription_changes()

    async def finish(self) -> None:
        """Conclude, then filter duplicates for a little longer, because the new server may lag."""
        self.conclude()
        await trio.sleep(self._limits.overlap)
        if self._new is not None:
            self._new.divert = None

    def conclude(self) -> None:
        """Stop the old connection, and deliver the held messages that are not duplicates.

        Only the first call has an effect.
        """
        if self.concluded.is_set():
            return
        self._disconnect_router()
        self.old.divert = _drop
        self.old.stop(ConnectionLostError("it was replaced by another connection"))
        if self._new is not None:
            self._new.divert = self._from_new_concluded
        held, self._held = self._held, []
        for msg, arrived in held:
            if not self._duplicates.is_duplicate(msg, arrived):
                self._router.deliver(msg)

    def abandon(self) -> None:
        """End the handover and drop the held messages."""
        self._disconnect_router()
        self._held.clear()

    def _disconnect_router(self) -> None:
        self.concluded.set()
        self._leave_scope.cancel()
        self._router.on_unsubscribe = None

    # --- messages --------------------------------------------------------------------------------

    def _from_old(self, msg: Msg) -> None:
        sink = self._router.sinks.get(msg.sid)
        if sink is not None:
            if sink._raw_queue is None:
                self._duplicates.remember(msg, trio.current_time())
            sink._push(msg)

    def _from_new(self, msg: Msg) -> None:
        if self.concluded.is_set():  # by an earlier message of the same read
            self._from_new_concluded(msg)
            return
        sink = self._router.sinks.get(msg.sid)
        if sink is None:
            return
        # "No responders" answers a request sent over the new connection, so it has no duplicate.
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

    def _from_new_concluded(self, msg: Msg) -> None:
        if not self._duplicates.is_duplicate(msg, trio.current_time()):
            self._router.deliver(msg)


def _remove_commands(session: Session, outbox: Outbox) -> list[bytes]:
    """Remove the unwritten commands and mark the PINGs among them as lost. Returns the others."""
    removed = outbox.remove_commands()
    session.pings.unsent(removed.count(commands.PING))
    return [frame for frame in removed if frame != commands.PING]


def _drop(msg: Msg) -> None:
    """Ignore a message of the old connection, because it arrives over the new one, too."""
