"""Publishing: the half of :class:`~trio_nats.jetstream.JetStream` that stores messages (ADR-22)."""

from __future__ import annotations

from typing import TypeVar, overload

import trio

from ...codecs import Encoder, Payload, encoded
from ...errors import NoRespondersError
from ...headers import HeadersLike
from ...options import check_count, check_seconds
from ..api import API
from ..errors import NoStreamResponseError
from .ack import PubAck, publish_headers, read_ack
from .atomic_batch import AtomicBatch
from .publisher import DEFAULT_PENDING, Publisher

__all__ = ["Publishing"]

DEFAULT_ATTEMPTS = 2
DEFAULT_RETRY_WAIT = 0.25

P = TypeVar("P")


class Publishing:
    """The half of :class:`~trio_nats.jetstream.JetStream` that stores messages."""

    def __init__(self, api: API) -> None:
        self._api = api

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
        timeout: float | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        retry_wait: float = DEFAULT_RETRY_WAIT,
    ) -> PubAck: ...
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
        timeout: float | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        retry_wait: float = DEFAULT_RETRY_WAIT,
        codec: Encoder[P],
    ) -> PubAck: ...
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
        timeout: float | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        retry_wait: float = DEFAULT_RETRY_WAIT,
        codec: Encoder[P] | None = None,
    ) -> PubAck:
        """Publish a message, and wait until the stream that listens on ``subject`` has stored it.

        :param payload: as for :meth:`Connection.publish`, with ``codec`` as well.
        :param headers: more headers; what the arguments below say replaces theirs.
        :param msg_id: what tells the message from others: stored again within the stream's
            ``duplicate_window``, it is not. Makes publishing again safe after a timeout.
        :param expect_stream: store it only if this is the stream.
        :param expect_last_seq: and only if this is the last message's sequence number; 0 if there
            must be none.
        :param expect_last_subject_seq: the same among the messages of the subject.
        :param expect_last_subject: another subject that is meant by that, which may have wildcards.
        :param expect_last_msg_id: and only if this is the last message's ``msg_id``.
        :param ttl: seconds until the message is deleted, one at least; ``math.inf`` keeps it
            whatever the stream's ``max_age``. The stream has to allow it (``allow_msg_ttl``).
        :param timeout: seconds until the acknowledgement is given up, the context's unless given.
        :param attempts: how often it is published before it is believed that no stream listens;
            a stream that changes its leader does not for a moment.
        :param retry_wait: seconds between two attempts.

        Raises :exc:`NoStreamResponseError` if no stream listens on the subject;
        :exc:`WrongLastSequenceError`, :exc:`WrongLastMsgIdError` or :exc:`StreamMismatchError` for
        what was expected and is not so; another :exc:`JetStreamAPIError` if it was refused;
        :exc:`JetStreamError` if somebody else replied; :exc:`RequestTimeoutError` if nobody did;
        :exc:`ConfigurationError` for arguments that cannot be; and what
        :meth:`Connection.publish` raises. After a timeout, and when it is cancelled, the message
        may be stored or not.
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
        seconds = self._api.seconds(timeout)
        left = check_count("attempts", attempts, 1)
        check_seconds("retry_wait", retry_wait, zero=True)
        data = encoded(codec, payload)
        while True:
            try:
                msg = await self._api.nc.request(subject, data, timeout=seconds, headers=own)
            except NoRespondersError:
                left -= 1
                if not left:
                    raise NoStreamResponseError(subject) from None
            else:
                return read_ack(msg, subject)
            await trio.sleep(retry_wait)

    def publisher(
        self, *, max_pending: int = DEFAULT_PENDING, timeout: float | None = None
    ) -> Publisher:
        """Publishes many messages at a time: ``async with js.publisher() as publisher:``.

        For throughput: it does not wait for each acknowledgement, but has up to ``max_pending`` of
        them still to come; each may take ``timeout`` seconds, the context's unless given. See
        :class:`Publisher`.
        """
        return Publisher(self._api, max_pending=max_pending, timeout=timeout)

    def atomic_batch(self, *, timeout: float | None = None) -> AtomicBatch:
        """A batch of messages that a stream stores all or none of; see :class:`AtomicBatch`.

        An acknowledgement may take ``timeout`` seconds, the context's unless given.
        """
        return AtomicBatch(self._api, timeout=timeout)
