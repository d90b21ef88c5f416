"""Messages that a consumer delivers, and what can be answered to them (ADR-15)."""

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
from ...message import Msg
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


class MsgMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message comes from, and how often it came."""

    stream: str
    """Name of the stream."""
    consumer: str
    """Name of the consumer."""
    delivered: int
    """How many times it has been delivered, this time included."""
    stream_seq: int
    """Its number in the stream."""
    consumer_seq: int
    """The number of this delivery among all of the consumer."""
    timestamp_ns: int
    """When the stream took it, in nanoseconds since 1970 (UTC)."""
    pending: int
    """How many messages the consumer has not been sent yet."""
    domain: str | None = None
    """The JetStream domain, if there is one."""

    @property
    def timestamp(self) -> datetime:
        """When the stream took it, in UTC; to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.timestamp_ns // 1000)


def read_metadata(reply: str) -> MsgMetadata:
    """What a reply subject says. Raises :exc:`ValueError` if it is not one of JetStream's."""
    tokens = _split(reply)
    if tokens[:2] == ["$JS", "ACK"]:
        if len(tokens) == 9:
            return _read(None, tokens[2:])
        if len(tokens) >= 11:
            return _read(tokens[2], tokens[4:11])
    raise ValueError(f"{reply[:200]!a} is not the reply subject of a JetStream message")


class ReplySubjects:
    """Recognises the reply subjects of one consumer."""

    __slots__ = ("_consumer", "_dots", "_front", "_stream")

    def __init__(self, stream: str, consumer: str) -> None:
        self._stream = stream
        self._consumer = consumer
        # What the last acknowledgement began with, up to the numbers.
        self._front = b"$JS.ACK.%b.%b." % (stream.encode(), consumer.encode())
        self._dots = 8

    def is_ack(self, reply: bytes | None) -> bool:
        """Whether a message with this reply subject is one that the consumer has delivered."""
        if reply is None:
            return False
        # Asked for each message. Whose it is matters; the numbers are for those who read them.
        if reply.startswith(self._front) and reply.count(b".") == self._dots:
            return True
        return self._is_other_ack(reply)

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
        """Whether it is where the consumer is told that messages have been dealt with."""
        match _split(subject):
            case ["$JS", "FC", stream, consumer, _] | ["$JS", "FC", _, _, stream, consumer, _]:
                own = (stream, consumer) == (self._stream, self._consumer)
                return own and bool(_can_be_published_to(subject))
            case _:
                return False


def is_ack_subject(reply: bytes | None) -> bool:
    """Whether a message with this reply subject comes out of a stream, whichever."""
    return reply is not None and (
        reply.startswith(_ACK) or (reply.startswith(b"_GR_.") and b"." + _ACK in reply)
    )


def _split(subject: str) -> list[str]:
    """The tokens, without those that a gateway has put in front."""
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
    # int() takes signs, spaces and underscores too, and any length.
    if token.isascii() and token.isdigit() and len(token) <= 20:
        number = int(token)
        if number <= _LARGEST:
            return number
    raise ValueError(f"{token[:40]!a} is not a number of JetStream's")


T = TypeVar("T")

_logger = logging.getLogger("trio_nats.jetstream")

ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"
IN_PROGRESS = b"+WPI"

_DONE = {ACK: "ack", NAK: "nak", TERM: "term"}


class AckContext:
    """Where the answers to a consumer's messages go."""

    __slots__ = ("acks", "consumer", "nc", "replies")

    def __init__(self, nc: BaseConnection, stream: str, consumer: str, *, acks: bool) -> None:
        self.nc: BaseConnection = nc
        self.consumer: str = consumer
        self.replies: ReplySubjects = ReplySubjects(stream, consumer)
        """The subjects that messages may ask to be answered at."""
        self.acks: bool = acks
        """Whether the consumer wants any."""


