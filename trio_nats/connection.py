"""The connection: what users hold."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from ._core.requests import ReplySlot, Slot, new_inbox
from ._core.stats import Statistics
from ._core.supervisor import Supervisor
from ._protocol import commands
from ._protocol.subjects import check_filter, check_queue, check_subject
from ._transport.plan import check_server
from ._transport.tls_info import TLSInfo
from .errors import ConfigurationError, MaxPayloadError, NatsError, RequestTimeoutError
from .events import ConnectionState, Event
from .headers import HeadersLike, encode_headers
from .message import Msg, Payload
from .options import PendingLimits, check_callable, check_count, check_seconds
from .replies import Replies
from .server_info import ServerInfo
from .servers import Server, parse_servers
from .subscription import Subscription

__all__ = ["Connection"]

_logger = logging.getLogger("trio_nats.connection")

_T = TypeVar("_T")

# Checked subjects by their text. Publishers use few subjects over and over; those that use many
# (replies to inboxes, say) only fill it until it is emptied.
_MAX_KNOWN_SUBJECTS = 4096


class Connection:
    """A connection to NATS, as given by ``async with open_nats(...) as nc:``.

    All methods may be used from any task of the ``trio.run()`` it was opened in. Once it is closed
    they raise :exc:`trio.ClosedResourceError`, and once no server can be reached any more
    :exc:`ConnectionLostError`.
    """

    def __init__(self, core_of: Callable[[Connection], Supervisor]) -> None:
        self._core = core_of(self)
        self._known_subjects: dict[str, bytes] = {}

    # --- publishing ------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None:
        """Send a message to whoever is subscribed to ``subject``.

        Returns once the message is queued for writing, in order with everything else published;
        :meth:`flush` tells when the server has it. Messages published while the connection is
        being re-established are sent when it is. Delivery is at most once.

        ``payload`` is bytes-like, or text to be sent as UTF-8. ``reply`` is the subject to answer
        to. Waits only while ``pending_size`` bytes are waiting to be written.

        Raises :exc:`InvalidSubjectError`, :exc:`InvalidHeaderError` or :exc:`MaxPayloadError`,
        having sent nothing. Cancelled, it has sent nothing either.
        """
        raw_reply = None if reply is None else check_subject(reply)
        frame = self._frame(subject, payload, raw_reply, headers)
        core = self._core
        if core.outbox.has_room():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await core.outbox.room()
        if core.state is not ConnectionState.OPEN:
            core.check_open()
        core.outbox.append(frame)
        core.counters.out_messages += 1

    def publish_nowait(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None:
        """:meth:`publish` for code that cannot wait, such as a synchronous callback.

        Raises :exc:`OutboxFullError`, which is a :exc:`trio.WouldBlock`, where :meth:`publish`
        would wait, and otherwise what :meth:`publish` raises. Nothing is written before other tasks
        get to run, so let them now and then when publishing much.
        """
        raw_reply = None if reply is None else check_subject(reply)
        frame = self._frame(subject, payload, raw_reply, headers)
        core = self._core
        if core.state is not ConnectionState.OPEN:
            core.check_open()
        core.outbox.check_room()
        core.outbox.append(frame)
        core.counters.out_messages += 1

    def _frame(
        self, subject: str, payload: Payload, raw_reply: bytes | None, headers: HeadersLike | None
    ) -> bytes:
        try:
            raw_subject = self._known_subjects.get(subject) or self._learn(subject)
        except TypeError:  # what cannot be a key is no subject either
            raw_subject = self._learn(subject)
        data = payload if type(payload) is bytes else _as_bytes(payload)
        if headers is not None:
            return self._frame_with_headers(raw_subject, raw_reply, data, headers)
        if len(data) > self._core.info.max_payload:
            raise MaxPayloadError(len(data), self._core.info.max_payload)
        return commands.pub(raw_subject, raw_reply, data)

    def _frame_with_headers(
        self, subject: bytes, reply: bytes | None, data: bytes, headers: HeadersLike
    ) -> bytes:
        block = encode_headers(headers)
        info = self._core.info
        if not info.headers and self._core.session is not None:
            raise ConfigurationError("the server does not support message headers")
        size = len(block) + len(data)
        if size > info.max_payload:
            raise MaxPayloadError(size, info.max_payload)
        return commands.hpub(subject, reply, block, data)

    def _learn(self, subject: str) -> bytes:
        raw = check_subject(subject)  # raises for all that is not a str
        if len(self._known_subjects) >= _MAX_KNOWN_SUBJECTS:
            self._known_subjects.clear()
        self._known_subjects[subject] = raw
        return raw

    # --- subscribing -----------------------------------------------------------------------------

    def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        max_msgs: int | None = None,
        pending: PendingLimits | None = None,
    ) -> Subscription:
        """Receive what is published to ``subject``, in which ``*`` and ``>`` are wildcards.

        Use it as ``async with nc.subscribe("greet.*") as sub:``. Of the subscriptions with the same
        ``queue`` group each message goes to one only. After ``max_msgs`` messages it ends by
        itself. ``pending`` overrides the connection's limits on what may wait in it.

        Raises :exc:`InvalidSubjectError` or :exc:`ConfigurationError` at once for what cannot be
        subscribed to.
        """
        if max_msgs is not None:
            check_count("max_msgs", max_msgs, 1)
        if pending is not None and not isinstance(pending, PendingLimits):
            raise ConfigurationError(f"pending is a PendingLimits, not {type(pending).__name__}")
        return Subscription(
            self._core,
            subject,
            check_filter(subject),
            queue,
            None if queue is None else check_queue(queue),
            max_msgs,
            self._core.settings.pending if pending is None else pending,
        )

    # --- requests --------------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
    ) -> Msg:
        """Publish a message and wait for one reply, at most ``timeout`` seconds.

        ``timeout`` is the connection's ``request_timeout`` unless given. Raises
        :exc:`NoRespondersError` when nobody is subscribed, :exc:`RequestTimeoutError` when nobody
        answered in time, :exc:`PermissionsViolationError` when the server forbids it, and what
        :meth:`publish` raises. Cancelled, it forgets the reply.
        """
        seconds = self._timeout(timeout)
        token, frame = self._prepare_request(subject, payload, headers)
        slot = ReplySlot(subject)
        with trio.move_on_after(seconds):
            await self._send_request(token, frame, slot)
            try:
                return await slot.wait()
            finally:
                self._core.requests.close(token)
        raise RequestTimeoutError(f"no reply from {subject!r} within {seconds:g} s")

    def request_many(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        max_responses: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        headers: HeadersLike | None = None,
    ) -> Replies:
        """Publish a message and receive any number of replies (ADR-47).

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. The replies
        end, with :exc:`trio.EndOfChannel`, after ``timeout`` seconds in all (the connection's
        ``request_timeout`` unless given), after ``max_responses`` of them, once ``stall`` seconds
        have passed since the last one, or with the one that ``sentinel`` returns true for, which is
        not handed out; :func:`trio_nats.empty_sentinel` is the usual one. Time spent outside
        ``receive`` does not count as stalling.

        Raises what :meth:`publish` raises, on entering; :exc:`NoRespondersError` comes out of the
        first ``receive``.
        """
        seconds = self._timeout(timeout)
        if max_responses is not None:
            check_count("max_responses", max_responses, 1)
        if stall is not None:
            check_seconds("stall", stall)
        check_callable("sentinel", sentinel)
        token, frame = self._prepare_request(subject, payload, headers)
        return Replies(
            subject,
            seconds,
            max_responses,
            stall,
            sentinel,
            send=partial(self._send_request, token, frame),
            forget=partial(self._core.requests.close, token),
            check_run=self._core.check_run,
        )

    def _prepare_request(
        self, subject: str, payload: Payload, headers: HeadersLike | None
    ) -> tuple[bytes, bytes]:
        """Check and copy everything at the call. Returns the reply's token and the frame."""
        token, reply = self._core.requests.new_token()
        return token, self._frame(subject, payload, reply, headers)

    async def _send_request(self, token: bytes, frame: bytes, slot: Slot) -> None:
        """Open the slot and publish. Cancelled, neither has happened."""
        core = self._core
        core.check_usable()
        await core.outbox.room()
        core.check_open()
        core.requests.open(token, slot)
        core.outbox.append(frame)
        core.counters.out_messages += 1

    def new_inbox(self) -> str:
        """A subject that nobody else uses, to be given as ``reply`` and subscribed to."""
        return new_inbox(self._core.settings.inbox_prefix)

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._core.settings.request_timeout
        return check_seconds("timeout", timeout)

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has processed everything sent so far.

        While disconnected it waits for the next connection. Raises :exc:`TimeoutError` after
        ``timeout`` seconds, if given. Cancelled, nothing is lost.
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
        raise RequestTimeoutError(f"{what}: the server did not answer within {timeout:g} s")

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
        return self._core.hub.listen(check_count("buffer", buffer, 1))

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
        waiting = [sink.pending for sink in core.router.sinks.values()]
        counters = core.counters
        return Statistics(
            in_messages=counters.in_messages,
            in_bytes=counters.in_bytes,
            out_messages=counters.out_messages,
            out_bytes=counters.out_bytes,
            dropped=counters.dropped,
            lost_in_flight=counters.lost_in_flight,
            reconnects=max(0, counters.connects - 1),
            subscriptions=len(waiting),
            pending_messages=sum(messages for messages, _ in waiting),
            pending_bytes=sum(size for _, size in waiting),
            outbox_bytes=core.outbox.size,
        )

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Return once the connection is in one of ``states``, at once if it is.

        Raises what using the connection would raise, once it has ended without getting there.
        """
        core = self._core
        core.check_run()
        await core.wait(lambda: core.state in states or core.state is ConnectionState.CLOSED)
        if core.state not in states:
            raise core.closed_error()
        return core.state

    async def reconnect(self) -> None:
        """Move to another server, or make the connection to the present one anew.

        New credentials and certificates come into use by that. Where a second connection can be
        had, nothing is missed: the old one goes on until the new one has taken over. Returns once
        it has, or once the connection is up again. Cancelled, the move goes on.
        """
        core = self._core
        core.check_usable()
        await core.change_server_and_wait()

    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Use these servers for reconnecting, in place of all known so far (ADR-40).

        The present connection stays; :meth:`reconnect` moves it. Raises
        :exc:`ConfigurationError` for what cannot be used.
        """
        parsed = parse_servers(servers)
        for server in parsed:
            check_server(server, self._core.settings.opening.tls)
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
        were left by then. Cancelled, the connection is closed at once.
        """
        core = self._core
        core.check_usable()
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        core.begin_draining()
        try:
            with trio.move_on_after(seconds) as scope:
                await core.drain_all()
        finally:
            await self.aclose()
        if scope.cancelled_caught:
            raise RequestTimeoutError(f"drain: messages were left after {seconds:g} s")

    async def aclose(self) -> None:
        """Finish what was begun and end the connection; harmless when repeated.

        Everything published is written and the server's word awaited that it has it, for at most
        ``close_timeout`` seconds. Cancelled, it is closed at once instead. Whatever waits for the
        connection then gets :exc:`trio.ClosedResourceError`. Leaving the ``open_nats`` block does
        the same.
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
                await core.wait(lambda: core.session is not None or core.failure is not None)
                if core.session is None:
                    break
                if await core.session.pings.round_trip():
                    return
        if core.outbox.size:
            _logger.warning("closing with %d bytes not written", core.outbox.size)

    def __repr__(self) -> str:
        return f"<Connection {self._core.state} {self.connected_url or ''}>"


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"payload must be bytes-like or str, not {type(payload).__name__}")
