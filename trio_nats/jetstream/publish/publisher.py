"""Publishing to streams without waiting for each acknowledgement.

Each message has a reply subject of its own, below an inbox with one subscription. A task receives
the acknowledgements there and hands each to its :class:`PendingAck`; another one gives up those
that are overdue. A semaphore limits how many can be pending. Failures are kept until somebody asks
for them; those that nobody asked for are raised when the block is left.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from types import TracebackType
from typing import Self, TypeVar, overload

import trio

from ..._async_with import NeedsAsyncWith
from ..._constructors import NoPublicConstructor, construct
from ..._nursery import open_nursery
from ..._subject_tokens import random_tokens
from ...codecs import Encoder, Payload, encoded
from ...errors import NatsError, PermissionsViolationError, fresh, timed_out
from ...headers import HeadersLike
from ...message import Msg
from ...options import PendingLimits, check_count
from ..api import API
from ..errors import UnacknowledgedError
from .ack import PubAck, check_server, publish_headers, read_ack, report_denied

__all__ = ["DEFAULT_PENDING", "PendingAck", "Publisher"]

DEFAULT_PENDING = 256
SPARE_ACKS = 1_000
ACK_SIZE = 4 * 1024
"""Maximum bytes of an acknowledgement or an error."""
MAX_UNCLAIMED = 1_000
"""Publishing ends after this many failures that nobody has asked for."""
MAX_ERRORS = 100
"""How many of them an :exc:`UnacknowledgedError` lists."""

P = TypeVar("P")


class PendingAck(metaclass=NoPublicConstructor, use="publisher.publish()"):
    """A pending acknowledgement: ``ack = await publisher.publish(...)``, then ``await ack``."""

    __slots__ = ("__weakref__", "_arrived", "_deadline", "_outcome", "_publisher", "_subject")

    def __init__(self, publisher: Publisher, subject: str, deadline: float) -> None:
        self._publisher = publisher
        self._subject = subject
        self._deadline = deadline
        self._outcome: PubAck | Exception | None = None
        self._arrived: trio.Event | None = None

    @property
    def subject(self) -> str:
        """The subject that the message was published to."""
        return self._subject

    @property
    def done(self) -> bool:
        """Whether the acknowledgement has come, or has failed to come."""
        return self._outcome is not None

    async def wait(self) -> PubAck:
        """Wait for the acknowledgement. Several tasks may wait, and more than once.

        If cancelled, you can wait again.

        :returns: the acknowledgement.
        :raises NoStreamResponseError: if no stream stores the subject.
        :raises PermissionsViolationError: if the user is not allowed to publish to the subject.
        :raises JetStreamAPIError: or the subclass for the reason, if the stream refused the
            message; see :meth:`JetStream.publish`.
        :raises JetStreamError: if the reply did not come from a stream.
        :raises RequestTimeoutError: if no acknowledgement came in time. The message may have been
            stored.
        :raises ConnectionLostError: if the connection ended before. The message may have been
            stored.
        :raises trio.ClosedResourceError: if the publisher was closed before. The message may have
            been stored.
        """
        self._publisher._nc._check_run()
        if self._outcome is None:
            if self._arrived is None:
                self._arrived = trio.Event()
            await self._arrived.wait()
        else:
            await trio.lowlevel.checkpoint()
        self._publisher._claim(self)
        if isinstance(self._outcome, PubAck):
            return self._outcome
        assert self._outcome is not None
        raise fresh(self._outcome)

    def __await__(self) -> Generator[object, None, PubAck]:
        return self.wait().__await__()

    def _settle(self, outcome: PubAck | Exception) -> None:
        self._outcome = outcome
        if self._arrived is not None:
            self._arrived.set()

    def __repr__(self) -> str:
        state = "pending" if self._outcome is None else repr(self._outcome)
        return f"<PendingAck {self._subject!r} {state}>"


class Publisher(NeedsAsyncWith, metaclass=NoPublicConstructor, use="js.publisher()"):
    """Publishes many messages to streams without waiting for each acknowledgement.

    Made by :meth:`JetStream.publisher`.

    .. code-block:: python

        async with js.publisher() as publisher:
            for order in orders:
                await publisher.publish("orders.new", order)

    Messages are sent in the order in which you publish them. None is published a second time
    automatically, because that would change the order.

    Leaving the block waits for all acknowledgements. A failure is raised where its acknowledgement
    is awaited; all others are raised when the block is left, in one :exc:`UnacknowledgedError`. If
    the block is left by an exception, cancellation included, pending acknowledgements are dropped,
    and their messages may or may not have been stored.
    """

    _async_with = "js.publisher() as publisher"

    def __init__(self, api: API, *, max_pending: int, timeout: float | None) -> None:
        self._api = api
        self._nc = api.nc
        self._max_pending = check_count("max_pending", max_pending, 1)
        self._timeout = api.seconds(timeout)
        self._inbox = api.nc.new_inbox()
        self._prefix = len(self._inbox) + 1
        # Twice the maximum, because others can publish to the inbox too.
        most = 2 * max_pending + SPARE_ACKS
        self._sub = api.nc.subscribe(
            f"{self._inbox}.*", pending_limits=PendingLimits(messages=most, bytes=most * ACK_SIZE)
        )
        self._tokens: list[bytes] = []
        self._room = trio.Semaphore(max_pending)
        self._pending: dict[str, PendingAck] = {}
        self._all_done = trio.Event()
        self._unclaimed: dict[PendingAck, Exception] = {}
        self._ended: Exception | None = None
        self._entered = False
        self._leaving = False

    @property
    def pending(self) -> int:
        """Number of messages that wait for their acknowledgement."""
        return len(self._pending)

    @property
    def max_pending(self) -> int:
        """Maximum number of messages that wait for their acknowledgement."""
        return self._max_pending

    @overload
    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_stream: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        expect_last_msg_id: str | None = None,
        ttl: float | None = None,
    ) -> PendingAck: ...
    @overload
    async def publish(
        self,
        subject: str,
        payload: P,
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_stream: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        expect_last_msg_id: str | None = None,
        ttl: float | None = None,
        codec: Encoder[P],
    ) -> PendingAck: ...
    async def publish(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_stream: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        expect_last_msg_id: str | None = None,
        ttl: float | None = None,
        codec: Encoder[P] | None = None,
    ) -> PendingAck:
        """Publish a message, and return its pending acknowledgement.

        Waits while ``max_pending`` acknowledgements are pending. If cancelled, nothing was
        published.

        :param subject: the subject to publish to.
        :param payload: bytes, a str to be sent as UTF-8, or what ``codec`` encodes.
        :param headers: headers of the message; the parameters below replace headers that mean the
            same.
        :param msg_id: an id by which the stream recognizes duplicates. Default: none.
        :param expect_stream: the name of the stream. Default: not checked, as the next four.
        :param expect_last_seq: the sequence number of the last message in the stream.
        :param expect_last_subject_seq: the sequence number of the last message of ``subject``.
        :param expect_last_subject: check ``expect_last_subject_seq`` for this subject instead.
        :param expect_last_msg_id: the ``msg_id`` of the last message in the stream.
        :param ttl: seconds until the message is deleted, at least 1. Default: no limit of its own.
        :param codec: encodes ``payload``; see :mod:`trio_nats.codecs`.
        :returns: the pending acknowledgement; await it, or leave the block.
        :raises ConfigurationError: if an argument is invalid.
        :raises APILevelError: if the server is too old for ``ttl`` or ``expect_last_subject``
            (server 2.11 or later).
        :raises UnacknowledgedError: after 1,000 failures that nobody has asked for.
        :raises ConnectionLostError: if the connection has ended.
        :raises trio.ClosedResourceError: if the publisher or the connection is closed.
        :raises NatsError: a subclass of it, if :meth:`Connection.publish` failed; nothing was sent.
        """
        own = publish_headers(
            headers,
            msg_id=msg_id,
            expect_stream=expect_stream,
            expect_last_seq=expect_last_seq,
            expect_last_subject_seq=expect_last_subject_seq,
            expect_last_subject=expect_last_subject,
            expect_last_msg_id=expect_last_msg_id,
            ttl=ttl,
        )
        self._nc._check_run()
        data = encoded(codec, payload)
        await check_server(self._api, expect_last_subject, ttl)
        self._check_open()
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        try:
            self._check_open()
            # Subscribers to the subject see this token, and must not be able to guess others.
            if not self._tokens:
                self._tokens = random_tokens()
            token = self._tokens.pop().decode()
            ack = construct(PendingAck, self, subject, trio.current_time() + self._timeout)
            self._pending[token] = ack
        except BaseException:
            self._room.release()
            raise
        try:
            await self._nc.publish(subject, data, reply=f"{self._inbox}.{token}", headers=own)
        except BaseException:
            if self._pending.pop(token, None) is not None:
                self._room.release()
                self._check_done()
            self._claim(ack)  # the exception tells the caller
            raise
        return ack

    def _check_open(self) -> None:
        if not self._entered:
            raise self._not_entered_error("this publisher")
        if self._ended is not None:
            raise fresh(self._ended)
        if self._leaving:
            raise _closed()
        if len(self._unclaimed) >= MAX_UNCLAIMED:
            raise self._failures()

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Subscribe for acknowledgements. If cancelled, nothing has happened.

        :raises trio.ClosedResourceError: if the connection is closed.
        :raises ConnectionLostError: if the connection was lost.
        """
        if self._entered:
            raise RuntimeError("a publisher can be entered only once; make another")
        await self._sub.__aenter__()
        self._entered = True
        self._manager = open_nursery(self._close)
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._receive)
        self._nursery.start_soon(self._expire)
        self._nursery.start_soon(report_denied, self._nc.events(), self._denied)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._manager.__aexit__(exc_type, exc, traceback)
        finally:
            with trio.CancelScope(shield=True):
                await self._sub.aclose()
        # Tasks that were waiting have run by now, and have claimed their failures.
        if exc is None and self._unclaimed:
            raise self._failures()

    async def _close(self, exc: BaseException | None) -> None:
        self._leaving = True
        try:
            if exc is None:
                self._check_done()
                await self._all_done.wait()
        finally:
            self._end(_closed())
            self._nursery.cancel_scope.cancel()

    async def aclose(self) -> None:
        """Wait for all acknowledgements, then close. Leaving the block does the same.

        Nothing more can be published from now on. Harmless when repeated. If cancelled, the
        publisher is closed at once; leaving the block then raises :exc:`UnacknowledgedError` for
        the pending acknowledgements.

        :raises UnacknowledgedError: if messages were not acknowledged and nobody has asked for
            their acknowledgements.
        """
        self._nc._check_run()
        if not self._entered:
            raise self._not_entered_error("this publisher")
        self._leaving = True
        try:
            self._check_done()
            await self._all_done.wait()
        finally:
            self._end(_closed())
            with trio.CancelScope(shield=True):
                await self._sub.aclose()
        if self._unclaimed:
            failures = self._failures()
            self._unclaimed.clear()
            raise failures

    def _check_done(self) -> None:
        if self._leaving and not self._pending:
            self._all_done.set()

    def _failures(self) -> UnacknowledgedError:
        errors = [fresh(error) for error in list(self._unclaimed.values())[:MAX_ERRORS]]
        error = UnacknowledgedError(len(self._unclaimed), errors)
        error.__cause__ = errors[0]
        return error

    # --- acknowledgements ------------------------------------------------------------------------

    def _claim(self, ack: PendingAck) -> None:
        """Note that somebody has asked for the acknowledgement."""
        self._unclaimed.pop(ack, None)

    async def _receive(self) -> None:
        """Hand out acknowledgements until the subscription ends."""
        try:
            while True:
                for msg in await self._sub.receive_batch():
                    ack = self._pending.pop(msg.subject[self._prefix :], None)
                    if ack is not None:
                        self._settle(ack, _outcome(msg, ack.subject))
        except trio.EndOfChannel:
            self._end(trio.ClosedResourceError("this NATS connection is draining"))
        except (NatsError, trio.ClosedResourceError) as error:
            self._end(error)

    async def _expire(self) -> None:
        """Give up acknowledgements that are overdue."""
        while True:
            # All have the same timeout, so the one published first is due first.
            first = next(iter(self._pending.values()), None)
            now = trio.current_time()
            due = math.inf if first is None else first._deadline
            if due > now:
                # Messages published during the wait are due later.
                await trio.sleep_until(min(due, now + self._timeout))
                continue
            del self._pending[next(iter(self._pending))]
            assert first is not None
            self._settle(
                first,
                timed_out(
                    f"the message to {first.subject!r} was not acknowledged within "
                    f"{self._timeout:g} s; it may have been stored",
                    self._nc.disconnected_for,
                ),
            )

    def _denied(self, error: PermissionsViolationError) -> None:
        """Fail the pending acknowledgements of a subject that the user may not publish to."""
        for token, ack in list(self._pending.items()):
            if ack.subject == error.subject:
                del self._pending[token]
                self._settle(ack, fresh(error))

    def _end(self, error: Exception) -> None:
        """Fail all pending acknowledgements, and those to come, with ``error``."""
        if self._ended is None:
            self._ended = error
        pending, self._pending = self._pending, {}
        for ack in pending.values():
            self._settle(ack, fresh(error))

    def _settle(self, ack: PendingAck, outcome: PubAck | Exception) -> None:
        if isinstance(outcome, Exception):
            self._unclaimed[ack] = outcome
        ack._settle(outcome)
        self._room.release()
        self._check_done()

    def __repr__(self) -> str:
        return f"<Publisher {self.pending} of {self.max_pending} pending>"


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this publisher is closed")


def _outcome(msg: Msg, subject: str) -> PubAck | Exception:
    try:
        return read_ack(msg, subject)
    except NatsError as error:
        return error
