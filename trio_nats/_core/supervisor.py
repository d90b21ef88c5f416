"""Keeps a connection alive: opens the first wire, and the next one when it breaks."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio

from ..server_info import ServerInfo
from .._transport.opening import AttemptFailed, OpeningMemory, Wire, open_wire
from ..errors import (
    ConnectAttempt,
    ConnectError,
    ConnectionLostError,
    NatsError,
    PermissionsViolationError,
    ServerReportedError,
)
from ..events import (
    Closed,
    Connected,
    ConnectionState,
    Disconnected,
    LameDuck,
    Reconnected,
    ReconnectFailed,
    ServerError,
    ServersDiscovered,
)
from ..message import Publisher
from ..servers import Server
from .hub import EventHub
from .outbox import Outbox
from .pool import Pool
from .requests import Requests
from .router import Router
from .session import Session, SessionCallbacks
from .settings import Settings
from .stats import Counters

__all__ = ["Supervisor"]

logger = logging.getLogger("trio_nats.connection")


class Supervisor(SessionCallbacks):
    """Everything a connection has that outlives its wires, and the task that replaces them."""

    def __init__(self, settings: Settings, origin: Publisher) -> None:
        self.settings: Settings = settings
        self._origin = origin
        self.pool: Pool = Pool(settings.servers, randomize=settings.randomize)
        self.outbox: Outbox = Outbox(
            settings.pending_size, settings.when_pending_full, self.check_run
        )
        self.router: Router = Router(self.outbox)
        self.requests: Requests = Requests(self.router, settings.inbox_prefix)
        self.hub: EventHub = EventHub()
        self.counters: Counters = Counters()
        self.state: ConnectionState = ConnectionState.CONNECTING
        self.info: ServerInfo = ServerInfo()
        self.session: Session | None = None
        self.failure: NatsError | None = None
        """Why the connection ended, if not on purpose."""
        self._token = trio.lowlevel.current_trio_token()
        self._memory = OpeningMemory()
        self._changed = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    # --- the background task ---------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(
        self, task_status: trio.TaskStatus[ConnectError | None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, report how that went, and stay connected until stopped or beyond hope.

        The first failure is reported rather than raised, for it belongs to the task that opens the
        connection. Never raises anything but cancellation.
        """
        with self._scope:
            try:
                wire = await self._open_any()
            except ConnectError as error:
                self.end(error)
                task_status.started(error)
                return
            self._begin(wire)
            task_status.started(None)
            await self._stay_connected()

    async def _stay_connected(self) -> None:
        try:
            while (session := self.session) is not None:
                reason = await session.run(self.settings.ping_interval, self.settings.max_pings_out)
                await self._after_loss(session.wire.server, reason)
        except Exception as error:
            # A fault of ours, not of the network's. It must not come out of the user's block as
            # an exception group; what waits for the connection is told instead.
            logger.exception("unexpected error while keeping the connection")
            failure = ConnectionLostError(f"internal error: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.end(failure)

    def stop(self) -> None:
        """Cancel the background task. What it leaves is for :meth:`end` to settle."""
        self._scope.cancel()

    async def _after_loss(self, server: Server, reason: Exception) -> None:
        self.session = None
        self.router.live = False
        self.outbox.forget_commands()
        logger.info("%s", reason)
        self.hub.emit(Disconnected(server.url, reason))
        if self.state is ConnectionState.OPEN:
            self._set_state(ConnectionState.RECONNECTING)
        try:
            wire = await self._reopen()
        except ConnectError as error:
            error.__context__ = reason
            self.end(error if error.attempts else _as_nats_error(reason))
        else:
            self._begin(wire)

    def _begin(self, wire: Wire) -> None:
        """Put a new wire to use: subscriptions first, then what waited to be published."""
        self.session = Session(wire, self.router, self.outbox, self.counters, self)
        self.outbox.prepend(self.router.restore())
        self.router.live = True
        self.pool.connected(wire.server)
        self.counters.connects += 1
        self.info = ServerInfo()
        self.on_info(self.session, wire.info)
        first = self.counters.connects == 1
        logger.info("connected to %s (%s)", wire.server, wire.tls.version if wire.tls else "plain")
        self.hub.emit(Connected(wire.server.url) if first else Reconnected(wire.server.url))
        if self.state is not ConnectionState.CLOSING:
            self._set_state(ConnectionState.OPEN)
        self._changed.unpark_all()

    async def _open_any(self) -> Wire:
        """Try every server once, to the end."""
        attempts: list[ConnectAttempt] = []
        for server in self.pool.servers:
            try:
                return await self._open(server)
            except AttemptFailed as failed:
                attempts.append(failed.attempt)
        raise _connect_error(attempts)

    async def _open(self, server: Server) -> Wire:
        return await open_wire(server, self.settings.opening, self._origin, self._memory)

    async def _reopen(self) -> Wire:
        """Try until a server answers, or none is left that may be tried again."""
        policy = self.settings.reconnect
        attempts: list[ConnectAttempt] = []
        number = 0
        while self.pool.servers:
            server = self.pool.servers[0]
            failures = self.pool.failures.get(server, 0)
            if policy.max_attempts is not None and failures >= policy.max_attempts:
                self.pool.remove(server)
                continue
            ceiling = min(policy.max_wait, policy.wait * 2.0 ** min(failures, 32))
            await trio.sleep(random.uniform(0, ceiling))
            number += 1
            try:
                return await self._open(server)
            except AttemptFailed as failed:
                attempts = [*attempts[-15:], failed.attempt]
                self.pool.failed(server)
                self.hub.emit(ReconnectFailed(server.url, number, failed.attempt.error))
        raise _connect_error(attempts)

    # --- what sessions report --------------------------------------------------------------------

    def on_info(self, session: Session, info: ServerInfo) -> None:
        """See :meth:`SessionCallbacks.on_info`."""
        lame_before = self.info.ldm
        self.info = info
        server = session.wire.server
        if info.ldm and not lame_before:
            logger.info("%s is in lame duck mode", server)
            self.hub.emit(LameDuck(server.url))
        if not self.settings.ignore_discovered:
            scheme = "tls" if session.wire.tls and not server.is_websocket else server.scheme
            new = self.pool.discover(info, server, scheme)
            if new:
                self.hub.emit(ServersDiscovered(tuple(found.url for found in new)))

    def on_server_error(self, error: ServerReportedError) -> None:
        """See :meth:`SessionCallbacks.on_server_error`."""
        if isinstance(error, PermissionsViolationError):
            deny = self.requests.deny if error.operation == "publish" else self.router.deny
            if deny(error):
                return
        logger.warning("%s", error)
        self.hub.emit(ServerError(error))

    # --- state -----------------------------------------------------------------------------------

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._changed.unpark_all()

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

    def closed_error(self) -> Exception:
        """What to raise for using a connection that has ended, or is ending."""
        if self.failure is None:
            return trio.ClosedResourceError("this NATS connection is closed")
        error = ConnectionLostError(f"the NATS connection is gone for good: {self.failure}")
        error.__cause__ = self.failure
        return error

    def check_open(self) -> None:
        """Complain if the connection has ended, or is ending."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            raise self.closed_error()

    def check_usable(self) -> None:
        """:meth:`check_open` and :meth:`check_run`."""
        self.check_open()
        self.check_run()

    def check_run(self) -> None:
        """Complain when called from another ``trio.run()`` than the connection's."""
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(
                "this NATS connection belongs to another trio.run(); open one in each, or use "
                "trio.from_thread to come back to it"
            )

    def begin_closing(self) -> None:
        """Take nothing new from now on."""
        self.router.read_on()
        self._set_state(ConnectionState.CLOSING)

    def end(self, failure: NatsError | None) -> None:
        """The connection is over: let everything go that waits for it. Harmless when repeated."""
        if self.state is ConnectionState.CLOSED:
            return
        self.failure = failure
        self.session = None
        error = self.closed_error()
        self.state = ConnectionState.CLOSED
        self.router.end_all(error)
        self.requests.end(error)
        self.outbox.close()
        self._changed.unpark_all()
        self.hub.emit(Closed(failure))
        self.hub.close()


def _as_nats_error(error: Exception) -> NatsError:
    return error if isinstance(error, NatsError) else ConnectionLostError(str(error))


def _connect_error(attempts: list[ConnectAttempt]) -> ConnectError:
    error = ConnectError(attempts)
    causes = [attempt.error for attempt in attempts]
    if len(causes) == 1:
        error.__cause__ = causes[0]
    elif causes:
        error.__cause__ = ExceptionGroup("every server failed", causes)
    return error
