"""A service and its lifetime (ADR-32). Discovery requests are in :mod:`.monitoring`.

It is built on the public interface of a connection. :meth:`Connection.add_service` imports it when
it is first used.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias

import msgspec
import trio

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor
from .._json_depth import MAX_DEPTH, is_shallow
from .._nats_py_names import attribute_error
from .._nursery import open_nursery
from ..connection_base import BaseConnection
from ..errors import ConnectionLostError, NatsError, fresh
from ..options import check_callable, check_seconds
from .endpoint import Endpoint
from .group import ServiceGroup, checked_queue
from .monitoring import Monitor, create_monitors
from .schemas import (
    DEFAULT_QUEUE,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    check_description,
    check_metadata,
    check_name,
    check_version,
    new_id,
)

__all__ = ["DEFAULT_CLOSE_TIMEOUT", "Service", "StatsHandler"]

StatsHandler: TypeAlias = Callable[[Endpoint], object]
"""Returns the ``data`` for an endpoint's statistics: a ``dict``, or ``None`` for no data."""

DEFAULT_CLOSE_TIMEOUT = 5.0

_logger = logging.getLogger("trio_nats.services")


class Service(ServiceGroup, NeedsAsyncWith, metaclass=NoPublicConstructor, use="nc.add_service()"):
    """A service, made by :meth:`Connection.add_service` and used with ``async with``.

    Entering the block subscribes the endpoints and makes the service discoverable. From then on
    requests are handled in background tasks that end with the block. Leaving the block normally
    stops the service: it accepts no more requests, and finishes those that it has within
    ``close_timeout`` seconds; requests that are left then get error 503. Leaving it by an exception
    ends everything at once; requests that have arrived get error 503.

    If the connection is lost for good, or if the server forbids an endpoint's subscription, the
    service stops, the body of the block is cancelled, and the block raises
    :exc:`ConnectionLostError` or :exc:`PermissionsViolationError`. If you close or drain the
    connection, the service just stops; draining waits for its requests.
    """

    _async_with = "nc.add_service(...) as service"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise attribute_error(self, name, {"add_group": "service.group()"})

    def __init__(
        self,
        nc: BaseConnection,
        name: str,
        *,
        version: str,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        queue: str | None = DEFAULT_QUEUE,
        stats_handler: StatsHandler | None = None,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
    ) -> None:
        self.nc: BaseConnection = nc
        """The connection."""
        self._name = check_name("service", name)
        self._version = check_version(version)
        self._description = check_description(description)
        self._metadata = check_metadata(metadata)
        check_callable("stats_handler", stats_handler)
        if inspect.iscoroutinefunction(stats_handler):
            raise TypeError("stats_handler must be an ordinary function, not an async one")
        self._stats_handler = stats_handler
        self._close_timeout = check_seconds("close_timeout", close_timeout, zero=True)
        self._id = new_id()
        self._started = datetime.now(UTC)
        self._endpoints: list[Endpoint] = []
        """All endpoints, except those that were removed and have stopped."""
        self._entered = False
        self._work: trio.Nursery | None = None
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._failure: Exception | None = None
        self._body = trio.CancelScope()
        super().__init__(self, "", checked_queue(queue))

    # --- properties ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the service, shared by all its instances."""
        return self._name

    @property
    def id(self) -> str:
        """Unique ID of this instance."""
        return self._id

    @property
    def version(self) -> str:
        """Semantic version."""
        return self._version

    @property
    def description(self) -> str:
        """Description for people."""
        return self._description

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata, read-only."""
        return self._metadata

    @property
    def close_timeout(self) -> float:
        """Seconds that pending requests have to finish when the service or an endpoint stops."""
        return self._close_timeout

    @property
    def started(self) -> datetime:
        """The time in UTC since which statistics are counted."""
        return self._started

    @property
    def stopping(self) -> bool:
        """Whether the service accepts no more requests."""
        return self._stop.is_set()

    @property
    def stopped(self) -> bool:
        """Whether the service has stopped."""
        return self._stopped.is_set()

    def info(self) -> ServiceInfo:
        """Describe the service and its endpoints.

        :returns: the response to INFO.
        """
        return ServiceInfo(
            name=self._name,
            id=self._id,
            version=self._version,
            metadata=dict(self._metadata),
            description=self._description,
            endpoints=[endpoint.info() for endpoint in self.endpoints],
        )

    def stats(self) -> ServiceStats:
        """Return the statistics of all endpoints.

        :returns: the response to STATS.
        """
        return ServiceStats(
            name=self._name,
            id=self._id,
            version=self._version,
            metadata=dict(self._metadata),
            endpoints=[self._stats_of(endpoint) for endpoint in self.endpoints],
            started=self._started,
        )

    def _ping(self) -> ServicePing:
        return ServicePing(
            name=self._name,
            id=self._id,
            version=self._version,
            metadata=dict(self._metadata),
        )

    def _stats_of(self, endpoint: Endpoint) -> EndpointStats:
        data: object = None
        if self._stats_handler is not None:
            try:
                # Convert it to JSON now, so that an invalid value affects only this endpoint. The
                # nats command ignores the whole response if data is not an object.
                data = _as_object(self._stats_handler(endpoint))
            except Exception:
                _logger.exception("service %r: no data from its stats_handler", self._name)
        return endpoint.stats(data)

    def reset(self) -> None:
        """Reset all statistics to zero."""
        for endpoint in self.endpoints:
            endpoint.reset()
        self._started = datetime.now(UTC)

    def __repr__(self) -> str:
        state = "not entered"
        if self._work is not None:
            state = "stopped" if self.stopped else "stopping" if self.stopping else "running"
        return f"<Service {self._name!r} {self._version} {self._id} {state}>"

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Subscribe, and start handling requests. If cancelled, nothing stays subscribed.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection is gone for good.
        """
        await trio.lowlevel.checkpoint()
        if self._entered:
            raise RuntimeError("a service can be entered only once; add it again")
        self._entered = True
        self._manager = open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            await self._nursery.start(self._run)
        except BaseException as error:
            await self._manager.__aexit__(type(error), error, error.__traceback__)
            raise
        self._body.__enter__()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        try:
            try:
                # The body was cancelled only if the service has failed, which is raised below.
                if self._body.__exit__(exc_type, exc, traceback):
                    exc = None
            except BaseException as rest:
                await self._manager.__aexit__(type(rest), rest, rest.__traceback__)
                raise
            await self._manager.__aexit__(type(exc) if exc else None, exc, traceback)
        finally:
            self._stopped.set()
        if exc is None and self._failure is not None:
            raise fresh(self._failure)

    def stop(self) -> None:
        """Accept no more requests. The service has stopped once the pending ones are finished.

        Returns at once, so handlers may call it; :meth:`aclose` waits. You may call it repeatedly.
        """
        self.nc._check_run()
        self._stop.set()

    async def aclose(self) -> None:
        """:meth:`stop`, and wait until the service has stopped; harmless when repeated.

        It does not raise the error of a failed service; :meth:`wait_stopped` does. A
        handler that calls it waits for itself, until ``close_timeout`` is over.

        If cancelled, the service goes on stopping.
        """
        self.stop()
        if self._work is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._stopped.wait()

    async def wait_stopped(self) -> None:
        """Wait until the service has stopped, by :meth:`stop` or otherwise.

        A handler that calls this waits for itself, until ``close_timeout`` is over. If cancelled,
        the service is not affected.

        :raises ConnectionLostError: if it stopped because the connection is gone for good.
        :raises PermissionsViolationError: if it stopped because an endpoint is forbidden.
        :raises RuntimeError: if the service has not been entered.
        """
        self.nc._check_run()
        if not self._entered:
            raise self._not_entered_error("this service")
        await self._stopped.wait()
        if self._failure is not None:
            raise fresh(self._failure)

    def _fail(self, error: Exception) -> None:
        if self._failure is None and not self.stopping:
            _logger.error("service %r stops: %s", self._name, str(error))
            self._failure = error
            self._body.cancel()
        self.stop()

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run all tasks of the service until it stops."""
        monitors = create_monitors(self.nc, self._ping(), self.info, self.stats)
        try:
            async with open_nursery() as work:
                self._work = work
                for endpoint in [*self._endpoints]:
                    await self._start(endpoint)
                for monitor in monitors:
                    await monitor.sub.__aenter__()
                    work.start_soon(self._monitor, monitor)
                self._started = datetime.now(UTC)
                task_status.started()
                try:
                    await self._stop.wait()
                finally:
                    # Also if cancelled: no task can be started in a nursery that is closing.
                    self.stop()
                work.cancel_scope.deadline = trio.current_time() + self._close_timeout
                for endpoint in [*self._endpoints]:
                    endpoint._begin_stop()
                for monitor in monitors:
                    work.start_soon(monitor.sub.drain)
            if work.cancel_scope.cancelled_caught:
                seconds = self._close_timeout
                _logger.warning(
                    "service %r: requests were still pending after %g s", self._name, seconds
                )
        finally:
            for endpoint in [*self._endpoints]:
                endpoint._mark_stopped()
            self._stopped.set()

    # --- endpoints -------------------------------------------------------------------------------

    def _adopt(self, endpoint: Endpoint) -> None:
        """See :meth:`ServiceGroup.endpoint`."""
        self._check_adding()
        self._endpoints.append(endpoint)
        if self._work is not None:
            endpoint._has_task = True
            self._work.start_soon(self._start_or_end, endpoint)

    async def _add(self, endpoint: Endpoint) -> None:
        """See :meth:`ServiceGroup.add_endpoint`."""
        self.nc._check_run()
        await trio.lowlevel.checkpoint()  # Checkpoint before any change to the service.
        self._check_adding()
        if self._work is not None and not await self._start(endpoint):
            self._check_adding()
        self._endpoints.append(endpoint)

    def _check_adding(self) -> None:
        self.nc._check_run()
        if self.stopping:
            raise trio.ClosedResourceError(f"service {self._name!r} is stopping")

    async def _start(self, endpoint: Endpoint) -> bool:
        """Subscribe, and serve in the background. Return false if it was stopped before that."""
        assert self._work is not None
        if not endpoint.stopping:
            await endpoint._sub.__aenter__()
        if self.stopping or endpoint.stopping:
            endpoint._mark_stopped()
            await endpoint._sub.aclose()
            return False
        endpoint._has_task = True
        self._work.start_soon(self._serve, endpoint)
        return True

    async def _start_or_end(self, endpoint: Endpoint) -> None:
        try:
            await self._start(endpoint)
        except (trio.ClosedResourceError, NatsError) as error:
            self._subscription_ended(error)

    async def _serve(self, endpoint: Endpoint) -> None:
        """Run an endpoint that has been subscribed."""
        try:
            await endpoint._serve()
        finally:
            endpoint._mark_stopped()
            await endpoint._sub.aclose()

    def _remove(self, endpoint: Endpoint) -> None:
        """See :class:`EndpointOwner`."""
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)

    def _subscription_ended(self, error: Exception) -> None:
        """Stop because a subscription has ended."""
        if isinstance(error, NatsError):
            self._fail(error)
        else:
            self.stop()  # The subscription or the connection was drained or closed.

    async def _monitor(self, monitor: Monitor) -> None:
        try:
            await monitor.run()
        except (trio.EndOfChannel, trio.ClosedResourceError, ConnectionLostError) as error:
            self._subscription_ended(error)
        finally:
            await monitor.sub.aclose()


def _as_object(data: object) -> dict[str, object] | None:
    """Return ``data`` as it arrives in JSON: an object, or nothing."""
    decoded: object = msgspec.json.decode(msgspec.json.encode(data))
    if decoded is not None and not isinstance(decoded, dict):
        raise TypeError(
            f"stats_handler must return a dict, a struct or None, not {type(data).__name__}"
        )
    if not is_shallow(decoded):
        raise ValueError(f"stats_handler must return data of at most {MAX_DEPTH} nested levels")
    return decoded
