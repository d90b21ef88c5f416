"""Key-value buckets on JetStream (ADR-8).

:meth:`JetStream.create_key_value` and :meth:`JetStream.key_value` return them. Those methods import
this package when they are first called.
"""

from __future__ import annotations

from .._public_modules import set_public_module
from .config import KeyValueConfig, KeyValueOptions, KeyValueStatus
from .entry import Entry, Operation
from .errors import (
    BucketExistsError,
    BucketNotFoundError,
    InvalidKeyError,
    KeyDeletedError,
    KeyExistsError,
    KeyNotFoundError,
    KeyValueError,
    NotABucketError,
)
from .store import KeyValue
from .watch import KeyWatcher

__all__ = [
    "BucketExistsError",
    "BucketNotFoundError",
    "Entry",
    "InvalidKeyError",
    "KeyDeletedError",
    "KeyExistsError",
    "KeyNotFoundError",
    "KeyValue",
    "KeyValueConfig",
    "KeyValueError",
    "KeyValueOptions",
    "KeyValueStatus",
    "KeyWatcher",
    "NotABucketError",
    "Operation",
]

set_public_module(__name__, __all__, globals())
