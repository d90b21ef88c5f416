"""Read and write the metadata of objects, for all parts of an object store."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import trio

from ..errors import RequestTimeoutError
from ..jetstream.consumer.consume import Messages
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import (
    JetStreamNotEnabledError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamNotFoundError,
)
from ..jetstream.get.stored_message import StoredMsg
from ..jetstream.stream import Stream
from .errors import InvalidObjectMetaError, ObjectNotFoundError, ObjectStoreNotFoundError
from .info import ObjectInfo, read_info, write_info
from .names import bucket_of, check_object_name, latin_subject, meta_subject

__all__ = ["FORGOTTEN_AFTER", "ObjectBackend", "next_or_none", "store_errors"]

_logger = logging.getLogger("trio_nats.objectstore")

ROLLUP = {"Nats-Rollup": "sub"}
FIRST_LOOK = 0.25
LONGEST_LOOK = 5.0
FORGOTTEN_AFTER = 60.0
"""Seconds until the server deletes an unused consumer, such as one whose creation was cancelled."""


@contextmanager
def store_errors(bucket: str) -> Generator[None, None, None]:
    """Report a stream that does not exist as an object store that does not exist."""
    try:
        yield
    except (StreamNotFoundError, NoStreamResponseError) as error:
        raise ObjectStoreNotFoundError(f"object store {bucket!r} does not exist") from error


class ObjectBackend:
    """The stream of an object store, and the metadata in it."""

    def __init__(self, js: BaseJetStream, stream: Stream) -> None:
        self.js = js
        self.stream = stream
        self.bucket: str = bucket_of(stream.name)
        self._latin: set[str] = set()  # names found under their subject in Latin-1

    @property
    def max_payload(self) -> int:
        """Maximum size of a message in bytes."""
        return self.js.connection.server_info.max_payload

    async def info(self, name: str, *, leader: bool = False) -> ObjectInfo:
        """Return the metadata of an object or link, also of a deleted one.

        :param leader: ask the leader, because a replica may be behind it.
        """
        check_object_name(name)
        self._latin.discard(name)
        direct = False if leader else None
        with store_errors(self.bucket):
            try:
                msg = await self.stream.get_msg(
                    last_for=meta_subject(self.bucket, name), direct=direct
                )
            except MessageNotFoundError:
                msg = await self._info_of_latin(name, direct)
        return read_info(self.bucket, name, msg.data, seq=msg.seq, timestamp=msg.timestamp)

    async def _info_of_latin(self, name: str, direct: bool | None) -> StoredMsg:
        """Return the metadata that a client stored which encodes names in Latin-1."""
        subject = latin_subject(self.bucket, name)
        try:
            if subject is not None:
                msg = await self.stream.get_msg(last_for=subject, direct=direct)
                self._latin.add(name)
                return msg
        except MessageNotFoundError:
            pass
        raise ObjectNotFoundError(
            f"object store {self.bucket!r} has no object {name[:80]!r}"
        ) from None

    def meta_subject(self, name: str) -> str:
        """The subject under which the metadata of an object was found, or is to be stored."""
        subject = latin_subject(self.bucket, name) if name in self._latin else None
        return subject or meta_subject(self.bucket, name)

    async def last_seq(self, name: str) -> int:
        """Return the sequence number of an object's metadata, valid or not; 0 if there is none."""
        subject = self.meta_subject(name)
        try:
            return (await self.stream.get_msg(last_for=subject, direct=False)).seq
        except MessageNotFoundError:
            return 0

    async def before(self, name: str) -> tuple[ObjectInfo | None, int]:
        """Return the metadata to be replaced and its sequence number; 0 if there is none."""
        try:
            info = await self.info(name, leader=True)
        except ObjectNotFoundError:
            return None, 0
        except InvalidObjectMetaError as error:
            _logger.warning("%s; replacing it", str(error))
            return None, await self.last_seq(name)
        return info, info.seq

    async def store(self, info: ObjectInfo, expected: int) -> ObjectInfo:
        """Store metadata in place of that with the sequence number ``expected``.

        :raises WrongLastSequenceError: if the metadata has been replaced.
        """
        with store_errors(self.bucket):
            ack = await self.js.publish(
                self.meta_subject(info.name),
                write_info(info),
                headers=ROLLUP,
                expect_last_subject_seq=expected,
            )
        return replace(info, seq=ack.seq, timestamp=datetime.now(UTC))

    async def purge(self, subject: str, *, up_to: int | None = None) -> None:
        """Delete the messages of a subject, all or up to and including a sequence number."""
        with store_errors(self.bucket):
            await self.stream.purge(subject=subject, seq=None if up_to is None else up_to + 1)


async def next_or_none(
    messages: Messages, stream: Stream, subject: str, after: int
) -> JetStreamMsg | None:
    """Return the next message; ``None`` if the stream has none after the number ``after``.

    If no message arrives for a while, look it up in the stream: it may have been deleted.
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
            _logger.debug(
                "%s: %s", repr(messages), str(error)
            )  # the server returns, or receiving fails
        patience = min(2 * patience, LONGEST_LOOK)
