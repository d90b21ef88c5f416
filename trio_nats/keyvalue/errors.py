"""Errors of key-value buckets."""

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
    """Base class of all errors of key-value buckets."""


class NotABucketError(KeyValueError):
    """The stream with the name of the bucket's stream is not configured as a bucket."""


class BucketNotFoundError(KeyValueError, StreamNotFoundError):
    """The bucket does not exist."""


class BucketExistsError(KeyValueError, StreamNameInUseError):
    """A bucket with this name and a different configuration exists."""


class InvalidKeyError(KeyValueError, ValueError):
    """A key or key filter is not valid (ADR-8)."""


class KeyNotFoundError(KeyValueError, LookupError):
    """The bucket has no value for the key, or the key has no value of this revision."""

    def __init__(self, bucket: str, key: str, revision: int | None = None) -> None:
        super().__init__(bucket, key, revision)
        self.bucket = bucket
        self.key = key
        self.revision = revision

    def __str__(self) -> str:
        of = "" if self.revision is None else f" of revision {self.revision}"
        return f"bucket {self.bucket!r} has no value{of} for key {self.key!r}"


class KeyDeletedError(KeyNotFoundError):
    """The key was deleted.

    ``revision`` is the revision of the deletion marker; ``operation`` is ``"DEL"`` or ``"PURGE"``.
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
    """The key already has a value. Nothing was stored."""
