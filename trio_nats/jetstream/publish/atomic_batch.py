"""Atomic batches: messages that a stream stores all together or not at all (ADR-50)."""

from __future__ import annotations

import logging
from typing import TypeVar, overload

import trio

from ..._constructors import NoPublicConstructor
from ...codecs import Encoder, Payload, as_bytes, encoded
from ...errors import ConfigurationError, NatsError, NoRespondersError
from ...headers import Headers, HeadersLike
from ..api import API
from ..errors import JetStreamError, NoStreamResponseError
from ..features import api_level_error
from ..validation import check_subject
from .ack import EXPECTED_STREAM, PubAck, publish_headers, read_ack

__all__ = ["AtomicBatch"]

_logger = logging.getLogger("trio_nats.jetstream")

BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
ACK_EVERY = 100
"""Wait for the server after this many messages, so that it can keep up."""

P = TypeVar("P")


class AtomicBatch(metaclass=NoPublicConstructor, use="js.atomic_batch()"):
    """Messages that a stream stores all together or not at all (ADR-50).

    Made by :meth:`JetStream.atomic_batch`.

    .. code-block:: python

        batch = js.atomic_batch()
        await batch.add("users.7.street", b"Main Street")
        await batch.add("users.7.city", b"Springfield")
        ack = await batch.commit()

    The stream must have ``allow_atomic``, and the server must be 2.12 or later. By default, a
    server accepts up to 1,000 messages in a batch, and abandons a batch after 10 seconds without a
    new message. Nothing is stored before :meth:`commit`; to give up a batch, do not commit it.
    Only one task at a time may use a batch.
    """

    def __init__(self, api: API, *, timeout: float | None) -> None:
        self._api = api
        self._nc = api.nc
        self._timeout = api.seconds(timeout)
        self._id = api.nc.new_inbox().rpartition(".")[2]
        # The last message is held back: commit() sends it, marked as the last one.
        self._held: tuple[str, Payload, HeadersLike | None] | None = None
        self._sent = 0
        self._over = ""
        self._busy = False

    @property
    def id(self) -> str:
        """The id of the batch, as the server knows it."""
        return self._id

    def __len__(self) -> int:
        """Return the number of messages."""
        return self._sent + (self._held is not None)

    @overload
    async def add(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        ttl: float | None = None,
    ) -> None: ...
    @overload
    async def add(
        self,
        subject: str,
        payload: P,
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        ttl: float | None = None,
        codec: Encoder[P],
    ) -> None: ...
    async def add(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        headers: HeadersLike | None = None,
        msg_id: str | None = None,
        expect_last_seq: int | None = None,
        expect_last_subject_seq: int | None = None,
        expect_last_subject: str | None = None,
        ttl: float | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Add a message.

        Sends the message that was added before; the server's answer is awaited for the first one
        and then for every hundredth. Expectations are checked on :meth:`commit`, against what was
        stored before the batch. If cancelled, the message is not added; if cancelled while the
        server is to answer, the batch has failed.

        :param subject: the subject to publish to.
        :param payload: bytes, a str to be sent as UTF-8, or what ``codec`` encodes.
        :param headers: headers of the message; the parameters below replace headers that mean the
            same.
        :param msg_id: an id by which the stream recognizes duplicates. Default: none.
        :param expect_last_seq: the sequence number of the last message in the stream; for the first
            message of the batch only. Default: not checked.
        :param expect_last_subject_seq: the sequence number of the last message of ``subject``.
            Default: not checked.
        :param expect_last_subject: check ``expect_last_subject_seq`` for this subject instead.
        :param ttl: seconds until the message is deleted, at least 1. Default: no limit of its own.
        :param codec: encodes ``payload``; see :mod:`trio_nats.codecs`.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if ``subject`` is not a valid subject.
        :raises EncodeError: if ``codec`` cannot encode ``payload``.
        :raises NoStreamResponseError: if no stream stores the subject of an earlier message. The
            batch has failed, as it has after the next three errors.
        :raises JetStreamAPIError: if the server refused an earlier message.
        :raises APILevelError: if the server is older than 2.12.
        :raises JetStreamError: if the batch has been committed or has failed before.
        :raises RequestTimeoutError: if the server did not answer in time.
        :raises trio.BusyResourceError: if another task is using the batch.
        """
        if expect_last_seq is not None and len(self):
            raise ConfigurationError(
                "expect_last_seq is allowed for the first message of a batch only"
            )
        own = publish_headers(
            headers,
            msg_id=msg_id,
            expect_last_seq=expect_last_seq,
            expect_last_subject_seq=expect_last_subject_seq,
            expect_last_subject=expect_last_subject,
            ttl=ttl,
        )
        # The message is sent later, so check it now.
        check_subject("subject", subject)
        own = None if own is None else Headers(own)
        data = as_bytes(encoded(codec, payload))
        self._begin()
        try:
            if self._held is not None:
                await self._send(self._held)
            else:
                await self._api.require("atomic_batch()")
                await trio.lowlevel.checkpoint()
            self._held = (subject, data, own)
        finally:
            self._busy = False

    async def commit(self) -> PubAck:
        """Store the batch. It cannot be used afterwards, even if this fails.

        If cancelled, all messages may have been stored, or none.

        :returns: the acknowledgement of the last message.
        :raises ConfigurationError: if the batch has no messages; add some and commit again.
        :raises WrongLastSequenceError: if an expectation was not met; nothing was stored.
        :raises NoStreamResponseError: if no stream stores the subject; nothing was stored.
        :raises JetStreamAPIError: if the server refused the batch; nothing was stored.
        :raises JetStreamError: if the answer is not an acknowledgement, or the batch has been
            committed or has failed before.
        :raises RequestTimeoutError: if the server did not answer in time; all messages may have
            been stored, or none.
        :raises trio.BusyResourceError: if another task is using the batch.
        """
        self._begin()
        try:
            if self._held is None:
                raise ConfigurationError("the batch must have messages: call add() before commit()")
            ack = await self._ask(self._held, commit=True)
            self._over, self._held = "has been committed", None
        finally:
            self._busy = False
        if ack is None:
            raise JetStreamError("the answer to the batch is not an acknowledgement: it is empty")
        return ack

    def _begin(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task is using this batch")
        if self._over:
            raise JetStreamError(f"the batch {self._over}; make another with js.atomic_batch()")
        self._busy = True

    async def _send(self, message: tuple[str, Payload, HeadersLike | None]) -> None:
        if self._sent % ACK_EVERY == 0:
            await self._ask(message)
        else:
            subject, data, headers = message
            await self._nc.publish(subject, data, headers=self._numbered(headers))
            self._sent += 1

    async def _ask(
        self, message: tuple[str, Payload, HeadersLike | None], *, commit: bool = False
    ) -> PubAck | None:
        """Send a message and wait for the answer. The batch has failed if none comes."""
        subject, data, headers = message
        numbered = self._numbered(headers)
        if commit:
            numbered[BATCH_COMMIT] = "1"
        over, self._over = self._over, "has failed"
        try:
            msg = await self._nc.request(subject, data, timeout=self._timeout, headers=numbered)
        except NoRespondersError:
            raise NoStreamResponseError(subject) from None
        except BaseException:
            self._abandon(subject)
            raise
        ack = None
        if msg.data or msg.raw_headers is not None:
            ack = read_ack(msg, subject)
            if not commit:
                raise api_level_error(
                    ["atomic_batch()"],
                    detail=f"the first message, to {subject!r}, was stored by itself",
                )
        self._over = over
        self._sent += 1
        return ack

    def _abandon(self, subject: str) -> None:
        """Have the server forget the batch, because it holds only 50 unfinished ones of a stream.

        It does so when a message is missing. A server that does not know batches refuses this one.
        """
        headers = {BATCH_ID: self._id, BATCH_SEQUENCE: str(self._sent + 3), EXPECTED_STREAM: "."}
        try:
            self._nc.publish_nowait(subject, headers=headers)
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("%s could not be abandoned: %s", repr(self), str(error))

    def _numbered(self, headers: HeadersLike | None) -> Headers:
        numbered = Headers(() if headers is None else headers)
        numbered[BATCH_ID] = self._id
        numbered[BATCH_SEQUENCE] = str(self._sent + 1)
        return numbered

    def __repr__(self) -> str:
        return f"<AtomicBatch {self._id} of {len(self)} messages{self._over and ', '}{self._over}>"