# One is made for each message, as Msg is, and for the same reasons.
class JetStreamMsg(msgspec.Struct, gc=False, eq=False, weakref=False):
    """A message of a stream, delivered by a consumer.

    Answer it once, within the consumer's ``ack_wait``, by :meth:`ack`, :meth:`double_ack`,
    :meth:`nak` or :meth:`term`; otherwise it is delivered again. A second answer raises
    :exc:`AckError`, and so does any answer if the consumer has ``AckPolicy.NONE``.
    """

    raw: Msg
    """The message as it came."""
    _ack_context: AckContext
    _answer: bytes | None = None
    _metadata: MsgMetadata | None = None

    @property
    def subject(self) -> str:
        """The subject it is stored under."""
        return self.raw.subject

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.raw.data

    @property
    def headers(self) -> Headers:
        """The headers; empty when the message has none."""
        return self.raw.headers

    @property
    def reply(self) -> str:
        """Where answers go. What is published there is one, so leave that to the methods."""
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
        """Where it comes from, and how often it came.

        Raises :exc:`ValueError` if its reply subject, which says it all, is none of JetStream's.
        """
        if self._metadata is None:
            self._metadata = read_metadata(self.reply)
        return self._metadata

    @property
    def answered(self) -> bool:
        """Whether it was acknowledged, or otherwise done with."""
        return self._answer is not None

    async def ack(self) -> None:
        """Acknowledge the message: it has been handled.

        Should the acknowledgement be lost on its way, the message is delivered again; see
        :meth:`double_ack`. If cancelled, nothing was sent.

        :raises AckError: if the message was answered already, or needs no answer.

        Raises what :meth:`Connection.publish` raises, too.
        """
        await self._say(ACK, ACK)

    async def double_ack(self, *, timeout: float | None = None) -> None:
        """Acknowledge the message, and wait until the server has confirmed it.

        If cancelled, the acknowledgement may have arrived or not, and can be sent again.

        :param timeout: seconds to wait, by default the connection's ``request_timeout``.
        :raises AckError: if the message was answered already, or needs no answer.
        :raises RequestTimeoutError: if no confirmation comes in time. You can try again.
        :raises NoRespondersError: if there is no consumer to confirm it. You can try again.

        Raises what :meth:`Connection.request` raises, too.
        """
        await self._say(ACK, ACK, confirm=True, timeout=timeout)

    async def nak(self, *, delay: float | None = None) -> None:
        """Have the message delivered again: it could not be handled.

        If cancelled, nothing was sent.

        :param delay: seconds until it is delivered again, by default none.
        :raises AckError: if the message was answered already, or needs no answer.

        Raises what :meth:`Connection.publish` raises, too.
        """
        if delay is None:
            await self._say(NAK, NAK)
        else:
            await self._say(NAK, b'-NAK {"delay": %d}' % nanoseconds("delay", delay))

    async def term(self, *, reason: str | None = None) -> None:
        """Never have the message delivered again: it cannot be handled.

        If cancelled, nothing was sent.

        :param reason: a line of text for the advisory that the server publishes about it (server
            2.10.4 or later).
        :raises AckError: if the message was answered already, or needs no answer.

        Raises what :meth:`Connection.publish` raises, too.
        """
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        if not reason:
            await self._say(TERM, TERM)
            return
        if not reason.isprintable():
            raise ConfigurationError("reason must be a line of printable text")
        await self._say(TERM, b"+TERM " + reason.encode())

    async def in_progress(self) -> None:
        """It is being dealt with: ``ack_wait`` starts again. Can be said any number of times.

        Raises :exc:`AckError` if it was answered already, or needs no answer, and what
        :meth:`Connection.publish` raises. If cancelled, nothing was sent.
        """
        try:
            await self._ack_context.nc.publish(self._where(), IN_PROGRESS)
        except InvalidSubjectError as error:
            self._log_unanswerable(error)

    def _nak_nowait(self) -> bool:
        """Have it delivered again, where that can be said at once. Whether it could."""
        if self._answer is not None or not self._ack_context.acks or not self.reply:
            return False
        self._ack_context.nc.publish_nowait(self.reply, NAK)
        self._answer = NAK
        return True

    async def _say(
        self, kind: bytes, text: bytes, *, confirm: bool = False, timeout: float | None = None
    ) -> None:
        reply = self._where()
        # Before it is sent, for another task may be about to answer it too.
        self._answer = kind
        try:
            if confirm:
                await self._ack_context.nc.request(reply, text, timeout=timeout)
            else:
                await self._ack_context.nc.publish(reply, text)
        except InvalidSubjectError as error:
            self._log_unanswerable(error)
        except BaseException:
            self._answer = None
            raise

    def _log_unanswerable(self, error: InvalidSubjectError) -> None:
        """Not from a server. A forged reply subject must not end the loop that answers messages."""
        _logger.info("consumer %r: not answered: %s", self._ack_context.consumer, str(error))

    def _where(self) -> str:
        if self._answer is not None:
            raise AckError(
                f"the message on {self.subject!r} was answered already, by "
                f"{_DONE[self._answer]}(); a message is answered once"
            )
        if not self._ack_context.acks:
            raise AckError(
                f"consumer {self._ack_context.consumer!r} has AckPolicy.NONE: a delivery counts as "
                "acknowledged, so leave that out, or create it with another policy"
            )
        reply = self.raw.reply
        if not reply:
            raise AckError(f"the message on {self.subject!r} has no reply subject to answer to")
        return reply

    def __repr__(self) -> str:
        answer = "" if self._answer is None else f", {_DONE[self._answer]}"
        return f"<JetStreamMsg {self.raw!r}{answer}>"
