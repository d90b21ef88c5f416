"""JetStream with all that is built on it: what :meth:`Connection.jetstream` makes."""

from __future__ import annotations

from .._constructors import NoPublicConstructor
from .key_value_manager import KeyValueManager
from .object_store_manager import ObjectStoreManager

__all__ = ["JetStream"]


class JetStream(
    KeyValueManager, ObjectStoreManager, metaclass=NoPublicConstructor, use="nc.jetstream()"
):
    """JetStream, as made by :meth:`Connection.jetstream`.

    Unless said otherwise its methods raise :exc:`ConfigurationError` or
    :exc:`InvalidSubjectError` for what cannot be asked for; :exc:`JetStreamAPIError`, or the
    subclass for it, for what the server refuses; :exc:`JetStreamNotEnabledError` if there is no
    JetStream; :exc:`RequestTimeoutError` if no answer comes within ``timeout`` seconds;
    :exc:`JetStreamError` for answers that make no sense; and what :meth:`Connection.request` raises
    else. If cancelled, what was asked for may happen all the same.
    """
