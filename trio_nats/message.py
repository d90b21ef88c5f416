"""Received messages."""

from __future__ import annotations

import logging
import re
from typing import Protocol, TypeVar, overload

import msgspec

from .codecs import Decoder, Encoder, Payload, decode_error, encoded
from .errors import InvalidSubjectError
from .headers import Headers, HeadersLike, Status, decode_headers, encode_headers

__all__ = ["Msg", "answer_by"]

T = TypeVar("T")

_logger = logging.getLogger("trio_nats.subscription")

# The API of JetStream, of a domain's too; not what answers messages of streams: $JS.ACK, $JS.FC.
_COMMAND = re.compile(rb"\$(?:JS\.(?:(?!(?:ACK|FC)\.)[^.]+\.)?API|SYS\.REQ)\.")


class Publisher(Protocol):
    """What a message is answered through: the connection that it arrived on."""

    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...

    async def _checkpoint(self) -> None: ...


# One is made per message received, so it is a C-level struct that keeps the wire's own bytes and
# decodes text only when asked. gc=False: a message can only be part of a cycle through a queue that
# its connection empties when it ends, and hundreds of thousands may be waiting in one, which the
# garbage collector would walk again and again.
class Msg(msgspec.Struct, gc=False, eq=False, weakref=False):
    """A received message.

    Two messages are equal only if they are the same object. To make one, in tests, use
    :meth:`Msg.new`.
    """

    raw_subject: bytes
    """The subject as bytes."""
    sid: bytes
    """The number of the subscription on the wire."""
    raw_reply: bytes | None
    """The subject for answers as bytes, or ``None``."""
    data: bytes
    """The payload."""
    raw_headers: bytes | None = None
    """The header block as bytes, or ``None``."""
    _origin: Publisher | None = None
    _headers: Headers | None = None

    @classmethod
    def new(
        cls,
        subject: str,
        data: bytes = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> Msg:
        """Make a message that was not received, to test code that takes messages.

        :param subject: the subject.
        :param data: the payload. Default: empty.
        :param reply: the subject for answers.
        :param headers: the headers.
        :returns: the message.
        """
        return cls(
            subject.encode(),
            b"0",
            None if reply is None else reply.encode(),
            data,
            None if headers is None else encode_headers(headers),
        )

    @property
    def subject(self) -> str:
        """The subject that the message was published to."""
        return self.raw_subject.decode("utf-8", "backslashreplace")

    @property
    def reply(self) -> str | None:
        """The subject for answers, or ``None`` if the sender wants no answer."""
        raw = self.raw_reply
        return None if raw is None else raw.decode("utf-8", "backslashreplace")

    @property
    def headers(self) -> Headers:
        """The headers; empty if there are none. See :class:`Headers`."""
        headers = self._headers
        if headers is None:
            raw = self.raw_headers
            headers = Headers() if raw is None else decode_headers(raw)[0]
            self._headers = headers
        return headers

    @property
    def status(self) -> Status | None:
        """The status in a message from the server itself, such as 503 for "no responders"."""
        raw = self.raw_headers
        return None if raw is None else decode_headers(raw)[1]

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload.

        :param codec: the codec, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value. Each call decodes it again.
        :raises DecodeError: if the codec cannot decode the payload. The message stays as it is.
        """
        try:
            return codec.decode(self.data)
        except Exception as error:
            raise decode_error(codec, f"the message on {self.subject!r}", error) from error

    @overload
    async def respond(
        self, payload: Payload = b"", *, headers: HeadersLike | None = None
    ) -> bool: ...
    @overload
    async def respond(
        self, payload: T, *, codec: Encoder[T], headers: HeadersLike | None = None
    ) -> bool: ...
    async def respond(
        self,
        payload: Payload | T = b"",
        codec: Encoder[T] | None = None,
        headers: HeadersLike | None = None,
    ) -> bool:
        """Publish an answer to the :attr:`reply` subject of this message.

        Nothing is sent, and nothing raised, if the sender wants no answer or named a reply subject
        that cannot be published to: one with a wildcard, one that is too long, or one of the API of
        JetStream or of the system, where the answer would be a command. So no message can end the
        loop that answers it.

        It also raises what :meth:`Connection.publish` raises for ``payload`` and ``headers``. If
        cancelled, the whole answer was sent or none of it.

        :param payload: bytes-like, text to be sent as UTF-8, or with ``codec`` a value that it
            encodes. Default: empty.
        :param codec: the codec for ``payload``; see :mod:`trio_nats.codecs`.
        :param headers: headers of the answer.
        :returns: whether an answer was sent.
        :raises ValueError: if the message was not received from a connection.
        """
        data = payload if type(payload) is bytes and codec is None else encoded(codec, payload)
        origin, reply = self._origin, self.raw_reply
        if not reply:
            if origin is not None:
                await origin._checkpoint()
            return False
        if origin is None:
            raise ValueError("this message was not received from a connection; cannot respond")
        try:
            subject = reply.decode()
            if subject[0] == "$" and is_command(reply):
                raise InvalidSubjectError("answers are no commands")
            await origin.publish(subject, data, headers=headers)
        except (InvalidSubjectError, UnicodeDecodeError):
            _logger.info(
                "no answer to a message on %a: its reply subject cannot be published to: %a",
                self.raw_subject[:80],
                reply[:80],
            )
            await origin._checkpoint()
            return False
        return True

    def __repr__(self) -> str:
        data = self.data if len(self.data) <= 64 else self.data[:61] + b"..."
        extra = "" if self.raw_headers is None else f", headers={_shorten(self.headers.pairs())}"
        return (
            f"Msg({self.subject!r}, {data!r}, reply={self.reply!r}, size={len(self.data)}{extra})"
        )


def is_command(reply: bytes) -> bool:
    """Return whether a message published to this reply subject is a command to the server."""
    return _COMMAND.match(reply) is not None


def _shorten(pairs: list[tuple[str, str]]) -> str:
    shown = ascii(pairs[:8])
    return shown if len(pairs) <= 8 and len(shown) <= 500 else f"{shown[:500]}... ({len(pairs)})"


def answer_by(msg: Msg, origin: Publisher) -> Msg:
    """Let ``msg`` be answered through another connection than the one it arrived on."""
    msg._origin = origin
    return msg
