"""The JetStream context, including key-value and object stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .._constructors import NoPublicConstructor
from .._nats_py_names import attribute_error
from .key_value_manager import KeyValueManager
from .object_store_manager import ObjectStoreManager

__all__ = ["JetStream"]

_NATS_PY_NAMES = {
    "add_consumer": "stream.create_consumer()",
    "add_stream": "js.create_stream()",
    "consumer": "stream.consumer()",
    "consumer_info": "(await stream.consumer(name)).info",
    "consumers_info": "stream.consumers()",
    "create_consumer": "stream.create_consumer()",
    "delete_consumer": "stream.delete_consumer()",
    "delete_msg": "stream.delete_msg()",
    "find_stream_name_by_subject": "js.stream_name_by_subject()",
    "get_last_msg": "stream.get_msg(last_for=subject)",
    "get_msg": "stream.get_msg()",
    "publish_async": "js.publisher()",
    "pull_subscribe": "stream.create_consumer() and consumer.fetch() or consumer.consume()",
    "purge_stream": "stream.purge()",
    "stream_info": "(await js.stream(name)).info",
    "streams_info": "js.streams()",
    "subscribe": "stream.create_consumer() and consumer.consume(), or stream.ordered_consumer()",
}


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

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise attribute_error(self, name, _NATS_PY_NAMES)
