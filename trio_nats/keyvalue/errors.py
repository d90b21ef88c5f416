"""What goes wrong with buckets of keys and values."""

from __future__ import annotations

from typing import Literal

from ..jetstream.errors import (
    JetStreamError,
    StreamNameInUseError,
    StreamNotFoundError,
    WrongLastSequenceError,
)

__all__ = [
    "BucketExistsError",
    "BucketNotFoundError",
    "InvalidKeyError",
    "KeyDeletedError",
    "KeyExistsError",
    "KeyNotFoundError",
    "KeyValueError",
    "NotABucketError",
]


class KeyValueError(JetStreamError):
    """Base class of all errors of this package."""


class NotABucketError(KeyValueError):
    """There is a stream of a bucket's name, but it is not one that can be a bucket."""


class BucketNotFoundError(KeyValueError, StreamNotFoundError):
    """There is no such bucket."""


class BucketExistsError(KeyValueError, StreamNameInUseError):
    """There is a bucket of that name already, and it is configured otherwise."""


class InvalidKeyError(KeyValueError, ValueError):
    """A key, or a filter of keys, that there cannot be (ADR-8)."""


class KeyNotFoundError(KeyValueError, LookupError):
    """The bucket has no value for the key, or not of that revision."""

    def __init__(self, bucket: str, key: str, revision: int | None = None) -> None:
        super().__init__(bucket, key, revision)
        self.bucket = bucket
        self.key = key
        self.revision = revision

    def __str__(self) -> str:
        of = "" if self.revision is None else f" of revision {self.revision}"
        return f"bucket {self.bucket!r} has no value{of} for key {self.key!r}"


class KeyDeletedError(KeyNotFoundError):
    """The key had a value, but it was deleted.

    ``revision`` is that of what marks this, and ``operation`` is ``"DEL"`` or ``"PURGE"``.
    """

    def __init__(
        self, bucket: str, key: str, revision: int, operation: Literal["DEL", "PURGE"]
    ) -> None:
        super().__init__(bucket, key, revision)
        self.operation = operation

    def __str__(self) -> str:
        how = "deleted" if self.operation == "DEL" else "purged"
        return f"key {self.key!r} of bucket {self.bucket!r} was {how} by revision {self.revision}"


class KeyExistsError(KeyValueError, WrongLastSequenceError):
    """The key has a value already. Nothing was stored."""
