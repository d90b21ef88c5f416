"""A bucket: keys, their values, and what has become of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar, cast, overload

from .._constructors import NoPublicConstructor, construct
from ..codecs import Codec, Payload, encode
from ..errors import ConfigurationError
from ..headers import HeadersLike
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import (
    JetStreamError,
    MessageNotFoundError,
    WrongLastSequenceError,
    described,
)
from ..jetstream.get.stored_message import StoredMsg
from ..jetstream.stream import Stream
from ..options import check_count, check_flag, check_seconds
from .config import KeyValueStatus, bucket_config, bucket_of, subjects_of
from .entry import OPERATION, Entry, Operation, deleted_error
from .errors import KeyExistsError, KeyNotFoundError
from .validation import ALL_KEYS, check_filters, check_key, is_key, key_errors
from .watch import KeyWatcher, Plan, bucket_errors

__all__ = ["RAW", "KeyValue"]

T = TypeVar("T")

DEFAULT_PREFIX = "$JS.API"
DEFAULT_AGE = 30 * 60.0
CREATE_ATTEMPTS = 3
_ROLLUP = {"Nats-Rollup": "sub"}


class _Raw:
    """Values as they are."""

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
    """A bucket, as :meth:`JetStream.key_value` and :meth:`JetStream.create_key_value` make it.

    It holds nothing open. Values are what the codec is for, and without one bytes (where text may
    be given as well). Reads are answered by any replica, so that one right after a write may not
    see it yet in a cluster; what is conditional is decided by the leader.

    Unless said otherwise its methods raise :exc:`InvalidKeyError` for what is no key,
    :exc:`BucketNotFoundError` once the bucket has been deleted (writing:
    :exc:`NoStreamResponseError`), and what those of :class:`JetStream` raise. A write that is
    cancelled may have happened or not.
    """

    def __init__(self, js: BaseJetStream, stream: Stream, codec: Codec[T]) -> None:
        self._js = js
        self._stream = stream
        self._codec = codec
        self._name = bucket_of(stream.name)
        mirror = stream.info.config.mirror
        # What is in a mirror is stored under its origin's subjects, and written there.
        self._prefix = subjects_of(self._name if mirror is None else bucket_of(mirror.name))
        if mirror is not None and mirror.external is not None:
            self._put_prefix = f"{mirror.external.api}.{self._prefix}"
        elif js.prefix != DEFAULT_PREFIX:
            self._put_prefix = f"{js.prefix}.{self._prefix}"
        else:
            self._put_prefix = self._prefix

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._name

    async def status(self) -> KeyValueStatus:
        """What the bucket is, and how much is in it, now."""
        with bucket_errors(self._name):
            info = await self._stream.refresh()
        return KeyValueStatus(config=bucket_config(info.config), stream_info=info)

    # --- reading ---------------------------------------------------------------------------------

    async def get(self, key: str, *, revision: int | None = None) -> Entry[T]:
        """The key's value: the latest one, or the one that ``revision`` stored.

        Raises :exc:`KeyNotFoundError` if there is none, and :exc:`KeyDeletedError`, a subclass of
        it, if that is because it was deleted.
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
        with bucket_errors(self._name), key_errors(key):
            try:
                if revision is None:
                    msg = await self._stream.get_msg(last_for=subject, direct=direct)
                else:
                    msg = await self._stream.get_msg(revision, direct=direct)
            except MessageNotFoundError:
                return None
        return self._entry(key, msg) if msg.subject == subject else None

    def _entry(self, key: str, msg: StoredMsg) -> Entry[T]:
        if msg.timestamp is None:
            raise JetStreamError(f"the answer for key {key!r} does not tell when it was stored")
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
        """What has become of the key, as far as the bucket keeps it, the latest last.

        Deletions are entries too. Raises :exc:`KeyNotFoundError` if nothing is known of it.
        """
        check_key(key)
        async with self.watch(key, include_history=True) as watch:
            entries = [entry async for entry in watch.initial()]
        if not entries:
            raise KeyNotFoundError(self._name, key)
        return entries

    async def keys(self, filters: str | Sequence[str] = ALL_KEYS) -> list[str]:
        """The keys that have a value, or those of them that match one of ``filters``.

        In the order of their latest values; an empty list if there are none. For very many see
        ``watch(meta_only=True, ignore_deletes=True)``, which need not keep them all.
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
    ) -> KeyWatcher[T]:
        """What is in the bucket and what happens to it: ``async with kv.watch("a.>") as watch:``.

        :param keys: one or several keys, in which ``*`` stands for one part and ``>`` at the end
            for all that follow.
        :param include_history: earlier values come too, not only the latest ones.
        :param updates_only: only what happens from now on.
        :param ignore_deletes: leave out deletions.
        :param meta_only: without the values, of which only :attr:`Entry.size` is known.
        :param resume_from: everything from this revision on, such as the one after the last seen.

        Nothing is sent before the block is entered; see :class:`KeyWatcher`. Raises
        :exc:`InvalidKeyError` or :exc:`ConfigurationError` for what cannot be.
        """
        for name, flag in (
            ("include_history", include_history),
            ("updates_only", updates_only),
            ("ignore_deletes", ignore_deletes),
            ("meta_only", meta_only),
        ):
            check_flag(name, flag)
        if include_history + updates_only + (resume_from is not None) > 1:
            raise ConfigurationError(
                "include_history, updates_only and resume_from say with what to begin; give one"
            )
        if resume_from is not None:
            check_count("resume_from", resume_from, 1)
            policy = DeliverPolicy.BY_START_SEQUENCE
        elif include_history:
            policy = DeliverPolicy.ALL
        else:
            policy = DeliverPolicy.NEW if updates_only else DeliverPolicy.LAST_PER_SUBJECT
        consumer = self._stream.ordered_consumer(
            filter_subjects=[self._prefix + one for one in check_filters(keys)],
            deliver_policy=policy,
            opt_start_seq=resume_from or 0,
            headers_only=meta_only,
        )
        plan = Plan(
            self._name,
            self._prefix,
            self._stream,
            consumer,
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
        """Store a value, whatever was there before. Returns its revision.

        Raises :exc:`EncodeError` for what the codec cannot encode.
        """
        return await self._store(key, self._encoded(value))

    @overload
    async def create(
        self: KeyValue[bytes], key: str, value: Payload, *, ttl: float | None = None
    ) -> int: ...
    @overload
    async def create(self, key: str, value: T, *, ttl: float | None = None) -> int: ...
    async def create(self, key: str, value: object, *, ttl: float | None = None) -> int:
        """Store a value if the key has none, or no longer. Returns its revision.

        After ``ttl`` seconds, one at least, it is gone; the bucket has to allow it
        (``limit_marker_ttl``). Raises :exc:`KeyExistsError`, a :exc:`WrongLastSequenceError`, if
        the key has a value, and :exc:`EncodeError` for what the codec cannot encode.
        """
        check_key(key)
        data = self._encoded(value)
        expected, left = 0, CREATE_ATTEMPTS
        while True:
            try:
                return await self._store(key, data, expect=expected, ttl=ttl)
            except WrongLastSequenceError as error:
                refused = error
            left -= 1
            entry = await self._get(key)
            last = refused.last_sequence
            if last is None or entry is None or entry.revision < last:
                # The replica that answered is behind, or may be: the leader did not say.
                entry = await self._get(key, direct=False)
            if (entry is not None and not entry.is_deleted) or not left:
                raise KeyExistsError(
                    refused.code,
                    refused.err_code,
                    f"key {key!r} of bucket {self._name!r} has a value already: "
                    f"{refused.description}",
                )
            expected = 0 if entry is None else entry.revision

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
        """Store a value if ``revision`` is still the key's latest. Returns the new revision.

        0 stands for a key of which nothing is known. With ``ttl`` it is gone after that many
        seconds, as with :meth:`create`; only in buckets with a history of 1, for elsewhere the
        value before would come back. Raises :exc:`WrongLastSequenceError` if the key's latest
        revision is another one, and :exc:`EncodeError` for what the codec cannot encode.
        """
        if ttl is not None and self._stream.info.config.max_msgs_per_subject != 1:
            raise ConfigurationError(
                "update() takes ttl only where the bucket's history is 1; elsewhere an earlier "
                "value would come back once this one is gone"
            )
        check_count("revision", revision)
        try:
            return await self._store(key, self._encoded(value), expect=revision, ttl=ttl)
        except WrongLastSequenceError as error:
            raise described(
                error,
                f"the latest revision of key {key!r} of bucket {self.name!r} is not {revision}: "
                f"{error.description}",
            ) from None

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Delete the key; its history is kept. Returns the revision of what marks this.

        With ``revision`` only if that is still its latest one, or :exc:`WrongLastSequenceError` is
        raised. A key that is not there is marked as deleted all the same.
        """
        return await self._remove(key, revision, {OPERATION: Operation.DELETE.value})

    async def purge(
        self, key: str, *, revision: int | None = None, ttl: float | None = None
    ) -> int:
        """Delete the key and its history. Returns the revision of what marks this.

        After ``ttl`` seconds, one at least, that is gone too; the bucket has to allow it
        (``limit_marker_ttl``). The rest is as for :meth:`delete`.
        """
        headers = {OPERATION: Operation.PURGE.value, **_ROLLUP}
        return await self._remove(key, revision, headers, ttl)

    async def purge_deletes(self, older_than: float = DEFAULT_AGE) -> int:
        """Forget deleted keys: what is kept of them, and what marks that they were deleted.

        Deletion markers younger than ``older_than`` seconds stay, so that watchers see them; 0
        removes all of them. Returns how many messages were removed. Values stored during the call
        stay, and so does what is stored under an invalid key. If cancelled, some may have been
        removed.
        """
        check_seconds("older_than", older_than, zero=True)
        async with self.watch(meta_only=True) as watch:
            last = {entry.key: entry async for entry in watch.initial()}
        now = (await self.status()).stream_info.ts or datetime.now(UTC)
        removed = 0
        for entry in last.values():
            # Servers store messages on subjects with wildcards. Purging what is stored on ">" would
            # purge the whole bucket.
            if entry.is_deleted and is_key(entry.key):
                stays = now - entry.timestamp < timedelta(seconds=older_than)
                removed += await self._stream.purge(
                    subject=self._prefix + entry.key, seq=entry.revision + (not stays)
                )
        return removed

    def _encoded(self, value: object) -> Payload:
        return encode(self._codec, cast("T", value))

    async def _store(
        self, key: str, data: Payload, *, expect: int | None = None, ttl: float | None = None
    ) -> int:
        subject = self._put_prefix + check_key(key)
        with key_errors(key):
            ack = await self._js.publish(subject, data, expect_last_subject_seq=expect, ttl=ttl)
        return ack.seq

    async def _remove(
        self, key: str, revision: int | None, headers: HeadersLike, ttl: float | None = None
    ) -> int:
        subject = self._put_prefix + check_key(key)
        if revision is not None:
            check_count("revision", revision, 1)
        with key_errors(key):
            ack = await self._js.publish(
                subject, headers=headers, expect_last_subject_seq=revision, ttl=ttl
            )
        return ack.seq

    def __repr__(self) -> str:
        return f"<KeyValue {self._name!r} of {self._codec!r}>"
