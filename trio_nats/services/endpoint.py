"""An endpoint, which handles each request in a task, up to a maximum at a time."""

from __future__ import annotations

import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

import trio

from .._constructors import NoPublicConstructor, construct
from ..codecs import Payload
from ..errors import ConnectionLostError, NatsError
from ..message import Msg
from ..options import type_name
from ..subscription import Subscription
from .errors import ServiceError
from .request import ServiceRequest
from .schemas import EndpointInfo, EndpointStats

__all__ = ["Endpoint", "Handler", "check_handler"]

Handler: TypeAlias = Callable[[ServiceRequest], Awaitable[Payload | None]]
"""Handles a request: an async function that returns the answer, see :class:`ServiceRequest`."""

MAX_LAST_ERROR = 1024
"""Maximum length of the last error in statistics."""

_logger = logging.getLogger("trio_nats.services")

# Raised by respond() if the connection is closed or lost.
_NO_CONNECTION = (trio.ClosedResourceError, ConnectionLostError)


def check_handler(handler: object) -> None:
    """Raise :exc:`TypeError` if ``handler`` is certainly not an async function."""
    what = "handler must be an async function that returns the answer, or responds itself; not "
    if not callable(handler):
        raise TypeError(f"{what}{type_name(handler)}")
    function: Callable[..., object] = handler
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"{what}the async generator {function.__name__}(), which yields")
    if _is_plain(function):
        raise TypeError(f"{what}the plain function {function.__name__}(); write 'async def'")


def _is_plain(function: object) -> bool:
    """Whether ``function`` is one that returns nothing to await, as far as that can be told.

    An object with ``__call__``, a lambda, the function that a decorator returns, and a function
    with such an annotation may return what an async function has returned to them.
    """
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        return False
    returns = str(inspect.get_annotations(function).get("return", ""))
    may_be_awaitable = re.search("Awaitable|Coroutine|Any|object", returns) is not None
    return function.__name__ != "<lambda>" and not function.__closure__ and not may_be_awaitable


