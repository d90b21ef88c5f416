"""What can go wrong with JetStream."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TypeVar

from .._printable import MAX_TEXT, printable
from ..errors import NatsError, NoRespondersError

__all__ = [
    "APILevelError",
    "AckError",
    "ConsumerDeletedError",
    "ConsumerNameInUseError",
    "ConsumerNotFoundError",
    "ErrorCode",
    "JetStreamAPIError",
    "JetStreamError",
    "JetStreamNotEnabledError",
    "JetStreamNotEnabledForAccountError",
    "MessageNotFoundError",
    "NoStreamResponseError",
    "PullError",
    "StreamMismatchError",
    "StreamNameInUseError",
    "StreamNotFoundError",
    "UnacknowledgedError",
    "WrongLastMsgIdError",
    "WrongLastSequenceError",
]

E = TypeVar("E", bound="JetStreamAPIError")


class ErrorCode(enum.IntEnum):
    """Numbers that servers give to errors, to be compared with an error's ``err_code``.

    These are the ones that programs handle. Servers know some two hundred, and newer servers have
    more, so ``err_code`` is a plain number. ``nats errors list`` shows them all.
    """

    BAD_REQUEST = 10003
    """The request is malformed, or one that the server does not know."""
    CLUSTER_NOT_AVAILABLE = 10008
    """JetStream is temporarily unavailable, as while a cluster has no leader."""
    CONSUMER_NAME_IN_USE = 10013
    """A consumer of that name exists; see :exc:`ConsumerNameInUseError`."""
    CONSUMER_NOT_FOUND = 10014
    """There is no such consumer; see :exc:`ConsumerNotFoundError`."""
    INSUFFICIENT_RESOURCES = 10023
    """The server, or the account, has no room for it."""
    MAXIMUM_CONSUMERS_REACHED = 10026
    """The stream, or the account, has as many consumers as it may have."""
    MAXIMUM_STREAMS_REACHED = 10027
    """The account has as many streams as it may have."""
    MEMORY_RESOURCES_EXCEEDED = 10028
    """There is not enough memory on the server for it."""
    MESSAGE_NOT_FOUND = 10037
    """There is no such message; see :exc:`MessageNotFoundError`."""
    NOT_ENABLED_FOR_ACCOUNT = 10039
    """See :exc:`JetStreamNotEnabledForAccountError`."""
    SEQUENCE_NOT_FOUND = 10043
    """There is no message with that number; see :exc:`MessageNotFoundError`."""
    STORAGE_RESOURCES_EXCEEDED = 10047
    """There is not enough disk space on the server for it."""
    MESSAGE_EXCEEDS_MAXIMUM = 10054
    """The message is larger than the stream's ``max_msg_size``."""
    STREAM_NAME_IN_USE = 10058
    """A stream of that name exists; see :exc:`StreamNameInUseError`."""
    STREAM_NOT_FOUND = 10059
    """There is no such stream; see :exc:`StreamNotFoundError`."""
    STREAM_MISMATCH = 10060
    """Another stream would store the message; see :exc:`StreamMismatchError`."""
    WRONG_LAST_MSG_ID = 10070
    """See :exc:`WrongLastMsgIdError`."""
    WRONG_LAST_SEQUENCE = 10071
    """See :exc:`WrongLastSequenceError`."""
    NOT_ENABLED = 10076
    """There is no JetStream; see :exc:`JetStreamNotEnabledError`."""
    STREAM_STORE_FAILED = 10077
    """The message was not stored, as when a stream that discards new messages is full."""
    CONSUMER_STILL_ACTIVE = 10105
    """A consumer of that name is in use; see :exc:`ConsumerNameInUseError`."""
    STREAM_SEALED = 10109
    """The stream is sealed: nothing in it can be changed."""
    CONSUMER_ALREADY_EXISTS = 10148
    """A consumer of that name exists; see :exc:`ConsumerNameInUseError`."""
    CONSUMER_DOES_NOT_EXIST = 10149
    """There is no consumer to update; see :exc:`ConsumerNotFoundError`."""
    WRONG_LAST_SEQUENCE_UNKNOWN = 10164
    """As ``WRONG_LAST_SEQUENCE``, where the server does not tell the right number."""
    REQUIRED_API_LEVEL = 10185
    """The server is too old; see :exc:`APILevelError`."""


