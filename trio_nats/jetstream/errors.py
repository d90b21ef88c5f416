"""Errors of JetStream, and the numbers that servers give them."""

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
    "FastBatchError",
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
    """Numbers of errors, to compare with the ``err_code`` of an error.

    These are the ones that programs handle. Servers have about two hundred, and newer servers have
    more, so ``err_code`` is a plain number. ``nats errors list`` shows them all.
    """

    BAD_REQUEST = 10003
    """The request is malformed, or unknown to the server."""
    CLUSTER_NOT_AVAILABLE = 10008
    """JetStream is temporarily unavailable, for example while a cluster has no leader."""
    CONSUMER_NAME_IN_USE = 10013
    """A consumer of that name exists already; see :exc:`ConsumerNameInUseError`."""
    CONSUMER_NOT_FOUND = 10014
    """The consumer does not exist; see :exc:`ConsumerNotFoundError`."""
    INSUFFICIENT_RESOURCES = 10023
    """The server or the account lacks the resources."""
    INVALID_JSON = 10025
    """The request is not valid JSON, or has values that the server does not know."""
    MAXIMUM_CONSUMERS_REACHED = 10026
    """The stream or the account has its maximum number of consumers."""
    MAXIMUM_STREAMS_REACHED = 10027
    """The account has its maximum number of streams."""
    MEMORY_RESOURCES_EXCEEDED = 10028
    """The server does not have enough memory."""
    MESSAGE_NOT_FOUND = 10037
    """The message does not exist; see :exc:`MessageNotFoundError`."""
    NOT_ENABLED_FOR_ACCOUNT = 10039
    """See :exc:`JetStreamNotEnabledForAccountError`."""
    SEQUENCE_NOT_FOUND = 10043
    """No message has that sequence number; see :exc:`MessageNotFoundError`."""
    STORAGE_RESOURCES_EXCEEDED = 10047
    """The server does not have enough disk space."""
    MESSAGE_EXCEEDS_MAXIMUM = 10054
    """The message is larger than the stream's ``max_msg_size``."""
    STREAM_NAME_IN_USE = 10058
    """A stream of that name exists already; see :exc:`StreamNameInUseError`."""
    STREAM_NOT_FOUND = 10059
    """The stream does not exist; see :exc:`StreamNotFoundError`."""
    STREAM_MISMATCH = 10060
    """Another stream would store the message; see :exc:`StreamMismatchError`."""
    STREAM_SUBJECT_OVERLAP = 10065
    """Another stream stores some of the subjects already."""
    WRONG_LAST_MSG_ID = 10070
    """See :exc:`WrongLastMsgIdError`."""
    WRONG_LAST_SEQUENCE = 10071
    """See :exc:`WrongLastSequenceError`."""
    NOT_ENABLED = 10076
    """JetStream is not enabled on the server; see :exc:`JetStreamNotEnabledError`."""
    STREAM_STORE_FAILED = 10077
    """The message was not stored, for example because a stream with ``DiscardPolicy.NEW`` is full.
    """
    CONSUMER_STILL_ACTIVE = 10105
    """A consumer of that name is in use; see :exc:`ConsumerNameInUseError`."""
    STREAM_SEALED = 10109
    """The stream is sealed, so it cannot be changed."""
    CONSUMER_ALREADY_EXISTS = 10148
    """A consumer of that name exists already; see :exc:`ConsumerNameInUseError`."""
    CONSUMER_DOES_NOT_EXIST = 10149
    """The consumer to update does not exist; see :exc:`ConsumerNotFoundError`."""
    CONSUMER_INACTIVE_THRESHOLD_EXCESS = 10153
    """The consumer's ``inactive_threshold`` exceeds the ``consumer_limits`` of the stream."""
    DUPLICATE_MESSAGE_CONFLICT = 10158
    """A message with the same ``msg_id`` is being stored at the moment; publish it again later."""
    WRONG_LAST_SEQUENCE_UNKNOWN = 10164
    """Like ``WRONG_LAST_SEQUENCE``, but the server does not tell the right number."""
    MESSAGE_TTL_DISABLED = 10166
    """The stream has no ``allow_msg_ttl``."""
    MESSAGE_COUNTER_DISABLED = 10168
    """The stream has no ``allow_msg_counter``."""
    ATOMIC_PUBLISH_DISABLED = 10174
    """The stream has no ``allow_atomic``."""
    ATOMIC_BATCH_INCOMPLETE = 10176
    """Messages of an atomic batch did not reach the stream. Nothing was stored."""
    REQUIRED_API_LEVEL = 10185
    """The server is too old; see :exc:`APILevelError`."""
    MESSAGE_SCHEDULES_DISABLED = 10188
    """The stream has no ``allow_msg_schedules``."""
    FAST_BATCH_DISABLED = 10205
    """The stream has no ``allow_batched``."""


