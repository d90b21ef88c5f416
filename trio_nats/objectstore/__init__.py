"""Object stores on JetStream (ADR-20): objects of any size, stored in chunks.

:meth:`JetStream.create_object_store` and :meth:`JetStream.object_store` return them. Those methods
import this package when they are first called.
"""

from __future__ import annotations

from .._public_modules import set_public_module
from .chunking import AsyncReadable, ObjectSource, Readable
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
    "ObjectSource",
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
]

set_public_module(__name__, __all__, globals())
