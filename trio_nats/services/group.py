"""Groups of endpoints: what their subjects begin with, and how endpoints come to be."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import EllipsisType
from typing import Protocol, TypeAlias, TypeVar, cast, overload

from ..codecs import Codec, Decoder, Encoder, check_decoder
from ..connection_base import BaseConnection
from ..errors import ConfigurationError
from ..message import Payload
from ..options import PendingLimits, check_callable, check_count
from ..subjects import check_filter, check_queue
from .endpoint import Call, Endpoint
from .request import ServiceRequest, TypedRequest
from .schemas import PREFIX, check_metadata, check_name

__all__ = ["DEFAULT_CONCURRENCY", "Handler", "Host", "ServiceGroup", "TypedHandler"]

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A", bound=Callable[..., object])
H = TypeVar("H", bound=Callable[[ServiceRequest], Awaitable[Payload | None]])

Handler: TypeAlias = Callable[[ServiceRequest], Awaitable[Payload | None]]
"""Answers a request by what it returns, or otherwise: see :class:`ServiceRequest`."""
TypedHandler: TypeAlias = Callable[[TypedRequest[T, R]], Awaitable[R | None]]
"""The same with values: see :class:`TypedRequest`."""

DEFAULT_CONCURRENCY = 16


class Host(Protocol):
    """What endpoints are added to: the service."""

    nc: BaseConnection

    def adopt(self, endpoint: Endpoint) -> None:
        """Add it now, and subscribe soon."""
        ...

    async def start(self, endpoint: Endpoint) -> None:
        """Add it and subscribe."""
        ...


class ServiceGroup:
    """Endpoints whose subjects begin alike; made by :meth:`group`. The service itself is one too.

    What is said here about endpoints holds for those of a service as well.
    """

    def __init__(self, host: Host, prefix: str, queue: str | None) -> None:
        self._host = host
        self._prefix = prefix
        self._queue = queue

    @property
    def prefix(self) -> str:
        """What the subjects of its endpoints begin with; empty for the service itself."""
        return self._prefix

    @property
    def queue(self) -> str | None:
        """The queue group of its endpoints, unless they have another; ``None``: none."""
        return self._queue

    def group(self, name: str, *, queue: str | EllipsisType | None = ...) -> ServiceGroup:
        """A group within this one: its subjects begin with this one's prefix, a dot and ``name``.

        ``name`` may have several tokens; it is not part of any endpoint's name. ``queue`` is the
        queue group of its endpoints, ``None`` for none; by default it is this one's.

        Raises :exc:`InvalidSubjectError`, and :exc:`ConfigurationError` for a name with ``>``.
        """
        if name != "":
            check_filter(name)
            if ">" in name:
                raise ConfigurationError(f"group name {name!a}: nothing can follow '>'")
        return ServiceGroup(self._host, self._subject(name), self._checked_queue(queue))

    # --- endpoints -------------------------------------------------------------------------------

    @overload
    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
    ) -> Callable[[H], H]: ...
    @overload
    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Codec[T],
    ) -> Callable[[TypedHandler[T, T]], TypedHandler[T, T]]: ...
    @overload
    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Decoder[T],
        reply_codec: Encoder[R],
    ) -> Callable[[TypedHandler[T, R]], TypedHandler[T, R]]: ...
    @overload
    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        reply_codec: Encoder[R],
    ) -> Callable[[TypedHandler[bytes, R]], TypedHandler[bytes, R]]: ...
    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Decoder[T] | None = None,
        reply_codec: Encoder[R] | None = None,
    ) -> Callable[[A], A]:
        """:meth:`add_endpoint` as a decorator, which leaves the handler as it is.

        .. code-block:: python

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

        Used before the service is entered, entering subscribes. Used later it subscribes by itself,
        but only after a while: use :meth:`add_endpoint` where what follows relies on it.
        """

        def decorate(handler: A) -> A:
            call = _call(name, handler, codec, reply_codec)
            self._host.adopt(self._made(name, call, subject, queue, metadata, concurrency, pending))
            return handler

        return decorate

    @overload
    async def add_endpoint(
        self,
        name: str,
        handler: Handler,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
    ) -> Endpoint: ...
    @overload
    async def add_endpoint(
        self,
        name: str,
        handler: TypedHandler[T, T],
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Codec[T],
    ) -> Endpoint: ...
    @overload
    async def add_endpoint(
        self,
        name: str,
        handler: TypedHandler[T, R],
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Decoder[T],
        reply_codec: Encoder[R],
    ) -> Endpoint: ...
    @overload
    async def add_endpoint(
        self,
        name: str,
        handler: TypedHandler[bytes, R],
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        reply_codec: Encoder[R],
    ) -> Endpoint: ...
    async def add_endpoint(
        self,
        name: str,
        handler: Handler | TypedHandler[T, R],
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending: PendingLimits | None = None,
        codec: Decoder[T] | None = None,
        reply_codec: Encoder[R] | None = None,
    ) -> Endpoint:
        """Have ``handler`` called with each request to a subject. There is no removing it again.

        Returns once it is subscribed; in a service that is not entered yet, entering does that.

        :param name: letters, digits, ``-`` and ``_``; several endpoints may have the same.
        :param handler: an async function of a :class:`ServiceRequest`. What it returns is the
            answer, unless it is ``None``. What it raises is answered by an error: a
            :exc:`ServiceError` as it is, anything else is logged, and only the name of its type is
            sent, with code 500.
        :param subject: the rest of the subject after the group's prefix, wildcards allowed.
            Default: ``name``.
        :param queue: the queue group, of whose members one gets each request; ``None``: none, so
            that all do. Default: the group's.
        :param metadata: shown to who asks for INFO; 128 KiB at most.
        :param concurrency: the most requests handled at the same time, each in a
            task of its own. With 1 they are handled in the order they arrive.
        :param pending: limits on what may wait, see :class:`PendingLimits`; default: the
            connection's.
        :param codec: decodes the requests, so that the handler gets a :class:`TypedRequest`, and
            encodes the answers unless ``reply_codec`` does.
        :param reply_codec: encodes the answers.

        Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be, and
        :exc:`trio.ClosedResourceError` when the service, or the connection, is ending. Cancelled,
        nothing is added.
        """
        call = _call(name, handler, codec, reply_codec)
        endpoint = self._made(name, call, subject, queue, metadata, concurrency, pending)
        await self._host.start(endpoint)
        return endpoint

    def _made(
        self,
        name: str,
        call: Call,
        subject: str | None,
        queue: str | EllipsisType | None,
        metadata: Mapping[str, str] | None,
        concurrency: int,
        pending: PendingLimits | None,
    ) -> Endpoint:
        check_name("endpoint", name)
        rest = name if subject is None else subject
        check_filter(rest)  # first, so that the error is not about the whole
        whole = self._subject(rest)
        sub = self._host.nc.subscribe(whole, queue=self._checked_queue(queue), pending=pending)
        check_count("concurrency", concurrency, 1)
        return Endpoint(name, sub, check_metadata(metadata), concurrency, call)

    def _subject(self, rest: str) -> str:
        whole = ".".join(filter(None, (self._prefix, rest)))
        if f"{whole}.".startswith(f"{PREFIX}."):
            raise ConfigurationError(f"{whole[:80]!a}: {PREFIX} is for the monitoring of services")
        return whole

    def _checked_queue(self, queue: str | EllipsisType | None) -> str | None:
        if isinstance(queue, EllipsisType):
            return self._queue
        return checked_queue(queue)

    def __repr__(self) -> str:
        return f"<ServiceGroup {self._prefix!r}>"


def checked_queue(queue: str | None) -> str | None:
    """``queue`` if it is a queue group's name, or none."""
    if queue == "":
        raise ConfigurationError(
            "the queue group's name must not be empty; for no queue group use None"
        )
    if queue is not None:
        check_queue(queue)
    return queue