_HINTS: dict[int, str] = {
    ErrorCode.MESSAGE_TTL_DISABLED: (
        "set allow_msg_ttl of the stream, or limit_marker_ttl of the bucket"
    ),
    ErrorCode.MESSAGE_COUNTER_DISABLED: "create a stream with allow_msg_counter",
    ErrorCode.ATOMIC_PUBLISH_DISABLED: "set allow_atomic of the stream",
    ErrorCode.ATOMIC_BATCH_INCOMPLETE: (
        "a message was lost on the way, was not permitted, or belongs to another stream"
    ),
    ErrorCode.FAST_BATCH_DISABLED: "set allow_batched of the stream",
    ErrorCode.MESSAGE_SCHEDULES_DISABLED: "set allow_msg_schedules of the stream",
}
"""What to do about errors whose text from the server does not contain it."""


class JetStreamError(NatsError):
    """Base class of all errors of JetStream. Raised itself for an unexpected answer."""


class JetStreamAPIError(JetStreamError):
    """The server answered a JetStream request with an error.

    ``code`` is like an HTTP status, ``err_code`` is the number of the error (see
    :class:`ErrorCode`), and ``description`` is the text of the server.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(code, err_code, description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def __str__(self) -> str:
        text = printable(self.description, MAX_TEXT)
        if hint := _HINTS.get(self.err_code):
            text += f"; {hint}"
        return f"{text} (code {self.code}, err_code {self.err_code})"


def described(error: E, description: str) -> E:
    """Return the same error with another description."""
    return type(error)(error.code, error.err_code, description)


class JetStreamNotEnabledError(JetStreamAPIError):
    """JetStream is not enabled on the server, or not behind the domain or prefix given."""


class JetStreamNotEnabledForAccountError(JetStreamNotEnabledError):
    """JetStream is not enabled for the account of this user."""


class APILevelError(JetStreamAPIError):
    """The server is too old for the request (ADR-44)."""


class StreamNotFoundError(JetStreamAPIError):
    """The stream does not exist."""


class StreamNameInUseError(JetStreamAPIError):
    """A stream of that name exists already, with another configuration."""


class ConsumerNotFoundError(JetStreamAPIError):
    """The consumer does not exist."""


class ConsumerNameInUseError(JetStreamAPIError):
    """A consumer of that name exists already, with another configuration."""


class MessageNotFoundError(JetStreamAPIError):
    """The message does not exist, or does not exist any more."""


class StreamMismatchError(JetStreamAPIError):
    """The subject belongs to another stream than the one expected. Nothing was stored."""


class WrongLastMsgIdError(JetStreamAPIError):
    """The last message of the stream does not have the expected ``msg_id``. Nothing was stored."""


class WrongLastSequenceError(JetStreamAPIError):
    """The last message of the stream, or of the subject, is not the expected one.

    Nothing was stored.
    """

    @property
    def last_sequence(self) -> int | None:
        """The actual sequence number of the last message; ``None`` if the server did not tell."""
        number = self.description.rpartition(": ")[2]
        return int(number) if number.isascii() and number.isdigit() else None


class UnacknowledgedError(JetStreamError):
    """Messages were not acknowledged, and nobody awaited their acknowledgements.

    ``count`` is the number of messages. ``errors`` holds the first 100 reasons, in the order in
    which they became known; the first one is also the ``__cause__``.
    """

    def __init__(self, count: int, errors: Sequence[Exception]) -> None:
        super().__init__(count, errors)
        self.count = count
        self.errors: tuple[Exception, ...] = tuple(errors)

    def __str__(self) -> str:
        messages = "a message was" if self.count == 1 else f"{self.count:,} messages were"
        first = f"; first: {self.errors[0]}" if self.errors else ""
        return f"{messages} not acknowledged{first}"


class FastBatchError(JetStreamError):
    """A fast batch ended before all of its messages were stored.

    ``stored`` is the number of its messages, from the first one on, that are stored. ``number`` is
    that of the message that was refused, or ``None`` if messages were lost. ``reason`` is why; it
    is also the ``__cause__``.
    """

    def __init__(self, stored: int, number: int | None, reason: NatsError) -> None:
        super().__init__(stored, number, reason)
        self.stored = stored
        self.number = number
        self.reason = reason

    def __str__(self) -> str:
        which = "" if self.number is None else f"message {self.number:,} was refused: "
        messages = "message is" if self.stored == 1 else "messages are"
        return f"the batch ended early, {self.stored:,} {messages} stored; {which}{self.reason}"


class NoStreamResponseError(JetStreamError, NoRespondersError):
    """No stream stores the subject that a message was published to. Nothing was stored."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        # Replaces the text of NoRespondersError.
        Exception.__init__(
            self,
            f"no stream stores {subject!r}: create a stream with that subject, or check whether "
            "JetStream is enabled",
        )


class AckError(JetStreamError, RuntimeError):
    """The message was answered already, or cannot be answered. Nothing was sent."""


class PullError(JetStreamError):
    """The server ended a pull request with an error.

    ``code`` and ``description`` are those of the server, ``consumer`` is the name of the consumer.
    """

    def __init__(self, code: int, description: str, consumer: str) -> None:
        super().__init__(code, description, consumer)
        self.code = code
        self.description = description
        self.consumer = consumer

    def __str__(self) -> str:
        description = printable(self.description, MAX_TEXT)
        return f"consumer {self.consumer!r}: {description} (code {self.code})"


class ConsumerDeletedError(PullError):
    """The consumer was deleted, or removed after its ``inactive_threshold``."""
