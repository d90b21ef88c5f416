"""An endpoint, which handles up to a maximum number of requests at a time.

Theory of operation. The service runs :meth:`Endpoint._serve` in a task of its own, with a nursery
for the workers. These are tasks that receive requests from the subscription, and call the handler.
Starting a task takes longer than everything else here, so workers are reused. Until there
are ``concurrency`` workers, at least one is idle, to receive the next request.

Handlers must not notice that they share tasks. So a worker ends when its handler has left
something behind in the task, such as a changed context variable.

Stopping drains the subscription: once the server has processed the UNSUB, receiving ends with
:exc:`trio.EndOfChannel`, which ends the workers that do not run a handler. If ``close_timeout`` or
a cancellation ends this earlier, the handlers are cancelled, and each remaining request gets error
503, which is sent without waiting.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Protocol, TypeAlias

import trio

from .._constructors import NoPublicConstructor, construct
from .._nursery import open_nursery
from ..codecs import Payload
from ..connection_base import BaseConnection
from ..errors import ConnectionLostError, NatsError
from ..message import Msg, can_respond_to
from ..options import type_name
from ..subscription import Subscription
from .errors import ServiceError
from .request import ServiceRequest
from .schemas import EndpointInfo, EndpointStats

__all__ = ["Endpoint", "EndpointOwner", "Handler", "check_handler"]

Handler: TypeAlias = Callable[[ServiceRequest], Awaitable[Payload | None]]
"""Handles a request: an async function that returns the response, see :class:`ServiceRequest`."""

_MAX_IDLE = 64
"""Maximum number of idle workers that an endpoint keeps."""

_MISSING = object()

MAX_LAST_ERROR = 1024
"""Maximum length of the last error in statistics."""

_logger = logging.getLogger("trio_nats.services")

# Raised by respond() if the connection is closed or lost.
_NO_CONNECTION = (trio.ClosedResourceError, ConnectionLostError)


class EndpointOwner(Protocol):
    """The service, as endpoints use it."""

    nc: BaseConnection

    @property
    def close_timeout(self) -> float:
        """Seconds that an endpoint has to respond to pending requests when it is stopped."""
        ...

    def _remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint that was removed and has stopped."""
        ...

    def _subscription_ended(self, error: Exception) -> None:
        """Stop the service, because a subscription ended although its endpoint was not stopped."""
        ...


