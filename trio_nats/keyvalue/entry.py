"""A value of a key, or what marks that there is none any more."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Generic, TypeVar, cast

from .._constructors import NoPublicConstructor
from ..codecs import Decoder, decode_error
from ..errors import DecodeError
from ..headers import Headers
from .errors import KeyDeletedError

__all__ = ["OPERATION", "Entry", "Operation", "deleted_error", "operation_of"]

T = TypeVar("T")

OPERATION = "KV-Operation"
_REASON = "Nats-Marker-Reason"
_SIZE = "Nats-Msg-Size"
_UNDECODED = object()


class Operation(enum.StrEnum):
    """What happened to a key."""

    PUT = "PUT"
    """It got a value."""
    DELETE = "DEL"
    """It was deleted; earlier values are kept as far as the bucket keeps any."""
    PURGE = "PURGE"
    """It was deleted with all earlier values, or has gone by its age."""


def operation_of(headers: Headers) -> Operation:
    """What a message of a bucket means."""
    if (said := headers.get(OPERATION)) is not None:
        return Operation.PURGE if said == Operation.PURGE else Operation.DELETE
    if (reason := headers.get(_REASON)) is not None:
        return Operation.DELETE if reason == "Remove" else Operation.PURGE
    return Operation.PUT


class Entry(Generic[T], metaclass=NoPublicConstructor, use="kv.get() or kv.watch()"):
    """A value of a key, or what marks that there is none any more.

    The value is decoded when it is asked for the first time, so that one that cannot be decoded
    comes out like any other.
    """

    __slots__ = (
        "_codec",
        "_meta_only",
        "_value",
        "bucket",
        "data",
        "delta",
        "headers",
        "key",
        "operation",
        "revision",
        "timestamp",
    )

    def __init__(
        self,
        *,
        bucket: str,
        key: str,
        revision: int,
        timestamp: datetime,
        delta: int,
        data: bytes,
        headers: Headers,
        codec: Decoder[T],
        meta_only: bool = False,
    ) -> None:
        self.bucket: str = bucket
        """The bucket's name."""
        self.key: str = key
        """The key."""
        self.revision: int = revision
        """The number of this change, which counts all those of the bucket."""
        self.timestamp: datetime = timestamp
        """When it was stored, in UTC."""
        self.delta: int = delta
        """How many more are to come before the latest one; 0 from ``get``."""
        self.operation: Operation = operation_of(headers)
        """What happened to the key."""
        self.data: bytes = data
        """What is stored, undecoded; empty where the key was deleted."""
        self.headers: Headers = headers
        """The headers of the message it is."""
        self._codec = codec
        self._meta_only = meta_only
        self._value: object = _UNDECODED

    @property
    def is_deleted(self) -> bool:
        """Whether the key was deleted, or purged, by this."""
        return self.operation is not Operation.PUT

    @property
    def value(self) -> T:
        """The value.

        Raises :exc:`KeyDeletedError` if there is none because the key was deleted, and
        :exc:`DecodeError` if it is none that the codec can read, or was not sent (``meta_only``).
        """
        if self._value is _UNDECODED:
            self._value = self._decode()
        return cast("T", self._value)

    def _decode(self) -> T:
        if self.is_deleted:
            raise deleted_error(self)
        if self._meta_only:
            raise DecodeError(
                f"the value of key {self.key!r} was not sent, for meta_only was asked for"
            )
        try:
            return self._codec.decode(self.data)
        except Exception as error:
            raise decode_error(self._codec, f"the value of key {self.key!r}", error) from error

    @property
    def size(self) -> int:
        """How large the value is in bytes, even if it was not sent."""
        told = self.headers.get(_SIZE) if self._meta_only else None
        if told is not None and told.isascii() and told.isdigit() and len(told) <= 20:
            return int(told)
        return len(self.data)

    def __repr__(self) -> str:
        # Without the value, which may be a secret.
        return f"<Entry {self.operation} {self.key!r} of {self.bucket!r}, revision {self.revision}>"


def deleted_error(entry: Entry[T]) -> KeyDeletedError:
    """Return the error for a key that ``entry`` deleted."""
    return KeyDeletedError(
        entry.bucket,
        entry.key,
        entry.revision,
        "DEL" if entry.operation is Operation.DELETE else "PURGE",
    )