class Endpoint(metaclass=NoPublicConstructor, use="service.add_endpoint()"):
    """An endpoint of a service, made by :meth:`Service.add_endpoint`."""

    def __init__(
        self,
        name: str,
        sub: Subscription,
        metadata: Mapping[str, str],
        concurrency: int,
        handler: Handler,
    ) -> None:
        self._sub = sub
        """The subscription that its requests arrive on."""
        self._name = name
        self._metadata = metadata
        self._concurrency = concurrency
        self._handler = handler
        self._under_way = 0
        self._handlers: set[trio.lowlevel.Task] = set()
        sub._helpers = self._handlers
        self._capacity = trio.lowlevel.ParkingLot()
        self.reset()

    # --- properties ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the endpoint. Other endpoints of the service may share it."""
        return self._name

    @property
    def subject(self) -> str:
        """The subject it is subscribed to, including the prefix of its group."""
        return self._sub.subject

    @property
    def queue(self) -> str | None:
        """Its queue group, or ``None``."""
        return self._sub.queue

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata, read-only."""
        return self._metadata

    @property
    def concurrency(self) -> int:
        """Maximum number of requests that are handled at a time."""
        return self._concurrency

    @property
    def under_way(self) -> int:
        """Number of requests that are being handled now."""
        return self._under_way

    def info(self) -> EndpointInfo:
        """Describe the endpoint.

        :returns: its part of the answer to an INFO request.
        """
        return EndpointInfo(
            name=self._name,
            subject=self.subject,
            queue_group=self.queue or "",
            metadata=dict(self._metadata),
        )

    def stats(self, data: object = None) -> EndpointStats:
        """Return its statistics.

        :param data: the value of ``data`` in them. Default: none.
        :returns: its part of the answer to a STATS request.
        """
        requests = self._requests
        return EndpointStats(
            name=self._name,
            subject=self.subject,
            queue_group=self.queue or "",
            num_requests=requests,
            num_errors=self._errors,
            processing_time=self._nanoseconds / 10**9,
            average_processing_time=self._nanoseconds // max(requests, 1) / 10**9,
            last_error=self._last_error,
            data=data,
        )

    def reset(self) -> None:
        """Reset its statistics to zero."""
        self._requests = self._errors = self._nanoseconds = 0
        self._last_error = ""

    def __repr__(self) -> str:
        queue = f", queue={self.queue!r}" if self.queue else ""
        return f"<Endpoint {self._name!r} on {self.subject!r}{queue}, {self._under_way} under way>"

    # --- its requests ----------------------------------------------------------------------------

    async def _serve(self, nursery: trio.Nursery, refuse: Callable[[Msg], None]) -> None:
        """Start a task for each request, until the subscription ends, which raises.

        ``refuse`` is called with requests that are cancelled.
        """
        name = f"endpoint {self._name!r} on {self.subject!r}"
        while True:
            while self._under_way >= self._concurrency:
                await self._capacity.park()
            # One task per request, because handlers must not share context variables.
            msg = await self._sub.receive()
            self._under_way += 1
            nursery.start_soon(self._handle, msg, refuse, name=name)

    async def _handle(self, msg: Msg, refuse: Callable[[Msg], None]) -> None:
        request = construct(ServiceRequest, msg)
        task = trio.lowlevel.current_task()
        self._handlers.add(task)
        self._requests += 1
        begun = time.perf_counter_ns()
        try:
            await self._call(request)
        except trio.Cancelled:
            refuse(msg)
            raise
        except Exception as error:
            await self._answer_error(request, error)
        else:
            if request._failure is not None:
                self._count(request._failure)
        finally:
            self._nanoseconds += time.perf_counter_ns() - begun
            self._under_way -= 1
            self._handlers.discard(task)
            self._capacity.unpark()

    async def _call(self, request: ServiceRequest) -> None:
        """Run the handler, and send what it returns."""
        result = self._handler(request)
        if not hasattr(result, "__await__"):
            kind = type(result).__name__
            raise TypeError(
                f"the handler of endpoint {self._name!r} must be async; it returned {kind}"
            )
        answer = await result
        if answer is None:
            return
        if not isinstance(answer, (bytes, bytearray, memoryview, str)):
            raise TypeError(
                f"the handler of endpoint {self._name!r} must return bytes-like, str or None, not "
                f"{type(answer).__name__}; to send other objects, await request.respond(value, "
                "codec=...)"
            )
        await request.respond(answer)

    async def _answer_error(self, request: ServiceRequest, error: Exception) -> None:
        cause = _unwrapped(error)
        if isinstance(cause, ServiceError):
            failure = cause
        elif cause is request._undecodable:
            failure = ServiceError(400, "the request cannot be decoded")
            _logger.warning("endpoint %r: %s", self._name, str(cause))
        else:
            # Send only the type of the exception, because its text may contain internal details.
            failure = ServiceError(500, type(error).__name__)
            _logger.error(
                "endpoint %r: the handler of a request failed", self._name, exc_info=error
            )
        self._count(failure)
        try:
            await _send(request, failure)
        except _NO_CONNECTION as lost:
            _logger.debug(
                "endpoint %r: no connection to send the answer on: %s", self._name, str(lost)
            )
        except NatsError as problem:
            # It is most likely too large, so send a short one instead.
            _logger.warning("endpoint %r: an error could not be sent: %s", self._name, str(problem))
            await self._answer_error_briefly(request, type(problem).__name__)

    async def _answer_error_briefly(self, request: ServiceRequest, text: str) -> None:
        try:
            await _send(request, ServiceError(500, text))
        except (NatsError, trio.ClosedResourceError) as problem:
            _logger.debug(
                "endpoint %r: a short error could not be sent either: %s", self._name, str(problem)
            )

    def _count(self, failure: ServiceError) -> None:
        self._errors += 1
        # The text as sent: characters that cannot be sent cannot be shown either.
        text = failure.headers["Nats-Service-Error"]
        self._last_error = f"{failure.code}:{text[:MAX_LAST_ERROR]}"


async def _send(request: ServiceRequest, failure: ServiceError) -> None:
    await request.respond(failure.data, headers=failure.headers)


def _unwrapped(error: BaseException) -> BaseException:
    """Return the only exception of nested groups, as nurseries wrap them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
