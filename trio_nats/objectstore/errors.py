"""What can go wrong with objects and their stores."""

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
    """Base class of what goes wrong with object stores."""


class ObjectStoreNotFoundError(ObjectStoreError):
    """There is no object store of that name, or no longer."""


class ObjectStoreExistsError(ObjectStoreError):
    """There is an object store of that name already, and it is configured otherwise."""


class ObjectNotFoundError(ObjectStoreError):
    """The store has no object of that name, or it has been deleted."""


class ObjectExistsError(ObjectStoreError):
    """The store has an object of that name, which would be lost."""


class InvalidObjectNameError(ObjectStoreError, ValueError):
    """What cannot be the name of an object. Raised before anything is sent."""


class ObjectLinkError(ObjectStoreError):
    """A link that cannot be made, or that leads nowhere."""


class ObjectTooLargeError(ObjectStoreError):
    """The object has more bytes than were to be kept in memory. Nothing was read."""


class ObjectChangedError(ObjectStoreError):
    """The object was replaced or deleted while it was read; what was read is to be thrown away."""


class DamagedObjectError(ObjectStoreError):
    """What is stored is not what was put: chunks are missing, or there is too much."""


class DigestMismatchError(DamagedObjectError):
    """The digest of what was read is not the one of what was put."""


class InvalidObjectMetaError(DamagedObjectError):
    """What is stored about an object cannot be understood."""
