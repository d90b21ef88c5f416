"""Fast batches: many messages, published at the pace at which the stream stores them (ADR-50).

Theory of operation. The reply subjects of all messages of a batch are below one inbox. Each ends
with the number of the message, an operation, and ``$FI``, so a message needs no headers. The stream
acknowledges every n-th message. Each acknowledgement contains the next n, by which the stream slows
down publishers. The publisher waits while ``max_pending_acks`` acknowledgements are missing. An
acknowledgement covers all messages before it, so a lost one need not be repeated. A ping requests
the last acknowledgement and the gaps again, and keeps the server from abandoning the batch.

A stream does not acknowledge a message that it refuses. If gaps are allowed, the publisher then
continues after the error, or after the answer to a ping, because no earlier message is on its way.

A stream ends a batch with an ordinary acknowledgement, which has the number of messages: after a
commit, or as soon as a message is lost or refused, unless gaps are allowed.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import msgspec
import trio

from ..._async_with import NeedsAsyncWith
from ..._constructors import NoPublicConstructor
from ..._nursery import open_nursery
from ...codecs import Encoder, Payload, encoded
from ...errors import (
    ConfigurationError,
    NatsError,
    PermissionsViolationError,
    fresh,
    timed_out,
)
from ...headers import HeadersLike
from ...message import Msg
from ...options import PendingLimits, check_count, check_flag
from ..api import API, api_error
from ..errors import FastBatchError, JetStreamError, NoStreamResponseError
from ..features import api_level_error
from .ack import PubAck, check_server, publish_headers, report_denied

__all__ = ["DEFAULT_ACK_EVERY", "DEFAULT_PENDING_ACKS", "FastBatch"]

DEFAULT_ACK_EVERY = 100
DEFAULT_PENDING_ACKS = 2
MAX_ACK_EVERY = 10_000
SPARE_REPLIES = 1_000
REPLY_SIZE = 4 * 1024
"""Maximum size of an acknowledgement or an error, in bytes."""
MAX_SUBJECTS = 100_000
"""Maximum number of subjects to keep, for errors about messages that no stream stores."""
MAX_ERRORS = 100
"""Maximum number of refusals in :attr:`FastBatch.errors`."""
PING_AFTER = 3.0
"""Seconds of silence after which to send a ping. Servers abandon a batch after 10."""

START, APPEND, COMMIT, PING = 0, 1, 3, 4
"""The operations. Another one, 2, commits together with a last message."""

P = TypeVar("P")


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Any reply of a stream to a message of a batch."""

    type: Literal["ack", "gap", "err"] | None = None
    seq: int = 0
    msgs: int = 0
    last_seq: int = 0
    error: dict[str, object] | None = None
    stream: str = ""
    domain: str = ""
    batch: str = ""
    count: int = 0


_decode = msgspec.json.Decoder(_Reply).decode


