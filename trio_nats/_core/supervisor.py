"""Keep a connection alive while the connections to servers come and go.

Theory of operation. A user's connection outlives any number of connections to servers.
:class:`Supervisor` holds the state that outlives them: the outbox, subscriptions, requests,
counters and the servers to use. It runs in the background of the ``open_nats`` block. It connects,
runs a :class:`.Session` on the server connection, and reconnects through the :class:`.Reconnector`
when the session ends. The :class:`.Mover` replaces a session that still works.

``session`` is the session in use, or ``None``. While ``router.live`` is true, SUB and UNSUB
commands are sent immediately. While it is false they are not; instead, all subscriptions are sent
to the next server ahead of the messages waiting in the outbox. Both are changed without a
checkpoint in between, and only by tasks of this nursery and by :meth:`Supervisor.end`. So they are
consistent even if a task is cancelled.

The error that ended the connection is kept in ``failure`` and raised in tasks that use the
connection. The background tasks raise nothing but cancellations.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Collection
from threading import get_ident
from weakref import WeakSet

import trio
from trio.lowlevel import current_trio_token

from .._event_hub import EventHub
from .._nursery import open_nursery
from .._protocol.commands import PubLineCache
from .._protocol.server_errors import is_too_long
from .._transport.connector import (
    ConnectHistory,
    ServerConnection,
    open_server_connection,
)
from .._transport.dial import AddressHistory
from ..errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    MaxPayloadError,
    NatsError,
    PermissionsViolationError,
    ServerReportedError,
)
from ..events import (
    Closed,
    Connected,
    ConnectionState,
    Disconnected,
    Event,
    LameDuck,
    MessagesDiscarded,
    Reconnected,
    ServerError,
    ServersDiscovered,
)
from ..message import Responder
from ..server_info import ServerInfo
from ..servers import Server
from .handover import MoveCallbacks, Mover
from .outbox import Outbox
from .pings import Ping
from .reconnect import Reconnector
from .request_mux import RequestMux
from .router import Router, Sink
from .server_pool import ServerPool
from .session import Session
from .settings import Settings
from .stats import Counters

__all__ = ["Supervisor"]

logger = logging.getLogger("trio_nats.connection")

_MAX_EVENT_SUBJECTS = 16
"""Maximum number of subjects in a :class:`.MessagesDiscarded` event."""


class Supervisor(MoveCallbacks):
    """The state of a connection, and the background tasks that connect and reconnect."""

    def __init__(self, settings: Settings, origin: Responder) -> None:
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
        self.event_hub: EventHub[Event] = EventHub(self.check_run)
        self.counters: Counters = Counters()
        self.state: ConnectionState = ConnectionState.CONNECTING
        self.info: ServerInfo = ServerInfo()
        max_line = settings.connector.max_control_line
        # The server's max_payload is not known yet.
        self.pub_lines: PubLineCache = PubLineCache(sys.maxsize, max_line)
        self.session: Session | None = None
        self.failure: NatsError | None = None
        """The error that ended the connection, unless the user closed it."""
        self._token = trio.lowlevel.current_trio_token()
        self.thread: int = get_ident()
        """The thread of this connection's ``trio.run()``."""
        self._history = ConnectHistory(addresses=AddressHistory(randomize=settings.randomize))
        self._reconnector = Reconnector(self.pool, settings.reconnect, self.event_hub, self._open)
        self._changed = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._drained: list[Sink] = []
        """Subscriptions that are being drained. The router has already removed some of them."""
        self._drained_alone: WeakSet[Sink] = WeakSet()
        """Subscriptions that have been drained, while tasks may still handle their messages."""
        self._light_checkpoints = 0
        self._line_too_long = False
        self._restored_ping: Ping | None = None
        """The PING behind the restored subscriptions, if the last server refused a long line."""
        self._limit_ping = Ping(lambda: None)
        """The PING sent after the last "maximum subscriptions exceeded"."""
        self._limit_ping.lose()
        self._session_began = 0.0
        self._disconnected_at: float | None = trio.current_time()
        self.moves: Mover = Mover(
            self,
            self.router,
            self.outbox,
            self.counters,
            self.pool,
            self._history.addresses,
            self._reconnector,
            echo=settings.connector.echo,
        )

    # --- the background task ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(
        self, task_status: trio.TaskStatus[ConnectError | None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, report the outcome, and stay connected until stopped or until it fails for good.

        Failure of the first attempt is reported through ``task_status``, for the task that enters
        the block to raise. This task raises nothing but cancellations.
        """
        with self._scope:
            if self.settings.reconnect.retry_on_initial_connect:
                task_status.started(None)
                await self._run_sessions(self._connect_again)
                return
            try:
                connection = await self._reconnector.first()
            except ConnectError as error:
                self.end(error)
                task_status.started(error)
                return
            self._use_connection(connection)
            task_status.started(None)
            await self._run_sessions()

    async def _run_sessions(self, start: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run sessions, one after another, or two at a time during a handover."""
        async with open_nursery() as nursery:
            self._nursery = nursery
            if start is not None:
                nursery.start_soon(self._run_task, start)
            elif self.session is not None:
                nursery.start_soon(self._run_task, self.run_session, self.session)
                if self.info.ldm:  # announced before there was a nursery
                    self.moves.request(by_user=False)
            await self._run_task(self.requests.run_timer)

    @trio.lowlevel.enable_ki_protection
    async def _run_task(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await task(*args)
        except Exception as error:
            # A bug, not a network failure. Raise it in the tasks that use the connection. From the
            # nursery it would come out of the user's block as an exception group.
            logger.exception("unexpected error while keeping the connection")
            failure = ConnectionLostError(f"internal error: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.end(failure)
            self.stop()

    def start(self, task: Callable[..., Awaitable[None]], *args: object) -> bool:
        """See :class:`MoveCallbacks`."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(self._run_task, task, *args)
        return True

    def stop(self) -> None:
        """Cancel the background tasks. Call :meth:`end` afterwards."""
        self._scope.cancel()

    async def run_session(self, session: Session) -> None:
        """See :class:`MoveCallbacks`."""
        interval = self.settings.ping_interval_of(session.connection.server)
        await session.run(interval, self.settings.max_pings_out)
        if not self.moves.handles_loss_of(session) and session is self.session:
            await self.replace_lost(session)

    async def replace_lost(self, session: Session) -> None:
        """See :class:`MoveCallbacks`."""
        self.moves.conclude()
        self.suspend_session()
        self._disconnected_at = trio.current_time()
        logger.warning("%s; reconnecting", str(session.reason))
        self._note_lost(session)
        if self.state is ConnectionState.OPEN:
            self._set_state(ConnectionState.RECONNECTING)
        await self._connect_again(session.reason)

    def _note_lost(self, session: Session) -> None:
        server, peer, reason = session.connection.server, session.connection.peer, session.reason
        lasted = trio.current_time() - self._session_began
        self.pool.lost(server, peer, soon=lasted < self.settings.reconnect.max_wait)
        if peer is not None:
            self._history.addresses.failed(server, peer)
        self.outbox.remove_commands()
        self.event_hub.emit(Disconnected(server.url, reason))
        if self.settings.reconnect.requests == "fail":
            self.requests.fail(_as_lost(reason))
            # No task waits for the replies to requests that have not been sent.
            self.outbox.remove_messages(self.requests.is_request)

    async def _connect_again(self, lost: Exception | None = None) -> None:
        try:
            connection = await self._reconnector.until_connected(self.info)
        except ConnectError as error:
            error.__context__ = lost
            self.end(error if error.attempts or lost is None else _as_lost(lost))
        else:
            if self.state is ConnectionState.CLOSED:  # closed while waiting
                await trio.aclose_forcefully(connection.stream)
                return
            self._use_connection(connection)
            self.start(self.run_session, self.session)

    def suspend_session(self) -> None:
        """See :class:`MoveCallbacks`."""
        self.session = None
        self.router.live = False

    def _use_connection(self, connection: ServerConnection) -> None:
        """Begin a session on a new server connection, and restore all subscriptions."""
        session = Session(connection, self.router, self.outbox, self.counters, self)
        self.moves.finish(None, waiting=True)
        self.begin_session(session, self.router.restore())

    def begin_session(self, session: Session, frames: list[bytes]) -> None:
        """See :class:`MoveCallbacks`. The frames are sent before waiting messages."""
        connection = session.connection
        self.session = session
        self.router.new_connection()
        if self._line_too_long:
            # If it is refused again before this PONG, the line is that of a subscription.
            self._line_too_long, self._restored_ping = False, session.pings.send_first()
        self.outbox.prepend(frames)
        self.router.live = True
        self.pool.connected(connection.server)
        self.moves.finish(None, waiting=False)
        self.counters.connects += 1
        self.counters.in_bytes += connection.in_bytes
        self.counters.out_bytes += connection.out_bytes
        connection.in_bytes = connection.out_bytes = 0
        self._session_began = trio.current_time()
        first = self.counters.connects == 1
        self._log_connected(connection, None if first else self.disconnected_for)
        self._disconnected_at = None
        url = connection.server.url
        self.event_hub.emit(Connected(url) if first else Reconnected(url))
        if self.state in (ConnectionState.CONNECTING, ConnectionState.RECONNECTING):
            self._set_state(ConnectionState.OPEN)
        # Last, because events about the server must follow the event about the connection.
        self.info = ServerInfo()
        self.on_info(session, connection.info)
        self._changed.unpark_all()

    def resume_session(self, session: Session, frames: list[bytes]) -> None:
        """See :class:`MoveCallbacks`."""
        self.session = session
        self.outbox.prepend(frames)
        self.router.live = True
        self._changed.unpark_all()
        if session.connection.info.ldm:  # It may have been announced while suspended.
            self.on_info(session, session.connection.info)

    def fall_back(self, session: Session, frames: list[bytes], lost: Session) -> None:
        """See :class:`MoveCallbacks`."""
        logger.warning("%s; returning to %s", str(lost.reason), session.connection.server)
        self._note_lost(lost)
        self.begin_session(session, frames)

    @staticmethod
    def _log_connected(connection: ServerConnection, disconnected_for: float | None) -> None:
        security = connection.tls.version if connection.tls else "no TLS"
        if disconnected_for is None:
            logger.info("connected to %s (%s)", connection.server, security)
        else:
            logger.info(
                "reconnected to %s (%s) after %.3g s", connection.server, security, disconnected_for
            )

    async def _open(self, server: Server) -> ServerConnection:
        return await open_server_connection(
            server, self.settings.connector, self._origin, self._history
        )

    # --- callbacks of sessions -------------------------------------------------------------------

    def on_info(self, session: Session, info: ServerInfo) -> None:
        """See :meth:`SessionCallbacks.on_info`."""
        if session is not self.session:
            return  # It is about to end, or not in use yet.
        was_lame_duck = self.info.ldm
        self.info = info
        limit = info.max_payload
        unverified = session.connection.unverified_info
        if unverified is not None:
            # An attacker could announce a small limit to have messages refused. An exaggerated one
            # is harmless, because the server enforces its own.
            limit = max(limit, unverified.max_payload)
        may_refuse_more = limit < self.pub_lines.max_payload or not info.headers
        self.pub_lines.max_payload = limit
        server = session.connection.server
        if may_refuse_more:
            self._discard_unsendable(server)
        if info.ldm and not was_lame_duck:
            logger.info("%s is in lame duck mode", server)
            self.event_hub.emit(LameDuck(server.url))
            self.moves.request(by_user=False)
        # After set_servers(), the server in use may not belong to the pool; nor does its cluster.
        if not self.settings.ignore_discovered and server in self.pool.servers:
            scheme = "tls" if session.connection.tls and not server.is_websocket else server.scheme
            self._emit_discovered(self.pool.discover(info, server, scheme))
            if unverified is not None:
                self._discover_unverified(session.connection, unverified)

    def _discover_unverified(self, connection: ServerConnection, info: ServerInfo) -> None:
        """Use the servers that were named in plaintext, before TLS, as far as that is safe.

        Servers before 2.12 do not name them over TLS until the cluster changes.
        """
        assert connection.tls is not None
        name = connection.tls.verified_name
        choice = self.settings.connector.tls.unverified_servers
        if choice == "ignore" or not info.connect_urls:
            return
        if name is None:
            logger.info("not using the servers that %s names in plaintext", connection.server)
            return
        tls_name = name if choice == "dialled_name" else None
        self._emit_discovered(self.pool.discover_unverified(info, connection.server, tls_name))

    def _emit_discovered(self, new: list[Server]) -> None:
        if new:
            self.event_hub.emit(ServersDiscovered(tuple(found.url for found in new)))

    def refusal(self, head: bytes) -> NatsError | None:
        """Return the error if the server would refuse a message that begins with ``head``."""
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
        """Remove messages from the outbox that the server would answer by disconnecting."""
        heads = self.outbox.remove_messages(lambda head: self.refusal(head) is not None)
        reasons: list[NatsError] = []
        subjects: dict[str, None] = {}
        for head in heads:
            reason = self.refusal(head)
            assert reason is not None
            reasons.append(reason)
            words = head[: head.index(b"\r\n")].split(b" ")
            if len(subjects) < _MAX_EVENT_SUBJECTS:
                subjects[words[1].decode()] = None
            self.requests.reject(words[2], reason)
        if heads:
            self.counters.discarded += len(heads)
            logger.warning(
                "%s does not accept %d waiting messages: %s", server, len(heads), str(reasons[0])
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
            # Errors after this PONG are not about subscriptions sent before its PING.
            if self.session is not None and self._limit_ping.settled.is_set():
                self._limit_ping = self.session.pings.send()
        elif is_too_long(error):
            if self._restored_ping is not None and not self._restored_ping.settled.is_set():
                self.router.refuse_longest(error)
            self._line_too_long = True
        logger.warning("%s", str(error))
        self.event_hub.emit(ServerError(error))

    # --- draining ---------------------------------------------------------------------------------

    async def drain(self, sids: Collection[bytes]) -> None:
        """Unsubscribe, wait until the last messages have arrived, and end the subscriptions.

        If cancelled, the subscriptions end all the same.
        """
        try:
            await self.moves.wait_concluded()
            for sid in sids:
                self.router.quiesce(sid)
                if sid in self.router.sinks:
                    # A full subscription must not stop reading, because the PONG has to be read.
                    self.router.sinks[sid]._end_stalls()
            session = self.session
            if session is not None and self.router.live:
                while not await session.pings.round_trip():
                    # The PING may have been removed from the outbox by a move that then failed.
                    await self.moves.wait_concluded()
                    if session is not self.session:
                        break
                await self.moves.wait_concluded()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            for sid in sids:
                sink = self.router.sinks.get(sid)
                self.router.remove(sid)
                if sink is not None:
                    sink._end(trio.EndOfChannel())
                    if sink._has_helpers:
                        self._drained_alone.add(sink)

    async def drain_all(self) -> bool:
        """:meth:`drain` all subscriptions, and wait until their messages have been received.

        This includes subscriptions that another task is already draining. Messages that only the
        current task can receive, or that it is handling, are not waited for.

        :returns: whether there are such messages.
        """
        task = trio.lowlevel.current_task()
        sinks = {sid: sink for sid, sink in self.router.sinks.items() if sink is not self.requests}
        self._drained += {*sinks.values(), *self._drained_alone}
        await self.drain(sinks)
        left = False
        # Tasks that handle messages may call this, too. They must not wait for one another.
        handles = any(sink._is_handled_by(task) for sink in self._drained)
        for sink in self._drained:
            if self.state is ConnectionState.CLOSED:  # closed while waiting
                return False
            if sink._waits_for(task):
                left = left or not sink._is_empty()
            else:
                await sink._wait_empty()
                if not handles:
                    await sink._wait_handled()
        return left

    # --- state -----------------------------------------------------------------------------------

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._changed.unpark_all()

    async def light_checkpoint(self) -> None:
        """Execute a checkpoint that only yields every 32nd time, for frequent operations."""
        self._light_checkpoints = (self._light_checkpoints + 1) & 31
        if self._light_checkpoints:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Execute a checkpoint, then wait until ``ready()``, called after each change of state."""
        await trio.lowlevel.checkpoint()
        while not ready():
            await self._changed.park()

    async def live_session(self) -> Session:
        """Wait for a session and return it.

        :raises Exception: :meth:`closed_error`, if the connection is closed.
        """
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
        """Return the error to raise where a closed or closing connection is used."""
        if self.failure is None:
            return trio.ClosedResourceError("this NATS connection is closed")
        error = ConnectionLostError(f"the NATS connection is gone for good: {self.failure}")
        error.__cause__ = self.failure
        return error

    def check_open(self) -> None:
        """Raise if the connection has ended or is closing."""
        if self.state is ConnectionState.CLOSING or self.state is ConnectionState.CLOSED:
            raise self.closed_error()

    def check_usable(self) -> None:
        """Call :meth:`check_open` and :meth:`check_run`."""
        self.check_open()
        self.check_run()

    def check_run(self) -> None:
        """Raise unless called in the ``trio.run()`` that the connection belongs to.

        Getting the token takes longer than publishing or receiving a message. So these compare only
        :attr:`thread` as long as they do not wake a task, which rejects runs in other threads. Two
        runs can share a thread only as guests of a host loop, and then only one executes at a time.
        So at worst the other run publishes a message or receives a waiting one. Code that wakes a
        task compares the token, so no task is ever scheduled in the wrong run.
        """
        try:
            token = current_trio_token()
        except RuntimeError:  # no run at all
            token = None
        if token is not self._token:
            raise self.wrong_run()

    def wrong_run(self) -> RuntimeError:
        """Return the exception that :meth:`check_run` raises."""
        return RuntimeError(
            "this NATS connection belongs to another trio.run(); open one in each, or use "
            "trio.from_thread to come back to it"
        )

    def begin_draining(self) -> None:
        """Refuse new subscriptions from now on."""
        self._set_state(ConnectionState.DRAINING)

    def begin_closing(self) -> None:
        """Refuse new operations from now on."""
        self.router.disable_stalls()
        self.outbox.begin_closing()
        self._set_state(ConnectionState.CLOSING)

    def end(self, failure: NatsError | None) -> None:
        """End the connection and wake all tasks that wait for it. Only the first call counts."""
        if self.state is ConnectionState.CLOSED:
            return
        if failure is not None and self._nursery is not None:  # otherwise open_nats() raises it
            logger.error("the connection is gone for good: %s", str(failure))
        if self._disconnected_at is None:
            self._disconnected_at = trio.current_time()
        self.failure = failure
        self.session = None
        error = self.closed_error()
        self.state = ConnectionState.CLOSED
        self.router.end_all(error)
        for sink in self._drained:
            sink._wake_waiters()
        self._drained.clear()  # See Msg on why objects of a connection must not keep messages.
        self.requests._end(error)
        self.moves.end(error)
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
