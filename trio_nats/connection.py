"""The connection that users hold: :class:`BaseConnection` and what is built on top of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ._core.supervisor import Supervisor
from .connection_base import BaseConnection

if TYPE_CHECKING:
    from .jetstream import JetStream
    from .jetstream.consumer.inboxes import InboxPool
    from .services import Service, Services, StatsHandler

__all__ = ["Connection"]


class Connection(BaseConnection):
    """A connection to NATS, as given by ``async with open_nats(...) as nc:``.

    You may use it from any task of the ``trio.run()`` that opened it. Once it is closed, its
    methods raise :exc:`trio.ClosedResourceError`; once no server can be reached any more, they
    raise :exc:`ConnectionLostError`.
    """

    def __init__(self, core_of: Callable[[Connection], Supervisor]) -> None:
        super().__init__(core_of(self))
        self._inboxes: InboxPool | None = None

    # --- built on top, and only imported when asked for: a connection needs none of it -----------

    def add_service(
        self,
        name: str,
        *,
        version: str,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        queue: str | None = "q",
        stats_handler: StatsHandler | None = None,
        close_timeout: float = 5.0,
    ) -> Service:
        """Make a service (ADR-32), for the duration of an ``async with`` block; see
        :class:`Service`.

        .. code-block:: python

            service = nc.add_service("text", version="1.0.0")

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

            async with service:
                await service.wait_stopped()

        :param name: letters, digits, ``-`` and ``_``. Instances with the same name share the work.
        :param version: a semantic version, such as ``1.0.0``.
        :param description: a description for people.
        :param metadata: shown to clients that ask for INFO; at most 128 KiB.
        :param queue: the default queue group of its endpoints, or ``None`` for none. Default:
            ``"q"``.
        :param stats_handler: a function that is called with each :class:`Endpoint` when statistics
            are requested. It returns their ``data``: a dict, a struct or ``None``.
        :param close_timeout: seconds that pending requests have to finish when the service stops.
            Default: 5.
        :returns: the service, to be entered with ``async with``.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if ``queue`` is not allowed.
        """
        from .services import Service

        return Service(
            self,
            name,
            version=version,
            description=description,
            metadata=metadata,
            queue=queue,
            stats_handler=stats_handler,
            close_timeout=close_timeout,
        )

    def services(
        self, *, prefix: str = "$SRV", timeout: float | None = None, stall: float = 0.3
    ) -> Services:
        """Discover services: ``await nc.services().ping()``; see :class:`Services`.

        :param prefix: the prefix of the subjects of requests, if services of another account are
            imported under another name. Default: ``$SRV``.
        :param timeout: seconds to wait for all answers. Default: the connection's
            ``request_timeout``.
        :param stall: seconds to wait after each answer for another one. Default: 0.3.
        :raises ConfigurationError: if a number is invalid.
        :raises InvalidSubjectError: if ``prefix`` is not allowed.
        """
        from .services import Services

        return Services(self, prefix=prefix, timeout=timeout, stall=stall)

    def jetstream(
        self,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> JetStream:
        """Use JetStream: streams that store messages; see :class:`~trio_nats.jetstream.JetStream`.

        Nothing is sent by this call. Without ``domain`` and ``prefix`` those of the context are
        used, if there is one.

        :param domain: the JetStream domain to use, such as that of the hub from a leaf node.
        :param prefix: the prefix under which its API is imported. Default: ``$JS.API``.
        :param timeout: seconds to wait for an answer of the API. Default: 5.
        :raises ConfigurationError: if an argument is invalid, or if both ``domain`` and ``prefix``
            are given.
        :raises InvalidSubjectError: if ``prefix`` is not allowed.
        """
        from .jetstream import JetStream
        from .jetstream.consumer.inboxes import InboxPool

        if self._inboxes is None:
            self._inboxes = InboxPool(self)
        if domain is None and prefix is None:
            settings = self._core.settings
            domain, prefix = settings.jetstream_domain, settings.jetstream_prefix
        return JetStream(self, self._inboxes, domain=domain, prefix=prefix, timeout=timeout)