def _call(
    name: str,
    handler: Callable[..., object],
    codec: Decoder[T] | None,
    reply_codec: Encoder[R] | None,
) -> Call:
    """What runs ``handler`` and sends what it returns."""
    check_callable("handler", handler)
    if handler is None or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(
            "handler is an async function that returns the answer, or calls request.respond()"
        )
    if codec is None and reply_codec is None:

        async def untyped(request: ServiceRequest) -> None:
            answer = await _awaitable(name, cast("Handler", handler)(request))
            if answer is not None:
                await request.respond(answer)

        return untyped
    decoder = None if codec is None else check_decoder("codec", codec)
    # The overloads see to it that a codec alone works both ways.
    encoder = cast("Encoder[R]", codec) if reply_codec is None else reply_codec
    if not callable(getattr(encoder, "encode", None)):
        which = "codec" if reply_codec is None else "reply_codec"
        raise ConfigurationError(
            f"{which} has no encode method, to encode the answers with: {type(encoder).__name__}"
        )

    async def typed(request: ServiceRequest) -> None:
        with_values = TypedRequest(request, decoder, encoder)
        answer = await _awaitable(name, cast("TypedHandler[T, R]", handler)(with_values))
        if answer is not None:
            await with_values.respond(answer)

    return typed


def _awaitable(name: str, result: Awaitable[T]) -> Awaitable[T]:
    if not hasattr(result, "__await__"):
        kind = type(result).__name__
        raise TypeError(f"the handler of endpoint {name!r} is not async: calling it gave {kind}")
    return result
