"""What all of an object store does its work by: what is known about objects, got and stored."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import trio

from ..errors import RequestTimeoutError
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.consumer.messages import Messages
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import (
    JetStreamNotEnabledError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamNotFoundError,
)
from ..jetstream.stream import Stream
from .errors import InvalidObjectMetaError, ObjectNotFoundError, ObjectStoreNotFoundError
from .info import ObjectInfo, read_info, write_info
from .names import bucket_of, check_object_name, meta_subject

__all__ = ["FORGOTTEN_AFTER", "ObjectBackend", "next_or_none", "store_errors"]

_logger = logging.getLogger("trio_nats.objectstore")

ROLLUP = {"Nats-Rollup": "sub"}
FIRST_LOOK = 0.25
LONGEST_LOOK = 5.0
FORGOTTEN_AFTER = 60.0
"""Seconds until the server deletes a consumer that nobody uses: one cancelled in the making."""


@contextmanager
def store_errors(bucket: str) -> Generator[None, None, None]:
    """A stream that is not there is an object store that is not there."""
    try:
        yield
    except (StreamNotFoundError, NoStreamResponseError) as error:
        raise ObjectStoreNotFoundError(f"there is no object store {bucket!r}") from error


class ObjectBackend:
    """A bucket's stream, and what is known about the objects in it."""

    def __init__(self, js: BaseJetStream, stream: Stream) -> None:
        self.js = js
        self.stream = stream
        self.bucket: str = bucket_of(stream.name)

    @property
    def max_payload(self) -> int:
        """The most bytes that a message may have."""
        return self.js.connection.server_info.max_payload

    async def info(self, name: str, *, leader: bool = False) -> ObjectInfo:
        """What is known about an object, deleted ones and links included.

        ``leader``: as it is now, and not as a replica may still believe it to be.
        """
        subject = meta_subject(self.bucket, check_object_name(name))
        try:
            with store_errors(self.bucket):
                msg = await self.stream.get_msg(last_for=subject, direct=False if leader else None)
        except MessageNotFoundError:
            raise ObjectNotFoundError(
                f"object store {self.bucket!r} has no object {name[:80]!r}"
            ) from None
        return read_info(self.bucket, name, msg.data, seq=msg.seq, timestamp=msg.timestamp)

    async def last_seq(self, name: str) -> int:
        """The number of what is known about an object, whether it can be understood or not."""
        subject = meta_subject(self.bucket, name)
        try:
            return (await self.stream.get_msg(last_for=subject, direct=False)).seq
        except MessageNotFoundError:
            return 0

    async def before(self, name: str) -> tuple[ObjectInfo | None, int]:
        """What is known about an object that is to be replaced, and its number; 0 if none is."""
        try:
            info = await self.info(name, leader=True)
        except ObjectNotFoundError:
            return None, 0
        except InvalidObjectMetaError as error:
            _logger.warning("%s; it is replaced", str(error))
            return None, await self.last_seq(name)
        return info, info.seq

    async def store(self, info: ObjectInfo, expected: int) -> ObjectInfo:
        """Store what is known about an object, in place of that with the number ``expected``.

        Raises :exc:`WrongLastSequenceError` if there is another by now.
        """
        with store_errors(self.bucket):
            ack = await self.js.publish(
                meta_subject(self.bucket, info.name),
                write_info(info),
                headers=ROLLUP,
                expect_last_subject_seq=expected,
            )
        return replace(info, seq=ack.seq, timestamp=datetime.now(UTC))

    async def purge(self, subject: str, *, up_to: int | None = None) -> None:
        """Delete what is stored under a subject, ``up_to`` that number if that is given."""
        with store_errors(self.bucket):
            await self.stream.purge(subject=subject, seq=None if up_to is None else up_to + 1)


async def next_or_none(
    messages: Messages, stream: Stream, subject: str, after: int
) -> JetStreamMsg | None:
    """The next message; ``None`` if the stream has none behind the number ``after``.

    What does not come for a while is asked for: it may have been deleted.
    """
    patience = FIRST_LOOK
    while True:
        with trio.move_on_after(patience):
            return await messages.receive()
        try:
            await stream.get_msg(after + 1, next_for=subject, direct=False)
        except MessageNotFoundError:
            return None
        except (JetStreamNotEnabledError, RequestTimeoutError) as error:
            _logger.debug("%s: %s", repr(messages), str(error))  # it comes back, or receiving fails
        patience = min(2 * patience, LONGEST_LOOK)