class FastBatch(NeedsAsyncWith, metaclass=NoPublicConstructor, use="js.fast_batch()"):
    """Many messages, published at the pace at which the stream stores them (ADR-50).

    Made by :meth:`JetStream.fast_batch`.

    .. code-block:: python

        async with js.fast_batch() as batch:
            for reading in readings:
                await batch.add("sensors.7", reading)
        assert batch.ack.count == len(readings)

    The stream must have ``allow_batched``, and the server must be 2.14 or later. The messages are
    stored in the order in which you add them; those of other publishers may come between them.
    Leaving the block commits the batch, and raises if not all messages were stored. If the block is
    left by an exception, cancellation included, the batch ends without waiting for the stream;
    the messages that have been sent may or may not have been stored. Only one task at a time may
    use a batch.
    """

    _async_with = "js.fast_batch() as batch"

    def __init__(
        self,
        api: API,
        *,
        allow_gaps: bool,
        ack_every: int,
        max_pending_acks: int,
        timeout: float | None,
    ) -> None:
        check_flag("allow_gaps", allow_gaps)
        if check_count("ack_every", ack_every, 1) > MAX_ACK_EVERY:
            raise ConfigurationError(f"ack_every must be at most {MAX_ACK_EVERY:,}")
        self._api = api
        self._nc = api.nc
        self._allow_gaps = allow_gaps
        self._ack_every = ack_every
        self._max_pending_acks = check_count("max_pending_acks", max_pending_acks, 1)
        self._timeout = api.seconds(timeout)
        inbox = api.nc.new_inbox()
        self._id = inbox.rpartition(".")[2]
        self._reply_prefix = f"{inbox}.{ack_every}.{'ok' if allow_gaps else 'fail'}"
        limit = 2 * ack_every * max_pending_acks + SPARE_REPLIES
        self._sub = api.nc.subscribe(
            f"{inbox}.>", pending_limits=PendingLimits(messages=limit, bytes=limit * REPLY_SIZE)
        )
        self._subject = ""  # of the first message, so that the stream gets pings and the commit
        self._subjects: deque[str] = deque(maxlen=min(ack_every * max_pending_acks, MAX_SUBJECTS))
        self._sent = 0
        self._acked = 0
        self._handled = (
            0  # the last message known to be acknowledged or refused, or lost before a ping
        )
        self._every = 0  # unknown before the first reply
        self._lost = 0
        self._lost_until = 1
        self._refused = 0
        self._errors: list[NatsError] = []
        self._failure: tuple[int | None, NatsError] | None = None
        self._heard_at = 0.0
        self._waiting_since = math.inf
        self._outcome: PubAck | Exception | None = None
        self._changed = trio.Event()
        self._entered = False
        self._committing = False
        self._over = ""
        self._busy = False

    @property
    def id(self) -> str:
        """The id of the batch, which the server sends in the acknowledgement."""
        return self._id

    @property
    def acked(self) -> int:
        """Number of messages, from the first one on, that the stream has acknowledged.

        They are stored. With ``allow_gaps``, some of them may have been lost or refused.
        """
        return self._acked

    @property
    def ack(self) -> PubAck | None:
        """The acknowledgement of the whole batch; ``None`` before it is committed."""
        return self._outcome if isinstance(self._outcome, PubAck) else None

    @property
    def lost(self) -> int:
        """Number of messages that did not reach the stream, as far as is known."""
        return self._lost

    @property
    def refused(self) -> int:
        """Number of messages that the stream refused, as far as is known."""
        return self._refused

    @property
    def errors(self) -> Sequence[NatsError]:
        """The reasons of the first 100 refusals."""
        return tuple(self._errors)

    def __len__(self) -> int:
        """Return the number of messages."""
        return self._sent

    @overload
    async def add(
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
    ) -> int: ...
    @overload
    async def add(
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
    ) -> int: ...
    async def add(
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
    ) -> int:
        """Publish a message. Wait while ``max_pending_acks`` acknowledgements are missing.

        If cancelled, the message is not published.

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
        :returns: the number of the message in the batch, from 1; compare it with :attr:`acked`.
        :raises ConfigurationError: if an argument is invalid.
        :raises FastBatchError: if an earlier message was lost or refused. The batch has ended, as
            it has after the next five errors.
        :raises NoStreamResponseError: if no stream stores the subject of an earlier message.
        :raises PermissionsViolationError: if the user is not allowed to publish to the subject of
            the first message.
        :raises JetStreamAPIError: if the stream refused the batch.
        :raises APILevelError: if the server is older than 2.14.
        :raises RequestTimeoutError: if the stream did not acknowledge in time. Messages after
            :attr:`acked` may have been stored.
        :raises ConnectionLostError: if the connection has ended.
        :raises JetStreamError: if the batch has been committed or has failed before.
        :raises trio.BusyResourceError: if another task is using the batch.
        :raises NatsError: a subclass of it, if :meth:`Connection.publish` failed; the message was
            not sent.
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
        data = encoded(codec, payload)
        self._begin()
        try:
            if not self._sent:
                await self._api.require("fast_batch()")
            await check_server(self._api, expect_last_subject, ttl)
            if self._outcome is not None or self._is_full():
                await self._wait_until(lambda: not self._is_full())
            number = self._sent + 1
            operation = APPEND if self._sent else START
            reply = f"{self._reply_prefix}.{number}.{operation}.$FI"
            await self._nc.publish(subject, data, reply=reply, headers=own)
            if not self._sent:
                self._heard_at = trio.current_time()
                self._subject = subject
            self._sent = number
            self._subjects.append(subject)
            return number
        finally:
            self._busy = False

    async def commit(self) -> PubAck:
        """Wait until all messages are stored, and end the batch. Leaving the block does the same.

        If cancelled, the messages may have been stored, and the batch cannot be used any more.

        :returns: the acknowledgement of the last message, with the number of messages in ``count``.
        :raises ConfigurationError: if the batch has no messages; add some and commit again.
        :raises FastBatchError: if a message was lost or refused.
        :raises NoStreamResponseError: if no stream stores the subject.
        :raises PermissionsViolationError: if the user is not allowed to publish to it.
        :raises JetStreamAPIError: if the stream refused the batch.
        :raises JetStreamError: if the batch has been committed or has failed before.
        :raises RequestTimeoutError: if the stream did not acknowledge in time. Messages after
            :attr:`acked` may have been stored.
        :raises ConnectionLostError: if the connection has ended.
        :raises trio.BusyResourceError: if another task is using the batch.
        """
        self._begin()
        try:
            if not self._sent:
                raise ConfigurationError("the batch must have messages: call add() before commit()")
            self._over = "was being committed"
            # If the stream refuses the first message, it does not answer the commit.
            await self._wait_until(lambda: self._every > 0)
            self._committing = True
            await self._send(COMMIT, self._sent + 1)
            await self._wait_until(lambda: False)
        finally:
            self._busy = False
        assert isinstance(self._outcome, PubAck)
        return self._outcome

    def _begin(self) -> None:
        self._nc._check_run()
        if not self._entered:
            raise self._not_entered_error("this batch")
        if self._busy:
            raise trio.BusyResourceError("another task is using this batch")
        if self._over:
            raise JetStreamError(f"the batch {self._over}; make another with js.fast_batch()")
        self._busy = True

    def _is_full(self) -> bool:
        """Whether to wait for an acknowledgement; always after the first message."""
        if self._failure is not None:
            return True
        return self._sent >= self._handled + max(1, self._every * self._max_pending_acks)

    async def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until ``is_ready`` or until the batch has ended; raise if it has failed."""
        self._waiting_since = trio.current_time()
        try:
            while self._outcome is None and not is_ready():
                before = self._acked, self._handled
                self._changed = trio.Event()
                await self._changed.wait()
                if (self._acked, self._handled) != before:
                    self._waiting_since = trio.current_time()
        finally:
            self._waiting_since = math.inf
        if self._outcome is not None:
            is_stored = isinstance(self._outcome, PubAck)
            self._over = "has been committed" if is_stored else "has failed"
            if isinstance(self._outcome, Exception):
                raise fresh(self._outcome)

    async def _send(self, operation: int, number: int) -> None:
        """Publish an empty message that is not stored."""
        await self._nc.publish(
            self._subject, reply=f"{self._reply_prefix}.{number}.{operation}.$FI"
        )

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Subscribe for acknowledgements. If cancelled, nothing has happened.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection was lost for good.
        """
        if self._entered:
            raise RuntimeError("a batch can be entered only once; make another")
        await self._sub.__aenter__()
        self._entered = True
        self._manager = open_nursery(self._close)
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._receive)
        self._nursery.start_soon(self._keep_alive)
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

    async def _close(self, exc: BaseException | None) -> None:
        try:
            if exc is None and self._sent and not self._over:
                await self.commit()
        finally:
            self._over = self._over or "has been left"
            self._nursery.cancel_scope.cancel()
            if self._outcome is None and self._every and not self._committing:
                self._abandon()

    def _abandon(self) -> None:
        """Commit what was sent, without waiting.

        Otherwise the stream keeps the batch for ten seconds, and its number of batches is limited.
        All messages that the stream has received are stored in any case.
        """
        reply = f"{self._reply_prefix}.{self._sent + 1}.{COMMIT}.$FI"
        with contextlib.suppress(NatsError, trio.ClosedResourceError):
            self._nc.publish_nowait(self._subject, reply=reply)

    # --- replies ---------------------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            while self._outcome is None:
                for msg in await self._sub.receive_batch():
                    self._handle(msg)
        except trio.EndOfChannel:
            self._end(trio.ClosedResourceError("this NATS connection is draining"))
        except (NatsError, trio.ClosedResourceError) as error:
            self._end(error)
        # Otherwise the server would send an error for each message that is still on its way.
        await self._sub.aclose()

    async def _keep_alive(self) -> None:
        """Send a ping after some silence, and give up after more."""
        pause = min(PING_AFTER, self._timeout / 5)
        while self._outcome is None:
            before = trio.current_time()
            await trio.sleep(pause)
            now = trio.current_time()
            if not self._sent:
                continue
            late = now - before - pause
            if late > pause:
                # The program was busy or suspended. Replies may have arrived that were not read
                # yet, and no ping was sent, so this does not count as silence.
                self._heard_at += late
                self._waiting_since += late
            # Also give up a stream that answers pings but makes no progress.
            if now - min(self._heard_at, self._waiting_since) >= self._timeout:
                self._end(
                    timed_out(
                        f"the batch was not acknowledged within {self._timeout:g} s; "
                        f"its first {self._acked:,} messages are stored, and others may be",
                        self._nc.disconnected_for,
                    )
                )
                return
            # A ping before the first reply could begin another batch.
            if self._every and now - self._heard_at >= pause:
                # A full outbox may have room later. Anything else that fails ends the receiver.
                with (
                    trio.move_on_after(pause),
                    contextlib.suppress(NatsError, trio.ClosedResourceError),
                ):
                    if self._committing:  # A stream that is committing already ignores it.
                        await self._send(COMMIT, self._sent + 1)
                    else:
                        await self._send(PING, self._sent)

    def _handle(self, msg: Msg) -> None:
        if self._outcome is not None:
            return
        if (status := msg.status) is not None and status.code == 503:
            self._end(NoStreamResponseError(self._subject_of(msg)))
            return
        try:
            reply = _decode(msg.data)
        except (ValueError, RecursionError):
            return  # It comes from a subscriber that is no stream.
        self._heard_at = trio.current_time()
        match reply.type:
            case "ack":
                if 0 <= reply.seq <= self._sent and reply.msgs > 0:
                    self._acked = max(self._acked, reply.seq)
                    self._every = min(reply.msgs, self._ack_every)
                    number, operation = self._answered(msg)
                    self._note_handled(number if operation == PING and self._allow_gaps else 0)
            case "gap":
                if self._lost_until <= reply.last_seq < reply.seq <= self._sent + 1:
                    self._note_lost(reply.last_seq, reply.seq)
            case "err":
                if 0 < reply.seq <= self._sent:
                    self._note_handled(reply.seq)
                    self._note_refused(reply.seq, api_error(reply.error))
            case None:
                self._finish(reply)
        self._changed.set()

    def _answered(self, msg: Msg) -> tuple[int, int]:
        """Return the number and the operation of the message that was replied to."""
        try:
            number, operation = (int(token) for token in msg.subject.split(".")[-3:-1])
        except ValueError:
            return 0, APPEND
        return (number if 0 < number <= self._sent else 0), operation

    def _subject_of(self, msg: Msg) -> str:
        number, operation = self._answered(msg)
        index = number - 1 - self._sent
        if operation not in (START, APPEND) or not -len(self._subjects) <= index < 0:
            return self._subject
        return self._subjects[index]

    def _note_handled(self, number: int) -> None:
        self._handled = max(self._handled, self._acked, number)

    def _denied(self, error: PermissionsViolationError) -> None:
        # Once a batch has begun, the stream reports what is missing.
        if not self._every and error.subject == self._subject:
            self._end(error)

    def _note_lost(self, first: int, following: int) -> None:
        if first == 1 and self._every:
            # It has the first message, so a ping has begun another batch.
            reason = JetStreamError("the server has forgotten the batch")
            self._end(self._ended_early(None, reason))
            return
        self._lost += following - first
        self._lost_until = following
        if following == first + 1:
            text = f"message {first:,} was lost on the way"
        else:
            text = f"messages {first:,} to {following - 1:,} were lost on the way"
        self._note_failure(None, JetStreamError(text))

    def _note_refused(self, number: int, error: NatsError) -> None:
        self._refused += 1
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(error)
        self._note_failure(number, error)

    def _note_failure(self, number: int | None, error: NatsError) -> None:
        if not self._allow_gaps and self._failure is None:
            self._failure = number, error  # The last acknowledgement follows, and ends the batch.

    def _finish(self, reply: _Reply) -> None:
        if reply.error is not None:
            self._end(api_error(reply.error))
        elif reply.batch == self._id:
            self._acked = max(self._acked, min(reply.count, self._sent))
            if self._committing and self._failure is None and reply.count == self._sent:
                self._outcome = PubAck(
                    stream=reply.stream,
                    seq=reply.seq,
                    domain=reply.domain,
                    batch=reply.batch,
                    count=reply.count,
                )
            else:
                failure = self._failure or (None, JetStreamError("the stream gave no reason"))
                self._end(self._ended_early(*failure))
        elif not self._every and reply.stream and reply.seq:
            detail = f"the first message, to {self._subject!r}, was stored by itself"
            self._end(api_level_error(["fast_batch()"], detail=detail))

    def _ended_early(self, number: int | None, reason: NatsError) -> FastBatchError:
        error = FastBatchError(self._acked, number, reason)
        error.__cause__ = reason
        return error

    def _end(self, error: Exception) -> None:
        if self._outcome is None:
            self._outcome = error
        self._changed.set()

    def __repr__(self) -> str:
        return f"<FastBatch {self._id} of {len(self)} messages{self._over and ', '}{self._over}>"
