"""Errors of object stores."""

from __future__ import annotations

from ..jetstream.errors import JetStreamError

__all__ = [
    "DamagedObjectError",
    "DigestMismatchError",
    "InvalidObjectMetaError",
    "InvalidObjectNameError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectLinkError",
    "ObjectNotFoundError",
    "ObjectStoreError",
    "ObjectStoreExistsError",
    "ObjectStoreNotFoundError",
    "ObjectTooLargeError",
]


class ObjectStoreError(JetStreamError):
    """Base class of all errors of object stores."""


class ObjectStoreNotFoundError(ObjectStoreError):
    """The object store does not exist."""


class ObjectStoreExistsError(ObjectStoreError):
    """An object store with this name and a different configuration exists."""


class ObjectNotFoundError(ObjectStoreError):
    """The store has no object with this name, or the object was deleted."""


class ObjectExistsError(ObjectStoreError):
    """The store has an object with this name, which would be overwritten."""


class InvalidObjectNameError(ObjectStoreError, ValueError):
    """The name of an object is not valid. Raised before anything is sent."""


class ObjectLinkError(ObjectStoreError):
    """A link cannot be created or followed."""


class ObjectTooLargeError(ObjectStoreError):
    """The object is larger than ``max_size``. Nothing was read."""


class ObjectChangedError(ObjectStoreError):
    """The object was replaced or deleted while you read it. Discard what you have read."""


class DamagedObjectError(ObjectStoreError):
    """The stored object is damaged: chunks are missing, or there are too many bytes."""


class DigestMismatchError(DamagedObjectError):
    """The digest of the stored bytes differs from that in the metadata."""


class InvalidObjectMetaError(DamagedObjectError):
    """The stored metadata of an object is invalid."""
