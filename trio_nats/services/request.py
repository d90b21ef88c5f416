"""What handlers are given, and what their answers look like to who asked."""

from __future__ import annotations

from typing import TypeVar, overload

from ..codecs import Decoder, Encoder, Payload, encoded
from ..errors import DecodeError
from ..headers import Headers, HeadersLike
from ..message import Msg
from .errors import ServiceError

__all__ = ["ServiceRequest", "check_reply", "service_error"]

T = TypeVar("T")

_ERROR = "Nats-Service-Error"
_CODE = "Nats-Service-Error-Code"
_MAX_DIGITS = 9


def service_error(reply: Msg) -> ServiceError | None:
    """The error that a service has answered with, if ``reply`` is one."""
    headers = reply.headers
    description, code = headers.get(_ERROR), headers.get(_CODE)
    if description is None and code is None:
        return None
    text = (code or "").strip()
    readable = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return ServiceError(int(text) if readable else 0, description or "", reply.data)


def check_reply(reply: Msg) -> Msg:
    """``reply`` itself, or the :exc:`ServiceError` that it is, raised.

    >>> from trio_nats import Msg
    >>> check_reply(Msg.new("inbox", b"3")).data
    b'3'
    """
    error = service_error(reply)
    if error is not None:
        raise error
    return reply


class ServiceRequest:
    """A request to an endpoint, as its handler gets it.

    What the handler returns is the answer, unless it is ``None``. It may also answer by
    :meth:`respond`, as often as it likes, for those who ask with ``request_many``; and with an
    error, by :meth:`respond_error` or by raising :exc:`ServiceError`.
    """

    __slots__ = ("_failure", "_undecodable", "raw")

    def __init__(self, raw: Msg) -> None:
        self.raw: Msg = raw
        """The message itself."""
        # For the endpoint: the error it was answered with, and why it could not be decoded.
        self._failure: ServiceError | None = None
        self._undecodable: DecodeError | None = None

    @property
    def subject(self) -> str:
        """The subject it was sent to."""
        return self.raw.subject

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.raw.data

    @property
    def headers(self) -> Headers:
        """The headers; empty when it came without."""
        return self.raw.headers

    @property
    def reply(self) -> str | None:
        """The subject that answers go to; ``None`` if none is wanted, and none is sent then."""
        return self.raw.reply

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload; see :meth:`Msg.decode`.

        :param codec: what decodes it, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value, decoded by each call again.
        :raises DecodeError: if the codec cannot read the payload. If the handler lets it pass, the
            answer is error 400.
        """
        try:
            return self.raw.decode(codec)
        except DecodeError as error:
            self._undecodable = error
            raise

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
        """Answer, if an answer is wanted; see :meth:`Msg.respond`.

        :param payload: the answer: bytes-like or text, or with ``codec`` whatever that encodes.
        :param codec: what encodes ``payload``; see :mod:`trio_nats.codecs`.
        :param headers: the answer's headers.
        :returns: whether an answer was sent.

        Raises what :meth:`Msg.respond` raises. If cancelled, it has sent all of the answer or none.
        """
        return await self.raw.respond(encoded(codec, payload), headers=headers)

    async def respond_error(
        self,
        code: int,
        description: str,
        data: Payload = b"",
        *,
        headers: HeadersLike | None = None,
    ) -> bool:
        """Answer with an error: a number, by custom one of HTTP's, and a text for people.

        It counts as an error in the statistics. Returns whether an answer was sent. Raises
        :exc:`ConfigurationError` for what is no code or description, and otherwise what
        :meth:`respond` raises.
        """
        failure = ServiceError(code, description)
        every = Headers(headers or ())
        every.update(failure.headers)
        self._failure = failure
        return await self.respond(data, headers=every)

    def __repr__(self) -> str:
        return f"ServiceRequest({self.raw!r})"
