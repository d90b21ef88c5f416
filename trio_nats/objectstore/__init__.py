"""The object store on JetStream (ADR-20): objects of any size, kept in chunks.

Object stores are made by :meth:`JetStream.create_object_store` and :meth:`JetStream.object_store`,
which import this when they are first used.
"""

from __future__ import annotations

from .._public_modules import set_public_module
from .chunking import AsyncReadable, Readable, Source
from .config import ObjectStoreConfig, ObjectStoreOptions, ObjectStoreStatus
from .errors import (
    DamagedObjectError,
    DigestMismatchError,
    InvalidObjectMetaError,
    InvalidObjectNameError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectLinkError,
    ObjectNotFoundError,
    ObjectStoreError,
    ObjectStoreExistsError,
    ObjectStoreNotFoundError,
    ObjectTooLargeError,
)
from .info import ObjectInfo, ObjectLink, ObjectMeta
from .reader import ObjectReader
from .store import ObjectStore
from .watch import ObjectWatcher

__all__ = [
    "AsyncReadable",
    "DamagedObjectError",
    "DigestMismatchError",
    "InvalidObjectMetaError",
    "InvalidObjectNameError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectLink",
    "ObjectLinkError",
    "ObjectMeta",
    "ObjectNotFoundError",
    "ObjectReader",
    "ObjectStore",
    "ObjectStoreConfig",
    "ObjectStoreError",
    "ObjectStoreExistsError",
    "ObjectStoreNotFoundError",
    "ObjectStoreOptions",
    "ObjectStoreStatus",
    "ObjectTooLargeError",
    "ObjectWatcher",
    "Readable",
    "Source",
]

set_public_module(__name__, __all__, globals())
