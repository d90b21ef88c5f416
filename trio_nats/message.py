"""A received message."""

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
    """What a message answers through: the connection it came in on."""

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
    """A message as it arrived.

    ``data`` is the payload as ``bytes``. Two messages are equal only if they are the same object.
    Build one yourself, in tests, with :meth:`Msg.new`.
    """

    raw_subject: bytes
    """The subject as it was on the wire."""
    sid: bytes
    """The wire's number of the subscription it was sent to."""
    raw_reply: bytes | None
    data: bytes
    """The payload."""
    raw_headers: bytes | None = None
    """The header block as it was on the wire, or ``None``."""
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
        """A message that never was on a wire, for the tests of code that takes messages."""
        return cls(
            subject.encode(),
            b"0",
            None if reply is None else reply.encode(),
            data,
            None if headers is None else encode_headers(headers),
        )

    @property
    def subject(self) -> str:
        """The subject it was published to."""
        return self.raw_subject.decode("utf-8", "backslashreplace")

    @property
    def reply(self) -> str | None:
        """The subject to answer to, if the sender wants an answer."""
        raw = self.raw_reply
        return None if raw is None else raw.decode("utf-8", "backslashreplace")

    @property
    def headers(self) -> Headers:
        """The headers; empty when the message came without. See :class:`Headers`."""
        headers = self._headers
        if headers is None:
            raw = self.raw_headers
            headers = Headers() if raw is None else decode_headers(raw)[0]
            self._headers = headers
        return headers

    @property
    def status(self) -> Status | None:
        """The status of a message the server itself made, such as 503 for "no responders"."""
        raw = self.raw_headers
        return None if raw is None else decode_headers(raw)[1]

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload.

        :param codec: what decodes it, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value, decoded by each call again.
        :raises DecodeError: if the codec cannot read the payload. The message stays as it is.
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
        """Publish ``payload`` to this message's :attr:`reply` subject.

        The sender may have asked for no answer, or named a reply subject that nothing
        can be published to: one with a wildcard, say, or too long for a line of the protocol; or
        one of the API of JetStream or the system, at which the answer would be a command. Then
        nothing is sent and nothing raised, so no message ends the loop that answers it.

        :param payload: the answer: bytes-like or text, or with ``codec`` whatever that encodes.
        :param codec: what encodes ``payload``; see :mod:`trio_nats.codecs`.
        :param headers: the answer's headers.
        :returns: whether an answer was sent.
        :raises ValueError: if the message was not received from a connection.

        It also raises what :meth:`Connection.publish` raises for ``payload`` and ``headers``. If
        cancelled, it has sent all of the answer or none.
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
    """Whether what is published to this reply subject is a command to the server."""
    return _COMMAND.match(reply) is not None


def _shorten(pairs: list[tuple[str, str]]) -> str:
    shown = ascii(pairs[:8])
    return shown if len(pairs) <= 8 and len(shown) <= 500 else f"{shown[:500]}... ({len(pairs)})"


def answer_by(msg: Msg, origin: Publisher) -> Msg:
    """Let ``msg`` be answered by another connection than the one it came by."""
    msg._origin = origin
    return msg
