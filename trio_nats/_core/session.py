"""One connection to a server: a reader, a writer and a pinger.

These three tasks are the only ones that touch its stream, so no cancellation of a user's task can
leave a TLS record or a frame half-written.
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
# Used while reads fill the smaller buffer: each read takes turns of the scheduler, which matters if
# messages are large.
_LARGE_READ = 256 * 1024
# When writing fails, the server has often sent the reason before it closed the connection. The
# reason is in the receive buffer by then, so reading it takes no longer than this, unless the
# network has failed.
_LAST_WORDS = 1.0


class SessionCallbacks:
    """What a session reports to its supervisor. The methods are called by the reader."""

    def on_info(self, session: Session, info: ServerInfo) -> None:
        """The server sent a new INFO."""
        raise NotImplementedError

    def on_server_error(self, error: ServerReportedError) -> None:
        """The server sent ``-ERR``."""
        raise NotImplementedError


class Session:
    """Runs one connection to a server until it breaks or is stopped."""

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
        """During a handover, called with messages instead of their subscriptions."""
        self._router = router
        self._outbox = outbox
        self._counters = counters
        self._callbacks = callbacks
        self._scope = trio.CancelScope()
        self._read_all = trio.Event()
        self._reason: Exception | None = None
        self._last_error: ServerReportedError | None = None
        self.received: int = 0
        """Bytes read so far."""
        self._reads_on = False
        self.ended: trio.Event = trio.Event()

    def stop(self, reason: Exception) -> None:
        """End the session for ``reason``, unless it is ending already."""
        if self._reason is None:
            self._reason = reason
        self._scope.cancel()

    def detach(self, outbox: Outbox) -> None:
        """Write from ``outbox`` from now on, and leave the previous outbox to another session."""
        before, self._outbox, self.pings.outbox = self._outbox, outbox, outbox
        before.let_writer_go()

    def read_on(self) -> None:
        """Read what is still to come, even if a full subscription has stopped the reading."""
        self._reads_on = True
        self._router.look_again()

    @trio.lowlevel.enable_ki_protection
    async def run(self, ping_interval: float, max_pings_out: int) -> Exception:
        """Read and write until the connection ends. Always close the stream, and return why.

        KeyboardInterrupt is left to the user's code, because it could interrupt a frame here.
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
        """Why it ended."""
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
            # A bug, not a network failure. This stream cannot be used any more, but the next one
            # can, so log the error and treat it like any other loss of the connection.
            logger.exception("unexpected error in the session with %s", self.connection.server)
            self.stop(self._lost(f"internal error: {type(error).__name__}", error))

    def _lost(self, why: str, cause: Exception | None = None) -> ConnectionLostError:
        said = f"; before that, {self._last_error}" if self._last_error else ""
        error = ConnectionLostError(f"lost the connection to {self.connection.server}: {why}{said}")
        error.__cause__ = self._last_error or cause
        return error

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            await self._read_on()
        finally:
            self._read_all.set()

    async def _read_on(self) -> None:
        stream, feed = self.connection.stream, self.connection.parser.feed
        counters, router = self._counters, self._router
        events, self.connection.early = self.connection.early, []
        size = _READ
        while True:
            self._dispatch(events)
            if router.stalled:
                await router.wait_unstalled(unless=lambda: self._reads_on)
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
            # The traceback of the error that ends the session refers to this list. See Msg on why
            # objects of a connection must not keep its messages.
            events.clear()

    def _handle(self, event: Event) -> None:
        """Handle an event that is not a message."""
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
                    with trio.move_on_after(_LAST_WORDS):
                        await self._read_all.wait()
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
        """Return the bytes received from the peer and, as far as known, acknowledged by it."""
        tcp = self.connection.tcp
        return self.received, 0 if tcp is None else tcp.drained


def _hand_over(messages: list[Msg], divert: Callable[[Msg], None]) -> None:
    """A separate function, so that no frame of a traceback refers to a message; see above."""
    for msg in messages:
        divert(msg)
