"""Groups of endpoints, and how to add endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Protocol, TypeVar

import trio

from .._constructors import NoPublicConstructor, construct
from ..errors import ConfigurationError
from ..options import PendingLimits, check_count
from ..subjects import check_filter, check_queue
from .endpoint import Endpoint, EndpointOwner, Handler, check_handler
from .schemas import PREFIX, check_metadata, check_name

__all__ = ["DEFAULT_CONCURRENCY", "Host", "ServiceGroup"]

H = TypeVar("H", bound=Handler)

DEFAULT_CONCURRENCY = 16


class Host(EndpointOwner, Protocol):
    """The service, as groups use it."""

    _endpoints: list[Endpoint]

    def _adopt(self, endpoint: Endpoint) -> None:
        """Add the endpoint now, and subscribe soon."""
        ...

    async def _add(self, endpoint: Endpoint) -> None:
        """Add the endpoint and subscribe."""
        ...


class ServiceGroup(metaclass=NoPublicConstructor, use="service.group()"):
    """Endpoints whose subjects share a prefix; made by :meth:`group`. The service itself is one,
    too.

    Groups of a service with the same prefix have the same endpoints.
    """

    def __init__(self, host: Host, prefix: str, queue: str | None) -> None:
        self._host = host
        self._prefix = prefix
        self._queue = queue

    @property
    def prefix(self) -> str:
        """The prefix of the subjects of its endpoints; empty for the service itself."""
        return self._prefix

    @property
    def queue(self) -> str | None:
        """The default queue group of its endpoints, or ``None``."""
        return self._queue

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints that were added to it and to groups within it, except removed ones.

        Endpoints that stopped with the service are still listed.
        """
        return tuple(endpoint for endpoint in self._members() if not endpoint._removed)

    def _members(self) -> list[Endpoint]:
        """Return its endpoints, including those that are stopping."""
        prefix = f"{self._prefix}." if self._prefix else ""
        endpoints = self._host._endpoints
        return [endpoint for endpoint in endpoints if f"{endpoint._prefix}.".startswith(prefix)]

    def group(self, name: str, *, queue: str | EllipsisType | None = ...) -> ServiceGroup:
        """Make a group within this one.

        :param name: appended to the prefix of this group with a dot. May have several tokens; it is
            not part of the names of endpoints.
        :param queue: the queue group of its endpoints, or ``None`` for none. Default: that of this
            group.
        :returns: the group.
        :raises InvalidSubjectError: if ``name`` or ``queue`` is not allowed.
        :raises ConfigurationError: if ``name`` contains ``>``.
        """
        if not isinstance(name, str):
            raise TypeError(f"the group's name must be a str, not {type(name).__name__}")
        if name != "":
            check_filter(name)
            if ">" in name:
                raise ConfigurationError(
                    f"group name {name!a} must not contain '>', because nothing can follow it"
                )
        return construct(ServiceGroup, self._host, self._subject(name), self._checked_queue(queue))

    # --- endpoints -------------------------------------------------------------------------------

    def endpoint(
        self,
        name: str,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending_limits: PendingLimits | None = None,
    ) -> Callable[[H], H]:
        """Add an endpoint with a decorator, which returns the handler unchanged.

        .. code-block:: python

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

        If used before the service is entered, entering subscribes. If used later, the endpoint is
        subscribed in the background; use :meth:`add_endpoint` to wait for it. The parameters are
        those of :meth:`add_endpoint`.

        :param name: the name of the endpoint.
        :param subject: the rest of the subject. Default: ``name``.
        :param queue: the queue group, or ``None`` for none. Default: that of the group.
        :param metadata: shown to clients that ask for INFO.
        :param concurrency: maximum number of requests handled at a time. Default: 16.
        :param pending_limits: limits on waiting requests. Default: those of the connection.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if a subject or queue group is not allowed.
        :raises trio.ClosedResourceError: if the service or the connection is closing.
        :raises TypeError: if ``name`` is missing.
        """
        if callable(name):
            raise TypeError('endpoint() needs a name, such as @service.endpoint("reverse")')

        def decorate(handler: H) -> H:
            self._host._adopt(
                self._made(name, handler, subject, queue, metadata, concurrency, pending_limits)
            )
            return handler

        return decorate

    async def add_endpoint(
        self,
        name: str,
        handler: Handler,
        *,
        subject: str | None = None,
        queue: str | EllipsisType | None = ...,
        metadata: Mapping[str, str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        pending_limits: PendingLimits | None = None,
    ) -> Endpoint:
        """Add an endpoint: call ``handler`` with each request to a subject.

        Returns once it is subscribed. If the service is not entered yet, entering subscribes. If
        cancelled, nothing is added. :meth:`Endpoint.stop` removes it.

        :param name: letters, digits, ``-`` and ``_``. Several endpoints may share a name, and even
            a subject; with the same queue group as well, each request goes to one of them.
        :param handler: an async function that is called with a :class:`ServiceRequest`. What it
            returns is the response, unless it is ``None``. If it raises, the response is an error:
            :exc:`ServiceError` as it is; a :exc:`DecodeError` of :meth:`ServiceRequest.decode` with
            code 400; any other exception is logged, and the name of its type is sent with code 500.
        :param subject: the rest of the subject after the group's prefix; wildcards are allowed.
            Default: ``name``.
        :param queue: the queue group, one member of which receives each request, or ``None``, so
            that all instances receive it. Default: that of the group.
        :param metadata: shown to clients that ask for INFO; at most 128 KiB.
        :param concurrency: maximum number of requests handled at a time, each by its own worker
            task. With 1 they are handled in order. Default: 16.
        :param pending_limits: limits on waiting requests, see :class:`PendingLimits`. Default:
            those of the connection.
        :returns: the endpoint.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if a subject or queue group is not allowed.
        :raises trio.ClosedResourceError: if the service or the connection is closing.
        """
        endpoint = self._made(name, handler, subject, queue, metadata, concurrency, pending_limits)
        await self._host._add(endpoint)
        return endpoint

    # --- stopping --------------------------------------------------------------------------------

    def stop(self) -> None:
        """:meth:`Endpoint.stop` all its endpoints, including those of groups within it.

        You may add others afterwards.
        """
        for endpoint in self.endpoints:
            endpoint.stop()

    async def aclose(self) -> None:
        """:meth:`stop`, and wait until all its endpoints have stopped.

        If cancelled, they continue to stop.
        """
        self.stop()
        await trio.lowlevel.checkpoint()
        for endpoint in self._members():
            await endpoint.aclose()

    def _made(
        self,
        name: str,
        handler: Handler,
        subject: str | None,
        queue: str | EllipsisType | None,
        metadata: Mapping[str, str] | None,
        concurrency: int,
        pending_limits: PendingLimits | None,
    ) -> Endpoint:
        check_name("endpoint", name)
        check_handler(handler)
        rest = name if subject is None else subject
        check_filter(rest)  # first, so that the error shows what was passed
        whole = self._subject(rest)
        sub = self._host.nc.subscribe(
            whole, queue=self._checked_queue(queue), pending_limits=pending_limits
        )
        check_count("concurrency", concurrency, 1)
        return construct(
            Endpoint,
            self._host,
            name,
            self._prefix,
            sub,
            check_metadata(metadata),
            concurrency,
            handler,
        )

    def _subject(self, rest: str) -> str:
        whole = ".".join(filter(None, (self._prefix, rest)))
        if f"{whole}.".startswith(f"{PREFIX}."):
            raise ConfigurationError(
                f"subject {whole[:80]!a} is reserved: {PREFIX} is for service discovery"
            )
        return whole

    def _checked_queue(self, queue: str | EllipsisType | None) -> str | None:
        if isinstance(queue, EllipsisType):
            return self._queue
        return checked_queue(queue)

    def __repr__(self) -> str:
        return f"<ServiceGroup {self._prefix!r}>"


def checked_queue(queue: str | None) -> str | None:
    """Return ``queue`` if it is a valid queue group or ``None``."""
    if queue == "":
        raise ConfigurationError(
            "the queue group's name must not be empty; for no queue group use None"
        )
    if queue is not None:
        check_queue(queue)
    return queue
