"""What is published to a stream, and what comes back."""

from __future__ import annotations

import math

import msgspec

from ...errors import ConfigurationError
from ...headers import Headers, HeadersLike
from ...message import Msg
from ...options import check_count, check_seconds
from ..api import read_answer
from ..errors import JetStreamError, NoStreamResponseError
from ..json_codec import Answer
from ..validation import check_name

__all__ = ["PubAck", "publish_headers", "read_ack"]

MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
EXPECTED_LAST_SEQ = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQ = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQ_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
EXPECTED_LAST_MSG_ID = "Nats-Expected-Last-Msg-Id"
TTL = "Nats-TTL"
MIN_TTL = 1.0


class PubAck(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's word that it has stored a message."""

    stream: str
    """The stream."""
    seq: int
    """The message's sequence number in it."""
    duplicate: bool = False
    """It has been there already: a message with the same ``msg_id``, which is the one at ``seq``.
    """
    domain: str = ""
    """The JetStream domain."""
    val: str | None = None
    """Where subjects are counters (ADR-49), what this one has come to: a whole number."""
    batch: str = ""
    """The id of the batch that ends with the message (ADR-50)."""
    count: int = 0
    """How many messages the batch has."""


_decode = msgspec.json.Decoder(PubAck).decode


def read_ack(msg: Msg, subject: str) -> PubAck:
    """What came back for a message to ``subject``. Raises the error that it is."""
    try:
        # A refusal has a sequence number too: 0.
        if msg.raw_headers is None and (ack := _decode(msg.data)).seq > 0:
            return ack
    except (ValueError, RecursionError):
        pass
    if (status := msg.status) is not None and status.code == 503:
        raise NoStreamResponseError(subject)
    read_answer(msg.data, Answer, subject)  # raises what was refused
    raise JetStreamError(
        f"the reply to a message to {subject!r} is no acknowledgement; somebody else than a stream "
        "replies there"
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
    """``headers`` and what else is to be said with a message."""
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
            raise ConfigurationError("expect_last_subject goes with expect_last_subject_seq")
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


def _check_id(name: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a str that is not empty, not {value!r}")
    return value


def _ttl(ttl: float) -> str:
    """As a duration of Go's; servers take whole seconds and durations alike."""
    if check_seconds("ttl", ttl) == math.inf:
        return "never"
    if ttl < MIN_TTL:
        raise ConfigurationError(f"ttl must be at least 1 second, not {ttl!r}")
    return f"{math.ceil(ttl)}" if ttl == int(ttl) else f"{math.ceil(ttl * 1000)}ms"
