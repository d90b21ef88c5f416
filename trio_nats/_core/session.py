"""One connection to a server, and the three tasks that use it.

Theory of operation. A session runs a reader, a writer and a pinger (see :mod:`.pings`) until the
connection breaks or :meth:`Session.stop` is called. No other task touches the stream, so no
cancellation of a user's task can leave a TLS record or a frame half-written. The first of the three
to fail gives the reason and ends the others.

A session keeps nothing that must outlive it. Subscriptions belong to the router, messages to be
written to the outbox. During a handover two sessions run at once; :attr:`Session.divert` and
:meth:`Session.switch_outbox` then detach each of them from the subscriptions and from the outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from .._nursery import open_nursery
from .._protocol.parser import Burst, ErrorLine, Event, Signal
from .._protocol.server_errors import server_error
from .._transport.connector import ServerConnection
from .._transport.tls_errors import reason_of
from ..errors import ConnectionLostError, NatsError, ProtocolError, ServerReportedError
from ..message import Msg
from ..server_info import ServerInfo
from .outbox import Outbox
from .pings import Pings, ping_until_unresponsive
from .router import Router
from .stats import Counters

__all__ = ["Session", "SessionCallbacks"]

logger = logging.getLogger("trio_nats.connection")

_READ = 64 * 1024
_LARGE_READ = 256 * 1024
"""Used while reads fill the smaller buffer. Each read costs scheduler steps, which matters if
messages are large."""
_LAST_READ_TIMEOUT = 1.0
"""Seconds to keep reading after writing has failed. The server has often sent the reason before it
closed the connection, and then it is in the receive buffer already."""


class SessionCallbacks:
    """Methods of the supervisor that the reader of a session calls."""

    def on_info(self, session: Session, info: ServerInfo) -> None:
        """Handle a new INFO."""
        raise NotImplementedError

    def on_server_error(self, error: ServerReportedError) -> None:
        """Handle ``-ERR``."""
        raise NotImplementedError


class Session:
    """Runs one connection to a server. See the module docstring."""

    def __init__(
        self,
        connection: ServerConnection,
        router: Router,
        outbox: Outbox,
        counters: Counters,
        callbacks: SessionCallbacks,
    ) -> None:
        self.connection: ServerConnection = connection
        self.pings: Pings = Pings(outbox, router.confirmation)
        self.divert: Callable[[Msg], None] | None = None
        """During a handover, receives the messages in place of their subscriptions."""
        self._router = router
        self._outbox = outbox
        self._counters = counters
        self._callbacks = callbacks
        self._scope = trio.CancelScope()
        self._read_finished = trio.Event()
        self._reason: Exception | None = None
        self._last_error: ServerReportedError | None = None
        self.received: int = 0
        """Bytes read so far."""
        self._ignores_stalls = False
        self.ended: trio.Event = trio.Event()

    def stop(self, reason: Exception) -> None:
        """End the session. The first ``reason`` counts."""
        if self._reason is None:
            self._reason = reason
        self._scope.cancel()

    def switch_outbox(self, outbox: Outbox) -> None:
        """Write from ``outbox`` from now on, and leave the previous outbox to another session."""
        previous, self._outbox, self.pings.outbox = self._outbox, outbox, outbox
        previous.wake_writer()

    def ignore_stalls(self) -> None:
        """Keep reading from now on, even while a full subscription asks to stop."""
        self._ignores_stalls = True
        self._router.recheck_stalls()

    @trio.lowlevel.enable_ki_protection
    async def run(self, ping_interval: float, max_pings_out: int) -> Exception:
        """Read and write until the connection ends, then close the stream.

        KeyboardInterrupt is not raised here, where it could leave a frame half-written.

        :returns: why the connection ended.
        """
        try:
            with self._scope:
                async with open_nursery() as nursery:
                    nursery.start_soon(self._guard, self._read)
                    nursery.start_soon(self._guard, self._write)
                    nursery.start_soon(self._guard, self._ping, ping_interval, max_pings_out)
        finally:
            self.pings.end()
            self.ended.set()
            await trio.aclose_forcefully(self.connection.stream)
        return self.reason

    @property
    def reason(self) -> Exception:
        """Why the session ended."""
        return self._reason or ConnectionLostError("the connection ended")

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run one of the three tasks. The first failure ends the session."""
        try:
            await task(*args)
        except NatsError as error:
            self.stop(error)
        except trio.BrokenResourceError as error:
            self.stop(self._lost(reason_of(error), error))
        except Exception as error:
            # A bug, not a network failure. This connection cannot be used any more, but the next
            # one may, so log the error and reconnect.
            logger.exception("unexpected error in the session with %s", self.connection.server)
            self.stop(self._lost(f"internal error: {type(error).__name__}", error))

    def _lost(self, why: str, cause: Exception | None = None) -> ConnectionLostError:
        earlier = f"; before that, {self._last_error}" if self._last_error else ""
        error = ConnectionLostError(
            f"lost the connection to {self.connection.server}: {why}{earlier}"
        )
        error.__cause__ = self._last_error or cause
        return error

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            await self._read_loop()
        finally:
            self._read_finished.set()

    async def _read_loop(self) -> None:
        stream, feed = self.connection.stream, self.connection.parser.feed
        counters, router = self._counters, self._router
        events, self.connection.early = self.connection.early, []
        size = _READ
        while True:
            self._dispatch(events)
            if router.stalled:
                await router.wait_unstalled(unless=lambda: self._ignores_stalls)
            data = await stream.receive_some(size)
            if not data:
                raise self._lost("the server closed it")
            counters.in_bytes += len(data)
            self.received += len(data)
            size = _READ if len(data) < _READ else _LARGE_READ
            events = feed(bytes(data))

    def _dispatch(self, events: list[Event]) -> None:
        find, divert = self._router.sinks.get, self.divert
        count = 0
        try:
            for event in events:
                if type(event) is Burst:
                    count += len(event.messages)
                    if divert is not None:
                        _hand_over(event.messages, divert)
                        continue
                    sink = find(event.sid)
                    if sink is not None:  # else it has been unsubscribed
                        sink._push_burst(event.messages, event.size)
                elif type(event) is Msg:
                    count += 1
                    if divert is not None:
                        divert(event)
                        continue
                    sink = find(event.sid)
                    if sink is not None:
                        sink._push(event)
                else:
                    self._handle(event)
        finally:
            self._counters.in_messages += count
            # The traceback of the error that ends the session refers to this list, and objects of a
            # connection must not keep messages; see Msg.
            events.clear()

    def _handle(self, event: Event) -> None:
        """Handle an event other than a message."""
        if event is Signal.PONG:
            self.pings.pong()
        elif event is Signal.PING:
            if not self._outbox.pong():
                raise ProtocolError(
                    f"{self.connection.server} sends PINGs without reading the answers"
                )
        elif isinstance(event, ServerInfo):
            self.connection.info, self.connection.unverified_info = event, None
            self._callbacks.on_info(self, event)
        elif isinstance(event, ErrorLine):
            self._last_error = server_error(event.text)
            self._callbacks.on_server_error(self._last_error)
        elif isinstance(event, ProtocolError):
            raise event

    # --- writing ----------------------------------------------------------------------------------

    async def _write(self) -> None:
        counters, stream = self._counters, self.connection.stream
        while True:
            outbox = self._outbox
            await outbox.wait()
            if outbox is not self._outbox:
                continue
            chunk = outbox.take()
            data = b"".join(chunk)
            try:
                await stream.send_all(data)
            except BaseException as error:
                counters.lost_in_flight += outbox.lost(chunk)
                if isinstance(error, trio.BrokenResourceError):
                    with trio.move_on_after(_LAST_READ_TIMEOUT):
                        await self._read_finished.wait()
                raise
            counters.out_bytes += len(data)
            outbox.written(len(data))

    # --- liveness ---------------------------------------------------------------------------------

    async def _ping(self, interval: float, max_out: int) -> None:
        raise self._lost(
            await ping_until_unresponsive(
                self.pings, interval, max_out, self._activity, lambda: bool(self._router.stalled)
            )
        )

    def _activity(self) -> tuple[int, int]:
        """Return how much was received, and how much the peer is known to have acknowledged."""
        tcp = self.connection.tcp
        return self.received, 0 if tcp is None else tcp.progress


def _hand_over(messages: list[Msg], divert: Callable[[Msg], None]) -> None:
    """Pass messages on. A function, so that no frame of a traceback keeps a message; see above."""
    for msg in messages:
        divert(msg)