class JetStreamError(NatsError):
    """Base class of what goes wrong with JetStream; itself: an answer that makes no sense."""


class JetStreamAPIError(JetStreamError):
    """JetStream refused, or could not do, what it was asked for.

    ``code`` is like an HTTP status, ``err_code`` is the number of the error (see
    :class:`ErrorCode`), and ``description`` says it in words.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(code, err_code, description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def __str__(self) -> str:
        return (
            f"{printable(self.description, MAX_TEXT)} (code {self.code}, err_code {self.err_code})"
        )


def described(error: E, description: str) -> E:
    """Return the same error with another description."""
    return type(error)(error.code, error.err_code, description)


class JetStreamNotEnabledError(JetStreamAPIError):
    """The server has no JetStream, or none is to be had by the domain or prefix given."""


class JetStreamNotEnabledForAccountError(JetStreamNotEnabledError):
    """The server has JetStream, but this user's account may not use it."""


class APILevelError(JetStreamAPIError):
    """The server is too old for what was asked for (ADR-44)."""


class StreamNotFoundError(JetStreamAPIError):
    """There is no such stream."""


class StreamNameInUseError(JetStreamAPIError):
    """There is a stream of that name already, and it is configured otherwise."""


class ConsumerNotFoundError(JetStreamAPIError):
    """The stream has no such consumer."""


class ConsumerNameInUseError(JetStreamAPIError):
    """The stream has a consumer of that name already, and it is configured otherwise."""


class MessageNotFoundError(JetStreamAPIError):
    """The stream has no such message, or no longer."""


class StreamMismatchError(JetStreamAPIError):
    """Another stream than the one expected would have stored the message; none has."""


class WrongLastMsgIdError(JetStreamAPIError):
    """The stream's last message has another id than was expected. Nothing was stored."""


class WrongLastSequenceError(JetStreamAPIError):
    """The last message, of the stream or of the subject, is another one than was expected.

    Nothing was stored. ``last_sequence`` is the one it has, where the server tells.
    """

    @property
    def last_sequence(self) -> int | None:
        """The sequence number of the last message; ``None`` if the server did not tell."""
        number = self.description.rpartition(": ")[2]
        return int(number) if number.isascii() and number.isdigit() else None


class UnacknowledgedError(JetStreamError):
    """Messages were published and not acknowledged, and nobody has asked about that.

    ``count`` is how many, and ``errors`` are the first 100 reasons in the order they became known,
    the first of which is also the ``__cause__``.
    """

    def __init__(self, count: int, errors: Sequence[Exception]) -> None:
        super().__init__(count, errors)
        self.count = count
        self.errors: tuple[Exception, ...] = tuple(errors)

    def __str__(self) -> str:
        messages = "a message was" if self.count == 1 else f"{self.count:,} messages were"
        first = f"; first: {self.errors[0]}" if self.errors else ""
        return f"{messages} not acknowledged{first}"


class NoStreamResponseError(JetStreamError, NoRespondersError):
    """No stream stores what is published to ``subject``; nothing was stored."""

    def __str__(self) -> str:
        return (
            f"no stream listens on {self.subject!r}: create one with that subject, or see whether "
            "JetStream runs at all"
        )


class AckError(JetStreamError, RuntimeError):
    """A message that was answered already, or that needs no answer. Nothing was sent."""


class PullError(JetStreamError):
    """A pull came to nothing, and the server said why: ``code`` and ``description``."""

    def __init__(self, code: int, description: str, consumer: str) -> None:
        super().__init__(code, description, consumer)
        self.code = code
        self.description = description
        self.consumer = consumer

    def __str__(self) -> str:
        description = printable(self.description, MAX_TEXT)
        return f"consumer {self.consumer!r}: {description} (code {self.code})"


class ConsumerDeletedError(PullError):
    """The consumer is gone: it was deleted, or not used for its ``inactive_threshold``."""
