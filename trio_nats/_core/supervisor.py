"""Keeps a connection alive: opens the first wire, and the next one when it breaks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Collection
from threading import get_ident

import trio
from trio.lowlevel import current_trio_token

from .._nursery import open_nursery
from .._protocol.commands import PubLineCache
from .._protocol.server_errors import is_too_long
from .._transport.connector import (
    AttemptFailed,
    ConnectHistory,
    ServerConnection,
    open_server_connection,
)
from .._transport.dial import AddressHistory
from ..errors import (
    ConfigurationError,
    ConnectAttempt,
    ConnectError,
    ConnectionLostError,
    MaxPayloadError,
    NatsError,
    PermissionsViolationError,
    ServerReportedError,
    fresh,
)
from ..events import (
    Closed,
    Connected,
    ConnectionState,
    Disconnected,
    LameDuck,
    MessagesDiscarded,
    Reconnected,
    ServerError,
    ServersDiscovered,
)
from ..message import Publisher
from ..server_info import ServerInfo
from ..servers import Server
from .event_hub import EventHub
from .handover import Handover, Move, prime
from .outbox import Outbox
from .pings import Ping
from .reconnect import Reconnector, connect_error
from .request_mux import RequestMux
from .router import Router, Sink
from .server_pool import ServerPool
from .session import Session, SessionCallbacks
from .settings import Settings
from .stats import Counters

__all__ = ["Supervisor"]

logger = logging.getLogger("trio_nats.connection")

# How long both wires stay subscribed when changing servers. It has to cover the time that the
# cluster takes to tell all its members of our new subscriptions.
_OVERLAP = 1.0
_PATIENCE = 5.0
_FEW_SUBJECTS = 16


class Supervisor(SessionCallbacks):
    """Everything a connection has that outlives its wires, and the task that replaces them."""

    def __init__(self, settings: Settings, origin: Publisher) -> None:
        self.settings: Settings = settings
        self._origin = origin
        self.pool: ServerPool = ServerPool(settings.servers, randomize=settings.randomize)
        self.outbox: Outbox = Outbox(
            settings.outbox_size, settings.when_outbox_full, self.check_run
        )
        self.router: Router = Router(self.outbox)
        self.requests: RequestMux = RequestMux(
            self.router, settings.inbox_prefix, lambda: self.disconnected_for
        )
        self.event_hub: EventHub = EventHub(self.check_run)
        self.counters: Counters = Counters()
        self.state: ConnectionState = ConnectionState.CONNECTING
        self.info: ServerInfo = ServerInfo()
        # No server has said yet what it takes.
        self.pub_lines: PubLineCache = PubLineCache(sys.maxsize, settings.opening.max_control_line)
        self.session: Session | None = None
        self.failure: NatsError | None = None
        """Why the connection ended, if not on purpose."""
        self._token = trio.lowlevel.current_trio_token()
        self.thread: int = get_ident()
        """The thread that this connection's ``trio.run()`` runs in."""
        self._memory = ConnectHistory(addresses=AddressHistory(randomize=settings.randomize))
        self._reconnector = Reconnector(self.pool, settings.reconnect, self.event_hub, self._open)
        self._changed = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._drained: list[Sink] = []
        """Subscriptions that the router does not know any more, but somebody waits for."""
        self._breaths = 0
        self._line_refused = False
        self._restored: Ping | None = None
        """Behind the subscriptions of this wire, if a line was too long for the one before."""
        self._fence = Ping(lambda: None)
        self._fence.lose()
        self._began = 0.0
        self._disconnected_at: float | None = trio.current_time()
        self._moving = False
        self._move: Move | None = None
        """The one that is under way, or was the last."""
        self._next_move: Move | None = None
        self._handover: Handover | None = None

    # --- the background task ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(
        self, task_status: trio.TaskStatus[ConnectError | None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, report how that went, and stay connected until stopped or beyond hope.

        The first failure is reported rather than raised, for it belongs to the task that opens the
        connection. Never raises anything but cancellation.
        """
        with self._scope:
            if self.settings.reconnect.retry_on_initial_connect:
                task_status.started(None)
                await self._tend(self._connect_again)
                return
            try:
                wire = await self._reconnector.first()
            except ConnectError as error:
                self.end(error)
                task_status.started(error)
                return
            self._begin(wire)
            task_status.started(None)
            await self._tend()

    async def _tend(self, start: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run the sessions, one after the other, or two at a time while changing servers."""
        async with open_nursery() as nursery:
            self._nursery = nursery
            if start is not None:
                nursery.start_soon(self._safely, start)
            elif self.session is not None:
                nursery.start_soon(self._safely, self._run_session, self.session)
                if self.info.ldm:  # so early that there was nobody to move
                    self.change_server(demanded=False)
            await self._safely(self.requests.keep_time)

    @trio.lowlevel.enable_ki_protection
    async def _safely(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await task(*args)
        except Exception as error:
            # A fault of ours, not of the network's. It must not come out of the user's block as
            # an exception group; what waits for the connection is told instead.
            logger.exception("unexpected error while keeping the connection")
            failure = ConnectionLostError(f"internal error: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.end(failure)
            self.stop()

    def _start(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._safely, task, *args)

    def stop(self) -> None:
        """Cancel the background task. What it leaves is for :meth:`end` to settle."""
        self._scope.cancel()

    async def _run_session(self, session: Session) -> None:
        interval = self.settings.ping_interval_of(session.wire.server)
        reason = await session.run(interval, self.settings.max_pings_out)
        if session is not self.session:
            return  # another one took its place in good time
        await self._replace_lost(session.wire, reason)

    async def _replace_lost(self, wire: ServerConnection, reason: Exception) -> None:
        server = wire.server
        if self._handover is not None:
            # The next wire must not bring what its predecessor still would.
            self._handover.conclude()
        self.session = None
        self.router.live = False
        self._disconnected_at = trio.current_time()
        lived = self._disconnected_at - self._began
        self.pool.lost(server, wire.peer, soon=lived < self.settings.reconnect.max_wait)
        if wire.peer is not None:
            self._memory.addresses.failed(server, wire.peer)
        self.outbox.forget_commands()
        logger.warning("%s; reconnecting", str(reason))
        self.event_hub.emit(Disconnected(server.url, reason))
        if self.settings.reconnect.requests == "fail":
            self.requests.fail(_as_lost(reason))
            # Nobody waits for those that have not been written.
            self.outbox.remove_messages(self.requests.is_request)
        if self.state is ConnectionState.OPEN:
            self._set_state(ConnectionState.RECONNECTING)
        await self._connect_again(reason)

    async def _connect_again(self, lost: Exception | None = None) -> None:
        try:
            wire = await self._reconnector.until_connected(self.info)
        except ConnectError as error:
            error.__context__ = lost
            self.end(error if error.attempts or lost is None else _as_lost(lost))
        else:
            if self.state is ConnectionState.CLOSED:  # closed while waiting
                await trio.aclose_forcefully(wire.stream)
                return
            self._begin(wire)
            self._start(self._run_session, self.session)

    def _begin(
        self,
        wire: ServerConnection,
        successor: Session | None = None,
        frames: list[bytes] | None = None,
    ) -> None:
        """Put a new wire to use: subscriptions first, then what waited to be published.

        A ``successor`` takes over from another session, and has subscribed already, but for
        ``frames``.
        """
        self.session = successor or Session(wire, self.router, self.outbox, self.counters, self)
        frames = self.router.restore() if frames is None else frames
        self.router.new_wire()
        if self._line_refused:
            # To know whether it was the line of a subscription, if it happens again.
            self._line_refused, self._restored = False, self.session.pings.send_first()
        self.outbox.prepend(frames)
        self.router.live = True
        self.pool.connected(wire.server)
        self._settle_moves(None, waiting=successor is None)
        self.counters.connects += 1
        self.counters.in_bytes += wire.in_bytes
        self.counters.out_bytes += wire.out_bytes
        self._began = trio.current_time()
        first = self.counters.connects == 1
        self._log_connected(wire, None if first else self.disconnected_for)
        self._disconnected_at = None
        self.event_hub.emit(Connected(wire.server.url) if first else Reconnected(wire.server.url))
        if self.state in (ConnectionState.CONNECTING, ConnectionState.RECONNECTING):
            self._set_state(ConnectionState.OPEN)
        # Only now, for what it tells of follows the connection.
        self.info = ServerInfo()
        self.on_info(self.session, wire.info)
        self._changed.unpark_all()

    def _settle_moves(self, error: Exception | None, *, waiting: bool) -> None:
        """The move under way is over, and so is one still ``waiting``, if that is meant too."""
        if self._move is not None:
            self._move.settle(error)
        if waiting and self._next_move is not None:
            self._next_move.settle(error)
            self._next_move = None

    @staticmethod
    def _log_connected(wire: ServerConnection, disconnected_for: float | None) -> None:
        security = wire.tls.version if wire.tls else "no TLS"
        if disconnected_for is None:
            logger.info("connected to %s (%s)", wire.server, security)
        else:
            logger.info(
                "reconnected to %s (%s) after %.3g s", wire.server, security, disconnected_for
            )

    async def _open(self, server: Server) -> ServerConnection:
        return await open_server_connection(
            server, self.settings.opening, self._origin, self._memory
        )

    # --- changing servers -------------------------------------------------------------------------

    def change_server(self, *, demanded: bool) -> Move:
        """Begin to move to another server without a gap, after the move that is under way if any.

        The present one is left only when another one can take its place. If the move is
        ``demanded``, that may be a new connection to the same server. While disconnected, the
        next connection counts as the move.
        """
        move = self._next_move = self._next_move or Move()
        move.demanded = move.demanded or demanded
        if not self._moving and self.session is not None and self._nursery is not None:
            self._moving = True
            self._start(self._make_moves)
        return move

    async def change_server_and_wait(self) -> None:
        """Change servers, and return once that is done. Raises what kept it from being done.

        If cancelled, the move goes on.
        """
        move = self.change_server(demanded=True)
        await move.over.wait()
        if move.error is not None:
            raise fresh(move.error)

    async def _make_moves(self) -> None:
        try:
            while self._next_move is not None and self.session is not None:
                self._move, self._next_move = self._next_move, None
                if self._move.demanded or self.info.ldm:
                    await self._make(self._move, self.session)
        finally:
            self._moving = False

    async def _make(self, move: Move, old: Session) -> None:
        current, peer = old.wire.server, old.wire.peer
        if peer is not None:
            self._memory.addresses.failed(current, peer)  # So it is tried last.
        # What has several addresses may be several servers.
        itself = move.demanded or old.wire.has_other_addresses
        attempts: list[ConnectAttempt] = []
        for server in self.pool.successors(current, peer, itself=itself):
            wire = await self._reconnector.once(server, attempts)
            if old is not self.session:
                # It was lost, and what replaces it is no business of this move's.
                if wire is not None:
                    await trio.aclose_forcefully(wire.stream)
                return
            if wire is None:
                continue
            if wire.info.ldm and not move.demanded:
                await trio.aclose_forcefully(wire.stream)
                continue
            try:
                await self._hand_over(old, wire)
                return
            except AttemptFailed as failed:
                attempts.append(failed.attempt)
        if old is self.session:
            error = connect_error(attempts)
            logger.info("staying with %s: %s", current, str(error))
            move.settle(error)

    async def _hand_over(self, old: Session, wire: ServerConnection) -> None:
        """Replace ``old`` by a session on ``wire``.

        Raises :exc:`AttemptFailed` if the subscriptions could not be taken there; then ``old`` is
        in use again.
        """
        echo = self.settings.opening.echo
        handover = self._handover = Handover(self.router, old)
        # Between two sessions: who wants one waits, who publishes does not notice.
        self.session = None
        self.router.live = False
        try:
            frames = handover.begin(self.outbox)
            with trio.move_on_after(_PATIENCE):
                await handover.wait_silent()
            await self._prime(wire, frames, handover)
        except AttemptFailed:
            await trio.aclose_forcefully(wire.stream)
            self._keep(old, handover)
            raise
        except BaseException:
            await trio.aclose_forcefully(wire.stream)
            raise
        new = handover.listen(wire, self.counters, self)
        self._start(self._run_session, new)
        if not echo:
            await handover.leave(_OVERLAP, _PATIENCE)
        if new.ended.is_set():
            self._start(self._replace_lost, wire, new.reason)
        else:
            handover.take_over(self.outbox)
            self._begin(wire, new, handover.missing())
        if echo:
            await handover.leave(_OVERLAP, _PATIENCE)
        await handover.finish(_OVERLAP)
        self._handover = None

    def _keep(self, old: Session, handover: Handover) -> None:
        handover.abandon(self.outbox)
        self._handover = None
        if old.ended.is_set():
            self._start(self._replace_lost, old.wire, old.reason)
        else:
            self.session = old
            self.router.live = True
            self._changed.unpark_all()
            if old.wire.info.ldm:  # It may have said so between the sessions.
                self.on_info(old, old.wire.info)

    @property
    def between_wires(self) -> bool:
        """Whether the old wire is being finished and the new one not yet in use."""
        handover = self._handover
        return self.session is None and handover is not None and not handover.concluded.is_set()

    async def _settled(self) -> None:
        """Wait until messages come over one wire only, and none is held back."""
        if self._handover is not None:
            await self._handover.concluded.wait()

    async def _prime(self, wire: ServerConnection, frames: list[bytes], handover: Handover) -> None:
        """Subscribe on a new wire. Raises :exc:`AttemptFailed` if it is not to be used."""
        try:
            with trio.fail_after(_PATIENCE):
                await prime(wire, frames, handover.take_early)
        except trio.TooSlowError:
            text = f"{wire.server} did not answer a PING within {_PATIENCE:g} s"
            error: Exception = ConnectionLostError(text)
        except trio.BrokenResourceError as broken:
            error = ConnectionLostError(f"the connection to {wire.server} broke")
            error.__cause__ = broken
        except NatsError as raised:
            error = raised
        else:
            self.counters.in_messages += handover.early
            return
        raise AttemptFailed(ConnectAttempt(wire.server.url, "subscribe", error))

    # --- what sessions report --------------------------------------------------------------------

    def on_info(self, session: Session, info: ServerInfo) -> None:
        """See :meth:`SessionCallbacks.on_info`."""
        if session is not self.session:
            return  # one that is on its way out
        lame_before = self.info.ldm
        self.info = info
        limit = info.max_payload
        unverified = session.wire.unverified_info
        if unverified is not None:
            # Somebody who wants our messages refused could name a small limit. A large one is the
            # server's to enforce.
            limit = max(limit, unverified.max_payload)
        takes_less = limit < self.pub_lines.max_payload or not info.headers
        self.pub_lines.max_payload = limit
        server = session.wire.server
        if takes_less:
            self._discard_unsendable(server)
        if info.ldm and not lame_before:
            logger.info("%s is in lame duck mode", server)
            self.event_hub.emit(LameDuck(server.url))
            self.change_server(demanded=False)
        # After set_servers() the one in use may be none of them, and its cluster neither.
        if not self.settings.ignore_discovered and server in self.pool.servers:
            scheme = "tls" if session.wire.tls and not server.is_websocket else server.scheme
            self._tell_discovered(self.pool.discover(info, server, scheme))
            if unverified is not None:
                self._discover_unverified(session.wire, unverified)

    def _discover_unverified(self, wire: ServerConnection, info: ServerInfo) -> None:
        """Take the servers that are named in plaintext, ahead of TLS, where that does no harm.

        Servers before 2.12 name them nowhere else until the cluster changes.
        """
        assert wire.tls is not None
        name = wire.tls.verified_name
        choice = self.settings.opening.tls.unverified_servers
        if choice == "ignore" or not info.connect_urls:
            return
        if name is None:
            logger.info("not using the servers that %s names in plaintext", wire.server)
            return
        tls_name = name if choice == "dialled_name" else None
        self._tell_discovered(self.pool.discover_unverified(info, wire.server, tls_name))

    def _tell_discovered(self, new: list[Server]) -> None:
        if new:
            self.event_hub.emit(ServersDiscovered(tuple(found.url for found in new)))

    def refusal(self, head: bytes) -> NatsError | None:
        """Why the present server does not take the message that ``head`` begins; else ``None``."""
        line = head[: head.index(b"\r\n")]
        size = int(line[line.rindex(b" ") + 1 :])
        if size > self.pub_lines.max_payload:
            return MaxPayloadError(size, self.pub_lines.max_payload)
        if line.startswith(b"HPUB ") and self.session is not None and not self.info.headers:
            return ConfigurationError(
                "the server does not support message headers; leave them out, or upgrade it"
            )
        return None

    def _discard_unsendable(self, server: Server) -> None:
        """Take out of the outbox what would end the connection again and again."""
        heads = self.outbox.remove_messages(lambda head: self.refusal(head) is not None)
        reasons: list[NatsError] = []
        subjects: dict[str, None] = {}
        for head in heads:
            reason = self.refusal(head)
            assert reason is not None
            reasons.append(reason)
            words = head[: head.index(b"\r\n")].split(b" ")
            if len(subjects) < _FEW_SUBJECTS:
                subjects[words[1].decode()] = None
            self.requests.reject(words[2], reason)
        if heads:
            self.counters.discarded += len(heads)
            logger.warning(
                "%s does not take %d waiting messages: %s", server, len(heads), str(reasons[0])
            )
            self.event_hub.emit(
                MessagesDiscarded(server.url, len(heads), tuple(subjects), reasons[0])
            )

    def on_server_error(self, error: ServerReportedError) -> None:
        """See :meth:`SessionCallbacks.on_server_error`."""
        if isinstance(error, PermissionsViolationError):
            deny = self.requests.deny if error.operation == "publish" else self.router.deny
            if deny(error):
                return
        elif "maximum subscriptions exceeded" in error.message.lower():
            self.router.exceed(error)
            # Nothing sent before this is to be taken for what a later error is about.
            if self.session is not None and self._fence.settled.is_set():
                self._fence = self.session.pings.send()
        elif is_too_long(error):
            if self._restored is not None and not self._restored.settled.is_set():
                self.router.refuse_longest(error)
            self._line_refused = True
        logger.warning("%s", str(error))
        self.event_hub.emit(ServerError(error))

    # --- draining ---------------------------------------------------------------------------------

    async def drain(self, sids: Collection[bytes]) -> None:
        """Unsubscribe, wait until nothing more can come, and end the subscriptions.

        If cancelled, they are ended all the same.
        """
        try:
            await self._settled()
            for sid in sids:
                self.router.quiesce(sid)
                if sid in self.router.sinks:
                    # A full one that waits for its receiver must not keep the PONG from coming.
                    self.router.sinks[sid]._lift_limits()
            session = self.session
            if session is not None and self.router.live:
                while not await session.pings.round_trip():
                    # A move takes back what is unwritten, and may then come to nothing.
                    await self._settled()
                    if session is not self.session:
                        break
                await self._settled()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            for sid in sids:
                sink = self.router.sinks.get(sid)
                self.router.remove(sid)
                if sink is not None:
                    sink._end(trio.EndOfChannel())

    async def drain_all(self) -> bool:
        """:meth:`drain` every subscription, and wait until all they have has been taken out.

        Those that another task is draining already are waited for as well. What only the present
        task can take out, or has to answer, is not waited for; returns whether there is any.
        """
        task = trio.lowlevel.current_task()
        sinks = {sid: sink for sid, sink in self.router.sinks.items() if sink is not self.requests}
        self._drained += sinks.values()
        await self.drain(sinks)
        left = False
        for sink in self._drained:
            if self.state is ConnectionState.CLOSED:  # closed while waiting
                return False
            if sink._waits_for(task):
                left = left or sink.pending[0] > 0 or sink._is_handled_by(task)
            else:
                await sink._wait_taken()
        return left

    # --- state -----------------------------------------------------------------------------------

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._changed.unpark_all()

    async def breathe(self) -> None:
        """A checkpoint that lets others run every so often, for what is done many times over."""
        self._breaths = (self._breaths + 1) & 31
        if self._breaths:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def wait(self, ready: Callable[[], bool]) -> None:
        """A checkpoint; return once ``ready()`` holds. It is asked at every change of state."""
        await trio.lowlevel.checkpoint()
        while not ready():
            await self._changed.park()

    async def live_session(self) -> Session:
        """The session, once there is one. Raises :meth:`closed_error` if there never will be."""
        await self.wait(lambda: self.session is not None or self.state is ConnectionState.CLOSED)
        if self.session is None:
            raise self.closed_error()
        return self.session

    @property
    def disconnected_for(self) -> float | None:
        """Seconds for which there has been no connection; ``None`` while there is one."""
        if self._disconnected_at is None:
            return None
        return trio.current_time() - self._disconnected_at

    def closed_error(self) -> Exception:
        """What to raise for using a connection that has ended, or is ending."""
        if self.failure is None:
            return trio.ClosedResourceError("this NATS connection is closed")
        error = ConnectionLostError(f"the NATS connection is gone for good: {self.failure}")
        error.__cause__ = self.failure
        return error

    def check_open(self) -> None:
        """Complain if the connection has ended, or takes nothing new."""
        if self.state is ConnectionState.CLOSING or self.state is ConnectionState.CLOSED:
            raise self.closed_error()

    def check_usable(self) -> None:
        """:meth:`check_open` and :meth:`check_run`."""
        self.check_open()
        self.check_run()

    def check_run(self) -> None:
        """Complain when called from anywhere but the ``trio.run()`` the connection belongs to.

        To look costs more than the rest of what is done for every message, so there only
        ``thread`` is compared: in its own thread a foreign run can corrupt nothing, for only one of
        them runs at a time, and what wakes a task looks again.
        """
        try:
            token = current_trio_token()
        except RuntimeError:  # no run at all
            token = None
        if token is not self._token:
            raise RuntimeError(
                "this NATS connection belongs to another trio.run(); open one in each, or use "
                "trio.from_thread to come back to it"
            )

    def begin_draining(self) -> None:
        """Take no new subscriptions from now on."""
        self._set_state(ConnectionState.DRAINING)

    def begin_closing(self) -> None:
        """Take nothing new from now on."""
        self.router.read_on()
        self.outbox.begin_closing()
        self._set_state(ConnectionState.CLOSING)

    def end(self, failure: NatsError | None) -> None:
        """The connection is over: let everything go that waits for it. Harmless when repeated."""
        if self.state is ConnectionState.CLOSED:
            return
        if failure is not None and self._nursery is not None:  # else it is raised
            logger.error("the connection is gone for good: %s", str(failure))
        if self._disconnected_at is None:
            self._disconnected_at = trio.current_time()
        self.failure = failure
        self.session = None
        if self._handover is not None:
            self._handover.give_up()
            self._handover = None
        error = self.closed_error()
        self.state = ConnectionState.CLOSED
        self.router.end_all(error)
        for sink in self._drained:
            sink._let_go()
        self._drained.clear()  # See Msg on why no message may stay in their hands.
        self.requests._end(error)
        self._settle_moves(error, waiting=True)
        self.outbox.close()
        self._changed.unpark_all()
        self.event_hub.emit(Closed(failure))
        self.event_hub.close()


def _as_lost(reason: Exception) -> ConnectionLostError:
    if isinstance(reason, ConnectionLostError):
        return reason
    error = ConnectionLostError(f"the connection was lost: {reason}")
    error.__cause__ = reason
    return error
