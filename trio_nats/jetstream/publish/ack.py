"""Headers of messages published to a stream, and acknowledgements."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from ..._event_hub import EventChannel
from ...errors import ConfigurationError, PermissionsViolationError
from ...events import Event, ServerError
from ...headers import Headers, HeadersLike
from ...message import Msg
from ...options import check_count, check_seconds
from ..api import API, read_answer
from ..errors import JetStreamError, NoStreamResponseError
from ..json_codec import Answer
from ..validation import check_name

__all__ = ["PubAck", "check_server", "publish_headers", "read_ack", "report_denied"]

MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
EXPECTED_LAST_SEQ = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQ = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQ_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
EXPECTED_LAST_MSG_ID = "Nats-Expected-Last-Msg-Id"
TTL = "Nats-TTL"
MIN_TTL = 1.0


class PubAck(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledgement of a stream that it has stored a message."""

    stream: str
    """The name of the stream."""
    seq: int
    """The sequence number of the message in the stream."""
    duplicate: bool = False
    """Whether the stream already held a message with the same ``msg_id``. It is the one at ``seq``,
    and nothing was stored."""
    domain: str = ""
    """The JetStream domain."""
    val: int | None = None
    """The new value of a counter, of any size (ADR-49); ``None`` if the subject is not a counter.
    """
    batch: str = ""
    """The id of the batch that was committed with the message (ADR-50)."""
    count: int = 0
    """Number of messages in that batch."""


# Not strict, because the server writes the value of a counter as a string.
_decode = msgspec.json.Decoder(PubAck, strict=False).decode


def read_ack(msg: Msg, subject: str) -> PubAck:
    """Return the acknowledgement in a reply to a message published to ``subject``.

    :raises NoStreamResponseError: if no stream stores the subject.
    :raises JetStreamAPIError: if the stream refused the message.
    :raises JetStreamError: if the reply is something else.
    """
    try:
        # An error also has a sequence number, which is 0.
        if msg.raw_headers is None and (ack := _decode(msg.data)).seq > 0:
            return ack
    except (ValueError, RecursionError):
        pass
    if (status := msg.status) is not None and status.code == 503:
        raise NoStreamResponseError(subject)
    read_answer(msg.data, Answer, subject)  # raises if it is an error
    raise JetStreamError(
        f"the reply to a message to {subject!r} is not an acknowledgement: a subscriber replied "
        "that is not a stream"
    )


def publish_headers(
    headers: HeadersLike | None,
    *,
    msg_id: str | None = None,
    expect_stream: str | None = None,
    expect_last_seq: int | None = None,
    expect_last_subject_seq: int | None = None,
    expect_last_subject: str | None = None,
    expect_last_msg_id: str | None = None,
    ttl: float | None = None,
) -> HeadersLike | None:
    """Return ``headers``, completed with the headers for the other arguments."""
    own: dict[str, str] = {}
    if msg_id is not None:
        own[MSG_ID] = _check_id("msg_id", msg_id)
    if expect_stream is not None:
        own[EXPECTED_STREAM] = check_name("stream", expect_stream)
    if expect_last_seq is not None:
        own[EXPECTED_LAST_SEQ] = str(check_count("expect_last_seq", expect_last_seq))
    if expect_last_subject_seq is not None:
        seq = check_count("expect_last_subject_seq", expect_last_subject_seq)
        own[EXPECTED_LAST_SUBJECT_SEQ] = str(seq)
    if expect_last_subject is not None:
        if expect_last_subject_seq is None:
            raise ConfigurationError("expect_last_subject needs expect_last_subject_seq as well")
        own[EXPECTED_LAST_SUBJECT_SEQ_SUBJECT] = expect_last_subject
    if expect_last_msg_id is not None:
        own[EXPECTED_LAST_MSG_ID] = _check_id("expect_last_msg_id", expect_last_msg_id)
    if ttl is not None:
        own[TTL] = _ttl(ttl)
    if headers is None:
        return own or None
    if not own:
        return headers
    together = Headers(headers)
    for name, value in own.items():
        together[name] = value
    return together


async def check_server(api: API, expect_last_subject: str | None, ttl: float | None) -> None:
    """Check that the server knows the headers for these arguments, which others would ignore.

    :raises APILevelError: if the server is too old.
    """
    if expect_last_subject is not None:
        await api.require("expect_last_subject")
    if ttl is not None:
        await api.require("ttl of a message")


def _check_id(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ConfigurationError(f"{name} must not be empty")
    return value


def _ttl(ttl: float) -> str:
    """Return the value of the TTL header: whole seconds, or a duration in Go's format."""
    if check_seconds("ttl", ttl) == math.inf:
        return "never"
    if ttl < MIN_TTL:
        raise ConfigurationError(f"ttl must be at least 1 second, not {ttl!r}")
    return f"{math.ceil(ttl)}" if ttl == int(ttl) else f"{math.ceil(ttl * 1000)}ms"


async def report_denied(
    events: EventChannel[Event], denied: Callable[[PermissionsViolationError], None]
) -> None:
    """Call a function for each error that publishing to a subject is not permitted.

    Nobody replies to such a message. Without this, waiting for its acknowledgement would take the
    whole timeout, and the error would say that it may have been stored. Runs until it is cancelled
    or the connection is closed.

    :param events: the events of the connection.
    :param denied: called with each error.
    """
    async with events:
        async for event in events:
            if isinstance(event, ServerError):
                error = event.error
                if isinstance(error, PermissionsViolationError) and error.operation == "publish":
                    denied(error)
