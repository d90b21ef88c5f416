"""Publishing to streams: that part of :class:`~trio_nats.jetstream.JetStream` (ADR-22)."""

from __future__ import annotations

from typing import TypeVar, overload

import trio

from ..._constructors import construct
from ...codecs import Encoder, Payload, encoded
from ...errors import NoRespondersError
from ...headers import HeadersLike
from ...options import check_count, check_seconds
from ..api import API
from ..errors import NoStreamResponseError
from .ack import PubAck, check_server, publish_headers, read_ack
from .atomic_batch import AtomicBatch
from .fast_batch import DEFAULT_ACK_EVERY, DEFAULT_PENDING_ACKS, FastBatch
from .publisher import DEFAULT_PENDING, Publisher

__all__ = ["Publishing"]

DEFAULT_ATTEMPTS = 3
DEFAULT_RETRY_WAIT = 0.25

P = TypeVar("P")


class Publishing:
    """The part of :class:`~trio_nats.jetstream.JetStream` that publishes to streams."""

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
        """Publish a message, and wait until a stream has stored it.

        If cancelled, the message may have been stored. To publish it again safely, give it a
        ``msg_id``.

        :param subject: the subject to publish to.
        :param payload: bytes, a str to be sent as UTF-8, or what ``codec`` encodes.
        :param headers: headers of the message; the parameters below replace headers that mean the
            same.
        :param msg_id: an id by which the stream recognizes duplicates: it does not store a second
            message with the same id within its ``duplicate_window``. Default: none.
        :param expect_stream: store the message only in the stream of this name. Default: not
            checked.
        :param expect_last_seq: store the message only if the last message in the stream has this
            sequence number; 0 for an empty stream. Default: not checked.
        :param expect_last_subject_seq: store the message only if the last message of ``subject``
            has this sequence number; 0 if there must not be any. Default: not checked.
        :param expect_last_subject: check ``expect_last_subject_seq`` for this subject instead,
            which may have wildcards.
        :param expect_last_msg_id: store the message only if the last message in the stream has this
            ``msg_id``. Default: not checked.
        :param ttl: seconds until the message is deleted, at least 1; with ``math.inf`` it is kept
            even beyond the ``max_age`` of the stream. The stream must have ``allow_msg_ttl``.
            Default: no limit of its own.
        :param timeout: seconds to wait for the acknowledgement. Default: the timeout of
            :meth:`Connection.jetstream`.
        :param attempts: how often to publish the message while no stream answers, as happens for a
            moment when a stream elects a leader. Default: 3.
        :param retry_wait: seconds between two attempts. Default: 0.25.
        :param codec: encodes ``payload``; see :mod:`trio_nats.codecs`.
        :returns: the acknowledgement.
        :raises NoStreamResponseError: if no stream stores ``subject``.
        :raises WrongLastSequenceError: if ``expect_last_seq`` or ``expect_last_subject_seq`` does
            not hold.
        :raises WrongLastMsgIdError: if ``expect_last_msg_id`` does not hold.
        :raises StreamMismatchError: if ``expect_stream`` does not hold.
        :raises APILevelError: if the server is too old for ``ttl`` or ``expect_last_subject``
            (server 2.11 or later).
        :raises JetStreamAPIError: if the stream refused the message for another reason.
        :raises JetStreamError: if the reply did not come from a stream.
        :raises RequestTimeoutError: if no acknowledgement came in time. The message may have been
            stored.
        :raises ConfigurationError: if an argument is invalid.
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
        seconds = self._api.seconds(timeout)
        left = check_count("attempts", attempts, 1)
        check_seconds("retry_wait", retry_wait, zero=True)
        data = encoded(codec, payload)
        await check_server(self._api, expect_last_subject, ttl)
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
        """Publish many messages fast: ``async with js.publisher() as publisher:``.

        A publisher does not wait for each acknowledgement before it sends the next message.

        :param max_pending: maximum number of messages that wait for their acknowledgement.
            Default: 256.
        :param timeout: seconds to wait for each acknowledgement. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: a publisher, to be used in an ``async with`` block.
        :raises ConfigurationError: if an argument is invalid.
        """
        return construct(Publisher, self._api, max_pending=max_pending, timeout=timeout)

    def atomic_batch(self, *, timeout: float | None = None) -> AtomicBatch:
        """Make a batch of messages that a stream stores all together or not at all.

        :param timeout: seconds to wait for each answer of the server. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: an empty batch. Nothing is sent before the first messages are added.
        :raises ConfigurationError: if ``timeout`` is invalid.
        """
        return construct(AtomicBatch, self._api, timeout=timeout)

    def fast_batch(
        self,
        *,
        allow_gaps: bool = False,
        ack_every: int = DEFAULT_ACK_EVERY,
        max_pending_acks: int = DEFAULT_PENDING_ACKS,
        timeout: float | None = None,
    ) -> FastBatch:
        """Publish many messages to one stream: ``async with js.fast_batch() as batch:``.

        The stream sets the pace. A :meth:`publisher` is for messages whose acknowledgements matter
        one by one, or that go to several streams.

        :param allow_gaps: whether to go on when messages are lost or refused. Default: ``False``;
            the batch ends there.
        :param ack_every: maximum number of messages per acknowledgement, at most 10,000. The stream
            may acknowledge more often, to slow down publishers. Default: 100.
        :param max_pending_acks: number of missing acknowledgements at which
            :meth:`FastBatch.add` waits. Default: 2; 3 may be faster if the server is far away.
        :param timeout: seconds without a reply of the stream after which the batch fails. Default:
            the timeout of :meth:`Connection.jetstream`.
        :returns: an empty batch, to be used in an ``async with`` block.
        :raises ConfigurationError: if an argument is invalid.
        """
        return construct(
            FastBatch,
            self._api,
            allow_gaps=allow_gaps,
            ack_every=ack_every,
            max_pending_acks=max_pending_acks,
            timeout=timeout,
        )
