"""Received messages."""

from __future__ import annotations

import logging
import re
import string
from typing import Protocol, TypeVar, overload

import msgspec

from .codecs import Decoder, Encoder, Payload, decode_error, encoded
from .errors import InvalidSubjectError
from .headers import Headers, HeadersLike, Status, decode_headers, encode_headers

__all__ = ["Msg", "respond_through"]

T = TypeVar("T")

_logger = logging.getLogger("trio_nats.subscription")

_SUBJECT = re.compile(rb"[^\x00-\x20\x7f.*>]+(?:\.[^\x00-\x20\x7f.*>]+)*")
# The JetStream API, including that of a domain, and requests to the server. $JS.ACK and $JS.FC do
# not match, because these are the reply subjects of messages from streams.
_COMMAND = re.compile(rb"\$(?:JS\.(?:(?!(?:ACK|FC)\.)[^.]+\.)?API|SYS\.REQ)\.")
_DOLLAR, _DOT = b"$."
_PLAIN = (string.ascii_letters + string.digits + "$._-").encode()


class Responder(Protocol):
    """The connection that a message was received from. Responses are published through it."""

    async def _respond(
        self, reply: bytes, payload: Payload, headers: HeadersLike | None
    ) -> None: ...

    async def _checkpoint(self) -> None: ...


# One is created for each received message. So it is a struct implemented in C, which keeps the
# bytes as received and decodes them on demand. With gc=False the garbage collector does not
# traverse queues of hundreds of thousands of messages again and again. A message can be part of a
# reference cycle only through such a queue, so the connection empties its queues when it ends. For
# the same reason, other objects of a connection, and tracebacks of its errors, must not keep
# messages.
class Msg(msgspec.Struct, gc=False, eq=False, weakref=False):
    """A received message.

    Two messages are equal only if they are the same object. In tests, make messages with
    :meth:`Msg.new`.
    """

    raw_subject: bytes
    """The subject, as received."""
    sid: bytes
    """The number of the subscription in the NATS protocol."""
    raw_reply: bytes | None
    """The reply subject, as received, or ``None``."""
    data: bytes
    """The payload."""
    raw_headers: bytes | None = None
    """The header block, as received, or ``None``."""
    _origin: Responder | None = None
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
        """Make a message, for tests of code that handles messages.

        :meth:`respond` raises :exc:`ValueError` if the message has a reply subject, because there
        is no connection.

        :param subject: the subject, which is not checked.
        :param data: the payload. Default: empty.
        :param reply: the reply subject. Default: none.
        :param headers: the headers. Default: none.
        :returns: the message.
        :raises InvalidHeaderError: if a header is not allowed.
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
        """The subject for replies, or ``None`` if the sender expects none."""
        raw = self.raw_reply
        return None if raw is None else raw.decode("utf-8", "backslashreplace")

    @property
    def headers(self) -> Headers:
        """The headers, which are empty if the message has none. See :class:`Headers`."""
        headers = self._headers
        if headers is None:
            raw = self.raw_headers
            headers = Headers() if raw is None else decode_headers(raw)[0]
            self._headers = headers
        return headers

    @property
    def status(self) -> Status | None:
        """The status of a message from the server itself, such as 503 for "no responders"."""
        raw = self.raw_headers
        return None if raw is None else decode_headers(raw)[1]

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload.

        :param codec: a codec such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value. Each call decodes the payload again.
        :raises DecodeError: if the codec cannot decode the payload. You can still use ``data``.
        :raises TypeError: if ``codec`` is not a codec.
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
        *,
        codec: Encoder[T] | None = None,
        headers: HeadersLike | None = None,
    ) -> bool:
        """Publish a response to the :attr:`reply` subject of this message.

        Nothing is sent, and nothing is raised, if the message has no reply subject or a bad one, so
        a sender cannot break the loop that responds to its messages. A reply subject is bad if it
        has a wildcard or is too long to publish to, or if it belongs to the API of JetStream or of
        the server, where the response would be a command.

        If cancelled, either the whole response was sent or nothing.

        :param payload: the payload, as for :meth:`Connection.publish`. Default: empty.
        :param codec: the codec that encodes ``payload``; see :mod:`trio_nats.codecs`.
        :param headers: the headers of the response. Default: none.
        :returns: whether the response was sent.
        :raises ValueError: if the message was not received from a connection.

        It also raises what :meth:`Connection.publish` raises for ``payload`` and ``headers``.
        """
        data = payload if type(payload) is bytes and codec is None else encoded(codec, payload)
        origin, reply = self._origin, self.raw_reply
        if not reply:
            if origin is not None:
                await origin._checkpoint()
            return False
        if origin is None:
            raise ValueError("cannot respond: this message was not received from a connection")
        if can_respond_to(reply):
            try:
                await origin._respond(reply, data, headers)
                return True
            except InvalidSubjectError:  # longer than the server allows
                pass
        _logger.info(
            "not responding to a message on %a: cannot publish to its reply subject %a",
            self.raw_subject[:80],
            reply[:80],
        )
        await origin._checkpoint()
        return False

    def __repr__(self) -> str:
        data = self.data if len(self.data) <= 64 else self.data[:61] + b"..."
        extra = "" if self.raw_headers is None else f", headers={_shorten(self.headers.pairs())}"
        return (
            f"Msg({self.subject!r}, {data!r}, reply={self.reply!r}, size={len(self.data)}{extra})"
        )


def can_respond_to(reply: bytes) -> bool:
    """Return whether a reply subject can be published to without being a command to the server."""
    if reply.translate(None, _PLAIN):
        # Regular expressions take longer; most reply subjects are plain.
        if not (_SUBJECT.fullmatch(reply) and _is_utf8(reply)):
            return False
    elif reply[0] == _DOT or reply[-1] == _DOT or b".." in reply:
        return False
    return reply[0] != _DOLLAR or _COMMAND.match(reply) is None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shorten(pairs: list[tuple[str, str]]) -> str:
    shown = ascii(pairs[:8])
    return shown if len(pairs) <= 8 and len(shown) <= 500 else f"{shown[:500]}... ({len(pairs)})"


def respond_through(msg: Msg, origin: Responder) -> Msg:
    """Make a message respond through ``origin``, and return it."""
    msg._origin = origin
    return msg
