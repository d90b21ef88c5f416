"""All calls of JetStream, key-value buckets, object stores and services that can be cancelled."""

from __future__ import annotations

from tests.cancellation.environment import Group
from tests.cancellation.jetstream_calls import CONSUMERS, PUBLISHING, STREAMS
from tests.cancellation.service_calls import SERVICES
from tests.cancellation.store_calls import BUCKETS, KEYS, OBJECTS, STORES

__all__ = ["EXEMPT", "GROUPS"]

GROUPS: dict[str, Group] = {
    "streams": STREAMS,
    "publishing": PUBLISHING,
    "consumers": CONSUMERS,
    "buckets": BUCKETS,
    "keys": KEYS,
    "stores": STORES,
    "objects": OBJECTS,
    "services": SERVICES,
}

EXEMPT = {
    "AsyncReadable.read": "a protocol, which users implement",
}
"""Public calls that are not cancelled, and why."""
