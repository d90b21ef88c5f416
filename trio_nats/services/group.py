"""Groups of endpoints: what their subjects begin with, and how endpoints come to be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Protocol, TypeVar

from ..connection_base import BaseConnection
from ..errors import ConfigurationError
from ..options import PendingLimits, check_callable, check_count
from ..subjects import check_filter, check_queue
from .endpoint import Endpoint, Handler
from .schemas import PREFIX, check_metadata, check_name

__all__ = ["DEFAULT_CONCURRENCY", "Host", "ServiceGroup"]

H = TypeVar("H", bound=Handler)

DEFAULT_CONCURRENCY = 16


class Host(Protocol):
    """What endpoints are added to: the service."""

    nc: BaseConnection

    def _adopt(self, endpoint: Endpoint) -> None:
        """Add it now, and subscribe soon."""
        ...

    async def _start(self, endpoint: Endpoint) -> None:
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
        """:meth:`add_endpoint` as a decorator, which leaves the handler as it is.

        .. code-block:: python

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

        Used before the service is entered, entering subscribes. Used later it subscribes by itself,
        but only after a while: use :meth:`add_endpoint` where what follows relies on it.
        """

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
        """Have ``handler`` called with each request to a subject. There is no removing it again.

        Returns once it is subscribed; in a service that is not entered yet, entering does that.

        :param name: letters, digits, ``-`` and ``_``; several endpoints may have the same.
        :param handler: an async function of a :class:`ServiceRequest`. What it returns is the
            answer, unless it is ``None``. What it raises is answered by an error: a
            :exc:`ServiceError` as it is; a request that :meth:`ServiceRequest.decode` could not
            decode with code 400; anything else is logged, and only the name of its type is sent,
            with code 500.
        :param subject: the rest of the subject after the group's prefix, wildcards allowed.
            Default: ``name``.
        :param queue: the queue group, of whose members one gets each request; ``None``: none, so
            that all do. Default: the group's.
        :param metadata: shown to who asks for INFO; 128 KiB at most.
        :param concurrency: the most requests handled at the same time, each in a
            task of its own. With 1 they are handled in the order they arrive.
        :param pending_limits: limits on what may wait, see :class:`PendingLimits`; default: the
            connection's.

        Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be, and
        :exc:`trio.ClosedResourceError` when the service, or the connection, is ending. Cancelled,
        nothing is added.
        """
        endpoint = self._made(name, handler, subject, queue, metadata, concurrency, pending_limits)
        await self._host._start(endpoint)
        return endpoint

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
        check_callable("handler", handler)
        if handler is None or inspect.isasyncgenfunction(handler):
            raise ConfigurationError(
                "handler is an async function that returns the answer, or calls request.respond()"
            )
        rest = name if subject is None else subject
        check_filter(rest)  # first, so that the error is not about the whole
        whole = self._subject(rest)
        sub = self._host.nc.subscribe(
            whole, queue=self._checked_queue(queue), pending_limits=pending_limits
        )
        check_count("concurrency", concurrency, 1)
        return Endpoint(name, sub, check_metadata(metadata), concurrency, handler)

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
