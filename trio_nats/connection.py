"""The connection: what users hold."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import trio

from ._core.stats import Statistics
from ._core.supervisor import Supervisor
from ._tracebacks import takes_secrets
from ._transport.tls_info import TLSInfo
from ._transport.tls_policy import check_servers
from .connection_base import BaseConnection
from .errors import NatsError, timed_out
from .events import ConnectionState, Event
from .options import check_choice, check_count, check_seconds
from .server_info import ServerInfo
from .servers import Server, parse_servers

if TYPE_CHECKING:
    from .jetstream import JetStream
    from .services import Service, Services, StatsHandler

__all__ = ["Connection"]

_logger = logging.getLogger("trio_nats.connection")

_T = TypeVar("_T")


class Connection(BaseConnection):
    """A connection to NATS, as given by ``async with open_nats(...) as nc:``.

    All methods may be used from any task of the ``trio.run()`` it was opened in. Once it is closed
    they raise :exc:`trio.ClosedResourceError`, and once no server can be reached any more
    :exc:`ConnectionLostError`.
    """

    def __init__(self, core_of: Callable[[Connection], Supervisor]) -> None:
        super().__init__(core_of(self))

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has processed everything sent so far.

        While disconnected it waits for the next connection. Raises :exc:`TimeoutError` after
        ``timeout`` seconds, if given. If cancelled, nothing is lost.
        """
        await self._within(timeout, "flush", self._flush)

    async def rtt(self, timeout: float | None = None) -> float:
        """Seconds until the server answers, behind everything sent so far. See :meth:`flush`."""
        return await self._within(timeout, "rtt", self._flush)

    async def _within(
        self, timeout: float | None, what: str, operation: Callable[[], Awaitable[_T]]
    ) -> _T:
        self._core.check_usable()
        if timeout is None:
            return await operation()
        with trio.move_on_after(check_seconds("timeout", timeout)):
            return await operation()
        raise timed_out(
            f"{what}: the server did not answer within {timeout:g} s", self.disconnected_for
        )

    async def _flush(self) -> float:
        while True:
            session = await self._core.live_session()
            begun = time.perf_counter()
            if await session.pings.round_trip():
                return time.perf_counter() - begun

    def events(self, *, buffer: int = 256) -> trio.abc.ReceiveChannel[Event]:
        """What happens to the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. It never holds the connection up: a
        listener that lets ``buffer`` events pile up loses the oldest. Ends after ``Closed``.
        """
        self._core.check_run()
        return self._core.event_hub.listen(check_count("buffer", buffer, 1))

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._core.state

    @property
    def server_info(self) -> ServerInfo:
        """What the server last said about itself."""
        return self._core.info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the present connection is encrypted; ``None`` if it is not, or there is none."""
        session = self._core.session
        return None if session is None else session.wire.tls

    @property
    def connected_url(self) -> str | None:
        """The server in use, without credentials; ``None`` while there is none."""
        session = self._core.session
        return None if session is None else session.wire.server.url

    @property
    def failure(self) -> NatsError | None:
        """Why the connection is gone for good; ``None`` if it is not, or was closed on purpose."""
        return self._core.failure

    @property
    def stats(self) -> Statistics:
        """The numbers so far."""
        core = self._core
        sinks = core.router.sinks.values()
        subscriptions = [sink for sink in sinks if sink is not core.requests]
        waiting = [sink.pending for sink in (*subscriptions, core.requests)]
        counters = core.counters
        return Statistics(
            in_messages=counters.in_messages,
            in_bytes=counters.in_bytes,
            out_messages=core.outbox.accepted,
            out_bytes=counters.out_bytes,
            dropped=counters.dropped,
            lost_in_flight=counters.lost_in_flight,
            discarded=counters.discarded,
            reconnects=max(0, counters.connects - 1),
            subscriptions=len(subscriptions),
            pending_messages=sum(messages for messages, _ in waiting),
            pending_bytes=sum(size for _, size in waiting),
            outbox_bytes=core.outbox.size,
        )

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Return once the connection is in one of ``states``, at once if it is.

        Raises :exc:`ConfigurationError` for what is no state, and, once the connection has ended
        without getting there, what using it would raise. If cancelled, nothing has happened.
        """
        core = self._core
        core.check_run()
        for state in states:
            check_choice("state", state, tuple(known.value for known in ConnectionState))
        await core.wait(lambda: core.state in states or core.state is ConnectionState.CLOSED)
        if core.state not in states:
            raise core.closed_error()
        return core.state

    # --- built on top, and only imported when asked for: a connection needs none of it -----------

    def add_service(
        self,
        name: str,
        *,
        version: str,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        queue: str | None = "q",
        stats_handler: StatsHandler | None = None,
        close_timeout: float = 5.0,
    ) -> Service:
        """A service (ADR-32), for the length of an ``async with`` block; see :class:`Service`.

        .. code-block:: python

            service = nc.add_service("text", version="1.0.0")

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

            async with service:
                await service.wait_stopped()

        :param name: letters, digits, ``-`` and ``_``; instances with the same name share the work.
        :param version: a semantic one, such as ``1.0.0``.
        :param description: what it is, for people.
        :param metadata: shown to who asks; 128 KiB at most.
        :param queue: the queue group of its endpoints, unless they have another; ``None``: none.
        :param stats_handler: called with each :class:`Endpoint` when statistics are asked for; what
            it returns, a dict or struct, is put there as ``data``, a JSON object.
        :param close_timeout: seconds that requests under way have to finish when it is stopped.

        Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .services import Service

        return Service(
            self,
            name,
            version=version,
            description=description,
            metadata=metadata,
            queue=queue,
            stats_handler=stats_handler,
            close_timeout=close_timeout,
        )

    def services(
        self, *, prefix: str = "$SRV", timeout: float | None = None, stall: float = 0.3
    ) -> Services:
        """Asks what services there are: ``await nc.services().ping()``; see :class:`Services`.

        ``prefix`` is what subjects begin with where those of another account are imported under
        another name. An answer is waited for until ``stall`` seconds have passed since the last
        one, at most ``timeout`` seconds in all (the connection's ``request_timeout`` unless
        given). Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .services import Services

        return Services(self, prefix=prefix, timeout=timeout, stall=stall)

    def jetstream(
        self,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> JetStream:
        """JetStream: streams that keep messages; see :class:`~trio_nats.jetstream.JetStream`.

        ``domain`` is the JetStream domain to use, such as the hub's at a leaf node. ``prefix`` is
        what its API is imported under. Without either they are those of the context, if
        there is one, else ``$JS.API`` is the prefix. An answer of the API may take
        ``timeout`` seconds, 5 unless given. Nothing is sent by this. Raises
        :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .jetstream import JetStream

        if domain is None and prefix is None:
            settings = self._core.settings
            domain, prefix = settings.jetstream_domain, settings.jetstream_prefix
        return JetStream(self, domain=domain, prefix=prefix, timeout=timeout)

    async def reconnect(self) -> None:
        """Move to another server, or connect to the present one again.

        Each attempt reads files again and asks for credentials, so this brings new ones into use.
        The present connection is used until the new one is ready, so no message is missed. Returns
        once the new one is in use; while disconnected, once the connection is up again.

        If cancelled, the move goes on.

        :raises ConnectError: if no server could be moved to. The connection goes on as before;
            ``attempts`` tells why each server was not used.
        :raises trio.ClosedResourceError: if the connection is closed, or is closed during the call.
        """
        core = self._core
        core.check_usable()
        await core.change_server_and_wait()

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Use these servers for reconnecting, in place of all known so far (ADR-40).

        Those without credentials in their URL use the first URL's of this list that has some, as
        with ``open_nats``; those of the servers known so far go to none of these. What ``auth``
        gives is for all. The present connection stays in use until it is lost, or until
        :meth:`reconnect` has moved it to one of these. Raises
        :exc:`ConfigurationError` for what cannot be used.
        """
        parsed = check_servers(parse_servers(servers), self._core.settings.opening.tls)
        self._core.check_usable()
        self._core.pool.replace(parsed)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers known, discovered ones included, in the order they would be tried."""
        return self._core.pool.servers

    async def drain(self, timeout: float | None = None) -> None:
        """Unsubscribe everything, let what has arrived be received, and close.

        Publishing, and so responding, works until all messages have been taken out of the
        subscriptions, which then end; no new subscriptions can be made. Takes at most ``timeout``
        seconds, if given, and ``close_timeout`` for closing; raises :exc:`TimeoutError` if messages
        were left by then. If cancelled, the connection is closed at once. Another task that drains
        it already is joined; closing it ends the drain.

        It cannot wait for the task that calls it. When that one receives from a subscription in
        which messages are left, or handles a request of a service, it returns once the others are
        empty, and leaves the connection open: receive the rest, which ends the loop, and leave the
        block.
        """
        core = self._core
        core.check_usable()
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        core.begin_draining()
        left_for_us = False
        try:
            with trio.move_on_after(seconds) as scope:
                left_for_us = await core.drain_all()
        finally:
            if not left_for_us:
                await self.aclose()
        if scope.cancelled_caught:
            raise timed_out(f"drain: messages were left after {seconds:g} s", self.disconnected_for)

    async def aclose(self) -> None:
        """Finish what was begun and end the connection; harmless when repeated.

        Everything published is written and the server's word awaited that it has it, for at most
        ``close_timeout`` seconds. If cancelled, it is closed at once instead. Whatever waits for
        the connection then gets :exc:`trio.ClosedResourceError`. Leaving the ``open_nats`` block
        does the same.
        """
        core = self._core
        if core.state is not ConnectionState.CLOSED:
            core.check_run()
        try:
            if core.state not in (ConnectionState.CLOSING, ConnectionState.CLOSED):
                core.begin_closing()
                await self._finish()
            else:
                # Another task is about to finish what was begun, or has.
                await core.wait(lambda: core.state is ConnectionState.CLOSED)
            await trio.lowlevel.checkpoint()
        finally:
            core.stop()
            core.end(None)

    async def _finish(self) -> None:
        """Wait until the server has everything, or cannot get it."""
        core = self._core
        with trio.move_on_after(core.settings.close_timeout):
            while core.session is not None or core.outbox.size or core.between_wires:
                await core.wait(
                    lambda: core.session is not None or core.state is ConnectionState.CLOSED
                )
                if core.session is None:
                    break
                if await core.session.pings.round_trip():
                    return
        if core.outbox.size:
            _logger.warning("closing with %d bytes not written", core.outbox.size)

    def __repr__(self) -> str:
        return f"<Connection {self._core.state} {self.connected_url or ''}>"
