"""The JetStream context, including key-value and object stores."""

from __future__ import annotations

from .._constructors import NoPublicConstructor
from .key_value_manager import KeyValueManager
from .object_store_manager import ObjectStoreManager

__all__ = ["JetStream"]


class JetStream(
    KeyValueManager, ObjectStoreManager, metaclass=NoPublicConstructor, use="nc.jetstream()"
):
    """JetStream over a connection; made by :meth:`Connection.jetstream`.

    It manages streams, publishes to them, and opens key-value and object stores. It holds nothing
    open.

    In addition to the exceptions that they list, its asynchronous methods raise:

    - :exc:`ConfigurationError` or :exc:`InvalidSubjectError` if an argument is invalid, and
      :exc:`TypeError` if it is of a wrong type; nothing was sent;
    - :exc:`JetStreamNotEnabledError` if JetStream is not enabled;
    - :exc:`JetStreamAPIError`, or a subclass for the reason, if the server refuses a request;
    - :exc:`RequestTimeoutError` if no answer comes within :attr:`timeout` seconds;
    - :exc:`JetStreamError` if an answer is malformed;
    - the exceptions of :meth:`Connection.request`.

    If cancelled, a request that changes something may still have been carried out.
    """
