"""Requests as handlers receive them, and errors in replies."""

from __future__ import annotations

from typing import TypeVar, overload

from .._constructors import NoPublicConstructor
from ..codecs import Decoder, Encoder, Payload, check_payload, encoded
from ..errors import DecodeError
from ..headers import Headers, HeadersLike
from ..message import Msg
from .errors import MAX_CODE, ServiceError

__all__ = ["ServiceRequest", "check_reply", "service_error"]

T = TypeVar("T")

_ERROR = "Nats-Service-Error"
_CODE = "Nats-Service-Error-Code"


def service_error(reply: Msg) -> ServiceError | None:
    """Return the error in the reply of a service, or ``None`` if it is not an error.

    :param reply: a reply, such as a :class:`Msg`.
    :returns: the error, or ``None``.
    """
    headers = reply.headers
    description, code = headers.get(_ERROR), headers.get(_CODE)
    if description is None and code is None:
        return None
    text = (code or "").strip()
    readable = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_CODE))
    return ServiceError(int(text) if readable else 0, description or "", reply.data)


def check_reply(reply: Msg) -> Msg:
    """Return the reply of a service, or raise the error in it.

    >>> from trio_nats import Msg
    >>> check_reply(Msg.new("inbox", b"3")).data
    b'3'

    :param reply: a reply, such as a :class:`Msg`.
    :returns: the reply itself.
    :raises ServiceError: if the reply is an error.
    """
    error = service_error(reply)
    if error is not None:
        raise error
    return reply


class ServiceRequest(
    metaclass=NoPublicConstructor, use="the one that an endpoint's handler is given"
):
    """A request to an endpoint, as passed to its handler.

    The handler responds by returning a payload. It may also call :meth:`respond`, any number of
    times for clients that use ``request_many``, and return ``None``. To respond with an error, it
    calls :meth:`respond_error` or raises :exc:`ServiceError`.
    """

    __slots__ = ("_failure", "_undecodable", "raw")

    def __init__(self, raw: Msg) -> None:
        self.raw: Msg = raw
        """The message itself."""
        # For the endpoint: the error that was sent, and the one that decode() raised.
        self._failure: ServiceError | None = None
        self._undecodable: DecodeError | None = None

    @property
    def subject(self) -> str:
        """The subject that the request was sent to."""
        return self.raw.subject

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.raw.data

    @property
    def headers(self) -> Headers:
        """The headers; empty if there are none."""
        return self.raw.headers

    @property
    def reply(self) -> str | None:
        """The reply subject, or ``None`` if the client expects no response."""
        return self.raw.reply

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload; see :meth:`Msg.decode`.

        :param codec: the codec, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value. Each call decodes it again.
        :raises DecodeError: if the codec cannot decode the payload. If the handler does not catch
            it, the response is error 400.
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
        """Send a response, if the client wants one; see :meth:`Msg.respond`.

        Raises what :meth:`Msg.respond` raises. If cancelled, the whole response was sent or none
        of it.

        :param payload: the response: bytes-like or text, or with ``codec`` a value that it encodes.
        :param codec: the codec for ``payload``; see :mod:`trio_nats.codecs`.
        :param headers: headers of the response.
        :returns: whether a response was sent.
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
        """Send an error as the response, if the client wants one. It counts as an error in the
        statistics.

        Otherwise like :meth:`respond`. If cancelled, the whole response was sent or none of it.

        :param code: a number, by convention that of an HTTP status.
        :param description: a text for people.
        :param data: the payload of the response. Default: empty.
        :param headers: headers of the response.
        :returns: whether a response was sent.
        :raises ConfigurationError: if ``code`` or ``description`` is invalid.
        """
        failure = ServiceError(code, description)
        check_payload("data", data)
        every = Headers(headers or ())
        every.update(failure.headers)
        self._failure = failure
        return await self.respond(data, headers=every)

    def __repr__(self) -> str:
        return f"ServiceRequest({self.raw!r})"
