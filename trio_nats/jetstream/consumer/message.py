"""Messages delivered by consumers, and their acknowledgements (ADR-15)."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from ...codecs import Decoder
from ...connection_base import BaseConnection
from ...errors import ConfigurationError, InvalidSubjectError
from ...headers import Headers
from ...message import Msg, can_respond_to
from ..errors import AckError
from ..json_codec import nanoseconds

__all__ = [
    "AckContext",
    "JetStreamMsg",
    "MsgMetadata",
    "ReplySubjects",
    "is_ack_subject",
    "read_metadata",
]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**64 - 1
_GATEWAY = "_GR_"
_ACK = b"$JS.ACK."

_can_be_published_to = re.compile(r"[^\x00-\x20\x7f.*>]+(?:\.[^\x00-\x20\x7f.*>]+)*").fullmatch
# Numbers of up to 19 digits are below 2**64. Longer ones, and subjects with a domain, are parsed
# token by token.
_SHORT_NUMBER = r"\.(\d{1,19})"
_short_ack = re.compile(
    r"\$JS\.ACK\.([^.]*)\.([^.]*)" + 5 * _SHORT_NUMBER, re.ASCII | re.DOTALL
).fullmatch
_short_numbers = re.compile(5 * _SHORT_NUMBER.encode()).fullmatch


class MsgMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message comes from, and how often it was delivered."""

    stream: str
    """Name of the stream."""
    consumer: str
    """Name of the consumer."""
    delivered: int
    """Number of deliveries of the message, including this one."""
    stream_seq: int
    """Its sequence number in the stream."""
    consumer_seq: int
    """Number of deliveries by the consumer, including this one and redeliveries."""
    timestamp_ns: int
    """When it was stored, in nanoseconds since 1970 (UTC)."""
    pending: int
    """Number of messages that the consumer has not delivered yet."""
    domain: str | None = None
    """The JetStream domain, or ``None``."""

    @property
    def timestamp(self) -> datetime:
        """When it was stored, in UTC, with a resolution of a microsecond."""
        return _EPOCH + timedelta(microseconds=self.timestamp_ns // 1000)


def read_metadata(reply: str) -> MsgMetadata:
    """Read the metadata in a reply subject.

    :raises ValueError: if it is not the reply subject of a JetStream message.
    """
    if (match := _short_ack(reply)) is not None:
        stream, consumer, delivered, stream_seq, consumer_seq, timestamp_ns, pending = (
            match.groups()
        )
        return MsgMetadata(
            stream=stream,
            consumer=consumer,
            delivered=int(delivered),
            stream_seq=int(stream_seq),
            consumer_seq=int(consumer_seq),
            timestamp_ns=int(timestamp_ns),
            pending=int(pending),
        )
    tokens = _split(reply)
    if tokens[:2] == ["$JS", "ACK"]:
        if len(tokens) == 9:
            return _read(None, tokens[2:])
        if len(tokens) >= 11:
            return _read(tokens[2], tokens[4:11])
    raise ValueError(f"{reply[:200]!a} is not the reply subject of a JetStream message")


class ReplySubjects:
    """Recognizes the reply subjects of one consumer."""

    __slots__ = ("_consumer", "_dots", "_front", "_has_valid_front", "_short_front", "_stream")

    def __init__(self, stream: str, consumer: str) -> None:
        self._stream = stream
        self._consumer = consumer
        self._short_front = b"$JS.ACK.%b.%b" % (stream.encode(), consumer.encode())
        self._has_valid_front = can_respond_to(self._short_front)
        # The beginning of the last reply subject, up to the numbers.
        self._front = self._short_front + b"."
        self._dots = 8

    def is_ack(self, reply: bytes | None) -> bool:
        """Whether the consumer has delivered the message with this reply subject."""
        if reply is None:
            return False
        # This runs for each message, so it checks the names only; metadata checks the numbers.
        if reply.startswith(self._front) and reply.count(b".") == self._dots:
            return True
        return self._is_other_ack(reply)

    def can_answer(self, reply: bytes) -> bool:
        """Whether a reply subject can be published to, see :func:`can_respond_to`."""
        front = self._short_front
        if self._has_valid_front and reply.startswith(front) and _short_numbers(reply, len(front)):
            return True  # Most are. This takes less than half the time of the full check.
        return can_respond_to(reply)

    def sequences(self, reply: bytes) -> tuple[int, int] | None:
        """Return the sequence numbers in a reply subject of the consumer: stream and consumer.

        ``None`` if it is not one, or has a form that only :func:`read_metadata` can read.
        """
        front = self._short_front
        if reply.startswith(front) and (match := _short_numbers(reply, len(front))):
            return int(match[2]), int(match[3])
        return None

    def _is_other_ack(self, reply: bytes) -> bool:
        try:
            text = reply.decode()
            metadata = read_metadata(text)
        except ValueError:
            return False
        own = (metadata.stream, metadata.consumer) == (self._stream, self._consumer)
        if not (own and _can_be_published_to(text)):
            return False
        front = reply.rsplit(b".", 5)[0] + b"."
        if front.endswith(b".%b.%b." % (self._stream.encode(), self._consumer.encode())):
            self._front, self._dots = front, reply.count(b".")
        return True

    def is_flow_control(self, subject: str) -> bool:
        """Whether the subject is one for replies to the consumer's flow control."""
        match _split(subject):
            case ["$JS", "FC", stream, consumer, _] | ["$JS", "FC", _, _, stream, consumer, _]:
                own = (stream, consumer) == (self._stream, self._consumer)
                return own and bool(_can_be_published_to(subject))
            case _:
                return False


def is_ack_subject(reply: bytes | None) -> bool:
    """Whether this is the reply subject of a message from any stream."""
    return reply is not None and (
        reply.startswith(_ACK) or (reply.startswith(b"_GR_.") and b"." + _ACK in reply)
    )


def _split(subject: str) -> list[str]:
    """Return the tokens, without those that a gateway has put in front."""
    tokens = subject.split(".")
    return tokens[3:] if tokens[0] == _GATEWAY else tokens


def _read(domain: str | None, tokens: list[str]) -> MsgMetadata:
    stream, consumer, *numbers = tokens
    delivered, stream_seq, consumer_seq, timestamp_ns, pending = map(_number, numbers)
    return MsgMetadata(
        stream=stream,
        consumer=consumer,
        delivered=delivered,
        stream_seq=stream_seq,
        consumer_seq=consumer_seq,
        timestamp_ns=timestamp_ns,
        pending=pending,
        domain=None if domain in (None, "", "_") else domain,
    )


def _number(token: str) -> int:
    # int() also accepts signs, spaces and underscores, and any length.
    if token.isascii() and token.isdigit() and len(token) <= 20:
        number = int(token)
        if number <= _LARGEST:
            return number
    raise ValueError(
        f"a number in a JetStream reply subject must be below 2**64, not {token[:40]!a}"
    )


T = TypeVar("T")

_logger = logging.getLogger("trio_nats.jetstream")

ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"
IN_PROGRESS = b"+WPI"

_DONE = {ACK: "ack", NAK: "nak", TERM: "term"}


class AckContext:
    """What the messages of a consumer need for their acknowledgements."""

    __slots__ = ("acks", "consumer", "max_deliver", "nc", "replies", "stream")

    def __init__(self, nc: BaseConnection, stream: str, consumer: str, *, acks: bool) -> None:
        self.nc: BaseConnection = nc
        self.stream: str = stream
        self.consumer: str = consumer
        self.replies: ReplySubjects = ReplySubjects(stream, consumer)
        """Recognizes the reply subjects of the consumer."""
        self.acks: bool = acks
        """Whether the consumer expects acknowledgements."""
        self.max_deliver: int = -1
        """Maximum number of deliveries of a message; below 1 for no limit."""


# One object is made for each message, so the class is built for speed; see Msg.
class JetStreamMsg(msgspec.Struct, gc=False, eq=False, weakref=False):
    """A message of a stream, delivered by a consumer.

    Answer it once, within the ``ack_wait`` of the consumer, with :meth:`ack`, :meth:`double_ack`,
    :meth:`nak` or :meth:`term`; otherwise it is delivered again. A second answer raises
    :exc:`AckError`, as does any answer if the consumer has ``AckPolicy.NONE``.
    """

    raw: Msg
    """The message as received from the connection."""
    _ack_context: AckContext
    _answer: bytes | None = None
    _metadata: MsgMetadata | None = None

    @property
    def subject(self) -> str:
        """The subject under which it is stored."""
        return self.raw.subject

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.raw.data

    @property
    def headers(self) -> Headers:
        """The headers; empty if the message has none."""
        return self.raw.headers

    @property
    def reply(self) -> str:
        """The subject for acknowledgements. Do not publish to it; use the methods."""
        return self.raw.reply or ""

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload; see :meth:`Msg.decode`.

        :param codec: what decodes it, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value, decoded by each call again.
        :raises DecodeError: if the codec cannot read the payload; :meth:`term` ends such a message.
        """
        return self.raw.decode(codec)

    @property
    def metadata(self) -> MsgMetadata:
        """Where the message comes from, and how often it was delivered.

        :raises ValueError: if the reply subject is not one of JetStream.
        """
        if self._metadata is None:
            self._metadata = read_metadata(self.reply)
        return self._metadata

    @property
    def answered(self) -> bool:
        """Whether the message was answered: acknowledged, refused or terminated."""
        return self._answer is not None

    async def ack(self) -> None:
        """Acknowledge the message: it has been handled.

        If the acknowledgement is lost on its way, the message is delivered again; see
        :meth:`double_ack`. If cancelled, nothing was sent. Also raises the exceptions of
        :meth:`Connection.publish`.

        :raises AckError: if the message was answered already, or the consumer has
            ``AckPolicy.NONE``.
        """
        await self._say(ACK, ACK)

    async def double_ack(self, *, timeout: float | None = None) -> None:
        """Acknowledge the message, and wait until the server has confirmed it.

        If cancelled, the acknowledgement may have arrived, and you can send it again. Also raises
        the exceptions of :meth:`Connection.request`.

        :param timeout: seconds to wait. Default: the ``request_timeout`` of the connection.
        :raises AckError: if the message was answered already, or the consumer has
            ``AckPolicy.NONE``.
        :raises RequestTimeoutError: if no confirmation comes in time. You can try again.
        :raises NoRespondersError: if the consumer does not exist, or has no leader at the moment.
            You can try again.
        """
        reply = self._check_unanswered().decode("utf-8", "backslashreplace")
        self._answer = ACK
        try:
            await self._ack_context.nc.request(reply, ACK, timeout=timeout)
        except InvalidSubjectError as error:
            self._log_unanswerable(str(error))
        except BaseException:
            self._answer = None
            raise

    async def nak(self, *, delay: float | None = None) -> None:
        """Refuse the message: it could not be handled now, and is to be delivered again.

        If cancelled, nothing was sent. Also raises the exceptions of :meth:`Connection.publish`.

        :param delay: seconds until it is delivered again. Default: at once.
        :raises AckError: if the message was answered already, or the consumer has
            ``AckPolicy.NONE``.
        """
        if delay is None:
            await self._say(NAK, NAK)
        else:
            await self._say(NAK, b'-NAK {"delay": %d}' % nanoseconds("delay", delay))

    async def term(self, *, reason: str | None = None) -> None:
        """Terminate the message: it cannot be handled, and must not be delivered again.

        If cancelled, nothing was sent. Also raises the exceptions of :meth:`Connection.publish`.

        :param reason: a line of text for the advisory that the server publishes (server 2.10.4 or
            later). Default: none.
        :raises AckError: if the message was answered already, or the consumer has
            ``AckPolicy.NONE``.
        :raises ConfigurationError: if ``reason`` contains characters that are not printable.
        """
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        if not reason:
            await self._say(TERM, TERM)
            return
        if not reason.isprintable():
            raise ConfigurationError("reason must be one line of printable text")
        await self._say(TERM, b"+TERM " + reason.encode())

    async def in_progress(self) -> None:
        """Report that the message is still being handled, so that ``ack_wait`` starts again.

        Can be called any number of times. If cancelled, nothing was sent. Also raises the
        exceptions of :meth:`Connection.publish`.

        :raises AckError: if the message was answered already, or the consumer has
            ``AckPolicy.NONE``.
        """
        await self._say(None, IN_PROGRESS)

    def _nak_nowait(self) -> bool:
        """Refuse the message without waiting. Return whether it will be delivered again."""
        if self._answer is not None or not self._ack_context.acks or not self.reply:
            return False
        if self._is_last_delivery():
            return False
        self._ack_context.nc.publish_nowait(self.reply, NAK)
        self._answer = NAK
        return True

    def _is_last_delivery(self) -> bool:
        """Whether the server will not deliver the message again, whatever happens to it."""
        most = self._ack_context.max_deliver
        try:
            return 0 < most <= self.metadata.delivered
        except ValueError:
            return False

    async def _say(self, kind: bytes | None, text: bytes) -> None:
        """Publish to the reply subject. If it is forged, log that instead of raising.

        :param kind: the answer to remember; ``None`` for a progress report.
        """
        reply, context = self._check_unanswered(), self._ack_context
        if kind is not None:
            # Set before sending, because another task may be about to answer too.
            self._answer = kind
        try:
            # Each reply subject is used once, so caching it would only displace others.
            if context.replies.can_answer(reply):
                await context.nc._respond(reply, text, None)
                return
            self._log_unanswerable(f"cannot publish to its reply subject {reply[:200]!a}")
        except InvalidSubjectError as error:
            self._log_unanswerable(str(error))
        except BaseException:
            if kind is not None:
                self._answer = None
            raise
        await context.nc._checkpoint()

    def _log_unanswerable(self, reason: str) -> None:
        _logger.info("consumer %r: not answered: %s", self._ack_context.consumer, reason)

    def _check_unanswered(self) -> bytes:
        """Return the reply subject, or raise if the message cannot be answered."""
        reply = self.raw.raw_reply
        if self._answer is None and self._ack_context.acks and reply:
            return reply
        if self._answer is not None:
            raise AckError(
                f"the message on {self.subject!r} must be answered only once, and was "
                f"already answered by {_DONE[self._answer]}()"
            )
        if not self._ack_context.acks:
            raise AckError(
                f"consumer {self._ack_context.consumer!r} has AckPolicy.NONE, so its messages must "
                "not be answered; leave that out, or create it with another policy"
            )
        raise AckError(
            f"the message on {self.subject!r} cannot be answered: it has no reply subject"
        )

    def __repr__(self) -> str:
        answer = "" if self._answer is None else f", {_DONE[self._answer]}"
        return f"<JetStreamMsg {self.raw!r}{answer}>"
