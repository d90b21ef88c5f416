"""The connection, for anyio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, TypeVarTuple, overload

import anyio.lowlevel

import trio_nats
from trio_nats import (
    ConnectionState,
    Encoder,
    HeadersLike,
    Msg,
    NatsError,
    Payload,
    PendingLimits,
    Server,
    ServerInfo,
    Statistics,
    TLSInfo,
)
from trio_nats._tracebacks import takes_secrets
from trio_nats.codecs import encoded

from ._backend import Host
from ._errors import TRIO_ERRORS, translated
from ._streams import Events, Publisher, Replies, Subscription

__all__ = ["Connection"]

P = TypeVar("P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Connection:
    """A connection to NATS, as given by ``async with trio_nats.anyio.open_nats(...) as nc:``.

    It is a :class:`trio_nats.Connection` seen from anyio: the same methods with the same meaning,
    streams of anyio in place of Trio's channels, and anyio's errors. All methods may be used from
    any task of the event loop it was opened in. Once it is closed they raise
    :exc:`anyio.ClosedResourceError`, and once no server can be reached any more
    :exc:`ConnectionLostError`, an :exc:`anyio.BrokenResourceError`.
    """

    def __init__(self, host: Host, connection: trio_nats.Connection) -> None:
        self._host = host
        self._trio = connection
        self._publish = host.publisher(connection)

    async def _run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
    ) -> _T:
        try:
            return await self._host.run(function, *args)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    # --- publishing and subscribing --------------------------------------------------------------

    @overload
    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...
    @overload
    async def publish(
        self,
        subject: str,
        payload: P,
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> None: ...
    async def publish(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Send a message to all subscribers of ``subject``.

        See :meth:`trio_nats.Connection.publish`. Waits only while ``outbox_size`` bytes are
        waiting to be written. If cancelled, it has sent all of the message or nothing.
        """
        try:
            await self._publish(subject, encoded(codec, payload), reply=reply, headers=headers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    async def _checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()

    @overload
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None
    ) -> Publisher[Payload]: ...
    @overload
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None, codec: Encoder[P]
    ) -> Publisher[P]: ...
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None, codec: Encoder[P] | None = None
    ) -> Publisher[Payload] | Publisher[P]:
        """A stream that publishes to ``subject`` whatever is sent into it, with ``headers``.

        Raises nothing at the call: a subject that cannot be published to shows at ``send``.
        """
        if codec is None:
            return Publisher[Payload](self, subject, headers)
        return Publisher(self, subject, headers, codec)

    def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        stop_after: int | None = None,
        pending_limits: PendingLimits | None = None,
    ) -> Subscription:
        """Receive what is published to ``subject``, in which ``*`` and ``>`` are wildcards.

        Use it as ``async with nc.subscribe("greet.*") as sub:``. See
        :meth:`trio_nats.Connection.subscribe` for the options and what is raised.
        """
        subscription = self._trio.subscribe(
            subject, queue=queue, stop_after=stop_after, pending_limits=pending_limits
        )
        return Subscription(self._host, subscription, self)

    # --- requests --------------------------------------------------------------------------------

    @overload
    async def request(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
    ) -> Msg: ...
    @overload
    async def request(
        self,
        subject: str,
        payload: P,
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> Msg: ...
    async def request(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> Msg:
        """Publish a message and wait for one reply, at most ``timeout`` seconds.

        ``timeout`` is the connection's ``request_timeout`` unless given. Raises
        :exc:`~trio_nats.NoRespondersError` when nobody is subscribed, :exc:`TimeoutError` when
        nobody answered in time, :exc:`~trio_nats.PermissionsViolationError` when the server forbids
        it, and what :meth:`publish` raises. If cancelled, it forgets the reply.
        """

        data = encoded(codec, payload)

        async def request() -> Msg:
            return await self._trio.request(subject, data, timeout=timeout, headers=headers)

        reply = await self._run(request)
        reply._origin = self
        return reply

    @overload
    def request_many(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
    ) -> Replies: ...
    @overload
    def request_many(
        self,
        subject: str,
        payload: P,
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> Replies: ...
    def request_many(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> Replies:
        """Publish a message and receive any number of replies (ADR-47).

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. See
        :meth:`trio_nats.Connection.request_many` for when the replies end, which is with
        :exc:`anyio.EndOfStream`, and for how many may wait to be received. The seconds of ``stall``
        count while somebody waits in ``receive``.
        """
        replies = self._trio.request_many(
            subject,
            encoded(codec, payload),
            timeout=timeout,
            stop_after=stop_after,
            stall=stall,
            sentinel=sentinel,
            pending_limits=pending_limits,
            headers=headers,
        )
        return Replies(self._host, replies, self)

    def new_inbox(self) -> str:
        """A subject that nobody else uses, to be given as ``reply`` and subscribed to."""
        return self._trio.new_inbox()

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until the server has processed everything sent so far.

        While disconnected it waits for the next connection. Raises :exc:`TimeoutError` after
        ``timeout`` seconds, if given. If cancelled, nothing is lost.
        """
        await self._run(partial(self._trio.flush, timeout=timeout))

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Seconds until the server answers, behind everything sent so far. See :meth:`flush`."""
        return await self._run(partial(self._trio.rtt, timeout=timeout))

    def events(self, *, buffer: int = 256) -> Events:
        """What happens to the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. It never holds the connection up: a
        listener that lets ``buffer`` events pile up loses the oldest. Ends after ``Closed``.
        """
        return Events(self._host, self._trio.events(buffer=buffer))

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Return once the connection is in one of ``states``, at once if it is.

        Raises what using the connection would raise, once it has ended without getting there.
        """
        return await self._run(self._trio.wait_for_state, *states)

    async def reconnect(self) -> None:
        """Move to another server, or connect to the present one again.

        See :meth:`trio_nats.Connection.reconnect`. Returns once it is done. If cancelled, the move
        goes on.
        """
        await self._run(self._trio.reconnect)

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Use these servers for reconnecting, in place of all known so far (ADR-40).

        The present connection stays; :meth:`reconnect` moves it. Raises
        :exc:`~trio_nats.ConfigurationError` for what cannot be used.
        """
        try:
            self._trio.set_servers(servers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe everything, let what has arrived be received, and close.

        Publishing, and so responding, works until all messages have been taken out of the
        subscriptions, which then end; no new subscriptions can be made. Takes at most ``timeout``
        seconds, if given, and ``close_timeout`` for closing; raises :exc:`TimeoutError` if messages
        were left by then. If cancelled, the connection is closed at once.
        """
        await self._run(partial(self._trio.drain, timeout=timeout))

    async def aclose(self) -> None:
        """Finish what was begun and end the connection; harmless when repeated.

        See :meth:`trio_nats.Connection.aclose`. Takes at most ``close_timeout`` seconds. Cancelled,
        it closes at once. Leaving the ``open_nats`` block does the same.
        """
        try:
            await self._host.run(self._trio.aclose)
        except TRIO_ERRORS as error:
            if self._trio.state is not ConnectionState.CLOSED:
                raise translated(error) from error.__cause__

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._trio.state

    @property
    def disconnected_for(self) -> float | None:
        """Seconds for which there has been no connection to a server; ``None`` if there is one."""
        return self._trio.disconnected_for

    @property
    def server_info(self) -> ServerInfo:
        """What the server last said about itself."""
        return self._trio.server_info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the present connection is encrypted; ``None`` if it is not, or there is none."""
        return self._trio.tls_info

    @property
    def connected_url(self) -> str | None:
        """The server in use, without credentials; ``None`` while there is none."""
        return self._trio.connected_url

    @property
    def failure(self) -> NatsError | None:
        """Why the connection is gone for good; ``None`` if it is not, or was closed on purpose."""
        return self._trio.failure

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers known, discovered ones included, in the order they would be tried."""
        return self._trio.servers

    @property
    def stats(self) -> Statistics:
        """The numbers so far."""
        return self._trio.stats

    def __repr__(self) -> str:
        return repr(self._trio)
