"""Publishing without waiting for each acknowledgement."""

from __future__ import annotations

import math
from collections.abc import Generator
from types import TracebackType
from typing import Self, TypeVar, overload

import trio

from ..._nursery import open_nursery
from ..._tokens import random_tokens
from ...codecs import Encoder, Payload, encoded
from ...errors import NatsError, fresh, timed_out
from ...headers import HeadersLike
from ...message import Msg
from ...options import PendingLimits, check_count
from ..api import API
from ..errors import UnacknowledgedError
from .ack import PubAck, publish_headers, read_ack

__all__ = ["DEFAULT_PENDING", "PendingAck", "Publisher"]

DEFAULT_PENDING = 256
SPARE_ACKS = 1_000
ACK_SIZE = 4 * 1024
"""Bytes that an acknowledgement, or a refusal, takes at most."""
MAX_UNCLAIMED = 1_000
"""So many failures nobody has asked about end the publishing."""
MAX_ERRORS = 100
"""Of which so many are told one by one."""

P = TypeVar("P")


class PendingAck:
    """An acknowledgement to come: ``ack = await publisher.publish(...)``, then ``await ack``."""

    __slots__ = ("__weakref__", "_arrived", "_deadline", "_outcome", "_publisher", "_subject")

    def __init__(self, publisher: Publisher, subject: str, deadline: float) -> None:
        self._publisher = publisher
        self._subject = subject
        self._deadline = deadline
        self._outcome: PubAck | Exception | None = None
        self._arrived: trio.Event | None = None

    @property
    def subject(self) -> str:
        """What the message was published to."""
        return self._subject

    @property
    def done(self) -> bool:
        """Whether it has come, or will not come any more."""
        return self._outcome is not None

    async def wait(self) -> PubAck:
        """Wait for it; any number of tasks may, any number of times.

        Raises what :meth:`JetStream.publish` raises, and :exc:`trio.ClosedResourceError` if the
        publisher's block was left by an exception before. If cancelled, it can be waited for again.
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


class Publisher:
    """Publishes many messages at a time, as made by :meth:`JetStream.publisher`.

    .. code-block:: python

        async with js.publisher() as publisher:
            for order in orders:
                await publisher.publish("orders.new", order)

    Messages leave in the order they are published in, and are not published again by themselves,
    for that would change it. Leaving the block normally waits for all acknowledgements. A failure
    is raised where its acknowledgement is awaited; those nobody has asked about are raised on
    leaving, all in one :exc:`UnacknowledgedError`. Leaving it by an exception, cancellation
    included, forgets them, and what was published may be stored or not.
    """

    def __init__(self, api: API, *, max_pending: int, timeout: float | None) -> None:
        self._nc = api.nc
        self._max_pending = check_count("max_pending", max_pending, 1)
        self._timeout = api.seconds(timeout)
        self._inbox = api.nc.new_inbox()
        self._prefix = len(self._inbox) + 1
        # Twice as many as there can be, for others may publish there too.
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
        """How many acknowledgements are still to come."""
        return len(self._pending)

    @property
    def max_pending(self) -> int:
        """The most there may be at a time."""
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
        """Publish a message, and return the acknowledgement that is to come.

        The arguments are those of :meth:`JetStream.publish`. Waits while ``max_pending``
        acknowledgements are still to come. One that does not come within ``timeout`` seconds is a
        failure.

        Raises what :meth:`Connection.publish` raises; what has ended the publisher, such as
        :exc:`ConnectionLostError`; :exc:`UnacknowledgedError` after 1,000 failures that nobody has
        asked about. Then, and when it is cancelled, nothing was published.
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
        self._check_open()
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        try:
            self._check_open()
            # Subscribers to the subject see one, and must not be able to tell the others.
            if not self._tokens:
                self._tokens = random_tokens()
            token = self._tokens.pop().decode()
            ack = PendingAck(self, subject, trio.current_time() + self._timeout)
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
            self._claim(ack)  # the caller is told by the exception
            raise
        return ack

    def _check_open(self) -> None:
        if not self._entered:
            raise RuntimeError("use it as 'async with js.publisher() as publisher:'")
        if self._ended is not None:
            raise fresh(self._ended)
        if self._leaving:
            raise _closed()
        if len(self._unclaimed) >= MAX_UNCLAIMED:
            raise self._failures()

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Make ready. If cancelled, nothing has happened.

        Raises :exc:`trio.ClosedResourceError` or :exc:`ConnectionLostError` if the connection is.
        """
        if self._entered:
            raise RuntimeError("a publisher can be entered only once; make another")
        await self._sub.__aenter__()
        self._entered = True
        self._manager = open_nursery(self._close)
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._receive)
        self._nursery.start_soon(self._expire)
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
        # Tasks that were waiting have been told by now, and have claimed their failures.
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
        """Wait for all acknowledgements, then unsubscribe. Leaving the block does the same.

        From the call on, nothing more can be published. Harmless when repeated. If cancelled, the
        publisher is closed without waiting any longer; leaving the block then raises
        :exc:`UnacknowledgedError` for what was still to come.

        :raises UnacknowledgedError: for failures that nobody has asked about.
        """
        self._nc._check_run()
        if not self._entered:
            raise RuntimeError("use it as 'async with js.publisher() as publisher:'")
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
        """Somebody has asked about it."""
        self._unclaimed.pop(ack, None)

    async def _receive(self) -> None:
        """Hand out the acknowledgements, until there can be no more."""
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
        """Give up those that do not come."""
        while True:
            # All have the same timeout, so the first one published is the first one to be late.
            first = next(iter(self._pending.values()), None)
            now = trio.current_time()
            due = math.inf if first is None else first._deadline
            if due > now:
                # What is published during the wait is not due any earlier.
                await trio.sleep_until(min(due, now + self._timeout))
                continue
            del self._pending[next(iter(self._pending))]
            assert first is not None
            self._settle(
                first,
                timed_out(
                    f"no acknowledgement of the message to {first.subject!r} within "
                    f"{self._timeout:g} s; whether it was stored is not known",
                    self._nc.disconnected_for,
                ),
            )

    def _end(self, error: Exception) -> None:
        """There will be no more, and this is why."""
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