def check_handler(handler: object) -> None:
    """Raise :exc:`TypeError` if ``handler`` is certainly not an async function."""
    expected = (
        "handler must be an async function that returns the response, or responds itself; not "
    )
    if not callable(handler):
        raise TypeError(f"{expected}{type_name(handler)}")
    function: Callable[..., object] = handler
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"{expected}the async generator {function.__name__}(), which yields")
    if _is_plain(function):
        raise TypeError(f"{expected}the plain function {function.__name__}(); write 'async def'")


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
        owner: EndpointOwner,
        name: str,
        prefix: str,
        sub: Subscription,
        metadata: Mapping[str, str],
        concurrency: int,
        handler: Handler,
    ) -> None:
        self._owner = owner
        self._sub = sub
        """The subscription that its requests arrive on."""
        self._name = name
        self._prefix = prefix
        """The prefix of its group."""
        self._metadata = metadata
        self._concurrency = concurrency
        self._handler = handler
        self._workers: set[trio.lowlevel.Task] = set()
        sub._helpers = self._workers
        self._worker_count = 0
        """Number of workers, including those that have yet to run for the first time."""
        self._has_task = False
        """Whether the service has started a task that subscribes it and calls :meth:`_serve`."""
        self._nursery: trio.Nursery | None = None
        """The nursery of the workers, as long as there are any."""
        self._removed = False
        self._stopping = False
        self._deadline = math.inf
        self._stopped = trio.Event()
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
        return self._sub._being_handled

    @property
    def stopping(self) -> bool:
        """Whether it accepts no more requests: :meth:`stop` was called, or the service stops."""
        return self._stopping

    @property
    def stopped(self) -> bool:
        """Whether it has stopped, and has responded to all requests."""
        return self._stopped.is_set()

    def info(self) -> EndpointInfo:
        """Describe the endpoint.

        :returns: its part of the response to INFO.
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
        :returns: its part of the response to STATS.
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
        state = ", stopped" if self.stopped else ", stopping" if self.stopping else ""
        where = f"{self._name!r} on {self.subject!r}{queue}"
        return f"<Endpoint {where}, {self.under_way} under way{state}>"

    # --- stopping --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Remove the endpoint from its service: it accepts no more requests.

        Discovery no longer shows it, and its subscription ends. Requests that the server has
        already sent are still handled, for at most the ``close_timeout`` of the service; requests
        that are left then get error 503. Other endpoints continue, including those with the same
        name or subject.

        Returns at once, so handlers may call it; :meth:`aclose` waits. You may call it repeatedly.
        """
        self._owner.nc._check_run()
        if self._removed:
            return
        self._removed = True
        self._begin_stop(trio.current_time() + self._owner.close_timeout)

    async def aclose(self) -> None:
        """:meth:`stop`, and wait until all requests have been responded to.

        A handler of this endpoint that calls it waits for itself, until ``close_timeout`` is over.
        You may call it repeatedly. If cancelled, the endpoint continues to stop.
        """
        self.stop()
        await self._stopped.wait()

    def _begin_stop(self, deadline: float = math.inf) -> None:
        """Stop receiving requests; after the deadline, stop handling them."""
        self._stopping = True
        self._deadline = min(self._deadline, deadline)
        if self._nursery is not None:
            self._nursery.cancel_scope.deadline = self._deadline
            self._nursery.start_soon(self._sub.drain)
        elif not self._has_task:
            self._mark_stopped()

    def _mark_stopped(self) -> None:
        """Mark it as stopped, also if it was never started."""
        self._stopping = True
        self._stopped.set()
        if self._removed:
            self._owner._remove(self)

    # --- its requests ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Handle requests until the subscription ends, and all of them have been handled."""
        # A copy, because the context of this task cannot be entered while it runs.
        self._context = copy_context()
        try:
            async with open_nursery() as nursery:
                self._nursery = nursery
                self._start_worker()
                if self._stopping:  # It was stopped since it was subscribed.
                    self._begin_stop()
            if nursery.cancel_scope.cancelled_caught:
                _logger.warning(
                    "endpoint %r: requests were still pending after %g s",
                    self._name,
                    self._owner.close_timeout,
                )
        finally:
            self._nursery = None
            self._refuse_waiting()

    def _start_worker(self) -> None:
        assert self._nursery is not None
        self._worker_count += 1
        name = f"endpoint {self._name!r} on {self.subject!r}"
        self._context.run(partial(self._nursery.start_soon, self._work, name=name))

    def _start_more_workers(self) -> None:
        """Start workers for the waiting requests: at least one, up to ``concurrency``.

        Their number at most doubles, so a burst of quick requests starts few.
        """
        wanted = min(max(len(self._sub._queue), 1), self._worker_count)
        for _ in range(min(wanted, self._concurrency - self._worker_count)):
            self._start_worker()

    async def _work(self) -> None:
        """Handle one request after the other, until the subscription ends."""
        task = trio.lowlevel.current_task()
        deadline = trio.current_effective_deadline()
        # Private to Trio, but nothing else tells that a cancel scope without a deadline was left.
        status: object = getattr(task, "_cancel_status", None)
        sub = self._sub
        self._workers.add(task)
        try:
            while True:
                try:
                    msg = await sub.receive()
                except (trio.EndOfChannel, trio.ClosedResourceError, NatsError) as error:
                    if not self._stopping:
                        self._owner._subscription_ended(error)
                    break
                sub._being_handled += 1
                if self._worker_count == sub._being_handled:
                    self._start_more_workers()
                await self._handle(msg)
                del msg  # Do not keep it in memory while waiting for the next one.
                if (
                    _differ(task.context, self._context)
                    or getattr(task, "_cancel_status", None) is not status
                    or trio.current_effective_deadline() != deadline
                    or task.child_nurseries
                ):
                    self._start_worker()
                    break
                if self._worker_count - sub._being_handled > _MAX_IDLE and not sub._queue:
                    break
        finally:
            self._workers.discard(task)
            self._worker_count -= 1
            if not self._worker_count:
                self._nursery = None

    async def _handle(self, msg: Msg) -> None:
        request = construct(ServiceRequest, msg)
        self._requests += 1
        begun = time.perf_counter_ns()
        try:
            await self._respond(request)
        except BaseException as error:
            self._refuse(msg)
            if isinstance(error, BaseExceptionGroup):
                self._raise_without_failures(error)
            raise
        finally:
            self._nanoseconds += time.perf_counter_ns() - begun
            self._sub._note_handled()

    async def _respond(self, request: ServiceRequest) -> None:
        """Call the handler, and respond with what it returns or raises."""
        try:
            await self._call(request)
        except Exception as error:
            await self._respond_error(request, error)
        else:
            if request._failure is not None:
                self._count(request._failure)

    def _raise_without_failures(self, group: BaseExceptionGroup) -> None:
        """Log the exceptions in the group, and raise the rest, such as cancellations."""
        failures, rest = group.split(Exception)
        if failures is not None and rest is not None:
            self._log_failure(failures)
            raise rest from None

    def _log_failure(self, error: BaseException) -> None:
        _logger.error("endpoint %r: the handler of a request failed", self._name, exc_info=error)

    async def _call(self, request: ServiceRequest) -> None:
        """Run the handler, and send what it returns."""
        result = self._handler(request)
        if not hasattr(result, "__await__"):
            kind = type(result).__name__
            raise TypeError(
                f"the handler of endpoint {self._name!r} must be async; it returned {kind}"
            )
        response = await result
        if response is None:
            return
        if not isinstance(response, (bytes, bytearray, memoryview, str)):
            raise TypeError(
                f"the handler of endpoint {self._name!r} must return bytes-like, str or None, not "
                f"{type(response).__name__}; to send other objects, await request.respond(value, "
                "codec=...)"
            )
        await request.raw.respond(response)

    async def _respond_error(self, request: ServiceRequest, error: Exception) -> None:
        cause = _unwrapped(error)
        if isinstance(cause, ServiceError):
            failure = cause
        elif cause is request._undecodable:
            failure = ServiceError(400, "the request cannot be decoded")
            _logger.warning("endpoint %r: %s", self._name, str(cause))
        else:
            # Send only the type of the exception, because its text may contain internal details.
            failure = ServiceError(500, type(error).__name__)
            self._log_failure(error)
        self._count(failure)
        try:
            await _send(request, failure)
        except _NO_CONNECTION as lost:
            _logger.debug(
                "endpoint %r: no connection to send the response on: %s", self._name, str(lost)
            )
        except NatsError as problem:
            # It is most likely too large, so send a short one instead.
            _logger.warning("endpoint %r: an error could not be sent: %s", self._name, str(problem))
            await self._respond_error_briefly(request, type(problem).__name__)

    async def _respond_error_briefly(self, request: ServiceRequest, text: str) -> None:
        try:
            await _send(request, ServiceError(500, text))
        except (NatsError, trio.ClosedResourceError) as problem:
            _logger.debug(
                "endpoint %r: a short error could not be sent either: %s", self._name, str(problem)
            )

    def _refuse_waiting(self) -> None:
        """Respond with error 503 to the requests that no handler has received."""
        try:
            while True:
                self._refuse(self._sub.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError, NatsError):
            pass

    def _refuse(self, msg: Msg) -> None:
        """Respond with error 503, without waiting."""
        if msg.reply is None or not can_respond_to(msg.raw_reply or b""):
            return
        stopped = "endpoint" if self._removed else "service"
        try:
            self._owner.nc.publish_nowait(
                msg.reply, headers=ServiceError(503, f"the {stopped} has stopped").headers
            )
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("endpoint %r: error 503 could not be sent: %s", self._name, str(error))

    def _count(self, failure: ServiceError) -> None:
        self._errors += 1
        # The text as sent: characters that cannot be sent cannot be shown either.
        text = failure.headers["Nats-Service-Error"]
        self._last_error = f"{failure.code}:{text[:MAX_LAST_ERROR]}"


async def _send(request: ServiceRequest, failure: ServiceError) -> None:
    await request.respond(failure.data, headers=failure.headers)


def _differ(context: Context, other: Context) -> bool:
    """Return whether any variable is not the same object in both contexts."""
    return len(context) != len(other) or any(
        other.get(variable, _MISSING) is not value for variable, value in context.items()
    )


def _unwrapped(error: BaseException) -> BaseException:
    """Return the only exception of nested groups, as nurseries wrap them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
