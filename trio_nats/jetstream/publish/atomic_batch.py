"""Batches that are stored whole or not at all (ADR-50)."""

from __future__ import annotations

from typing import TypeVar, overload

import trio

from ...codecs import Encoder, Payload, encoded
from ...errors import ConfigurationError, NoRespondersError
from ...headers import Headers, HeadersLike
from ..api import API
from ..errors import JetStreamError, NoStreamResponseError
from ..validation import check_subject
from .ack import PubAck, publish_headers, read_ack

__all__ = ["AtomicBatch"]

BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
ACK_EVERY = 100
"""So often the server is asked whether it follows."""

P = TypeVar("P")


class AtomicBatch:
    """Messages that are stored all or none, as made by :meth:`JetStream.atomic_batch`.

    .. code-block:: python

        batch = js.atomic_batch()
        await batch.add("users.7.street", b"Main Street")
        await batch.add("users.7.city", b"Springfield")
        ack = await batch.commit()

    The stream has to allow it (``allow_atomic``), and the server to be 2.12 or later. A stream
    takes 1,000 messages in a batch unless it is set up otherwise, and forgets a batch of which it
    has not heard for 10 seconds: nothing of it is stored then, and so dropping one without a
    :meth:`commit` drops it whole. One task uses it at a time.
    """

    def __init__(self, api: API, *, timeout: float | None) -> None:
        self._nc = api.nc
        self._timeout = api.seconds(timeout)
        self._id = api.nc.new_inbox().rpartition(".")[2]
        # The last one is sent by commit(), which has to say that it is the last one.
        self._held: tuple[str, Payload, HeadersLike | None] | None = None
        self._sent = 0
        self._over = ""
        self._busy = False

    @property
    def id(self) -> str:
        """What the server knows it by."""
        return self._id

    def __len__(self) -> int:
        """How many messages it has."""
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
        """Add a message. The arguments are those of :meth:`JetStream.publish`.

        ``expect_last_seq`` is for the first one only. What is expected is compared when the batch
        is committed, with what was stored before it.

        Raises what :meth:`JetStream.publish` raises, for a message that was added before; the batch
        is over then. If cancelled, the message has not been added; but while the server is being
        asked, which it is for some, that ends the batch.
        """
        if expect_last_seq is not None and len(self):
            raise ConfigurationError("expect_last_seq is for the first message of a batch only")
        own = publish_headers(
            headers,
            msg_id=msg_id,
            expect_last_seq=expect_last_seq,
            expect_last_subject_seq=expect_last_subject_seq,
            expect_last_subject=expect_last_subject,
            ttl=ttl,
        )
        # It is sent later, when complaining would be late.
        check_subject("subject", subject)
        own = None if own is None else Headers(own)
        data = encoded(codec, payload)
        data = data.encode() if isinstance(data, str) else bytes(memoryview(data))
        self._begin()
        try:
            if self._held is not None:
                await self._send(self._held)
            else:
                await trio.lowlevel.checkpoint()
            self._held = (subject, data, own)
        finally:
            self._busy = False

    async def commit(self) -> PubAck:
        """Have it stored, and return the acknowledgement of its last message.

        Raises what :meth:`JetStream.publish` raises: then nothing was stored, except that after a
        timeout, and when it is cancelled, all may be or nothing. The batch is over in any case.
        """
        self._begin()
        try:
            if self._held is None:
                raise ConfigurationError("the batch has no messages: add some before commit()")
            ack = await self._ask(self._held, commit=True)
            self._over, self._held = "has been committed", None
        finally:
            self._busy = False
        if ack is None:
            raise JetStreamError("the answer to the batch is not an acknowledgement of a stream")
        return ack

    def _begin(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task is using this batch")
        if self._over:
            raise JetStreamError(f"the batch {self._over}; make another one")
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
        """Send it and wait for the answer, without which the batch is over."""
        subject, data, headers = message
        numbered = self._numbered(headers)
        if commit:
            numbered[BATCH_COMMIT] = "1"
        over, self._over = self._over, "has failed"
        try:
            msg = await self._nc.request(subject, data, timeout=self._timeout, headers=numbered)
        except NoRespondersError:
            raise NoStreamResponseError(subject) from None
        ack = None
        if msg.data or msg.raw_headers is not None:
            ack = read_ack(msg, subject)
            if not commit:
                raise JetStreamError(
                    f"the stream at {subject!r} stores messages one by one, the first one is "
                    "stored: its server does not know batches"
                )
        self._over = over
        self._sent += 1
        return ack

    def _numbered(self, headers: HeadersLike | None) -> Headers:
        numbered = Headers(() if headers is None else headers)
        numbered[BATCH_ID] = self._id
        numbered[BATCH_SEQUENCE] = str(self._sent + 1)
        return numbered

    def __repr__(self) -> str:
        return f"<AtomicBatch {self._id} of {len(self)} messages{self._over and ', '}{self._over}>"
