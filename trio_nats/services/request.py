"""What handlers are given, and what their answers look like to who asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar, cast, overload

from ..codecs import BytesCodec, Decoder, Encoder, encode
from ..errors import DecodeError
from ..headers import Headers, HeadersLike
from ..message import Msg, Payload
from .errors import ServiceError

__all__ = ["ServiceRequest", "TypedRequest", "check_reply", "service_error"]

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")

_ERROR = "Nats-Service-Error"
_CODE = "Nats-Service-Error-Code"
_MAX_DIGITS = 9

_UNDECODED = object()


class _Reply(Protocol):
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def data(self) -> bytes: ...


M = TypeVar("M", bound=_Reply)


def service_error(reply: _Reply) -> ServiceError | None:
    """The error that a service has answered with, if ``reply`` is one; a :class:`Msg`, say."""
    headers = reply.headers
    description, code = headers.get(_ERROR), headers.get(_CODE)
    if description is None and code is None:
        return None
    text = (code or "").strip()
    readable = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return ServiceError(int(text) if readable else 0, description or "", reply.data)


def check_reply(reply: M) -> M:
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

    __slots__ = ("failure", "raw", "undecodable")

    def __init__(self, raw: Msg) -> None:
        self.raw: Msg = raw
        """The message itself."""
        self.failure: ServiceError | None = None
        """The error it was answered with, if it was."""
        self.undecodable: DecodeError | None = None
        """Why there is no value in it, if it should have one."""

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

    async def respond(self, payload: Payload = b"", *, headers: HeadersLike | None = None) -> bool:
        """Answer, if an answer is wanted.

        Returns whether one was sent, see :meth:`Msg.respond`. Raises what that one raises. If
        cancelled, it has sent all of the answer or none.
        """
        return await self.raw.respond(payload, headers=headers)

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
        self.failure = failure
        return await self.respond(data, headers=every)

    def __repr__(self) -> str:
        return f"ServiceRequest({self.raw!r})"


class TypedRequest(Generic[T, R]):
    """A :class:`ServiceRequest` with a value in it, to be answered with a value.

    It is what handlers get from an endpoint with codecs.
    """

    __slots__ = ("_decoder", "_encoder", "_value", "raw")

    def __init__(
        self, raw: ServiceRequest, decoder: Decoder[T] | None, encoder: Encoder[R]
    ) -> None:
        self.raw: ServiceRequest = raw
        """The request as it came."""
        # Without a decoder T is bytes, as the overloads of add_endpoint have it.
        self._decoder = cast("Decoder[T]", BytesCodec()) if decoder is None else decoder
        self._encoder = encoder
        self._value: object = _UNDECODED

    @property
    def value(self) -> T:
        """The value.

        Raises :exc:`DecodeError` if the data is none the codec can read; if the handler lets it
        pass, the answer is error 400.
        """
        if self._value is _UNDECODED:
            try:
                self._value = self._decoder.decode(self.raw.data)
            except Exception as error:
                self.raw.undecodable = undecodable = DecodeError(
                    f"{self._decoder!r} cannot decode the request to {self.subject!r}: {error}"
                )
                raise undecodable from error
        return cast("T", self._value)

    @property
    def subject(self) -> str:
        """The subject it was sent to."""
        return self.raw.subject

    @property
    def data(self) -> bytes:
        """The payload as it came."""
        return self.raw.data

    @property
    def headers(self) -> Headers:
        """The headers; empty when it came without."""
        return self.raw.headers

    @property
    def reply(self) -> str | None:
        """The subject that answers go to; ``None`` if none is wanted, and none is sent then."""
        return self.raw.reply

    @overload
    async def respond(self, value: R, *, headers: HeadersLike | None = None) -> bool: ...
    @overload
    async def respond(
        self, value: P, *, codec: Encoder[P], headers: HeadersLike | None = None
    ) -> bool: ...
    async def respond(
        self,
        value: R | P,
        *,
        codec: Encoder[P] | None = None,
        headers: HeadersLike | None = None,
    ) -> bool:
        """Answer with a value, encoded by ``codec``: unless given, the endpoint's own.

        Returns whether an answer was sent. Raises :exc:`EncodeError`, and what
        :meth:`ServiceRequest.respond` raises.
        """
        encoder = cast("Encoder[R | P]", self._encoder if codec is None else codec)
        return await self.raw.respond(encode(encoder, value), headers=headers)

    async def respond_error(
        self,
        code: int,
        description: str,
        data: Payload = b"",
        *,
        headers: HeadersLike | None = None,
    ) -> bool:
        """See :meth:`ServiceRequest.respond_error`."""
        return await self.raw.respond_error(code, description, data, headers=headers)

    def __repr__(self) -> str:
        return f"TypedRequest({self.raw.raw!r}, {self._decoder!r})"
