"""Entries of a bucket: values and deletion markers."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar, cast

from .._constructors import NoPublicConstructor
from ..codecs import Decoder, decode_error
from ..errors import DecodeError
from ..headers import Headers, decode_headers
from .errors import KeyDeletedError

__all__ = ["OPERATION", "Entry", "Operation", "deleted_error", "operation_of"]

T = TypeVar("T")

OPERATION = "KV-Operation"
_REASON = "Nats-Marker-Reason"
_SIZE = "Nats-Msg-Size"
_UNDECODED = object()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPERATION_HEADERS = OPERATION.lower().encode(), _REASON.lower().encode()


class Operation(enum.StrEnum):
    """The change of a key that an entry records (ADR-8)."""

    PUT = "PUT"
    """A value was stored."""
    DELETE = "DEL"
    """The key was deleted; the history of the key is kept."""
    PURGE = "PURGE"
    """The key was deleted together with its history, or its value expired."""


def operation_of(headers: Headers) -> Operation:
    """Return the operation that a message of a bucket records."""
    if (said := headers.get(OPERATION)) is not None:
        return Operation.PURGE if said == Operation.PURGE else Operation.DELETE
    if (reason := headers.get(_REASON)) is not None:
        return Operation.DELETE if reason == "Remove" else Operation.PURGE
    return Operation.PUT


def _is_certainly_put(headers: Headers | bytes | None) -> bool:
    """Return whether the headers cannot record anything but a put.

    Decoding them would take longer.
    """
    if isinstance(headers, bytes):
        small = headers.lower()
        return not any(name in small for name in _OPERATION_HEADERS)
    return headers is None


class Entry(Generic[T], metaclass=NoPublicConstructor, use="kv.get() or kv.watch()"):
    """A value of a key, or a deletion marker.

    The value is decoded when you first read :attr:`value`, so an entry with an invalid value is
    delivered like any other.
    """

    __slots__ = (
        "_codec",
        "_headers",
        "_meta_only",
        "_timestamp",
        "_value",
        "bucket",
        "data",
        "delta",
        "key",
        "operation",
        "revision",
    )

    def __init__(
        self,
        *,
        bucket: str,
        key: str,
        revision: int,
        timestamp: datetime | int,
        delta: int,
        data: bytes,
        headers: Headers | bytes | None,
        codec: Decoder[T],
        meta_only: bool = False,
    ) -> None:
        """Make an entry.

        :param timestamp: a time, or nanoseconds since 1970 (UTC).
        :param headers: the headers, or the header block as received.
        """
        self.bucket: str = bucket
        """Name of the bucket."""
        self.key: str = key
        """The key."""
        self.revision: int = revision
        """Number of the change. The revisions of a bucket count the changes of all its keys."""
        self._timestamp = timestamp
        self.delta: int = delta
        """Number of entries that a watcher has still to deliver after this one; 0 from ``get``."""
        self._headers = headers
        self.operation: Operation = (
            Operation.PUT if _is_certainly_put(headers) else operation_of(self.headers)
        )
        """The change that the entry records."""
        self.data: bytes = data
        """The stored bytes, not decoded; empty if the key was deleted."""
        self._codec = codec
        self._meta_only = meta_only
        self._value: object = _UNDECODED

    # A watcher delivers many entries, whose times and headers are rarely read.

    @property
    def timestamp(self) -> datetime:
        """Time at which the server stored the entry, in UTC."""
        when = self._timestamp
        if isinstance(when, int):
            when = self._timestamp = _EPOCH + timedelta(microseconds=when // 1000)
        return when

    @property
    def headers(self) -> Headers:
        """Headers of the stored message."""
        headers = self._headers
        if not isinstance(headers, Headers):
            headers = self._headers = decode_headers(headers)[0] if headers else Headers()
        return headers

    @property
    def is_deleted(self) -> bool:
        """Whether the entry records that the key was deleted, purged or expired."""
        return self.operation is not Operation.PUT

    @property
    def value(self) -> T:
        """The decoded value.

        :raises KeyDeletedError: if the entry records that the key was deleted.
        :raises DecodeError: if the codec cannot decode the value, or if the watcher receives no
            values (``meta_only``).
        """
        if self._value is _UNDECODED:
            self._value = self._decode()
        return cast("T", self._value)

    def _decode(self) -> T:
        if self.is_deleted:
            raise deleted_error(self)
        if self._meta_only:
            raise DecodeError(
                f"the value of key {self.key!r} was not sent; watch without meta_only to get it"
            )
        try:
            return self._codec.decode(self.data)
        except Exception as error:
            raise decode_error(self._codec, f"the value of key {self.key!r}", error) from error

    @property
    def size(self) -> int:
        """Size of the value in bytes, also with ``meta_only``."""
        told = self.headers.get(_SIZE) if self._meta_only else None
        if told is not None and told.isascii() and told.isdigit() and len(told) <= 20:
            return int(told)
        return len(self.data)

    def __repr__(self) -> str:
        # Without the value, which may be a secret.
        return f"<Entry {self.operation} {self.key!r} of {self.bucket!r}, revision {self.revision}>"


def deleted_error(entry: Entry[T]) -> KeyDeletedError:
    """Return the error for a key that ``entry`` marks as deleted."""
    return KeyDeletedError(
        entry.bucket,
        entry.key,
        entry.revision,
        "DEL" if entry.operation is Operation.DELETE else "PURGE",
    )
