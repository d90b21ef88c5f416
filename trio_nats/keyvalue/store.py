"""A key-value bucket: read, write, delete and watch keys (ADR-8)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Generic, Literal, NoReturn, TypeVar, cast, overload

from .._constructors import NoPublicConstructor, construct
from .._nats_py_names import attribute_error
from ..codecs import Codec, Payload, check_payload, encode
from ..errors import ConfigurationError, InvalidSubjectError
from ..headers import HeadersLike
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import (
    JetStreamError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamNotFoundError,
    WrongLastSequenceError,
    described,
)
from ..jetstream.get.stored_message import StoredMsg
from ..jetstream.stream import Stream
from ..jetstream.watched_messages import INACTIVE_THRESHOLD
from ..options import check_choice, check_count, check_flag, check_seconds
from .config import KeyValueStatus, bucket_of, status_of, subjects_of
from .entry import OPERATION, Entry, Operation, deleted_error
from .errors import KeyExistsError, KeyNotFoundError
from .validation import ALL_KEYS, check_filters, check_key, is_key, key_errors, key_too_long
from .watch import KeyWatcher, Plan, bucket_errors, bucket_not_found

__all__ = ["RAW", "KeyValue"]

T = TypeVar("T")

DEFAULT_PREFIX = "$JS.API"
DEFAULT_AGE = 30 * 60.0
CREATE_ATTEMPTS = 100
_ROLLUP = {"Nats-Rollup": "sub"}


class _Raw:
    """The codec that leaves bytes as they are."""

    def encode(self, value: Payload, /) -> Payload:
        return value

    def decode(self, data: bytes, /) -> bytes:
        return data

    def __repr__(self) -> str:
        return "bytes"


RAW: Codec[bytes] = _Raw()


class KeyValue(
    Generic[T], metaclass=NoPublicConstructor, use="js.key_value() or js.create_key_value()"
):
    """A key-value bucket, returned by :meth:`JetStream.key_value` and its siblings (ADR-8).

    It holds no resources and need not be closed. The codec determines the type of the values;
    without a codec they are bytes, and you may store text too.

    Any replica may answer a read, so in a cluster a read right after a write may return the value
    before it. The leader decides on conditional writes.

    All methods raise :exc:`InvalidKeyError` if a key is invalid, and what those of
    :class:`JetStream` raise. If the bucket has been deleted, reading raises
    :exc:`BucketNotFoundError` and writing :exc:`NoStreamResponseError`.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise attribute_error(self, name, {"watchall": "kv.watch()"})

    def __init__(self, js: BaseJetStream, stream: Stream, codec: Codec[T]) -> None:
        self._js = js
        self._stream = stream
        self._codec = codec
        self._name = bucket_of(stream.name)
        mirror = stream.info.config.mirror
        # A mirror stores messages under the subjects of its origin; writes go to the origin.
        self._prefix = subjects_of(self._name if mirror is None else bucket_of(mirror.name))
        if mirror is not None and mirror.external is not None:
            self._put_prefix = f"{mirror.external.api}.{self._prefix}"
        elif js.prefix != DEFAULT_PREFIX:
            self._put_prefix = f"{js.prefix}.{self._prefix}"
        else:
            self._put_prefix = self._prefix

    @property
    def name(self) -> str:
        """Name of the bucket."""
        return self._name

    async def status(self) -> KeyValueStatus:
        """Request the configuration and state of the bucket.

        If cancelled, nothing has changed.

        :returns: the current status.
        """
        with bucket_errors(self._name):
            info = await self._stream.refresh()
        return status_of(info)

    # --- reading ---------------------------------------------------------------------------------

    async def get(self, key: str, *, revision: int | None = None) -> Entry[T]:
        """Read a value of a key. If cancelled, nothing has changed.

        :param key: the key.
        :param revision: the revision to read. Default: the latest.
        :returns: the entry with the value.
        :raises KeyNotFoundError: if the key has no value, or none of this revision.
        :raises KeyDeletedError: if the key was deleted; a :exc:`KeyNotFoundError`.
        """
        check_key(key)
        if revision is not None:
            check_count("revision", revision, 1)
        entry = await self._get(key, revision)
        if entry is None:
            raise KeyNotFoundError(self._name, key, revision)
        if entry.is_deleted:
            raise deleted_error(entry)
        return entry

    async def _get(
        self, key: str, revision: int | None = None, *, direct: bool | None = None
    ) -> Entry[T] | None:
        subject = self._prefix + key
        try:  # bucket_errors() and key_errors() would take a noticeable part of the time
            if revision is None:
                msg = await self._stream.get_msg(last_for=subject, direct=direct)
            else:
                msg = await self._stream.get_msg(revision, direct=direct)
        except MessageNotFoundError:
            return None
        except StreamNotFoundError as error:
            raise bucket_not_found(self._name, error) from None
        except InvalidSubjectError as error:
            raise key_too_long(key, error) from None
        return self._entry(key, msg) if msg.subject == subject else None

    def _entry(self, key: str, msg: StoredMsg) -> Entry[T]:
        if msg.timestamp is None:
            raise JetStreamError(f"the server sent no timestamp with the value of key {key!r}")
        return construct(
            Entry,
            bucket=self._name,
            key=key,
            revision=msg.seq,
            timestamp=msg.timestamp,
            delta=0,
            data=msg.data,
            headers=msg.headers,
            codec=self._codec,
        )

    async def history(self, key: str) -> list[Entry[T]]:
        """Read all entries of a key that the bucket keeps. If cancelled, nothing has changed.

        :param key: the key.
        :returns: the values and deletion markers, the latest last.
        :raises KeyNotFoundError: if there are none.
        """
        check_key(key)
        async with self.watch(key, include_history=True) as watch:
            entries = [entry async for entry in watch.initial()]
        if not entries:
            raise KeyNotFoundError(self._name, key)
        return entries

    async def keys(self, filters: str | Sequence[str] = ALL_KEYS) -> list[str]:
        """List the keys that have a value. If cancelled, nothing has changed.

        A key that has a value during the whole call is always included, even if others overwrite
        it. Keys that get or lose their value during the call may be included or not.

        To list very many keys without keeping them all in memory, use
        ``watch(meta_only=True, ignore_deletes=True)`` and :meth:`KeyWatcher.initial`.

        :param filters: a key filter or a sequence of them, as for :meth:`watch`. Default: all keys.
        :returns: the keys, in the order of their latest values.
        """
        keys: dict[str, None] = {}
        async with self.watch(filters, meta_only=True) as watch:
            async for entry in watch.initial():
                keys.pop(entry.key, None)
                if not entry.is_deleted:
                    keys[entry.key] = None
        return list(keys)

    def watch(
        self,
        keys: str | Sequence[str] = ALL_KEYS,
        *,
        include_history: bool = False,
        updates_only: bool = False,
        ignore_deletes: bool = False,
        meta_only: bool = False,
        resume_from: int | None = None,
        on_bucket_replaced: Literal["raise", "restart"] = "raise",
    ) -> KeyWatcher[T]:
        """Watch keys: ``async with kv.watch("a.>") as watcher:``.

        The watcher delivers the latest entry of each key first, then every change. Watching starts
        when you enter the ``async with`` block. At most one of ``include_history``,
        ``updates_only`` and ``resume_from`` can be given.

        :param keys: a key filter or a sequence of them: a key, in which ``*`` stands for one token
            and ``>`` for all tokens at the end. Default: all keys.
        :param include_history: start with all entries that the bucket keeps. Default: no.
        :param updates_only: deliver only changes made from now on. Default: no.
        :param ignore_deletes: leave out deletion markers. Default: no.
        :param meta_only: do not receive the values; :attr:`Entry.size` is their size. Default: no.
        :param resume_from: start with all entries from this revision on, usually the one after the
            last that you have seen. Default: none.
        :param on_bucket_replaced: what to do if the bucket was deleted and created again.
            ``"raise"`` raises :exc:`BucketNotFoundError`. ``"restart"`` begins again with the
            entries of the new bucket, waiting while there is none; keys that only the old one had
            are not reported as deleted. Default: ``"raise"``.
        :returns: the watcher, to be entered with ``async with``.
        :raises InvalidKeyError: if a key filter is invalid.
        :raises ConfigurationError: if the options cannot be combined.
        """
        for name, flag in (
            ("include_history", include_history),
            ("updates_only", updates_only),
            ("ignore_deletes", ignore_deletes),
            ("meta_only", meta_only),
        ):
            check_flag(name, flag)
        check_choice("on_bucket_replaced", on_bucket_replaced, ("raise", "restart"))
        if include_history + updates_only + (resume_from is not None) > 1:
            raise ConfigurationError(
                "include_history, updates_only and resume_from cannot be combined; give one"
            )
        if resume_from is not None:
            check_count("resume_from", resume_from, 1)
            policy = DeliverPolicy.BY_START_SEQUENCE
        elif include_history:
            policy = DeliverPolicy.ALL
        else:
            policy = DeliverPolicy.NEW if updates_only else DeliverPolicy.LAST_PER_SUBJECT
        filters = [self._prefix + one for one in check_filters(keys)]
        consumer = self._stream.ordered_consumer(
            filter_subjects=filters,
            deliver_policy=policy,
            opt_start_seq=resume_from or 0,
            headers_only=meta_only,
            on_stream_replaced=on_bucket_replaced,
            inactive_threshold=INACTIVE_THRESHOLD,
        )
        plan = Plan(
            self._name,
            self._prefix,
            self._stream,
            consumer,
            filters,
            resume_from=resume_from or 0,
            updates_only=updates_only,
            ignore_deletes=ignore_deletes,
            meta_only=meta_only,
        )
        return construct(KeyWatcher, plan, self._codec)

    # --- writing ---------------------------------------------------------------------------------

    @overload
    async def put(self: KeyValue[bytes], key: str, value: Payload) -> int: ...
    @overload
    async def put(self, key: str, value: T) -> int: ...
    async def put(self, key: str, value: object) -> int:
        """Store a value, and replace the one before. If cancelled, it may have been stored or not.

        :param key: the key.
        :param value: the value.
        :returns: the new revision.
        :raises EncodeError: if the codec cannot encode the value.
        """
        return await self._store(key, self._encoded(value))

    @overload
    async def create(
        self: KeyValue[bytes], key: str, value: Payload, *, ttl: float | None = None
    ) -> int: ...
    @overload
    async def create(self, key: str, value: T, *, ttl: float | None = None) -> int: ...
    async def create(self, key: str, value: object, *, ttl: float | None = None) -> int:
        """Store a value only if the key has none. If cancelled, it may have been stored or not.

        :param key: the key.
        :param value: the value.
        :param ttl: seconds until the value expires, at least 1; the bucket must have
            ``limit_marker_ttl``. Default: the ``ttl`` of the bucket.
        :returns: the new revision.
        :raises KeyExistsError: if the key has a value; a :exc:`WrongLastSequenceError`.
        :raises WrongLastSequenceError: if others deleted the key during each of 100 attempts.
        :raises ConfigurationError: if ``ttl`` is less than ``limit_marker_ttl`` and the bucket has
            a history above 1, in which the server would raise it (ADR-43).
        :raises EncodeError: if the codec cannot encode the value.
        """
        check_key(key)
        config = self._stream.info.config
        least = config.subject_delete_marker_ttl
        if ttl is not None:
            check_seconds("ttl", ttl)
        if ttl is not None and ttl < least and config.max_msgs_per_subject != 1:
            raise ConfigurationError(
                f"ttl of create() must be at least {least:g} s, the bucket's limit_marker_ttl, "
                f"not {ttl!r}: with a history above 1 the server would raise it"
            )
        data = self._encoded(value)
        expected = 0
        refused: WrongLastSequenceError | None = None
        for _ in range(CREATE_ATTEMPTS):
            try:
                return await self._store(key, data, expect=expected, ttl=ttl)
            except WrongLastSequenceError as error:
                refused = error
            entry = await self._get(key)
            last = refused.last_sequence
            if last is None or entry is None or entry.revision < last:
                # The replica that answered is, or may be, behind the leader.
                entry = await self._get(key, direct=False)
            if entry is not None and not entry.is_deleted:
                raise KeyExistsError(
                    refused.code,
                    refused.err_code,
                    f"key {key!r} of bucket {self._name!r} already has a value: "
                    f"{refused.description}",
                )
            # Others may delete the key again and again; each time there is a new marker.
            expected = 0 if entry is None else entry.revision
        assert refused is not None
        raise described(
            refused,
            f"key {key!r} of bucket {self._name!r} was deleted by others during each of "
            f"{CREATE_ATTEMPTS} attempts to create it: {refused.description}",
        )

    @overload
    async def update(
        self: KeyValue[bytes],
        key: str,
        value: Payload,
        revision: int,
        *,
        ttl: float | None = None,
    ) -> int: ...
    @overload
    async def update(
        self, key: str, value: T, revision: int, *, ttl: float | None = None
    ) -> int: ...
    async def update(
        self, key: str, value: object, revision: int, *, ttl: float | None = None
    ) -> int:
        """Store a value only if the key was not changed since a revision that you know.

        If cancelled, it may have been stored or not.

        :param key: the key.
        :param value: the value.
        :param revision: the latest revision of the key; 0 if the bucket must have no entry of it.
        :param ttl: seconds until the value expires, as for :meth:`create`. Requires a history of 1,
            because otherwise the earlier value would come back. Default: the ``ttl`` of the bucket.
        :returns: the new revision.
        :raises WrongLastSequenceError: if ``revision`` is not the latest one.
        :raises ConfigurationError: if ``ttl`` is given and the bucket has a longer history.
        :raises EncodeError: if the codec cannot encode the value.
        """
        if ttl is not None and self._stream.info.config.max_msgs_per_subject != 1:
            raise ConfigurationError(
                "ttl of update() requires a bucket with a history of 1: with a longer history the "
                "earlier value would come back after the new one has expired; leave ttl out"
            )
        check_count("revision", revision)
        with self._revision_errors(key, revision):
            return await self._store(key, self._encoded(value), expect=revision, ttl=ttl)

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Delete a key, but keep its history. If cancelled, it may have been deleted or not.

        A deletion marker is stored even if the key has no value.

        :param key: the key.
        :param revision: delete only if this is the latest revision of the key. Default: always.
        :returns: the revision of the deletion marker.
        :raises WrongLastSequenceError: if ``revision`` is not the latest one.
        """
        return await self._remove(key, revision, {OPERATION: Operation.DELETE.value})

    async def purge(
        self, key: str, *, revision: int | None = None, ttl: float | None = None
    ) -> int:
        """Delete a key and its history. If cancelled, they may have been deleted or not.

        :param key: the key.
        :param revision: purge only if this is the latest revision of the key. Default: always.
        :param ttl: seconds until the deletion marker expires, at least 1; the bucket must have
            ``limit_marker_ttl``. With a history above 1, the server raises it to that. Default: the
            ``ttl`` of the bucket.
        :returns: the revision of the deletion marker.
        :raises WrongLastSequenceError: if ``revision`` is not the latest one.
        """
        headers = {OPERATION: Operation.PURGE.value, **_ROLLUP}
        return await self._remove(key, revision, headers, ttl)

    async def purge_deletes(self, older_than: float = DEFAULT_AGE) -> int:
        """Remove the history and the deletion markers of all deleted keys.

        Values stored during the call stay, and so does everything under an invalid key. If
        cancelled, some keys may have been cleaned up already.

        :param older_than: keep markers that are younger than this many seconds, so that watchers
            see them; 0 removes all. Default: 30 minutes.
        :returns: the number of removed messages.
        """
        check_seconds("older_than", older_than, zero=True)
        async with self.watch(meta_only=True) as watch:
            last = {entry.key: entry async for entry in watch.initial()}
        now = (await self.status()).stream_info.ts or datetime.now(UTC)
        removed = 0
        for entry in last.values():
            # Servers store messages on subjects with wildcards; purging the subject ">" would purge
            # the whole bucket.
            if entry.is_deleted and is_key(entry.key):
                is_young = now - entry.timestamp < timedelta(seconds=older_than)
                removed += await self._stream.purge(
                    subject=self._prefix + entry.key, seq=entry.revision + (not is_young)
                )
        return removed

    def _encoded(self, value: object) -> Payload:
        if self._codec is RAW:
            hint = "; to store other objects open the bucket with codec=JSONCodec(YourType)"
            check_payload("value", value, hint)
        return encode(self._codec, cast("T", value))

    async def _store(
        self, key: str, data: Payload, *, expect: int | None = None, ttl: float | None = None
    ) -> int:
        subject = self._put_prefix + check_key(key)
        with key_errors(key), self._bucket_gone():
            ack = await self._js.publish(subject, data, expect_last_subject_seq=expect, ttl=ttl)
        return ack.seq

    @contextmanager
    def _revision_errors(self, key: str, revision: int | None) -> Generator[None, None, None]:
        """Name the key and the revision in the error for one that is not the latest."""
        try:
            yield
        except WrongLastSequenceError as error:
            raise described(
                error,
                f"the latest revision of key {key!r} of bucket {self.name!r} is not {revision}: "
                f"{error.description}",
            ) from None

    @contextmanager
    def _bucket_gone(self) -> Generator[None, None, None]:
        """Name the bucket in the error for a subject that no stream stores."""
        try:
            yield
        except NoStreamResponseError as error:
            if self._js.prefix == DEFAULT_PREFIX:  # otherwise an import may be missing
                reason = f"bucket {self.name!r} was deleted, or has no leader at the moment"
                error.args = (f"nothing was stored: {reason}",)
            raise

    async def _remove(
        self, key: str, revision: int | None, headers: HeadersLike, ttl: float | None = None
    ) -> int:
        subject = self._put_prefix + check_key(key)
        if revision is not None:
            check_count("revision", revision, 1)
        with key_errors(key), self._bucket_gone(), self._revision_errors(key, revision):
            ack = await self._js.publish(
                subject, headers=headers, expect_last_subject_seq=revision, ttl=ttl
            )
        return ack.seq

    def __repr__(self) -> str:
        return f"<KeyValue {self._name!r} of {self._codec!r}>"
