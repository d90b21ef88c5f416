"""Read and write the metadata of objects, for all parts of an object store."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import trio

from ..errors import PermissionsViolationError, RequestTimeoutError
from ..jetstream.api import API, DEFAULT_PREFIX
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.consumer.message_channel import Messages
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import (
    JetStreamAPIError,
    JetStreamNotEnabledError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamNotFoundError,
)
from ..jetstream.get.stored_message import StoredMsg
from ..jetstream.info import StreamInfo
from ..jetstream.publish.ack import PubAck
from ..jetstream.stream import Stream
from .errors import (
    InvalidObjectMetaError,
    ObjectNotFoundError,
    ObjectStoreError,
    ObjectStoreNotFoundError,
)
from .info import ObjectInfo, read_info, write_info
from .names import bucket_of, check_object_name, chunk_subject, latin_subject, meta_subject

__all__ = ["ObjectBackend", "next_or_none", "store_errors"]

_logger = logging.getLogger("trio_nats.objectstore")

ROLLUP = {"Nats-Rollup": "sub"}
FIRST_LOOK = 0.25
LONGEST_LOOK = 5.0
MAX_LATIN_NAMES = 4096


@contextmanager
def store_errors(bucket: str) -> Generator[None, None, None]:
    """Report a stream that does not exist as an object store that does not exist."""
    try:
        yield
    except StreamNotFoundError as error:
        raise _not_found(bucket) from error


def _not_found(bucket: str) -> ObjectStoreNotFoundError:
    return ObjectStoreNotFoundError(f"object store {bucket!r} does not exist")


def _domain(domain: str) -> str:
    return f"domain {domain!r}" if domain else "no domain"


class ObjectBackend:
    """The stream of an object store, and the metadata in it."""

    def __init__(self, js: BaseJetStream, stream: Stream) -> None:
        self.js = js
        self.stream = stream
        self.bucket: str = bucket_of(stream.name)
        self._publish_prefix: str | None = None
        self._latin: dict[str, None] = {}  # names found under their subject in Latin-1

    @property
    def max_payload(self) -> int:
        """Maximum size of a message in bytes."""
        return self.js.connection.server_info.max_payload

    async def info(self, name: str, *, leader: bool = False) -> ObjectInfo:
        """Return the metadata of an object or link, also of a deleted one.

        :param leader: ask the leader, because a replica may be behind it.
        """
        check_object_name(name)
        direct = False if leader else None
        with store_errors(self.bucket):
            try:
                msg = await self.stream.get_msg(
                    last_for=meta_subject(self.bucket, name), direct=direct
                )
            except MessageNotFoundError:
                msg = await self._info_of_latin(name, direct)
            else:
                self._latin.pop(name, None)
        return read_info(self.bucket, name, msg.data, seq=msg.seq, timestamp=msg.timestamp)

    async def _info_of_latin(self, name: str, direct: bool | None) -> StoredMsg:
        """Return the metadata that a client stored which encodes names in Latin-1."""
        subject = latin_subject(self.bucket, name)
        try:
            if subject is not None:
                msg = await self.stream.get_msg(last_for=subject, direct=direct)
                self._latin.pop(name, None)
                self._latin[name] = None
                if len(self._latin) > MAX_LATIN_NAMES:
                    del self._latin[next(iter(self._latin))]  # the one looked up first
                return msg
        except MessageNotFoundError:
            pass
        self._latin.pop(name, None)
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
        prefix = await self.publish_prefix()
        with self.publish_errors():
            ack = await self.js.publish(
                prefix + self.meta_subject(info.name),
                write_info(info),
                headers=ROLLUP,
                expect_last_subject_seq=expected,
            )
        await self.check_ack(ack)
        return replace(info, seq=ack.seq, timestamp=datetime.now(UTC))

    async def publish_prefix(self) -> str:
        """Return what to put in front of the subjects of the store to publish to them.

        Subjects are imported below the prefix of the API, as those of key-value buckets are. If
        these are not, as for other domains, the subjects themselves are used, unless another store
        of that name would store the messages, too.

        :raises ObjectStoreError: if another store would.
        """
        if self._publish_prefix is None:
            self._publish_prefix = await self._find_publish_prefix()
        return self._publish_prefix

    async def _find_publish_prefix(self) -> str:
        if self.js.prefix == DEFAULT_PREFIX:
            return ""
        prefix = f"{self.js.prefix}."
        try:
            # No stream has this name, so nothing is stored, but a stream that is there answers.
            await self.js.publish(
                prefix + chunk_subject(self.bucket, "x"),
                expect_stream=f"not_{self.stream.name}"[:255],
                attempts=1,
            )
        except NoStreamResponseError:
            pass
        except JetStreamAPIError:
            return prefix
        except RequestTimeoutError as error:
            raise ObjectStoreError(f"{error}; {self._advice()}") from error
        info = self.stream.info
        try:
            api = API(self.js.connection, timeout=self.js.timeout)
            local_info = await api.request(f"STREAM.INFO.{self.stream.name}", None, StreamInfo)
        except (StreamNotFoundError, JetStreamNotEnabledError):
            return ""  # no local store would store the messages
        except (JetStreamAPIError, RequestTimeoutError, PermissionsViolationError) as error:
            raise ObjectStoreError(
                f"cannot find out whether a store of the same name would store messages for object "
                f"store {self.bucket!r}, too: {error}; {self._advice()}"
            ) from error
        if (local_info.domain, local_info.created) != (info.domain, info.created):
            raise ObjectStoreError(
                f"object store {self.bucket!r} behind the prefix {self.js.prefix!r} cannot be "
                f"changed: the one of the same name in {_domain(local_info.domain)} would store "
                f"the messages, too; import '$O.{self.bucket}.>' as '{prefix}$O.{self.bucket}.>', "
                "or give the stores different names"
            )
        return ""

    async def check_ack(self, ack: PubAck) -> None:
        """Check that it was this store that has stored a message.

        :raises ObjectStoreError: if it was another one.
        """
        if ack.domain and not self.stream.info.domain:
            with store_errors(self.bucket):
                await self.stream.refresh()  # the answer to its creation has no domain
        domain = self.stream.info.domain
        if (ack.stream, ack.domain) != (self.stream.name, domain):
            raise ObjectStoreError(
                f"a message for object store {self.bucket!r} in {_domain(domain)} was stored in "
                f"stream {ack.stream!r} in {_domain(ack.domain)}: give the stores different names"
            )

    @contextmanager
    def publish_errors(self) -> Generator[None, None, None]:
        """Report why no stream stores what is published."""
        try:
            yield
        except NoStreamResponseError as error:
            reason = f"object store {self.bucket!r} was deleted, or has no leader at the moment"
            if self.js.prefix != DEFAULT_PREFIX:
                reason = self._advice()
            raise ObjectStoreError(
                f"no stream stores messages published to {error.subject!r}; {reason}"
            ) from error

    def _advice(self) -> str:
        return (
            f"import '$O.{self.bucket}.>' as '{self.js.prefix}.$O.{self.bucket}.>', or check "
            "whether the server of the store is reachable"
        )

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
    timeout = FIRST_LOOK
    while True:
        with trio.move_on_after(timeout):
            return await messages.receive()
        try:
            await stream.get_msg(after + 1, next_for=subject, direct=False)
        except MessageNotFoundError:
            return None
        except (JetStreamNotEnabledError, RequestTimeoutError) as error:
            _logger.debug(
                "%s: %s", repr(messages), str(error)
            )  # the server returns, or receiving fails
        timeout = min(2 * timeout, LONGEST_LOOK)
